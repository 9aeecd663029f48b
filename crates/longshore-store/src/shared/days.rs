//! Drops what came on one day as a whole, where nothing of it must be kept (`longshore_core::retention::days` decides).
//!
//! A partition goes with its file, so this costs the same for ten tasks and ten million, leaves nothing to vacuum, and is the
//! only way in which bytes go back to the disk by themselves. Dropping one needs its table for itself for a moment: who
//! cannot get it soon gives up and tries again later, since all others would queue up behind.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::id::{FleetName, TenantName};
use longshore_core::retention::{Alike, Day as Left, Dropped, Goes, Part, Plan, goes};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use tracing::debug;

use super::Shared;
use super::changes::{self, Changes};
use super::column::get;
use super::connection::Connection;
use super::core::Core;
use super::counts::Place;
use super::fault::{DbError, words};
use super::partition::{self, Day};
use super::sql::args;
use crate::error::StoreError;
use crate::model::Forgotten;

/// Where a task is told of: they go together, and with its counts.
const OF_TASK: [&str; 2] = ["task", "done"];

/// What goes with a task beside these and its journal.
#[cfg(test)]
const OF_LOG: [&str; 3] = ["event", "child", "question"];

/// Tables that go with a task's journal.
const OF_JOURNAL: [&str; 7] =
    ["journal", "journal_blob", "journal_link", "journal_request", "journal_entry", "journal_ask", "step"];

/// Tasks that are marked in one statement.
const STEP: i64 = 5000;

type Plans = BTreeMap<FleetName, Plan>;

const TABLES: &str =
    "SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind = 'r'
        AND relname ~ '_d[0-9]+$'";

const UNFINISHED: &str = "SELECT EXISTS (SELECT 1 FROM @live WHERE id >= $1 AND id < $2)";

const STORED: &str = "SELECT EXISTS (SELECT 1 FROM @task WHERE id >= $1 AND id < $2)";

/// One look into an index for each kind of tasks, however many there are.
const ENDED: &str = "SELECT f.name, alike.dropped, found.last
     FROM @fleet AS f CROSS JOIN unnest($1::bigint[]) AS alike (dropped) CROSS JOIN LATERAL
        (SELECT max(finished_at) AS last FROM @done_dN AS d WHERE d.fleet = f.name AND d.dropped = alike.dropped) AS found
     WHERE found.last IS NOT NULL";

const NEEDED: &str = "SELECT EXISTS (SELECT 1 FROM @live WHERE parent >= $1 AND parent < $2)
        OR EXISTS (SELECT 1 FROM @task_dN AS t JOIN @live AS p ON p.id = t.parent WHERE t.parent IS NOT NULL)
        OR EXISTS (SELECT 1 FROM @batch AS b WHERE b.finished_at IS NULL
            AND EXISTS (SELECT 1 FROM @task_dN AS t WHERE t.batch = b.id))";

const MARK: &str = "WITH marked AS (
        UPDATE @done_dN SET dropped = $3 WHERE id IN
            (SELECT id FROM @done_dN WHERE fleet = $1 AND dropped = $2 LIMIT $4) RETURNING 1)
     SELECT count(*) FROM marked";

const WHOLE: &str =
    "SELECT fleet, tenant, state, count(*), max(finished_at) FROM @done_dN GROUP BY fleet, tenant, state";

impl Shared {
    /// Drops the days of which nothing must be kept, and the journals of days that need theirs no more; a day that is in use
    /// is left for the next time.
    pub(crate) async fn forget_days(
        &self,
        plans: Vec<(FleetName, Plan)>,
        now: Timestamp,
    ) -> Result<Option<Forgotten>, StoreError> {
        let (core, plans) = (self.core(), plans.into_iter().collect());
        let mut done = Forgotten::default();
        for (day, tables) in core.run(async |it| days(core, &it).await).await? {
            // Tasks of a day that is just over may still be on their way here.
            if day.0 + 2 > Day::of(now).0 {
                break;
            }
            match forget_day(core, day, &tables, &plans, &mut done).await {
                Err(error) if error.is_conflict() => {
                    debug!(day = day.0, error = words(&error), "a day is in use; it goes later");
                }
                other => other?,
            }
        }
        Ok(Some(done))
    }
}

/// The days that have partitions, and of which tables.
async fn days(
    core: &Core,
    connection: &Connection,
) -> Result<BTreeMap<Day, BTreeSet<&'static str>>, DbError> {
    let mut days: BTreeMap<Day, BTreeSet<&'static str>> = BTreeMap::new();
    for row in &connection.query(TABLES, args![core.names.schema()]).await? {
        let name: &str = row.try_get(0)?;
        let found = partition::TABLES.iter().find_map(|table| {
            let day = name.strip_prefix(table)?.strip_prefix("_d")?.parse().ok()?;
            Some((Day(day), *table))
        });
        if let Some((day, table)) = found {
            days.entry(day).or_default().insert(table);
        }
    }
    Ok(days)
}

