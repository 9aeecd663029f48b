//! Tasks as people see them: one, many, their attempts; and their cancellation.

use std::collections::BTreeMap;

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde_json::json;

use super::column::{count, get, get_option, id, int};
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, ending, family, task_row};
use crate::error::{CancelOutcome, StoreError};
use crate::model::{AttemptRecord, TaskFilter, TaskRecord};

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

    pub(crate) async fn tasks(
        &self,
        filter: TaskFilter,
        limit: usize,
    ) -> Result<Vec<TaskRecord>, StoreError> {
        self.read(move |connection| Ok(list(connection, &filter, limit)?)).await
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
        self.write(move |write| Ok(cancel(write, task, reason, now)?)).await
    }
}

const COLUMNS: &str = "id, fleet, state, hold, failure, conversation, publish_input, priority, run_at, due_at, labels,
    timeout_ms, max_attempts, on_interrupt, backoff_base_ms, backoff_cap_ms, failed_attempts, attempts, interrupted,
    strikes, cancel_requested, retry_of, created_at, started_at, finished_at, last_event, parent,
    wait_for, wait_until";

fn read(row: &Row<'_>) -> rusqlite::Result<TaskRecord> {
    let state = get(row, 2)?;
    Ok(TaskRecord {
        id: get(row, 0)?,
        fleet: get(row, 1)?,
        state,
        hold: get_option(row, 3)?,
        parent: get_option(row, 26)?,
        wait: task_row::wait(row, 27, state)?,
        wait_until: get_option(row, 28)?,
        input: None,
        result: None,
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
        created_at: get(row, 22)?,
        started_at: get_option(row, 23)?,
        finished_at: get_option(row, 24)?,
        last_event: count(row, 25)?,
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
            Ok(TaskRecord { input: get_option(row, 29)?, result: get_option(row, 30)?, ..read(row)? })
        })
        .optional()
}

fn list(connection: &Connection, filter: &TaskFilter, limit: usize) -> rusqlite::Result<Vec<TaskRecord>> {
    let (conditions, mut values) = conditions(filter);
    values.push(Value::Integer(int(limit as u64)));
    let select = format!("SELECT {COLUMNS} FROM task WHERE {conditions} ORDER BY id DESC LIMIT ?");
    let mut select = connection.prepare_cached(&select)?;
    select.query_map(params_from_iter(values), read)?.collect()
}

/// The filter as SQL: words of ours are written into it, words from outside are bound.
fn conditions(filter: &TaskFilter) -> (String, Vec<Value>) {
    let mut parts = vec!["1".to_owned()];
    let mut values = Vec::new();
    if let Some(fleet) = &filter.fleet {
        parts.push("fleet = ?".to_owned());
        values.push(Value::Text(fleet.to_string()));
    }
    if let [State::Running] = filter.states[..] {
        // Running tasks are few, and the table of leases knows them.
        parts.push("ord IN (SELECT ord FROM lease)".to_owned());
    } else if let [state] = filter.states[..] {
        parts.push(format!("state = '{}'", state.as_str()));
    } else if !filter.states.is_empty() {
        let states: Vec<_> = filter.states.iter().map(|state| format!("'{}'", state.as_str())).collect();
        parts.push(format!("state IN ({})", states.join(", ")));
    }
    if let Some(conversation) = &filter.conversation {
        parts.push("conversation = ?".to_owned());
        values.push(Value::Text(conversation.to_string()));
    }
    if let Some(parent) = &filter.parent {
        parts.push("parent = ?".to_owned());
        values.push(Value::Blob(id(parent).to_owned()));
    }
    for (name, value) in &filter.labels {
        parts.push(
            "EXISTS (SELECT 1 FROM json_each(labels) AS label WHERE label.key = ? AND label.value = ?)"
                .into(),
        );
        values.extend([Value::Text(name.clone()), Value::Text(value.clone())]);
    }
    if let Some(before) = &filter.before {
        parts.push("id < ?".to_owned());
        values.push(Value::Blob(id(before).to_owned()));
    }
    (parts.join(" AND "), values)
}

fn cancel(
    write: &mut Write<'_>,
    task: TaskId,
    reason: Option<String>,
    now: Timestamp,
) -> rusqlite::Result<CancelOutcome> {
    match TaskRow::find(write, task)? {
        Some(row) => cancel_row(write, row, reason, now),
        None => Ok(CancelOutcome::NotFound),
    }
}

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

fn tell_worker(write: &mut Write<'_>, ord: i64) -> rusqlite::Result<()> {
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
