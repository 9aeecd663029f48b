//! Conversations: who is next, and what was said.
//!
//! Only the head may be queued to run; the head changes when it ends, never before. Its queue is the rows of `live`.

use std::collections::{BTreeMap, HashMap};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use longshore_core::id::{ConversationId, Fence, TaskId};
use longshore_core::json::Json;
use longshore_core::task::Hold;
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::changes::Changes;
use super::column;
use super::column::{count, get, int};
use super::connection::Connection;
use super::core::Core;
use super::fault::DbError;
use super::live::{Live, live_columns};
use super::sql::args;
use crate::embedded::queued;
use crate::error::StoreError;
use crate::model::{ConversationRecord, History, Message};

/// A claim brings this much of a history: more would slow every claim down, and an agent can read the rest by itself.
const HISTORY_MESSAGES: usize = 200;
const HISTORY_BYTES: usize = 256 * 1024;

/// What an attempt that ended leaves of its words.
pub(super) struct Spoken {
    pub task: TaskId,
    pub fence: Fence,
    pub conversation: ConversationId,
    pub tenant: String,
    /// It succeeded: its words count.
    pub publish: bool,
    /// Its input becomes a message, too.
    pub input: bool,
    pub messages: Vec<String>,
}

const STAGED: &str = "SELECT task, data FROM @staged_message AS s
     JOIN unnest($1::uuid[], $2::bigint[]) AS n (id, of) ON s.task = n.id AND s.fence = n.of ORDER BY task, s.n";
const INPUTS: &str = "SELECT id, input FROM @task WHERE id = ANY($1)";
const NUMBERS: &str = "UPDATE @conversation AS c SET messages = messages + n.by, tenant = n.tenant,
        used_at = greatest(used_at, $4)
     FROM unnest($1::text[], $2::bigint[], $3::text[]) AS n (id, by, tenant) WHERE c.id = n.id RETURNING c.id, messages";
const DROP_STAGED: &str = "DELETE FROM @staged_message AS s
     USING unnest($1::uuid[], $2::bigint[]) AS n (id, of) WHERE s.task = n.id AND s.fence <= n.of";

/// Publishes what succeeding attempts said; what the others said is dropped.
pub(super) async fn publish(
    connection: &Connection,
    changes: &mut Changes,
    spoken: &[Spoken],
) -> Result<(), DbError> {
    if spoken.is_empty() {
        return Ok(());
    }
    let tasks: Vec<Uuid> = spoken.iter().map(|it| it.task.0).collect();
    let fences: Vec<i64> = spoken.iter().map(|it| int(it.fence.0)).collect();
    let inputs: Vec<Uuid> = spoken.iter().filter(|it| it.input).map(|it| it.task.0).collect();
    connection.ready(&[STAGED, INPUTS, DROP_STAGED]).await?;
    let (staged, inputs, _) = futures_util::try_join!(
        async { connection.query(STAGED, args![tasks, fences]).await },
        async { connection.query(INPUTS, args![inputs]).await },
        async { connection.execute(DROP_STAGED, args![tasks, fences]).await },
    )?;
    let mut words: HashMap<TaskId, Vec<String>> = HashMap::new();
    for row in &inputs {
        words.entry(get(row, 0)?).or_default().push(spoken_input(get(row, 1)?));
    }
    for row in &staged {
        words.entry(get(row, 0)?).or_default().push(get(row, 1)?);
    }
    let mut published: BTreeMap<&str, Published<'_>> = BTreeMap::new();
    for it in spoken.iter().filter(|it| it.publish) {
        let mut words = words.remove(&it.task).unwrap_or_default();
        words.extend(it.messages.iter().cloned());
        if !words.is_empty() {
            let of = published.entry(it.conversation.as_str()).or_default();
            of.tenant = &it.tenant;
            of.words.extend(words.into_iter().map(|data| (it.task.0, data)));
        }
    }
    number(connection, changes, published).await
}

/// What is said in one conversation, by which tasks, and whose the last of them is.
#[derive(Default)]
struct Published<'a> {
    tenant: &'a str,
    words: Vec<(Uuid, String)>,
}

async fn number(
    connection: &Connection,
    changes: &mut Changes,
    published: BTreeMap<&str, Published<'_>>,
) -> Result<(), DbError> {
    if published.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = published.keys().copied().collect();
    let numbers: Vec<i64> = published.values().map(|it| it.words.len() as i64).collect();
    let tenants: Vec<&str> = published.values().map(|it| it.tenant).collect();
    let rows = connection.query(NUMBERS, args![names, numbers, tenants, changes.now.0]).await?;
    let last = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<HashMap<String, i64>, DbError>>()?;
    for (name, Published { words, .. }) in published {
        let first = last.get(name).ok_or(DbError::Missing)? - words.len() as i64 + 1;
        for (seq, (task, data)) in (first..).zip(words) {
            changes.message(name, seq, task, data);
        }
    }
    Ok(())
}

fn spoken_input(input: Json) -> String {
    #[derive(Serialize)]
    struct Words {
        role: &'static str,
        content: Json,
    }
    Json::of(&Words { role: "user", content: input }).text().to_owned()
}

/// The first of each conversation that is not among those that end now, if it is held: one that never ran is nobody's
/// parent, so no other transaction locks it before its conversation.
const HEADS: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM unnest($1::text[]) AS c (id)
        CROSS JOIN LATERAL (SELECT id FROM @live WHERE conversation = c.id AND NOT id = ANY($2)
            ORDER BY conv_seq LIMIT 1) AS head
        CROSS JOIN LATERAL (SELECT * FROM @live WHERE id = head.id AND hold = 'conversation' LIMIT 1 FOR UPDATE) AS live"
);

