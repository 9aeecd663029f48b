//! Tasks as people see them, their attempts; and their cancellation.

use std::collections::BTreeMap;

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::retry::Backoff;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::column::{count, get, get_option, id};
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, ending, family, task_row};
use crate::error::{CancelOutcome, StoreError};
use crate::model::{AttemptRecord, TaskRecord};

impl Embedded {
    pub(crate) async fn task_state(&self, task: TaskId) -> Result<Option<State>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT state FROM task WHERE id = ?1";
            Ok(connection.prepare_cached(select)?.query_row([id(&task)], |row| get(row, 0)).optional()?)
        })
        .await
    }

    pub(crate) async fn task(&self, task: TaskId) -> Result<Option<TaskRecord>, StoreError> {
        self.read(move |connection| Ok(one(connection, task)?)).await
    }

    pub(crate) async fn attempts(&self, task: TaskId) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT number, fence, worker, started_at, ended_at, outcome, reason FROM attempt
                 WHERE ord = (SELECT ord FROM task WHERE id = ?1) ORDER BY number",
            )?;
            let rows = select.query_map([id(&task)], read_attempt)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
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
        self.write(move |write| Ok(cancel(write, task, &states, reason, now)?)).await
    }
}

pub(super) const COLUMNS: &str = "id, fleet, state, hold, failure, conversation, publish_input, priority, run_at, due_at, labels,
    timeout_ms, max_attempts, on_interrupt, backoff_base_ms, backoff_cap_ms, failed_attempts, attempts, interrupted,
    strikes, cancel_requested, retry_of, created_at, started_at, finished_at, last_event, batch, dropped, tenant,
    deadline_at, parent, wait_for, wait_until";

/// Reads [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<TaskRecord> {
    let (state, dropped) = (get(row, 2)?, get::<Dropped>(row, 27)?);
    Ok(TaskRecord {
        id: get(row, 0)?,
        fleet: get(row, 1)?,
        state,
        hold: get_option(row, 3)?,
        parent: get_option(row, 30)?,
        wait: task_row::wait(row, 31, state)?,
        wait_until: get_option(row, 32)?,
        input: None,
        result: None,
        result_expired: dropped.result_expired(state),
        journal_expired: dropped.journal_expired(),
        failure: get_option(row, 4)?,
        conversation: get_option(row, 5)?,
        publish_input: row.get(6)?,
        priority: row.get(7)?,
        run_at: get_option(row, 8)?,
        due_at: get_option(row, 9)?,
        labels: labels(row, 10)?,
        timeout_ms: count(row, 11)?,
        max_attempts: count(row, 12)?,
        on_interrupt: get(row, 13)?,
        backoff: Backoff { base_ms: count(row, 14)?, cap_ms: count(row, 15)? },
        failed_attempts: count(row, 16)?,
        attempts: count(row, 17)?,
        interrupted: count(row, 18)?,
        strikes: count(row, 19)?,
        cancel_requested: row.get(20)?,
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

pub(super) fn labels(row: &Row<'_>, at: usize) -> rusqlite::Result<BTreeMap<String, String>> {
    let labels: Json = get(row, at)?;
    labels.read().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<AttemptRecord> {
    Ok(AttemptRecord {
        number: count(row, 0)?,
        fence: get(row, 1)?,
        worker: get(row, 2)?,
        started_at: get(row, 3)?,
        ended_at: get_option(row, 4)?,
        outcome: get_option(row, 5)?,
        reason: row.get(6)?,
    })
}

fn one(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<TaskRecord>> {
    let select = format!(
        "SELECT {COLUMNS}, (SELECT data FROM input WHERE input.ord = task.ord),
            (SELECT data FROM result WHERE result.ord = task.ord)
         FROM task WHERE id = ?1"
    );
    connection
        .prepare_cached(&select)?
        .query_row([id(&task)], |row| {
            Ok(TaskRecord { input: get_option(row, 33)?, result: get_option(row, 34)?, ..read(row)? })
        })
        .optional()
}

/// Cancels a task that is in one of these states; empty: whatever it is in.
pub(super) fn cancel(
    write: &mut Write<'_>,
    task: TaskId,
    states: &[State],
    reason: Option<String>,
    now: Timestamp,
) -> rusqlite::Result<CancelOutcome> {
    let Some(row) = TaskRow::find(write, task)? else { return Ok(CancelOutcome::NotFound) };
    if !row.state.is_terminal() && !states.is_empty() && !states.contains(&row.state) {
        return Ok(CancelOutcome::Elsewhere(row.state));
    }
    cancel_row(write, row, reason, now)
}

/// Ends a task that does not run; lets the worker know of one that does.
pub(super) fn cancel_row(
    write: &mut Write<'_>,
    mut row: TaskRow,
    reason: Option<String>,
    now: Timestamp,
) -> rusqlite::Result<CancelOutcome> {
    if row.state.is_terminal() {
        return Ok(CancelOutcome::AlreadyTerminal(row.state));
    }
    let first = !row.cancel_requested;
    if first {
        row.cancel_requested = true;
        row.cancel_reason = reason;
    }
    let outcome = if row.state == State::Running {
        if first {
            let data = Json::of(&json!({ "reason": row.cancel_reason }));
            row.event(write, "cancel_requested", &data, now)?;
            tell_worker(write, row.ord)?;
        }
        CancelOutcome::Requested
    } else {
        ending::cancel(write, &mut row, now)?;
        CancelOutcome::Cancelled
    };
    row.save(write)?;
    family::moved(write, &row, now)?;
    Ok(outcome)
}

/// Has the worker of a running task stop its agent.
pub(super) fn tell_worker(write: &mut Write<'_>, ord: i64) -> rusqlite::Result<()> {
    let worker = write
        .connection
        .prepare_cached("UPDATE lease SET cancel = 1 WHERE ord = ?1 RETURNING worker")?
        .query_row(params![ord], |row| get(row, 0))
        .optional()?;
    if let Some(worker) = worker {
        write.wake_worker(&worker);
    }
    Ok(())
}
