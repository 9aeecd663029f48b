//! The log of a task: appended to by every change, read by every stream.

use longshore_core::id::{Held, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::Hold;
use longshore_core::time::Timestamp;
use rusqlite::params;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::column::{count, get, id, int};
use super::lease::{self, Lease};
use super::writer::Write;
use super::{Embedded, register};
use crate::error::{LinkError, StoreError};
use crate::model::{AgentEventKind, EventRecord, NewAgentEvent};

impl Embedded {
    pub(crate) async fn append_events(
        &self,
        worker: WorkerId,
        nonce: Uuid,
        attempts: Vec<(Held, Vec<NewAgentEvent>)>,
        _now: Timestamp,
    ) -> Result<Vec<Held>, LinkError> {
        self.write(move |write| {
            register::known(write.connection, &worker, nonce)?;
            let mut lost = Vec::new();
            for (held, events) in &attempts {
                match lease::find(write, *held)?.filter(|lease| lease.worker == worker) {
                    Some(lease) => append(write, held.task, &lease, events)?,
                    None => lost.push(*held),
                }
            }
            Ok(lost)
        })
        .await
    }

    pub(crate) async fn events(
        &self,
        task: TaskId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT seq, at, kind, data FROM event
                 WHERE ord = (SELECT ord FROM task WHERE id = ?1) AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?;
            let rows = select.query_map(params![id(&task), int(after), int(limit as u64)], |row| {
                Ok(EventRecord {
                    task,
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
}

pub(super) fn insert(
    write: &Write<'_>,
    ord: i64,
    seq: i64,
    kind: &str,
    data: &Json,
    at: Timestamp,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("INSERT INTO event (ord, seq, at, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![ord, seq, at.0, kind, data.text()])
        .map(drop)
}

/// The data of an event `queued`: what it waits for, and until when if that is known.
pub(crate) fn queued(hold: Hold, due: Option<Timestamp>) -> Json {
    match due {
        Some(due) => Json::of(&json!({ "reason": hold, "due_at": due })),
        None => Json::of(&json!({ "reason": hold })),
    }
}

/// Writes what an agent said; the lease was found valid in this transaction.
pub(super) fn append(
    write: &mut Write<'_>,
    task: TaskId,
    lease: &Lease,
    events: &[NewAgentEvent],
) -> rusqlite::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let known: i64 = write
        .connection
        .prepare_cached("SELECT last_n FROM attempt WHERE ord = ?1 AND number = ?2")?
        .query_row(params![lease.ord, lease.attempt], |row| row.get(0))?;
    let mut fresh: Vec<&NewAgentEvent> = events.iter().filter(|event| int(event.n) > known).collect();
    fresh.sort_by_key(|event| event.n);
    fresh.dedup_by_key(|event| event.n);
    let Some(newest) = fresh.last().map(|event| int(event.n)) else { return Ok(()) };
    let (mut seq, conversation) = make_room(write, lease.ord, fresh.len())?;
    for event in fresh {
        seq += 1;
        append_one(write, lease, event, seq, conversation)?;
    }
    write.wake_task(task);
    write
        .connection
        .prepare_cached("UPDATE attempt SET last_n = ?3 WHERE ord = ?1 AND number = ?2")?
        .execute(params![lease.ord, lease.attempt, newest])
        .map(drop)
}

/// Reserves numbers in the task's log; returns the last one that was taken, and whether it has a
/// conversation.
fn make_room(write: &Write<'_>, ord: i64, events: usize) -> rusqlite::Result<(i64, bool)> {
    write
        .connection
        .prepare_cached(
            "UPDATE task SET last_event = last_event + ?2 WHERE ord = ?1
             RETURNING last_event - ?2, conversation IS NOT NULL",
        )?
        .query_row(params![ord, events as i64], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn append_one(
    write: &Write<'_>,
    lease: &Lease,
    event: &NewAgentEvent,
    seq: i64,
    conversation: bool,
) -> rusqlite::Result<()> {
    #[derive(Serialize)]
    struct Said<'a> {
        attempt: i64,
        n: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a Json>,
    }
    let said = |data| Json::of(&Said { attempt: lease.attempt, n: event.n, data });
    match event.kind {
        AgentEventKind::Progress => {
            insert(write, lease.ord, seq, "progress", &said(Some(&event.data)), event.at)
        }
        AgentEventKind::Message => {
            // The words themselves are published by success, or never.
            insert(write, lease.ord, seq, "message", &said(None), event.at)?;
            if conversation { stage(write, lease, event) } else { Ok(()) }
        }
    }
}

fn stage(write: &Write<'_>, lease: &Lease, event: &NewAgentEvent) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("INSERT INTO staged_message (ord, fence, n, data) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![lease.ord, int(lease.fence.0), int(event.n), event.data.text()])
        .map(drop)
}
