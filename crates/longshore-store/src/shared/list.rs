//! Tasks as people see them: one, many, their attempts; and their cancellation.

use longshore_core::id::{Fence, TaskId};
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::retry::Backoff;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio_postgres::Row;

use super::Shared;
use super::changes::Changes;
use super::column::{count, document, get, get_option};
use super::connection::Connection;
use super::fault::DbError;
use super::live::Live;
use super::sql::args;
use super::{ending, lock};
use crate::error::{CancelOutcome, StoreError};
use crate::model::{AttemptRecord, Outcome, TaskRecord};

/// A task as one row, whether it is finished or not.
macro_rules! record_columns {
    () => {
        "task.id, task.fleet, coalesce(live.state, done.state), live.hold, coalesce(live.failure, done.failure),
         task.conversation, task.publish_input, task.priority, task.run_at, live.due_at, task.labels, task.timeout_ms,
         task.max_attempts, task.on_interrupt, task.backoff_base_ms, task.backoff_cap_ms,
         coalesce(live.failed_attempts, done.failed_attempts), coalesce(live.attempts, done.attempts),
         coalesce(live.interrupted, done.interrupted), coalesce(live.strikes, done.strikes),
         coalesce(live.cancel_requested, done.cancel_requested), task.retry_of, task.created_at,
         coalesce(live.started_at, done.started_at), done.finished_at, coalesce(live.last_event, done.last_event),
         task.batch, coalesce(done.dropped, 0), task.tenant, task.deadline_at, task.parent, live.wait_for,
         live.wait_until"
    };
}
pub(super) use record_columns;

const COLUMNS: usize = 33;

macro_rules! record_tables {
    () => {
        " FROM @task AS task LEFT JOIN @live AS live ON live.id = task.id LEFT JOIN @done AS done ON done.id = task.id "
    };
}
pub(super) use record_tables;

const STATE: &str =
    "SELECT coalesce((SELECT state FROM @live WHERE id = $1), (SELECT state FROM @done WHERE id = $1))";
const DONE_STATE: &str = "SELECT state FROM @done WHERE id = $1";
const ONE: &str = concat!(
    "SELECT ",
    record_columns!(),
    ", task.input, done.result",
    record_tables!(),
    "WHERE task.id = $1"
);
const ATTEMPTS: &str =
    "SELECT attempt, fence, at, kind, data FROM @event WHERE task = $1 AND fence IS NOT NULL ORDER BY seq";

/// The state of a task that has ended; `None`: it has not, or is not known.
pub(super) async fn done_state(connection: &Connection, task: TaskId) -> Result<Option<State>, DbError> {
    connection.query_opt(DONE_STATE, args![task.0]).await?.map(|row| get(&row, 0)).transpose()
}

impl Shared {
    pub(crate) async fn task_state(&self, task: TaskId) -> Result<Option<State>, StoreError> {
        let row = self.core().run(async |it| it.query_one(STATE, args![task.0]).await).await?;
        Ok(get_option(&row, 0)?)
    }

