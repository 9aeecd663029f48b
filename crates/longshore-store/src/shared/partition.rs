//! Days of tasks: what is only ever added to lies in a partition for each day, so that it goes as a whole.
//!
//! A task's id begins with the time at which it was submitted, so a day is a range of ids. What lies in no day (an id that
//! was made elsewhere) is kept in a partition for the rest.

use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::DbError;
use super::sql::{Names, args};

/// Tables that are partitioned by the id of their task.
pub(super) const TABLES: [&str; 10] = [
    "task",
    "done",
    "event",
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

/// A day since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub i64);

impl Day {
    pub(super) fn of(at: Timestamp) -> Day {
        Day(at.0.div_euclid(DAY_MS))
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

/// Makes the partitions of today and of the next days, and those for the rest, where they are missing.
pub(super) async fn ensure(connection: &Connection, names: &Names, now: Timestamp) -> Result<(), DbError> {
    let today = Day::of(now);
    for day in today.0..=today.0 + AHEAD {
        let marker = format!("{}.task_d{day}", names.schema());
        let exists = "SELECT to_regclass($1) IS NOT NULL";
        if connection.query_one(exists, args![marker]).await?.try_get::<_, bool>(0)? {
            continue;
        }
        connection.begin_long().await?;
        connection
            .query("SELECT pg_advisory_xact_lock(1280263508, hashtext($1))", args![names.schema()])
            .await?;
        connection.script(&script(names, Day(day))).await?;
        connection.commit().await?;
    }
    Ok(())
}

fn script(names: &Names, day: Day) -> String {
    let (from, to) = day.ids();
    let mut script = String::new();
    for table in TABLES {
        script.push_str(&names.expand(&format!(
            "CREATE TABLE IF NOT EXISTS @{table}_rest PARTITION OF @{table} DEFAULT;
             CREATE TABLE IF NOT EXISTS @{table}_d{} PARTITION OF @{table} FOR VALUES FROM ('{from}') TO ('{to}');\n",
            day.0
        )));
    }
    script
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
