//! Forgets what a plan says may go of ended tasks, some at a time, in a few statements each. What may go when is decided in
//! `longshore_core::retention`; what goes with a whole day is `days`' matter.
//!
//! What is found stays free to go: an ended task never runs again, and gets no new parent, child or batch.

use longshore_core::id::{FleetName, TenantName};
use longshore_core::retention::{Dropped, Needs, Part, Plan};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::Shared;
use super::changes::{self, Changes};
use super::column::get;
use super::connection::Connection;
use super::counts::Place;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::Forgotten;

/// The most that one step deletes: tasks, and events of theirs.
const STEP: i64 = 500;
const STEP_EVENTS: i64 = 20_000;

/// What still needs a task that ended: [`Needs`], as far as it is asked. Never hashed: a limit is not taken into a join.
const LOOK: &str = "SELECT id, found.dropped, last_event
     FROM unnest($2::bigint[]) AS alike (dropped) CROSS JOIN LATERAL (
        SELECT id, done.dropped, finished_at, last_event FROM @done AS done
        WHERE fleet = $1 AND done.dropped = alike.dropped AND finished_at < $3 AND NOT (
            $4 AND parent IS NOT NULL AND (SELECT true FROM @live AS p WHERE p.id = done.parent LIMIT 1) IS NOT NULL
            OR $5 AND (SELECT true FROM @live AS c WHERE c.parent = done.id LIMIT 1) IS NOT NULL
            OR $6 AND batch IS NOT NULL AND
                (SELECT true FROM @batch AS b WHERE b.id = done.batch AND finished_at IS NULL LIMIT 1) IS NOT NULL)
        ORDER BY finished_at LIMIT $7) AS found
     ORDER BY finished_at LIMIT $7";

const MARK: &str = "UPDATE @done SET dropped = $3 WHERE id = ANY($1) AND dropped = $2";
const DROP_RESULTS: &str = "UPDATE @done SET dropped = $3, result = NULL WHERE id = ANY($1) AND dropped = $2";

/// First of a task's journal: who still writes an answer holds its row, and what it wrote is deleted after that.
const JOURNAL: &str = "DELETE FROM @journal WHERE task = ANY($1)";
const OF_JOURNAL: [&str; 6] = [
    "DELETE FROM @journal_blob WHERE task = ANY($1)",
    "DELETE FROM @journal_link WHERE task = ANY($1)",
    "DELETE FROM @journal_request WHERE task = ANY($1)",
    "DELETE FROM @journal_entry WHERE task = ANY($1)",
    "DELETE FROM @journal_ask WHERE task = ANY($1)",
    "DELETE FROM @step WHERE task = ANY($1)",
];
const DONE: &str = "DELETE FROM @done WHERE id = ANY($1) RETURNING id, fleet, tenant, state, parent";
/// The names that children had at their parents.
const NAMES: &str = "DELETE FROM @child AS c USING unnest($1::uuid[], $2::uuid[]) AS gone (parent, id)
     WHERE c.task = gone.parent AND c.child = gone.id";
const OF_TASK: [&str; 5] = [
    "DELETE FROM @task WHERE id = ANY($1)",
    "DELETE FROM @event WHERE task = ANY($1)",
    "DELETE FROM @staged_message WHERE task = ANY($1)",
    "DELETE FROM @child WHERE task = ANY($1)",
    "DELETE FROM @question WHERE task = ANY($1)",
];

impl Shared {
    pub(crate) async fn retain(&self, fleet: FleetName, plan: Plan) -> Result<Forgotten, StoreError> {
        let core = self.core();
        let done = core.run(async |it| {
            let Some((part, found)) = look(&it, &fleet, &plan).await? else {
                return Ok(Forgotten::default());
            };
            // Whether this outlives a power cut does not matter: it would be done again.
            it.begin_unsynced().await?;
            let mut changes = Changes::new(Timestamp::default());
            let done = forget(&it, &mut changes, part, &found).await?;
            it.ready(changes::STATEMENTS).await?;
            core.commit(&it, changes).await?;
            Ok(done)
        });
        Ok(done.await?)
    }
}

struct Picked {
    id: Uuid,
    dropped: Dropped,
    events: i64,
}

/// Some that may go, all of the first part of which there are any.
async fn look(
    connection: &Connection,
    fleet: &FleetName,
    plan: &Plan,
) -> Result<Option<(Part, Vec<Picked>)>, DbError> {
    for part in Part::ALL {
        if let Some(before) = plan.before(part) {
            let found = ended(connection, fleet, part, before, STEP).await?;
            if !found.is_empty() {
                return Ok(Some((part, found)));
            }
        }
    }
    let most = i64::try_from(plan.excess).unwrap_or(STEP).min(STEP);
    if most == 0 {
        return Ok(None);
    }
    let found = ended(connection, fleet, Part::Task, Timestamp::MAX, most).await?;
    Ok((!found.is_empty()).then_some((Part::Task, found)))
}