/// Tasks have left their conversations, whose rows are locked: who was held behind the head may go on.
pub(super) async fn advance(
    connection: &Connection,
    changes: &mut Changes,
    left: &[(ConversationId, TaskId)],
) -> Result<(), DbError> {
    if left.is_empty() {
        return Ok(());
    }
    let names: std::collections::BTreeSet<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let gone: Vec<Uuid> = left.iter().map(|(_, task)| task.0).collect();
    changes.left(&names);
    for row in connection.query(HEADS, args![names, gone]).await? {
        let mut row = Live::read(&row)?;
        // One that is not held is head already: somebody behind it has left.
        if row.hold == Some(Hold::Conversation) {
            release(changes, &mut row);
            changes.save(row, None);
        }
    }
    Ok(())
}

fn release(changes: &mut Changes, row: &mut Live) {
    let due = row.run_at.filter(|at| *at > changes.now);
    let hold = if due.is_some() { Hold::Scheduled } else { Hold::Ready };
    row.queue(changes, hold, due);
    row.event(changes, "queued", &queued(hold, due));
}

/// A history that is to be filled in.
pub(super) fn empty(id: ConversationId) -> History {
    History { id, messages: Vec::new(), truncated: false }
}

const NEWEST: &str =
    "SELECT seq, task, at, data FROM @message WHERE conversation = $1 ORDER BY seq DESC LIMIT $2";
const AFTER: &str =
    "SELECT seq, task, at, data FROM @message WHERE conversation = $1 AND seq > $2 ORDER BY seq LIMIT $3";

const COUNTS: &str = "SELECT id, messages FROM @conversation WHERE id = ANY($1)";

/// How many conversations are read at the same time: all that Redis has in a few round trips, and never on all connections
/// to the database.
const AT_ONCE: usize = 16;

/// The newest parts of conversations, as claims carry them, in the order of the ids: the serving copy where it is whole, else
/// from the database.
pub(super) async fn histories(core: &Core, ids: Vec<ConversationId>) -> Result<Vec<History>, DbError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = ids.iter().map(ConversationId::as_str).collect();
    let rows = core.run(async |it| it.query(COUNTS, args![names]).await).await?;
    let counts = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, column::count(row, 1)?)))
        .collect::<Result<HashMap<String, u64>, DbError>>()?;
    let read = ids.into_iter().map(|id| {
        let count = counts.get(id.as_str()).copied().unwrap_or(0);
        of_count(core, id, count)
    });
    stream::iter(read).buffered(AT_ONCE).try_collect().await
}

async fn of_count(core: &Core, id: ConversationId, count: u64) -> Result<History, DbError> {
    if count == 0 {
        return Ok(empty(id));
    }
    if let Some(companion) = &core.companion
        && let Some(messages) = companion.history(&id, count).await
    {
        let truncated = (messages.len() as u64) < count;
        return Ok(History { id, messages, truncated });
    }
    let history = cut(id.clone(), &core.run(async |it| newest(&it, id.as_str()).await).await?)?;
    if let Some(companion) = &core.companion {
        let count = history.messages.last().map_or(0, |newest| newest.seq);
        companion.refill(&id, count, &history.messages).await;
    }
    Ok(history)
}

async fn newest(connection: &Connection, id: &str) -> Result<Vec<Row>, DbError> {
    connection.query(NEWEST, args![id, HISTORY_MESSAGES as i64 + 1]).await
}

fn cut(id: ConversationId, rows: &[Row]) -> Result<History, DbError> {
    let (mut messages, mut bytes, mut truncated) = (Vec::new(), 0, false);
    for row in rows {
        let message = read_message(row)?;
        bytes += message.data.text().len();
        if messages.len() == HISTORY_MESSAGES || bytes > HISTORY_BYTES {
            truncated = true;
            break;
        }
        messages.push(message);
    }
    messages.reverse();
    Ok(History { id, messages, truncated })
}

fn read_message(row: &Row) -> Result<Message, DbError> {
    Ok(Message { seq: count(row, 0)?, task: get(row, 1)?, at: get(row, 2)?, data: get(row, 3)? })
}

/// One statement, so one view of both.
const SHOW: &str = "SELECT c.messages, (SELECT array_agg(live.id ORDER BY live.conv_seq) FROM @live AS live
        WHERE live.conversation = c.id)
     FROM @conversation AS c WHERE c.id = $1";

impl Shared {
    pub(crate) async fn conversation(
        &self,
        id: ConversationId,
    ) -> Result<Option<ConversationRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(SHOW, args![id.as_str()]).await).await?;
        let Some(row) = row else { return Ok(None) };
        let queue: Option<Vec<Uuid>> = row.try_get(1).map_err(DbError::from)?;
        let queue: Vec<TaskId> = queue.unwrap_or_default().into_iter().map(TaskId).collect();
        Ok(Some(ConversationRecord { id, head: queue.first().copied(), queue, messages: count(&row, 0)? }))
    }

    pub(crate) async fn messages(
        &self,
        id: ConversationId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Message>, StoreError> {
        let (after, limit) = (int(after), int(limit as u64));
        let rows =
            self.core().run(async |it| it.query(AFTER, args![id.as_str(), after, limit]).await).await?;
        Ok(rows.iter().map(read_message).collect::<Result<_, _>>()?)
    }
}