async fn forget_day(
    core: &Core,
    day: Day,
    tables: &BTreeSet<&'static str>,
    plans: &Plans,
    done: &mut Forgotten,
) -> Result<(), DbError> {
    if !OF_TASK.iter().all(|table| tables.contains(table)) {
        // Its tasks went, and who dropped them did not come to the rest; or their partitions could not be made in time, and
        // they are among those of no day.
        return match core.run(async |it| is(&it, &of_day(core, day, STORED), day).await).await? {
            true => Ok(()),
            false => drop_tables(core, day, tables.iter().copied()).await,
        };
    }
    let left = core.run(async |it| look(core, &it, day, plans).await).await?;
    match goes(&left, plans) {
        Goes::Nothing => Ok(()),
        Goes::Journals => {
            if OF_JOURNAL.iter().any(|table| tables.contains(table)) {
                done.journals += core.run(async |it| mark(core, &it, day, &left).await).await?;
                let journals = OF_JOURNAL.iter().filter(|table| tables.contains(*table));
                drop_tables(core, day, journals.copied()).await?;
            }
            Ok(())
        }
        Goes::Tasks => {
            let Some(tasks) = core.run(async |it| drop_tasks(core, &it, day, plans).await).await? else {
                return Ok(());
            };
            done.tasks += tasks;
            let rest = tables.iter().filter(|table| !OF_TASK.contains(*table));
            drop_tables(core, day, rest.copied()).await
        }
    }
}

/// A statement about one day, its names expanded.
fn of_day(core: &Core, day: Day, sql: &str) -> String {
    core.names.expand(&sql.replace("_dN", &format!("_d{}", day.0)))
}

async fn is(connection: &Connection, sql: &str, day: Day) -> Result<bool, DbError> {
    let (from, to) = day.ids();
    let rows = connection.query_once(sql, args![from, to]).await?;
    Ok(rows.first().ok_or(DbError::Missing)?.try_get(0)?)
}

async fn look(core: &Core, connection: &Connection, day: Day, plans: &Plans) -> Result<Left, DbError> {
    let mut left =
        Left { unfinished: is(connection, &of_day(core, day, UNFINISHED), day).await?, ..Left::default() };
    if left.unfinished {
        return Ok(left);
    }
    let alike: Vec<i64> = Dropped::ALL.iter().map(|dropped| i64::from(dropped.0)).collect();
    let rows = connection.query_once(&of_day(core, day, ENDED), args![alike]).await?;
    let read = |row: &Row| Ok(Alike { fleet: get(row, 0)?, dropped: get(row, 1)?, last: get(row, 2)? });
    left.ended = rows.iter().map(read).collect::<Result<_, DbError>>()?;
    // Asked only where nothing else keeps it.
    if goes(&left, plans) == Goes::Tasks {
        left.needed = is(connection, &of_day(core, day, NEEDED), day).await?;
    }
    Ok(left)
}

/// Notes on the day's tasks that their journals are gone; returns how many had one. Said before it is so: what is dropped
/// must not look as if it had never been.
async fn mark(core: &Core, connection: &Connection, day: Day, left: &Left) -> Result<u64, DbError> {
    let (mut marked, sql) = (0, of_day(core, day, MARK));
    for alike in left.ended.iter().filter(|alike| alike.dropped.has(Part::Journal)) {
        let (from, to) = (i64::from(alike.dropped.0), i64::from(alike.dropped.without(Part::Journal).0));
        loop {
            let rows = connection.query_once(&sql, args![alike.fleet.as_str(), from, to, STEP]).await?;
            let some: i64 = rows.first().ok_or(DbError::Missing)?.try_get(0)?;
            marked += some as u64;
            if some < STEP {
                break;
            }
        }
    }
    Ok(marked)
}

/// Drops a day's tasks and takes them out of the counts; `None`: there is one that must be kept after all.
async fn drop_tasks(
    core: &Core,
    connection: &Connection,
    day: Day,
    plans: &Plans,
) -> Result<Option<u64>, DbError> {
    connection.begin_impatient().await?;
    // Nobody deletes single tasks of it from here on.
    connection.script(&of_day(core, day, "LOCK TABLE @done_dN IN SHARE ROW EXCLUSIVE MODE")).await?;
    let (mut changes, mut tasks) = (Changes::new(Timestamp::default()), 0);
    for row in &connection.query_once(&of_day(core, day, WHOLE), args![]).await? {
        let (fleet, tenant, state): (FleetName, TenantName, State) =
            (get(row, 0)?, get(row, 1)?, get(row, 2)?);
        let (number, last): (i64, Timestamp) = (row.try_get(3)?, get(row, 4)?);
        let before = plans.get(&fleet).and_then(|plan| plan.before(Part::Task));
        if before.is_none_or(|before| last >= before) {
            connection.roll_back().await;
            return Ok(None);
        }
        changes.uncount(&fleet, &tenant, Place::of(state, None), number);
        tasks += number as u64;
    }
    connection.ready(changes::STATEMENTS).await?;
    connection.script(&of_day(core, day, "DROP TABLE @task_dN, @done_dN")).await?;
    core.commit(connection, changes).await?;
    Ok(Some(tasks))
}

/// Each for itself: none of them is in the way of all others for long.
async fn drop_tables(
    core: &Core,
    day: Day,
    tables: impl Iterator<Item = &'static str>,
) -> Result<(), DbError> {
    for table in tables {
        let drop = of_day(core, day, &format!("DROP TABLE IF EXISTS @{table}_dN"));
        core.run(async |it| {
            it.begin_impatient().await?;
            it.script(&drop).await?;
            it.commit().await
        })
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_of_a_day_goes_with_its_task_its_journal_or_its_log() {
        let known: BTreeSet<&str> = OF_TASK.into_iter().chain(OF_JOURNAL).chain(OF_LOG).collect();
        assert_eq!(known, partition::TABLES.into_iter().collect());
    }
}
