//! Asks: which request of an agent led to which call, and how it ended.

use longshore_core::id::Fence;
use longshore_core::journal::{AskState, Asked};
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};
use uuid::Uuid;

use super::begin::key_of;
use crate::embedded::column::{count, get, int};
use crate::embedded::usage;
use crate::embedded::writer::Write;
use crate::model::{CallKey, Digest};

pub(super) struct NewAsk {
    pub fence: Fence,
    pub call: Uuid,
    pub begun: u64,
    pub live: bool,
    pub at: Timestamp,
}

/// The key of an ask that was seen before; its task is for the caller to fill in.
pub(super) fn known(
    write: &Write<'_>,
    ord: i64,
    fence: Fence,
    call: Uuid,
) -> rusqlite::Result<Option<CallKey>> {
    write
        .connection
        .prepare_cached(
            "SELECT generation, digest, occurrence FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND call = ?3",
        )?
        .query_row(params![ord, int(fence.0), call.as_bytes()], |row| key_of(row, ord))
        .optional()
}

/// All asks of one request within a fence, in order.
pub(super) fn of_request(
    write: &Write<'_>,
    ord: i64,
    fence: Fence,
    digest: &Digest,
) -> rusqlite::Result<Vec<Asked>> {
    let mut select = write.connection.prepare_cached(
        "SELECT occurrence, state, ended FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND digest = ?3 ORDER BY begun",
    )?;
    let rows = select.query_map(params![ord, int(fence.0), digest], |row| {
        Ok(Asked { occurrence: count(row, 0)?, state: get(row, 1)?, ended: count(row, 2)? })
    })?;
    rows.collect()
}

/// Notes an ask; one that its relay repeats is open anew.
pub(super) fn record(write: &Write<'_>, key: &CallKey, ask: &NewAsk, known: bool) -> rusqlite::Result<()> {
    if known {
        return write
            .connection
            .prepare_cached(
                "UPDATE journal_ask SET state = 'open', ended = 0, live = max(live, ?4)
                 WHERE ord = ?1 AND fence = ?2 AND call = ?3",
            )?
            .execute(params![key.ord, int(ask.fence.0), ask.call.as_bytes(), ask.live])
            .map(drop);
    }
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal_ask (ord, fence, call, generation, digest, occurrence, begun, state, live, at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'open', ?8, ?9)",
        )?
        .execute(params![
            key.ord,
            int(ask.fence.0),
            ask.call.as_bytes(),
            key.generation,
            key.digest,
            key.occurrence,
            int(ask.begun),
            ask.live,
            ask.at.0,
        ])
        .map(drop)
}

/// Notes how an ask ended for its agent; true if it was an ask that had not ended before. An error that was not
/// journaled stays one.
pub(super) fn end(
    write: &Write<'_>,
    ord: i64,
    fence: Fence,
    call: Uuid,
    state: AskState,
    counter: u64,
) -> rusqlite::Result<bool> {
    let (changed, first): (bool, bool) = write
        .connection
        .prepare_cached("SELECT state != 'failed', ended = 0 FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND call = ?3")?
        .query_row(params![ord, int(fence.0), call.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or((false, false));
    if changed {
        write
            .connection
            .prepare_cached(
                "UPDATE journal_ask SET state = ?4, ended = ?5 WHERE ord = ?1 AND fence = ?2 AND call = ?3",
            )?
            .execute(params![ord, int(fence.0), call.as_bytes(), state.as_str(), int(counter)])?;
    }
    Ok(changed && first)
}

/// The same for an answer that is given again: what it saves is counted, once.
pub(super) fn deliver(
    write: &mut Write<'_>,
    key: &CallKey,
    fence: Fence,
    call: Uuid,
    counter: u64,
) -> rusqlite::Result<()> {
    let first = end(write, key.ord, fence, call, AskState::Delivered, counter)?;
    let live: bool = write
        .connection
        .prepare_cached("SELECT live FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND call = ?3")?
        .query_row(params![key.ord, int(fence.0), call.as_bytes()], |row| row.get(0))?;
    if first && !live { usage::replayed(write, key) } else { Ok(()) }
}
