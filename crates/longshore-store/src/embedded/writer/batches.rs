//! Counts per batch, added up over a group and written once; the end of a batch is written with them.

use std::collections::HashMap;

use longshore_core::batch::{self, BatchId, Counts};
use longshore_core::json::Json;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::embedded::column::{batch_id, count};

/// By how much one batch changes, and when it did last.
struct Delta {
    counts: [i64; 6],
    at: Timestamp,
}

#[derive(Default)]
pub(super) struct Deltas(HashMap<BatchId, Delta>);

impl Deltas {
    /// Notes a move between states; `None`: a task came.
    pub(super) fn count(&mut self, batch: BatchId, from: Option<State>, to: State) {
        let counts = &mut self.of(batch).counts;
        if let Some(from) = from {
            counts[from as usize] -= 1;
        }
        counts[to as usize] += 1;
    }

    /// Something happened that may end the batch.
    pub(super) fn touch(&mut self, batch: BatchId, at: Timestamp) {
        let delta = self.of(batch);
        delta.at = delta.at.max(at);
    }

    fn of(&mut self, batch: BatchId) -> &mut Delta {
        self.0.entry(batch).or_insert(Delta { counts: [0; 6], at: Timestamp(0) })
    }

    pub(super) fn add(&mut self, more: Deltas) {
        for (batch, more) in more.0 {
            let delta = self.of(batch);
            delta.counts.iter_mut().zip(more.counts).for_each(|(count, by)| *count += by);
            delta.at = delta.at.max(more.at);
        }
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        self.0.iter().try_for_each(|(batch, delta)| save(connection, *batch, delta))
    }
}

fn save(connection: &Connection, batch: BatchId, delta: &Delta) -> rusqlite::Result<()> {
    let [a, b, c, d, e, f] = delta.counts;
    let now = connection
        .prepare_cached(
            "UPDATE batch SET queued = queued + ?2, running = running + ?3, waiting = waiting + ?4,
                succeeded = succeeded + ?5, failed = failed + ?6, cancelled = cancelled + ?7
             WHERE id = ?1 RETURNING queued, running, waiting, succeeded, failed, cancelled, open, finished_at IS NOT NULL",
        )?
        .query_row(params![batch_id(&batch), a, b, c, d, e, f], |row| {
            Ok((counts(row, 0)?, row.get::<_, bool>(6)?, row.get::<_, bool>(7)?))
        })
        .optional()?;
    match now {
        Some((counts, open, false)) if batch::has_ended(&counts, open) => {
            finish(connection, batch, &counts, delta.at)
        }
        // Erased meanwhile, not over yet, or over already.
        _ => Ok(()),
    }
}

/// Six columns from `at` on.
pub(in crate::embedded) fn counts(row: &Row<'_>, at: usize) -> rusqlite::Result<Counts> {
    Ok(Counts {
        queued: count(row, at)?,
        running: count(row, at + 1)?,
        waiting: count(row, at + 2)?,
        succeeded: count(row, at + 3)?,
        failed: count(row, at + 4)?,
        cancelled: count(row, at + 5)?,
    })
}

/// The guard and the event's key make it once for ever.
fn finish(connection: &Connection, batch: BatchId, counts: &Counts, at: Timestamp) -> rusqlite::Result<()> {
    let seq: Option<i64> = connection
        .prepare_cached(
            "UPDATE batch SET finished_at = ?2, last_event = last_event + 1
             WHERE id = ?1 AND finished_at IS NULL RETURNING last_event",
        )?
        .query_row(params![batch_id(&batch), at.0], |row| row.get(0))
        .optional()?;
    seq.map_or(Ok(()), |seq| event(connection, batch, seq, ("finished", &Json::of(counts)), at))
}

pub(in crate::embedded) fn event(
    connection: &Connection,
    batch: BatchId,
    seq: i64,
    (kind, data): (&str, &Json),
    at: Timestamp,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO batch_event (batch, seq, at, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![batch_id(&batch), seq, at.0, kind, data.text()])
        .map(drop)
}
