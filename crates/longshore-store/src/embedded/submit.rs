//! New tasks: all of a submission or none.

use std::collections::HashSet;

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Arrival, Hold, State};
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde_json::json;
use uuid::Uuid;

use super::column::{batch_id, hold_text, id, int, on_interrupt_text};
use super::writer::{Place, Write};
use super::{Embedded, batch, conversation, event, task_row};
use crate::error::{StoreError, SubmitError};
use crate::model::{Idempotency, NewBatch, NewTask, Submitted};

/// Old keys that one step forgets: whoever waits for the store waits no longer than that takes.
pub(crate) const MOST_KEYS: i64 = 10_000;

impl Embedded {
    pub(crate) async fn submit(
        &self,
        tasks: Vec<NewTask>,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> Result<Submitted, SubmitError> {
        self.write(move |write| submit(write, &tasks, None, idempotency.as_ref(), now)).await
    }

    pub(crate) async fn forget_keys(&self, before: Timestamp) -> Result<usize, StoreError> {
        self.write(move |write| {
            let forget = "DELETE FROM idempotency WHERE (scope, key) IN (
                SELECT scope, key FROM idempotency WHERE at < ?1 LIMIT ?2)";
            Ok(write.connection.prepare_cached(forget)?.execute(params![before.0, MOST_KEYS])?)
        })
        .await
    }
}

pub(super) fn submit(
    write: &mut Write<'_>,
    tasks: &[NewTask],
    batch: Option<&NewBatch>,
    idempotency: Option<&Idempotency>,
    now: Timestamp,
) -> Result<Submitted, SubmitError> {
    if let Some(ids) = idempotency.map(|key| earlier(write, key)).transpose()?.flatten() {
        return Ok(Submitted { ids, replayed: true });
    }
    let fleets: HashSet<&FleetName> = tasks.iter().map(|task| &task.fleet).collect();
    for fleet in fleets {
        check_fleet(write, fleet)?;
    }
    if let Some(batch) = batch {
        batch::open(write, batch, tasks, now)?;
    }
    for task in tasks {
        insert(write, (task, None), batch.map(|batch| batch.id), now)?;
    }
    let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
    if let Some(key) = idempotency {
        remember(write, key, &ids, now)?;
    }
    Ok(Submitted { ids, replayed: false })
}

/// What an earlier submission with the same key made.
fn earlier(write: &Write<'_>, key: &Idempotency) -> Result<Option<Vec<TaskId>>, SubmitError> {
    let found: Option<(Vec<u8>, Vec<u8>)> = write
        .connection
        .prepare_cached("SELECT fingerprint, task_ids FROM idempotency WHERE scope = ?1 AND key = ?2")?
        .query_row([&key.scope, &key.key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        None => Ok(None),
        Some((fingerprint, _)) if fingerprint != key.fingerprint => Err(SubmitError::KeyReused),
        Some((_, ids)) => {
            let ids = ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).map(TaskId);
            Ok(Some(ids.collect()))
        }
    }
}