/// Those that ended first, of which this part is there and not needed any more.
async fn ended(
    connection: &Connection,
    fleet: &FleetName,
    part: Part,
    before: Timestamp,
    most: i64,
) -> Result<Vec<Picked>, DbError> {
    let alike: Vec<i64> =
        Dropped::ALL.into_iter().filter(|it| it.has(part)).map(|it| i64::from(it.0)).collect();
    let [parent, child, batch] = asked(part);
    let args = args![fleet.as_str(), alike, before.0, parent, child, batch, most];
    let rows = connection.query(LOOK, args).await?;
    let mut picked = Vec::with_capacity(rows.len());
    let mut events = 0;
    for row in &rows {
        let one = Picked { id: row.try_get(0)?, dropped: get(row, 1)?, events: row.try_get(2)? };
        events += one.events;
        if events > STEP_EVENTS && !picked.is_empty() {
            break;
        }
        picked.push(one);
    }
    Ok(picked)
}

/// Which needs keep this part: the parent's, a child's, the batch's.
fn asked(part: Part) -> [bool; 3] {
    let none = Needs::default();
    [Needs { parent: true, ..none }, Needs { child: true, ..none }, Needs { batch: true, ..none }]
        .map(|needs| needs.keep(part))
}

async fn forget(
    connection: &Connection,
    changes: &mut Changes,
    part: Part,
    found: &[Picked],
) -> Result<Forgotten, DbError> {
    let mut done = Forgotten { more: true, ..Forgotten::default() };
    let ids: Vec<Uuid> = found.iter().map(|one| one.id).collect();
    match part {
        Part::Journal => {
            delete_journals(connection, &ids).await?;
            done.journals = mark(connection, MARK, part, found).await?;
        }
        Part::Result => done.results = mark(connection, DROP_RESULTS, part, found).await?,
        Part::Task => done.tasks = delete_tasks(connection, changes, ids).await?,
    }
    Ok(done)
}

/// Notes on the tasks what they have lost; returns how many are still there.
async fn mark(
    connection: &Connection,
    update: &'static str,
    part: Part,
    found: &[Picked],
) -> Result<u64, DbError> {
    let mut marked = 0;
    for dropped in Dropped::ALL {
        let alike = found.iter().filter(|one| one.dropped == dropped);
        let ids: Vec<Uuid> = alike.map(|one| one.id).collect();
        if !ids.is_empty() {
            let (from, to) = (i64::from(dropped.0), i64::from(dropped.without(part).0));
            marked += connection.execute(update, args![ids, from, to]).await?;
        }
    }
    Ok(marked)
}

async fn delete_journals(connection: &Connection, tasks: &[Uuid]) -> Result<(), DbError> {
    delete(connection, &[JOURNAL], tasks).await?;
    delete(connection, &OF_JOURNAL, tasks).await
}

async fn delete(connection: &Connection, statements: &[&'static str], tasks: &[Uuid]) -> Result<(), DbError> {
    let tasks = tasks.to_vec();
    let args = args![tasks];
    connection.ready(statements).await?;
    futures_util::future::try_join_all(statements.iter().map(|sql| connection.execute(sql, args))).await?;
    Ok(())
}

/// Deletes ended tasks with all that is their own, within a transaction; returns how many. One that is gone or has not
/// ended is left alone.
pub(super) async fn delete_tasks(
    connection: &Connection,
    changes: &mut Changes,
    tasks: Vec<Uuid>,
) -> Result<u64, DbError> {
    let mut gone = Vec::with_capacity(tasks.len());
    let (mut parents, mut children): (Vec<Uuid>, Vec<Uuid>) = (Vec::new(), Vec::new());
    for row in &connection.query(DONE, args![tasks]).await? {
        gone.push(row.try_get(0)?);
        if let Some(parent) = row.try_get(4)? {
            parents.push(parent);
            children.push(row.try_get(0)?);
        }
        let (fleet, tenant, state): (FleetName, TenantName, State) =
            (get(row, 1)?, get(row, 2)?, get(row, 3)?);
        changes.uncount(&fleet, &tenant, Place::of(state, None), 1);
    }
    if !gone.is_empty() {
        delete(connection, &OF_TASK, &gone).await?;
        delete_journals(connection, &gone).await?;
    }
    if !parents.is_empty() {
        connection.execute(NAMES, args![parents, children]).await?;
    }
    Ok(gone.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::migrate::MIGRATIONS;
    use crate::shared::partition;

    #[test]
    fn every_table_that_names_a_task_is_deleted_with_it_or_known_to_stay() {
        let deleted: Vec<&str> = OF_JOURNAL.iter().chain(&OF_TASK).chain(&[JOURNAL, DONE]).copied().collect();
        // Hot rows know no ended task, and messages outlive theirs, those to webhooks as well.
        let others = ["delivery", "live", "message"];
        for statement in MIGRATIONS.iter().flat_map(|script| script.split(';')) {
            let Some((_, table)) = statement.split_once("CREATE TABLE @") else { continue };
            let name = table.split_whitespace().next().unwrap_or_default();
            let has_tasks = table.lines().any(|line| line.trim_start().starts_with("task  "));
            if has_tasks || partition::TABLES.contains(&name) {
                let known = others.contains(&name)
                    || deleted.iter().any(|sql| sql.starts_with(&format!("DELETE FROM @{name} ")));
                assert!(known, "`{name}` has rows of tasks: let `delete_tasks` delete them, or name it here");
            }
        }
    }
}
