//! Counts per batch, added up over a transaction and written once, last of all; the end of a batch is written with them.
//!
//! The rule is `longshore_core::batch::has_ended`, said once more in SQL: asking first would hold the row for one round trip
//! longer, and all reports about a batch wait for it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::batch::BatchId;
use longshore_core::json::Json;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use serde_json::json;
use uuid::Uuid;

use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;

/// What becomes of batches.
#[derive(Default)]
pub(super) struct BatchChanges {
    /// By how much counts change, by state; in order of ids. Nothing: it may have ended all the same.
    counts: BTreeMap<BatchId, [i64; 6]>,
    closed: BTreeSet<BatchId>,
    cancelled: Option<(BatchId, Option<String>)>,
}

pub(super) const LOCK: &str = "SELECT 1 FROM @batch WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

const CLOSE: &str = "WITH closed AS (
        UPDATE @batch SET open = false, last_event = last_event + 1 WHERE id = ANY($1) AND open
        RETURNING id, last_event)
     INSERT INTO @batch_event (batch, seq, at, kind, data) SELECT id, last_event, $2::bigint, 'closed', '{}' FROM closed";

const CANCEL: &str = "WITH asked AS (
        UPDATE @batch SET cancel_requested = true, last_event = last_event + 1
        WHERE id = $1 AND NOT cancel_requested AND finished_at IS NULL RETURNING id, last_event)
     INSERT INTO @batch_event (batch, seq, at, kind, data)
     SELECT id, last_event, $2::bigint, 'cancel_requested', $3 FROM asked";

/// One that has ended has no tasks that could move: it is left alone, and so its end is told once.
pub(super) const SAVE: &str = "WITH moved AS (
        UPDATE @batch AS b SET queued = b.queued + n.q, running = b.running + n.r, waiting = b.waiting + n.w,
            succeeded = b.succeeded + n.s, failed = b.failed + n.f, cancelled = b.cancelled + n.c,
            finished_at = CASE WHEN NOT b.open AND b.queued + n.q + b.running + n.r + b.waiting + n.w = 0 THEN $2::bigint END,
            last_event = b.last_event
                + CASE WHEN NOT b.open AND b.queued + n.q + b.running + n.r + b.waiting + n.w = 0 THEN 1 ELSE 0 END
        FROM unnest($1::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
            AS n (id, q, r, w, s, f, c)
        WHERE b.id = n.id AND b.finished_at IS NULL
        RETURNING b.*)
     INSERT INTO @batch_event (batch, seq, at, kind, data)
     SELECT id, last_event, $2::bigint, 'finished', json_build_object('queued', queued, 'running', running, 'waiting', waiting,
        'succeeded', succeeded, 'failed', failed, 'cancelled', cancelled)::text
     FROM moved WHERE finished_at IS NOT NULL";

impl BatchChanges {
    /// Notes a move between states; `None`: a task came.
    pub(super) fn count(&mut self, batch: BatchId, from: Option<State>, to: State) {
        let counts = self.counts.entry(batch).or_default();
        if let Some(from) = from {
            counts[from as usize] -= 1;
        }
        counts[to as usize] += 1;
    }

    /// Something happened that may end the batch.
    pub(super) fn touch(&mut self, batch: BatchId) {
        self.counts.entry(batch).or_default();
    }

    /// No more tasks may come.
    pub(super) fn close(&mut self, batch: BatchId) {
        self.touch(batch);
        self.closed.insert(batch);
    }

    /// Notes the wish once; a batch that was open is closed, so that it can end.
    pub(super) fn cancel(&mut self, batch: BatchId, reason: Option<String>) {
        self.close(batch);
        self.cancelled = Some((batch, reason));
    }

    /// Sends it all; nothing depends on the answers.
    pub(super) async fn save(&self, connection: &Connection, now: Timestamp) -> Result<(), DbError> {
        if self.counts.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.counts.keys().map(|batch| batch.0).collect();
        futures_util::try_join!(
            async { connection.query(LOCK, args![ids]).await },
            self.write_closed(connection, now),
            self.write_cancelled(connection, now),
            self.write_counts(connection, &ids, now),
        )?;
        Ok(())
    }

    async fn write_closed(&self, connection: &Connection, now: Timestamp) -> Result<(), DbError> {
        if self.closed.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.closed.iter().map(|batch| batch.0).collect();
        connection.execute(CLOSE, args![ids, now.0]).await.map(drop)
    }

    async fn write_cancelled(&self, connection: &Connection, now: Timestamp) -> Result<(), DbError> {
        let Some((batch, reason)) = &self.cancelled else { return Ok(()) };
        let data = Json::of(&json!({ "reason": reason }));
        connection.execute(CANCEL, args![batch.0, now.0, data.text()]).await.map(drop)
    }

    async fn write_counts(
        &self,
        connection: &Connection,
        ids: &[Uuid],
        now: Timestamp,
    ) -> Result<(), DbError> {
        let ids = ids.to_vec();
        let of = |state: usize| self.counts.values().map(|counts| counts[state]).collect::<Vec<i64>>();
        connection.execute(SAVE, args![ids, now.0, of(0), of(1), of(2), of(3), of(4), of(5)]).await.map(drop)
    }

    /// Statements that are rarely needed, to be made known before they are sent together.
    pub(super) async fn ready(&self, connection: &Connection) -> Result<(), DbError> {
        if !self.closed.is_empty() {
            connection.ready(&[CLOSE]).await?;
        }
        if self.cancelled.is_some() {
            connection.ready(&[CANCEL]).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_up_in_the_order_of_states() {
        let batch = BatchId(Uuid::from_u128(1));
        let mut changes = BatchChanges::default();
        changes.count(batch, None, State::Queued);
        changes.count(batch, Some(State::Queued), State::Running);
        changes.count(batch, Some(State::Running), State::Failed);
        assert_eq!(changes.counts[&batch], [0, 0, 0, 0, 1, 0]);
        let order = [State::Queued, State::Running, State::Waiting, State::Succeeded, State::Failed];
        assert_eq!(order.map(|state| state as usize), [0, 1, 2, 3, 4]);
    }
}