fn remember(write: &Write<'_>, key: &Idempotency, ids: &[TaskId], now: Timestamp) -> Result<(), SubmitError> {
    let ids: Vec<u8> = ids.iter().flat_map(|task| id(task).to_owned()).collect();
    write
        .connection
        .prepare_cached(
            "INSERT INTO idempotency (scope, key, fingerprint, task_ids, at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![key.scope, key.key, key.fingerprint, ids, now.0])?;
    Ok(())
}

pub(super) fn check_fleet(write: &Write<'_>, fleet: &FleetName) -> Result<(), SubmitError> {
    let known = write
        .connection
        .prepare_cached("SELECT 1 FROM fleet WHERE name = ?1 AND active")?
        .exists([fleet.as_str()])?;
    if known { Ok(()) } else { Err(SubmitError::UnknownFleet(fleet.clone())) }
}

/// Writes one task, a child or not; returns its number.
pub(super) fn insert(
    write: &mut Write<'_>,
    (task, parent): (&NewTask, Option<TaskId>),
    batch: Option<BatchId>,
    now: Timestamp,
) -> Result<i64, SubmitError> {
    if let Some(conversation) = &task.conversation {
        come_to(write, conversation, task, now)?;
    }
    let ord = write.next_ord();
    let place = match &task.conversation {
        Some(conversation) => Some(line_up(write, conversation, ord, now)?),
        None => None,
    };
    let (hold, due) = match place {
        Some((_, false)) => (Hold::Conversation, None),
        _ if task.run_at.is_some_and(|at| at > now) => (Hold::Scheduled, task.run_at),
        _ => (Hold::Ready, None),
    };
    insert_row(write, (task, parent), ord, (hold, due, place.map(|(seq, _)| seq)), batch, now)?;
    write
        .connection
        .prepare_cached("INSERT INTO input (ord, data) VALUES (?1, ?2)")?
        .execute(params![ord, task.input.text()])?;
    let place = Place::of(State::Queued, Some(hold));
    write.count(&task.fleet, &task.tenant, None, place);
    if let Some(batch) = batch {
        write.count_batch(batch, None, State::Queued);
    }
    let lane = (&task.fleet, &task.tenant);
    task_row::enter(write, lane, (-i64::from(task.priority), ord), (place, due), now)?;
    let mut submitted = json!({ "fleet": task.fleet, "tenant": task.tenant, "priority": task.priority });
    if let Some(parent) = parent {
        submitted["parent"] = json!(parent);
    }
    event::insert(write, ord, 1, "submitted", &Json::of(&submitted), now)?;
    event::insert(write, ord, 2, "queued", &event::queued(hold, due), now)?;
    write.wake_task(task.id);
    Ok(ord)
}

/// Does to a conversation that may be busy what the task wants done.
fn come_to(
    write: &mut Write<'_>,
    id: &ConversationId,
    task: &NewTask,
    now: Timestamp,
) -> Result<(), SubmitError> {
    match task.on_busy.arrival(conversation::is_busy(write, id)?) {
        Arrival::LineUp => {}
        Arrival::Refuse => return Err(SubmitError::ConversationBusy(id.clone())),
        Arrival::MakeWay => conversation::make_way(write, id, task.id, now)?,
    }
    Ok(())
}

/// Takes the next place in a conversation; true when it is the head.
fn line_up(
    write: &Write<'_>,
    conversation: &ConversationId,
    ord: i64,
    now: Timestamp,
) -> rusqlite::Result<(i64, bool)> {
    let name = conversation.as_str();
    let seq: i64 = write
        .connection
        .prepare_cached(
            "INSERT INTO conversation (id, next_seq, messages, used_at) VALUES (?1, 2, 0, ?2)
             ON CONFLICT (id) DO UPDATE SET next_seq = next_seq + 1, used_at = max(used_at, ?2)
             RETURNING next_seq - 1",
        )?
        .query_row(params![name, now.0], |row| row.get(0))?;
    let others = conversation::is_busy(write, conversation)?;
    write
        .connection
        .prepare_cached("INSERT INTO conversation_queue (conversation, seq, ord) VALUES (?1, ?2, ?3)")?
        .execute(params![name, seq, ord])?;
    Ok((seq, !others))
}

fn insert_row(
    write: &Write<'_>,
    (task, parent): (&NewTask, Option<TaskId>),
    ord: i64,
    (hold, due, conv_seq): (Hold, Option<Timestamp>, Option<i64>),
    batch: Option<BatchId>,
    now: Timestamp,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO task (ord, id, fleet, state, hold, priority, run_at, due_at, timeout_ms, max_attempts,
                on_interrupt, backoff_base_ms, backoff_cap_ms, labels, conversation, conv_seq, publish_input, retry_of,
                created_at, batch, last_event, tenant, deadline_at, parent)
             VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, 2,
                ?20, ?21, ?22)",
        )?
        .execute(params![
            ord,
            id(&task.id),
            task.fleet.as_str(),
            hold_text(hold),
            task.priority,
            task.run_at.map(|at| at.0),
            due.map(|at| at.0),
            int(task.timeout_ms),
            task.max_attempts,
            on_interrupt_text(task.on_interrupt),
            int(task.backoff.base_ms),
            int(task.backoff.cap_ms),
            Json::of(&task.labels).text(),
            task.conversation.as_ref().map(|it| it.as_str()),
            conv_seq,
            task.publish_input,
            task.retry_of.as_ref().map(id),
            now.0,
            batch.as_ref().map(batch_id),
            task.tenant.as_str(),
            task.deadline_at.map(|at| at.0),
            parent.as_ref().map(id),
        ])
        .map(drop)
}
