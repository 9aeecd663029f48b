//! The journal of LLM calls: what is asked, who makes the call, what was answered.
//!
//! The rules are `longshore_core::journal`'s; here are the rows that they are applied to. What is done for one task is done
//! one after the other: each transaction begins by counting up the task's row in `journal`.

mod answer;
mod ask;
mod begin;
mod content;
mod generation;
mod read;
mod request;

pub(super) use begin::valid_lease;
pub(super) use generation::{Followed, attempt_ends, next_generations};

use std::collections::HashSet;

use longshore_core::id::TaskId;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::column::{bytes, count, get};
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::CallKey;

/// The newest start of a gateway replaces the one before.
const STARTS: &str = "INSERT INTO @gateway (replica, nonce, seen_ms) SELECT $1, $2, service_ms FROM @clock
     ON CONFLICT (replica) DO UPDATE SET nonce = excluded.nonce, seen_ms = excluded.seen_ms";

/// Only the newest start may say so.
const SEEN: &str =
    "UPDATE @gateway SET seen_ms = (SELECT service_ms FROM @clock) WHERE replica = $1 AND nonce = $2";

/// How long a gateway may be silent, in service time, before its calls are others' to take.
pub(super) const SILENT_MS: i64 = 5000;

impl Shared {
    /// A gateway starts: intents of its earlier start have lost their owner.
    pub(crate) async fn gateway_starts(&self, replica: String, nonce: Uuid) -> Result<(), StoreError> {
        self.core().run(async |it| it.execute(STARTS, args![replica, nonce]).await).await?;
        Ok(())
    }

    /// A gateway is still there; false: a newer start has taken its name.
    pub(crate) async fn gateway_seen(&self, replica: String, nonce: Uuid) -> Result<bool, StoreError> {
        Ok(self.core().run(async |it| it.execute(SEEN, args![replica, nonce]).await).await? > 0)
    }
}

/// From the lowest to the highest: the partitions of other days are not looked at, nor is it planned anew each time which
/// those are.
pub(super) const HAVE: &str =
    "SELECT task, true FROM @journal WHERE task = ANY($1) AND task BETWEEN $2 AND $3
     UNION ALL SELECT DISTINCT task, false FROM @step WHERE task = ANY($1) AND task BETWEEN $2 AND $3";

/// Which of some tasks have something that goes with their journal.
#[derive(Default)]
pub(super) struct Have {
    /// They made calls.
    pub calls: HashSet<TaskId>,
    /// They made calls, or ran steps.
    pub any: HashSet<TaskId>,
}

pub(super) async fn have(connection: &Connection, tasks: &[Uuid]) -> Result<Have, DbError> {
    let tasks = tasks.to_vec();
    let mut have = Have::default();
    let (Some(first), Some(last)) = (tasks.iter().min().copied(), tasks.iter().max().copied()) else {
        return Ok(have);
    };
    for row in &connection.query(HAVE, args![tasks, first, last]).await? {
        let task = get(row, 0)?;
        have.any.insert(task);
        if row.try_get(1)? {
            have.calls.insert(task);
        }
    }
    Ok(have)
}

const TICK: &str = "INSERT INTO @journal AS j (task, counter) VALUES ($1, 1)
     ON CONFLICT (task) DO UPDATE SET counter = j.counter + 1 RETURNING generation, counter";

/// Counts up and returns the generation and the new count; the journal begins with its first call.
async fn tick(connection: &Connection, task: TaskId) -> Result<(u32, i64), DbError> {
    let row = connection.query_one(TICK, args![task.0]).await?;
    Ok((count(&row, 0)?, row.try_get(1)?))
}

const STORED: &str = "SELECT 1 FROM @task WHERE id = $1";

/// The same for what comes after the fact, and perhaps after the task's end; `None`: the task was deleted meanwhile, and
/// nothing must be written for it.
///
/// Asked after the row is taken: who deletes a task waits for that row, then deletes what was written under it.
async fn tick_if_stored(connection: &Connection, task: TaskId) -> Result<Option<i64>, DbError> {
    connection.ready(&[TICK, STORED]).await?;
    let (ticked, stored) = futures_util::try_join!(tick(connection, task), async {
        connection.query_opt(STORED, args![task.0]).await
    })?;
    Ok(stored.map(|_| ticked.1))
}

/// The four columns that name an entry.
struct KeyColumns {
    task: Uuid,
    generation: i64,
    digest: Vec<u8>,
    occurrence: i64,
}

fn columns(key: &CallKey) -> KeyColumns {
    KeyColumns {
        task: key.task.0,
        generation: i64::from(key.generation),
        digest: key.digest.to_vec(),
        occurrence: i64::from(key.occurrence),
    }
}

/// A key from columns `generation`, `digest`, `occurrence`.
fn key_of(row: &Row, at: usize, task: TaskId) -> Result<CallKey, DbError> {
    let (generation, digest, occurrence) = (count(row, at)?, bytes(row, at + 1)?, count(row, at + 2)?);
    Ok(CallKey { task, ord: 0, generation, digest, occurrence })
}
