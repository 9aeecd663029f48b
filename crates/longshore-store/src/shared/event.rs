//! The log of a task: appended to by every change, read by every stream.

use longshore_core::id::{Held, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Shared;
use super::changes::{Changes, unpacked};
use super::column::{count, get, int};
use super::connection::Connection;
use super::fault::DbError;
use super::live::Live;
use super::sql::args;
use super::{lock, register};
use crate::error::{LinkError, StoreError};
use crate::model::{AgentEventKind, EventRecord, NewAgentEvent};

/// What an agent's events came to.
pub(super) struct Said {
    /// Number of the attempt's newest event.
    pub last_n: i64,
    /// Messages for its conversation, those that were not known yet.
    pub messages: Vec<String>,
    staged: Vec<(i64, String)>,
}

/// Appends what is not known yet to the row's log; the row runs.
pub(super) fn append(changes: &mut Changes, row: &mut Live, events: &[NewAgentEvent]) -> Said {
    let known = row.lease.as_ref().map_or(0, |lease| lease.last_n);
    let mut fresh: Vec<&NewAgentEvent> = events.iter().filter(|event| int(event.n) > known).collect();
    fresh.sort_by_key(|event| event.n);
    fresh.dedup_by_key(|event| event.n);
    let mut said = Said { last_n: known, messages: Vec::new(), staged: Vec::new() };
    for event in fresh {
        append_one(changes, row, event);
        said.last_n = int(event.n);
        if event.kind == AgentEventKind::Message && row.conversation.is_some() {
            said.messages.push(event.data.text().to_owned());
            said.staged.push((int(event.n), event.data.text().to_owned()));
        }
    }
    if let Some(lease) = &mut row.lease {
        lease.last_n = said.last_n;
    }
    said
}

fn append_one(changes: &mut Changes, row: &mut Live, event: &NewAgentEvent) {
    #[derive(Serialize)]
    struct Words<'a> {
        attempt: u32,
        n: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<&'a Json>,
    }
    let words = |data| Json::of(&Words { attempt: row.attempt(), n: event.n, data });
    let (kind, data) = match event.kind {
        AgentEventKind::Progress => ("progress", words(Some(&event.data))),
        // The words themselves are published by success, or never.
        AgentEventKind::Message => ("message", words(None)),
    };
    row.last_event += 1;
    changes.agent_event(row.id, row.last_event, event.at, kind, &data);
}

const STAGE: &str = "INSERT INTO @staged_message (task, fence, n, data)
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) ON CONFLICT DO NOTHING";

const SAID: &str =
    "SELECT seq, at, kind, data, more FROM @event WHERE task = $1 AND seq > $2 ORDER BY seq LIMIT $3";

/// The most entries that one row holds.
const PACKED: i64 = 8;

impl Shared {
    pub(crate) async fn append_events(
        &self,
        worker: WorkerId,
        nonce: Uuid,
        attempts: Vec<(Held, Vec<NewAgentEvent>)>,
        now: Timestamp,
    ) -> Result<Vec<Held>, LinkError> {
        let core = self.core();
        let appended = core.run(async |it| {
            it.begin().await?;
            let known = register::find(&it, &[worker.as_str()]).await?;
            if let Err(who) = register::judge(&it, known.get(&worker), &worker, nonce).await? {
                it.roll_back().await;
                return Ok(Err(who));
            }
            let mut changes = Changes::new(now);
            let lost = append_all(&it, &mut changes, &worker, &attempts).await?;
            core.commit(&it, changes).await?;
            Ok(Ok(lost))
        });
        appended.await?.map_err(|who| who.named(worker.clone()).into())
    }

    pub(crate) async fn events(
        &self,
        task: TaskId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let (from, most) = (int(after).saturating_sub(PACKED), int(limit as u64).saturating_add(PACKED));
        let rows = self.core().run(async |it| it.query(SAID, args![task.0, from, most]).await).await?;
        let mut events = Vec::new();
        for row in &rows {
            let (seq, at): (u64, Timestamp) = (count(row, 0)?, get(row, 1)?);
            events.push(EventRecord { task, seq, at, kind: get(row, 2)?, data: get(row, 3)? });
            let more: Option<&str> = row.try_get(4).map_err(DbError::from)?;
            for (n, (kind, data)) in (1..).zip(more.map(unpacked).transpose()?.unwrap_or_default()) {
                let data =
                    Json::trusted(data.get().to_owned()).map_err(|error| DbError::Text(Box::new(error)))?;
                events.push(EventRecord { task, seq: seq + n, at, kind, data });
            }
        }
        events.retain(|event| event.seq > after);
        events.truncate(limit);
        Ok(events)
    }
}

async fn append_all(
    connection: &Connection,
    changes: &mut Changes,
    worker: &WorkerId,
    attempts: &[(Held, Vec<NewAgentEvent>)],
) -> Result<Vec<Held>, DbError> {
    let ids: Vec<Uuid> = attempts.iter().map(|(held, _)| held.task.0).collect();
    let mut rows = lock::tasks_only(connection, &ids).await?;
    let mut lost = Vec::new();
    let (mut tasks, mut fences, mut numbers, mut words) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (held, events) in attempts {
        let row = rows.get_mut(&held.task);
        let Some(row) = row.filter(|row| {
            row.lease.as_ref().is_some_and(|lease| lease.fence == held.fence && lease.worker == *worker)
        }) else {
            lost.push(*held);
            continue;
        };
        for (n, data) in append(changes, row, events).staged {
            tasks.push(held.task.0);
            fences.push(int(held.fence.0));
            numbers.push(n);
            words.push(data);
        }
    }
    for (_, row) in rows {
        changes.save(row, None);
    }
    if !tasks.is_empty() {
        connection.execute(STAGE, args![tasks, fences, numbers, words]).await?;
    }
    Ok(lost)
}
