//! Conversations: who is next, and what was said.
//!
//! Only the head may be queued to run; the head changes when it ends, never before.

use longshore_core::id::{ConversationId, Fence, TaskId};
use longshore_core::json::Json;
use longshore_core::task::Hold;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

use super::Embedded;
use super::column::{count, get, id, int};
use super::task_row::TaskRow;
use super::writer::Write;
use super::{event, list};
use crate::error::StoreError;
use crate::model::{ConversationRecord, History, Message};

/// What of its conversation a task is given: the newest messages within both limits.
const HISTORY_MESSAGES: usize = 200;
const HISTORY_BYTES: usize = 256 * 1024;

/// The task has ended: takes it out of its conversation; if it was the head, the next one's time has come.
pub(super) fn advance(write: &mut Write<'_>, ended: &TaskRow, now: Timestamp) -> rusqlite::Result<()> {
    let Some((conversation, seq)) = &ended.conversation else { return Ok(()) };
    let before = head(write.connection, conversation)?;
    write
        .connection
        .prepare_cached("DELETE FROM conversation_queue WHERE conversation = ?1 AND seq = ?2")?
        .execute(params![conversation.as_str(), seq])?;
    write
        .connection
        .prepare_cached("UPDATE conversation SET used_at = max(used_at, ?2) WHERE id = ?1")?
        .execute(params![conversation.as_str(), now.0])?;
    match head(write.connection, conversation)? {
        Some(next) if before == Some(ended.ord) => release(write, next, now),
        _ => Ok(()),
    }
}

/// Whether it has a task that is not finished.
pub(super) fn is_busy(write: &Write<'_>, id: &ConversationId) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached("SELECT 1 FROM conversation_queue WHERE conversation = ?1")?
        .exists([id.as_str()])
}