    pub(crate) async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![task.0]).await).await?;
        let Some(row) = row else { return Ok(None) };
        let (input, result) = (get_option(&row, COLUMNS)?, get_option(&row, COLUMNS + 1)?);
        Ok(Some(TaskRecord { input, result, ..read(&row)? }))
    }

    pub(crate) async fn attempts(&self, task: TaskId) -> Result<Vec<AttemptRecord>, StoreError> {
        let rows = self.core().run(async |it| it.query(ATTEMPTS, args![task.0]).await).await?;
        Ok(attempts(&rows)?)
    }

    pub(crate) async fn cancel(
        &self,
        task: TaskId,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<CancelOutcome, StoreError> {
        self.cancel_in(task, Vec::new(), reason, now).await
    }

    pub(crate) async fn cancel_in(
        &self,
        task: TaskId,
        states: Vec<State>,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<CancelOutcome, StoreError> {
        let core = self.core();
        let reason = reason.map(|reason| reason.replace('\0', ""));
        let done = core.run(async |it| {
            it.begin().await?;
            let mut changes = Changes::new(now);
            let Some(mut row) = lock::tasks(&it, &mut changes, &[task.0]).await?.remove(&task) else {
                it.roll_back().await;
                let state = done_state(&it, task).await?;
                return Ok(state.map_or(CancelOutcome::NotFound, CancelOutcome::AlreadyTerminal));
            };
            if !states.is_empty() && !states.contains(&row.state) {
                it.roll_back().await;
                return Ok(CancelOutcome::Elsewhere(row.state));
            }
            let outcome = cancel(&mut changes, &mut row, reason.clone());
            ending::leave(&it, &mut changes, row).await?;
            core.commit(&it, changes).await?;
            Ok(outcome)
        });
        Ok(done.await?)
    }
}

/// Ends a task that does not run, and tells the worker of one that does; the row is to be saved.
pub(super) fn cancel(changes: &mut Changes, row: &mut Live, reason: Option<String>) -> CancelOutcome {
    let first = !row.cancel_requested;
    if first {
        row.cancel_requested = true;
        row.cancel_reason = reason;
    }
    if row.state != State::Running {
        ending::cancel(changes, row);
        return CancelOutcome::Cancelled;
    }
    if first {
        let data = Json::of(&json!({ "reason": row.cancel_reason }));
        row.event(changes, "cancel_requested", &data);
        if let Some(lease) = &row.lease {
            changes.wake_worker(&lease.worker);
        }
    }
    CancelOutcome::Requested
}

/// Reads [`record_columns`].
pub(super) fn read(row: &Row) -> Result<TaskRecord, DbError> {
    let (state, dropped): (State, Dropped) = (get(row, 2)?, get(row, 27)?);
    Ok(TaskRecord {
        id: get(row, 0)?,
        fleet: get(row, 1)?,
        state,
        hold: get_option(row, 3)?,
        wait: get_option(row, 31)?,
        wait_until: get_option(row, 32)?,
        parent: get_option(row, 30)?,
        input: None,
        result: None,
        result_expired: dropped.result_expired(state),
        journal_expired: dropped.journal_expired(),
        failure: get_option(row, 4)?,
        conversation: get_option(row, 5)?,
        publish_input: row.try_get(6)?,
        priority: row.try_get(7)?,
        run_at: get_option(row, 8)?,
        due_at: get_option(row, 9)?,
        labels: document(row, 10)?,
        timeout_ms: count(row, 11)?,
        max_attempts: count(row, 12)?,
        on_interrupt: get(row, 13)?,
        backoff: Backoff { base_ms: count(row, 14)?, cap_ms: count(row, 15)? },
        failed_attempts: count(row, 16)?,
        attempts: count(row, 17)?,
        interrupted: count(row, 18)?,
        strikes: count(row, 19)?,
        cancel_requested: row.try_get(20)?,
        retry_of: get_option(row, 21)?,
        batch: get_option(row, 26)?,
        created_at: get(row, 22)?,
        started_at: get_option(row, 23)?,
        finished_at: get_option(row, 24)?,
        last_event: count(row, 25)?,
        tenant: get(row, 28)?,
        deadline_at: get_option(row, 29)?,
    })
}

/// Attempts are told by the log: each begins and ends with an entry that carries its fence.
fn attempts(rows: &[Row]) -> Result<Vec<AttemptRecord>, DbError> {
    let mut attempts: Vec<AttemptRecord> = Vec::new();
    for row in rows {
        let (number, fence): (u32, Fence) = (count(row, 0)?, get(row, 1)?);
        let (at, kind): (Timestamp, &str) = (get(row, 2)?, row.try_get(3)?);
        if kind == "started" {
            attempts.push(begun(row, number, fence, at)?);
        } else if let Some(attempt) = attempts.iter_mut().find(|attempt| attempt.fence == fence) {
            let (outcome, reason) = ended(row)?;
            (attempt.ended_at, attempt.outcome, attempt.reason) = (Some(at), Some(outcome), reason);
        }
    }
    Ok(attempts)
}

fn begun(row: &Row, number: u32, fence: Fence, started_at: Timestamp) -> Result<AttemptRecord, DbError> {
    #[derive(Deserialize)]
    struct Started {
        worker: longshore_core::id::WorkerId,
    }
    let worker = document::<Started>(row, 4)?.worker;
    Ok(AttemptRecord { number, fence, worker, started_at, ended_at: None, outcome: None, reason: None })
}

fn ended(row: &Row) -> Result<(Outcome, Option<String>), DbError> {
    #[derive(Deserialize)]
    struct AttemptEnded {
        outcome: String,
        code: Option<String>,
        message: Option<String>,
        cause: Option<String>,
    }
    let told: AttemptEnded = document(row, 4)?;
    let outcome = Outcome::parse(&told.outcome)
        .ok_or_else(|| DbError::Word { what: "outcome", value: told.outcome.clone() })?;
    let failure = told.code.map(|code| format!("{code}: {}", told.message.unwrap_or_default()));
    Ok((outcome, told.cause.or(failure)))
}
