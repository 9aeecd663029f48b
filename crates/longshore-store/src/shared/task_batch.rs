//! Batches of tasks: looked at, listed, cancelled. They are made by submissions (`batch_opening`), counted where their tasks
//! move and ended with the last of them (`batch_counts`).

use longshore_core::batch::{BatchId, Counts};
use longshore_core::id::TaskId;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::Changes;
use super::column::{count, document, get, get_option, int};
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use super::{Shared, changes, ending, list, lock};
use crate::error::{CancelOutcome, StoreError};
use crate::model::{BatchEventRecord, BatchFilter, BatchRecord, CancelledBatch};

/// Tasks that one step of a cancellation looks at.
const STEP: usize = 200;

macro_rules! columns {
    () => {
        "id, name, labels, open, cancel_requested, created_at, finished_at, last_event, queued, running, waiting,
         succeeded, failed, cancelled"
    };
}

const ONE: &str = concat!("SELECT ", columns!(), " FROM @batch WHERE id = $1");
const ALL: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM @batch WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2"
);
const UNFINISHED: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM @batch WHERE finished_at IS NULL AND ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2"
);
const EVENTS: &str =
    "SELECT seq, at, kind, data FROM @batch_event WHERE batch = $1 AND seq > $2 ORDER BY seq LIMIT $3";
const KNOWN: &str = "SELECT 1 FROM @batch WHERE id = $1";
const SOME: &str = "SELECT id FROM @task WHERE batch = $1 AND id < $2 ORDER BY id DESC LIMIT $3";

impl Shared {
    pub(crate) async fn batch(&self, batch: BatchId) -> Result<Option<BatchRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![batch.0]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    pub(crate) async fn batches(
        &self,
        filter: BatchFilter,
        limit: usize,
    ) -> Result<Vec<BatchRecord>, StoreError> {
        let select = if filter.unfinished { UNFINISHED } else { ALL };
        let (before, limit) = (filter.before.map(|batch| batch.0), int(limit as u64));
        let rows = self.core().run(async |it| it.query(select, args![before, limit]).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn batch_events(
        &self,
        batch: BatchId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<BatchEventRecord>, StoreError> {
        let (after, limit) = (int(after), int(limit as u64));
        let rows = self.core().run(async |it| it.query(EVENTS, args![batch.0, after, limit]).await).await?;
        let read = |row: &Row| {
            Ok::<_, DbError>(BatchEventRecord {
                seq: count(row, 0)?,
                at: get(row, 1)?,
                kind: get(row, 2)?,
                data: get(row, 3)?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn cancel_batch(
        &self,
        batch: BatchId,
        before: Option<TaskId>,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<Option<CancelledBatch>, StoreError> {
        let core = self.core();
        let reason = reason.map(|reason| reason.replace('\0', ""));
        let done = core.run(async |it| {
            if it.query_opt(KNOWN, args![batch.0]).await?.is_none() {
                return Ok(None);
            }
            it.begin().await?;
            let mut changes = Changes::new(now);
            let step = cancel(&it, &mut changes, (batch, before), reason.as_ref()).await?;
            changes.batches.cancel(batch, reason.clone());
            changes.wake_batch(batch);
            it.ready(changes::STATEMENTS).await?;
            changes.batches.ready(&it).await?;
            core.commit(&it, changes).await?;
            Ok(Some(step))
        });
        Ok(done.await?)
    }
}

/// The newest tasks of a batch below an id, whatever their state.
async fn cancel(
    connection: &Connection,
    changes: &mut Changes,
    (batch, before): (BatchId, Option<TaskId>),
    reason: Option<&String>,
) -> Result<CancelledBatch, DbError> {
    let before = before.map_or(Uuid::max(), |task| task.0);
    let tasks = connection.query(SOME, args![batch.0, before, STEP as i64]).await?;
    let tasks = tasks.iter().map(|row| get(row, 0)).collect::<Result<Vec<TaskId>, _>>()?;
    let next = tasks.last().copied().filter(|_| tasks.len() == STEP);
    let mut step = CancelledBatch { next, ..CancelledBatch::default() };
    let ids: Vec<Uuid> = tasks.iter().map(|task| task.0).collect();
    let mut rows = lock::tasks(connection, changes, &ids).await?;
    let mut left = Vec::with_capacity(rows.len());
    for mut row in tasks.iter().filter_map(|task| rows.remove(task)).collect::<Vec<_>>() {
        match list::cancel(changes, &mut row, reason.cloned()) {
            CancelOutcome::Cancelled => step.cancelled += 1,
            _ => step.requested += 1,
        }
        left.push(row);
    }
    ending::leave_all(connection, changes, left).await?;
    Ok(step)
}

fn read(row: &Row) -> Result<BatchRecord, DbError> {
    Ok(BatchRecord {
        id: get(row, 0)?,
        name: get(row, 1)?,
        labels: document(row, 2)?,
        open: row.try_get(3)?,
        cancel_requested: row.try_get(4)?,
        created_at: get(row, 5)?,
        finished_at: get_option(row, 6)?,
        last_event: count(row, 7)?,
        counts: Counts {
            queued: count(row, 8)?,
            running: count(row, 9)?,
            waiting: count(row, 10)?,
            succeeded: count(row, 11)?,
            failed: count(row, 12)?,
            cancelled: count(row, 13)?,
        },
    })
}
