//! Asks: which request of an agent led to which call, and how it ended.

use longshore_core::id::{Fence, TaskId};
use longshore_core::journal::{AskState, Asked};
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::{KeyColumns, columns, key_of};
use crate::model::{CallKey, Digest};
use crate::shared::column::{count, get, int};
use crate::shared::connection::Connection;
use crate::shared::core::Core;
use crate::shared::fault::DbError;
use crate::shared::sql::args;
use crate::shared::usage;

pub(super) struct NewAsk {
    pub fence: Fence,
    pub call: Uuid,
    pub begun: i64,
    pub live: bool,
    pub at: Timestamp,
}

const KNOWN: &str =
    "SELECT generation, digest, occurrence FROM @journal_ask WHERE task = $1 AND fence = $2 AND call = $3";

const OF_REQUEST: &str = "SELECT occurrence, state, ended FROM @journal_ask
     WHERE task = $1 AND fence = $2 AND digest = $3 ORDER BY begun";

/// An error that was not journaled stays one.
const UNDELIVERED: &str = "UPDATE @journal_ask SET state = 'undelivered',
        ended = (SELECT counter FROM @journal AS j WHERE j.task = $1)
     WHERE task = $1 AND fence = $2 AND call = ANY($3) AND state <> 'failed'";

const AGAIN: &str = "UPDATE @journal_ask SET state = 'open', ended = 0, live = live OR $4
     WHERE task = $1 AND fence = $2 AND call = $3";

const INSERT: &str =
    "INSERT INTO @journal_ask (task, fence, call, generation, digest, occurrence, begun, state, live, at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, 'open', $8, $9)";

/// Returns whether it had not ended before.
const END: &str =
    "WITH before AS (SELECT ended FROM @journal_ask WHERE task = $1 AND fence = $2 AND call = $3)
     UPDATE @journal_ask SET state = $4, ended = $5
     WHERE task = $1 AND fence = $2 AND call = $3 AND state <> 'failed'
     RETURNING (SELECT ended = 0 FROM before), live";

const LIVE: &str = "SELECT live FROM @journal_ask WHERE task = $1 AND fence = $2 AND call = $3";

pub(super) const STATEMENTS: &[&str] = &[KNOWN, OF_REQUEST, UNDELIVERED];

/// Notes answers that did not reach the agent.
pub(super) async fn undelivered(
    connection: &Connection,
    task: TaskId,
    fence: Fence,
    calls: &[Uuid],
) -> Result<(), DbError> {
    if calls.is_empty() {
        return Ok(());
    }
    let calls = calls.to_vec();
    connection.execute(UNDELIVERED, args![task.0, int(fence.0), calls]).await.map(drop)
}

/// The key of an ask that was seen before.
pub(super) async fn known(
    connection: &Connection,
    task: TaskId,
    fence: Fence,
    call: Uuid,
) -> Result<Option<CallKey>, DbError> {
    let row = connection.query_opt(KNOWN, args![task.0, int(fence.0), call]).await?;
    row.map(|row| key_of(&row, 0, task)).transpose()
}

/// All asks of one request within a fence, in order.
pub(super) async fn of_request(
    connection: &Connection,
    task: TaskId,
    fence: Fence,
    digest: &Digest,
) -> Result<Vec<Asked>, DbError> {
    let rows = connection.query(OF_REQUEST, args![task.0, int(fence.0), &digest[..]]).await?;
    rows.iter()
        .map(|row| Ok(Asked { occurrence: count(row, 0)?, state: get(row, 1)?, ended: count(row, 2)? }))
        .collect()
}

/// Notes an ask; one that its relay repeats is open anew.
pub(super) async fn record(
    connection: &Connection,
    key: &CallKey,
    ask: &NewAsk,
    known: bool,
) -> Result<(), DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let fence = int(ask.fence.0);
    if known {
        return connection.execute(AGAIN, args![task, fence, ask.call, ask.live]).await.map(drop);
    }
    let args = args![
        task,
        fence,
        ask.call,
        generation,
        digest.as_slice(),
        occurrence,
        ask.begun,
        ask.live,
        ask.at.0
    ];
    connection.execute(INSERT, args).await.map(drop)
}

/// Notes how an ask ended for its agent; true if it was an ask that had not ended before.
pub(super) async fn end(
    connection: &Connection,
    task: TaskId,
    fence: Fence,
    call: Uuid,
    state: AskState,
    counter: i64,
) -> Result<bool, DbError> {
    let row = connection.query_opt(END, args![task.0, int(fence.0), call, state.as_str(), counter]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
}

/// The same for an answer that is given again: what it saves is counted, once.
pub(super) async fn deliver(
    core: &Core,
    connection: &Connection,
    key: &CallKey,
    fence: Fence,
    call: Uuid,
    counter: i64,
) -> Result<(), DbError> {
    let first = end(connection, key.task, fence, call, AskState::Delivered, counter).await?;
    let live: bool = connection.query_one(LIVE, args![key.task.0, int(fence.0), call]).await?.try_get(0)?;
    if first && !live { usage::replayed(core, connection, key).await } else { Ok(()) }
}
