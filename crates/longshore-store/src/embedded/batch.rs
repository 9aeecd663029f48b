//! Batches: made by their first submission, counted where their tasks move, ended with their last task.

use longshore_core::batch::BatchId;
use longshore_core::id::{TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};
use serde_json::json;

use super::column::{batch_id, count, get, get_option, id, int};
use super::writer::{Write, batches};
use super::{Embedded, list, submit};
use crate::error::{CancelOutcome, StoreError, SubmitError};
use crate::model::{
    BatchEventRecord, BatchFilter, BatchRecord, CancelledBatch, Idempotency, NewBatch, NewTask, Submitted,
};

/// Tasks that one step of a cancellation looks at.
const STEP: usize = 200;

impl Embedded {
    pub(crate) async fn submit_batch(
        &self,
        batch: NewBatch,
        tasks: Vec<NewTask>,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |write| submit::submit(write, &tasks, Some(&batch), idempotency.as_ref(), now)).await
    }

    pub(crate) async fn batch(&self, batch: BatchId) -> Result<Option<BatchRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("SELECT {COLUMNS} FROM batch WHERE id = ?1");
            Ok(connection.prepare_cached(&select)?.query_row([batch_id(&batch)], read).optional()?)
        })
        .await
    }

    pub(crate) async fn batches(
        &self,
        filter: BatchFilter,
        limit: usize,
    ) -> Result<Vec<BatchRecord>, StoreError> {
        self.read(move |connection| {
            let unfinished = if filter.unfinished { "finished_at IS NULL" } else { "1" };
            let select = format!(
                "SELECT {COLUMNS} FROM batch WHERE {unfinished} AND (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"
            );
            let mut select = connection.prepare_cached(&select)?;
            let before = filter.before.as_ref().map(batch_id);
            let rows = select.query_map(params![before, int(limit as u64)], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn batch_events(
        &self,
        batch: BatchId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<BatchEventRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT seq, at, kind, data FROM batch_event WHERE batch = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?;
            let rows = select.query_map(params![batch_id(&batch), int(after), int(limit as u64)], |row| {
                Ok(BatchEventRecord {
                    seq: count(row, 0)?,
                    at: get(row, 1)?,
                    kind: row.get(2)?,
                    data: get(row, 3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn cancel_batch(
        &self,
        batch: BatchId,
        before: Option<TaskId>,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Option<CancelledBatch>, StoreError> {
        self.write(move |write| Ok(cancel(write, batch, before, reason.as_ref(), now)?)).await
    }
}

const COLUMNS: &str = "id, name, labels, open, cancel_requested, created_at, finished_at, last_event,
    queued, running, waiting, succeeded, failed, cancelled";

fn read(row: &Row<'_>) -> rusqlite::Result<BatchRecord> {
    Ok(BatchRecord {
        id: get(row, 0)?,
        name: row.get(1)?,
        labels: list::labels(row, 2)?,
        open: row.get(3)?,
        cancel_requested: row.get(4)?,
        created_at: get(row, 5)?,
        finished_at: get_option(row, 6)?,
        last_event: count(row, 7)?,
        counts: batches::counts(row, 8)?,
    })
}

/// Makes the batch, or finds it still open; closes it when no more is to come.
///
/// It is of the tenant of its first task, and so are all of its tasks.
pub(super) fn open(
    write: &mut Write<'_>,
    batch: &NewBatch,
    tasks: &[NewTask],
    now: Timestamp,
) -> Result<(), SubmitError> {
    let found: Option<(bool, TenantName)> = write
        .connection
        .prepare_cached("SELECT open, tenant FROM batch WHERE id = ?1")?
        .query_row([batch_id(&batch.id)], |row| Ok((row.get(0)?, get(row, 1)?)))
        .optional()?;
    let (open, tenant) = match found {
        Some((open, tenant)) => (Some(open), tenant),
        None => (None, tasks.first().map(|task| task.tenant.clone()).unwrap_or_default()),
    };
    if open == Some(false) {
        return Err(SubmitError::BatchClosed(batch.id));
    }
    if tasks.iter().any(|task| task.tenant != tenant) {
        return Err(SubmitError::BatchOfSeveral { batch: batch.id, tenant });
    }
    match open {
        None => create(write, batch, &tenant, now)?,
        Some(_) if !batch.more => close(write, batch.id, now)?,
        Some(_) => {}
    }
    write.touch_batch(batch.id, now);
    Ok(())
}

fn create(write: &Write<'_>, batch: &NewBatch, tenant: &TenantName, now: Timestamp) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO batch (id, tenant, name, labels, open, created_at, last_event)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)",
        )?
        .execute(params![
            batch_id(&batch.id),
            tenant.as_str(),
            batch.name,
            Json::of(&batch.labels).text(),
            batch.more,
            now.0
        ])?;
    let data = Json::of(&json!({ "name": batch.name, "open": batch.more }));
    batches::event(write.connection, batch.id, 1, ("created", &data), now)
}

fn close(write: &Write<'_>, batch: BatchId, now: Timestamp) -> rusqlite::Result<()> {
    let seq = write
        .connection
        .prepare_cached(
            "UPDATE batch SET open = 0, last_event = last_event + 1 WHERE id = ?1 AND open RETURNING last_event",
        )?
        .query_row([batch_id(&batch)], |row| row.get(0))
        .optional()?;
    let data = Json::of(&json!({}));
    seq.map_or(Ok(()), |seq| batches::event(write.connection, batch, seq, ("closed", &data), now))
}

fn cancel(
    write: &mut Write<'_>,
    batch: BatchId,
    before: Option<TaskId>,
    reason: Option<&String>,
    now: Timestamp,
) -> rusqlite::Result<Option<CancelledBatch>> {
    let known =
        write.connection.prepare_cached("SELECT 1 FROM batch WHERE id = ?1")?.exists([batch_id(&batch)])?;
    if !known {
        return Ok(None);
    }
    ask(write, batch, reason, now)?;
    let tasks = some(write, batch, before)?;
    let mut step = CancelledBatch { next: tasks.last().map(|(task, _)| *task), ..CancelledBatch::default() };
    step.next = step.next.filter(|_| tasks.len() == STEP);
    for (task, _) in tasks.into_iter().filter(|(_, state)| !state.is_terminal()) {
        match list::cancel(write, task, &[], reason.cloned(), now)? {
            CancelOutcome::Cancelled => step.cancelled += 1,
            CancelOutcome::Requested => step.requested += 1,
            CancelOutcome::NotFound | CancelOutcome::AlreadyTerminal(_) | CancelOutcome::Elsewhere(_) => {}
        }
    }
    Ok(Some(step))
}

/// Notes the wish once; a batch that was open is closed, so that it can end.
fn ask(
    write: &mut Write<'_>,
    batch: BatchId,
    reason: Option<&String>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    close(write, batch, now)?;
    write.touch_batch(batch, now);
    let seq = write
        .connection
        .prepare_cached(
            "UPDATE batch SET cancel_requested = 1, last_event = last_event + 1
             WHERE id = ?1 AND NOT cancel_requested AND finished_at IS NULL RETURNING last_event",
        )?
        .query_row([batch_id(&batch)], |row| row.get(0))
        .optional()?;
    let data = Json::of(&json!({ "reason": reason }));
    seq.map_or(Ok(()), |seq| batches::event(write.connection, batch, seq, ("cancel_requested", &data), now))
}

fn some(write: &Write<'_>, batch: BatchId, before: Option<TaskId>) -> rusqlite::Result<Vec<(TaskId, State)>> {
    let mut select = write.connection.prepare_cached(
        "SELECT id, state FROM task WHERE batch = ?1 AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
    )?;
    let rows = select
        .query_map(params![batch_id(&batch), before.as_ref().map(id), int(STEP as u64)], |row| {
            Ok((get(row, 0)?, get(row, 1)?))
        })?;
    rows.collect()
}