/// Cancels all unfinished tasks of a conversation for one that is to come.
pub(super) fn make_way(
    write: &mut Write<'_>,
    id: &ConversationId,
    newcomer: TaskId,
    now: Timestamp,
) -> rusqlite::Result<()> {
    // From the end, so that none becomes the head only to be cancelled.
    let unfinished: Vec<i64> = {
        let mut select = write
            .connection
            .prepare_cached("SELECT ord FROM conversation_queue WHERE conversation = ?1 ORDER BY seq DESC")?;
        let rows = select.query_map([id.as_str()], |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    for ord in unfinished {
        let row = TaskRow::load(write, ord)?;
        list::cancel_row(write, row, Some(format!("interrupted by task {newcomer}")), now)?;
    }
    Ok(())
}

fn head(connection: &Connection, conversation: &ConversationId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT ord FROM conversation_queue WHERE conversation = ?1 ORDER BY seq LIMIT 1")?
        .query_row([conversation.as_str()], |row| row.get(0))
        .optional()
}

/// Lets a task that has become the head run, now or at its time.
fn release(write: &mut Write<'_>, ord: i64, now: Timestamp) -> rusqlite::Result<()> {
    let mut row = TaskRow::load(write, ord)?;
    let due = row.run_at.filter(|at| *at > now);
    let hold = if due.is_some() { Hold::Scheduled } else { Hold::Ready };
    row.queue(write, hold, due, now)?;
    row.event(write, "queued", &event::queued(hold, due), now)?;
    row.save(write)
}

/// Publishes what a succeeding attempt adds: the task's input if wanted, then what its agent said.
pub(super) fn publish(
    write: &mut Write<'_>,
    row: &TaskRow,
    fence: Fence,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let Some((conversation, _)) = &row.conversation else { return Ok(()) };
    let mut messages = Vec::new();
    if row.publish_input {
        messages.push(spoken_input(write, row.ord)?.text().to_owned());
    }
    messages.extend(staged(write, row.ord, fence)?);
    if messages.is_empty() {
        return Ok(());
    }
    let mut seq: i64 = write
        .connection
        .prepare_cached(
            "UPDATE conversation SET messages = messages + ?2, tenant = (SELECT tenant FROM task WHERE ord = ?3)
             WHERE id = ?1 RETURNING messages - ?2",
        )?
        .query_row(params![conversation.as_str(), messages.len() as i64, row.ord], |row| row.get(0))?;
    for data in messages {
        seq += 1;
        write
            .connection
            .prepare_cached(
                "INSERT INTO message (conversation, seq, ord, at, data, task) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![conversation.as_str(), seq, row.ord, now.0, data, id(&row.id)])?;
    }
    Ok(())
}

fn spoken_input(write: &Write<'_>, ord: i64) -> rusqlite::Result<Json> {
    #[derive(Serialize)]
    struct Spoken {
        role: &'static str,
        content: Json,
    }
    write
        .connection
        .prepare_cached("SELECT data FROM input WHERE ord = ?1")?
        .query_row([ord], |row| Ok(Json::of(&Spoken { role: "user", content: get(row, 0)? })))
}

fn staged(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<Vec<String>> {
    let mut select = write
        .connection
        .prepare_cached("SELECT data FROM staged_message WHERE ord = ?1 AND fence = ?2 ORDER BY n")?;
    select.query_map(params![ord, int(fence.0)], |row| row.get(0))?.collect()
}

/// Forgets what an attempt staged, once it has ended.
pub(super) fn drop_staged(write: &Write<'_>, row: &TaskRow, fence: Fence) -> rusqlite::Result<()> {
    if row.conversation.is_none() {
        return Ok(());
    }
    write
        .connection
        .prepare_cached("DELETE FROM staged_message WHERE ord = ?1 AND fence <= ?2")?
        .execute(params![row.ord, int(fence.0)])
        .map(drop)
}

/// The newest messages, oldest first.
pub(super) fn history(connection: &Connection, id: ConversationId) -> rusqlite::Result<History> {
    let mut select = connection.prepare_cached(
        "SELECT seq, task, at, data FROM message WHERE conversation = ?1 ORDER BY seq DESC",
    )?;
    let mut rows = select.query([id.as_str()])?;
    let (mut messages, mut bytes, mut truncated) = (Vec::new(), 0, false);
    while let Some(row) = rows.next()? {
        let message = read_message(row)?;
        bytes += message.data.text().len();
        if messages.len() == HISTORY_MESSAGES || bytes > HISTORY_BYTES {
            truncated = true;
            break;
        }
        messages.push(message);
    }
    drop(rows);
    messages.reverse();
    Ok(History { id, messages, truncated })
}

fn read_message(row: &Row<'_>) -> rusqlite::Result<Message> {
    Ok(Message { seq: count(row, 0)?, task: get(row, 1)?, at: get(row, 2)?, data: get(row, 3)? })
}

impl Embedded {
    pub(crate) async fn conversation(
        &self,
        id: ConversationId,
    ) -> Result<Option<ConversationRecord>, StoreError> {
        self.read(move |connection| Ok(conversation(connection, id)?)).await
    }

    pub(crate) async fn messages(
        &self,
        id: ConversationId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT seq, task, at, data FROM message WHERE conversation = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
            )?;
            let rows = select.query_map(params![id.as_str(), int(after), int(limit as u64)], read_message)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn conversation(connection: &Connection, id: ConversationId) -> rusqlite::Result<Option<ConversationRecord>> {
    // One snapshot for both questions.
    let snapshot = connection.unchecked_transaction()?;
    let messages = snapshot
        .prepare_cached("SELECT messages FROM conversation WHERE id = ?1")?
        .query_row([id.as_str()], |row| count(row, 0))
        .optional()?;
    let Some(messages) = messages else { return Ok(None) };
    let mut select = snapshot.prepare_cached(
        "SELECT task.id FROM conversation_queue JOIN task ON task.ord = conversation_queue.ord
         WHERE conversation_queue.conversation = ?1 ORDER BY seq",
    )?;
    let queue: Vec<_> = select.query_map([id.as_str()], |row| get(row, 0))?.collect::<Result<_, _>>()?;
    Ok(Some(ConversationRecord { id, head: queue.first().copied(), queue, messages }))
}
