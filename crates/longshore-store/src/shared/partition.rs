//! Days of tasks: what is only ever added to lies in a partition for each day, so that it goes as a whole.
//!
//! A task's id begins with the time at which it was submitted, so a day is a range of ids. What lies in no day (an id that
//! was made elsewhere) is kept in a partition for the rest.

use longshore_core::time::Timestamp;
use tracing::warn;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::DbError;
use super::migrate::exists;
use super::sql::{Names, args};

/// Tables that are partitioned by the id of their task; the tasks themselves first.
pub(super) const TABLES: [&str; 12] = [
    "task",
    "done",
    "event",
    "child",
    "question",
    "journal",
    "journal_blob",
    "journal_link",
    "journal_request",
    "journal_entry",
    "journal_ask",
    "step",
];

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How many days ahead are made.
const AHEAD: i64 = 2;

/// The partition of what lies in no day.
const REST: &str = "rest";

/// A day since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub i64);

impl Day {
    pub(super) fn of(at: Timestamp) -> Day {
        Day(at.0.div_euclid(DAY_MS))
    }

    /// The name of its partition of a table.
    fn part_of(self, table: &str) -> String {
        format!("{table}_d{}", self.0)
    }

    /// The lowest id that a task of this day can have.
    fn first_id(self) -> Uuid {
        Uuid::from_u128((self.0 as u128 * DAY_MS as u128) << 80)
    }

    /// From the lowest id of this day to the lowest one of the next.
    pub(super) fn ids(self) -> (Uuid, Uuid) {
        (self.first_id(), Day(self.0 + 1).first_id())
    }
}

/// How long a new partition may wait for tables that others use. While it waits, whoever comes after it waits, too.
const PATIENCE_MS: u32 = 1000;

/// One replica at a time: "LNGT".
const LOCK: &str = "SELECT pg_advisory_xact_lock(1280263508, hashtext($1))";

/// Makes the partitions of today and of the next days, and those for the rest, where they are missing.
///
/// A day without a partition loses nothing: its tasks are kept among the rest, and move when the partition is made.
pub(super) async fn ensure(connection: &Connection, names: &Names, now: Timestamp) -> Result<(), DbError> {
    let today = Day::of(now);
    // Tables of tasks come last: a day that has those has all.
    for day in (today.0..=today.0 + AHEAD).map(Day) {
        if exists(connection, names, &day.part_of(TABLES[0])).await? {
            continue;
        }
        for table in TABLES.iter().rev() {
            match make(connection, names, table, day).await {
                Err(error) if error.is_conflict() => {
                    connection.roll_back().await;
                    warn!(
                        table,
                        day = day.0,
                        "a long transaction holds a table: its partition is made later"
                    );
                    return Ok(());
                }
                made => made?,
            }
        }
    }
    Ok(())
}

/// Makes what is missing for one table, in a transaction of its own: so it never waits for one table while it keeps
/// others from another.
async fn make(connection: &Connection, names: &Names, table: &str, day: Day) -> Result<(), DbError> {
    connection.begin_long().await?;
    connection.query(LOCK, args![names.schema()]).await?;
    connection.script(&format!("SET LOCAL lock_timeout = {PATIENCE_MS}")).await?;
    if !exists(connection, names, &format!("{table}_{REST}")).await? {
        let rest = format!("CREATE TABLE @{table}_{REST} PARTITION OF @{table} DEFAULT");
        connection.script(&names.expand(&rest)).await?;
    }
    if !exists(connection, names, &day.part_of(table)).await? {
        connection.script(&script(names, table, day)).await?;
    }
    connection.commit().await
}

/// A table of its own that is attached when it is complete: the whole, which everybody reads, stays free.
///
/// Nothing of the day may be left among the rest by then, where it lies if the day came before its partition did.
fn script(names: &Names, table: &str, day: Day) -> String {
    let ((from, to), part) = (day.ids(), day.part_of(table));
    // Tasks are found by their id, everything else by the task's.
    let key = if matches!(table, "task" | "done") { "id" } else { "task" };
    names.expand(&format!(
        "CREATE TABLE @{part} (LIKE @{table} INCLUDING ALL);
         LOCK TABLE @{table}_{REST} IN ACCESS EXCLUSIVE MODE;
         WITH moved AS (DELETE FROM @{table}_{REST} WHERE {key} >= '{from}' AND {key} < '{to}' RETURNING *)
            INSERT INTO @{part} SELECT * FROM moved;
         ALTER TABLE @{table} ATTACH PARTITION @{part} FOR VALUES FROM ('{from}') TO ('{to}');"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_lies_in_the_day_of_its_time() {
        let at = 1_795_000_000_123;
        let id = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, (at / 1000) as u64, 123_000_000));
        let day = Day::of(Timestamp(at));
        let (from, to) = day.ids();
        assert!(from <= id && id < to);
    }
}
