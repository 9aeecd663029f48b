//! An ask: one transaction that allots its occurrence and finds the way to its answer.

use longshore_core::id::Held;
use longshore_core::journal::{AskState, Found, Way, allot, way};
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::ask::{self, NewAsk};
use super::{content, digest, key_params, request, tick};
use crate::embedded::Embedded;
use crate::embedded::column::{count, get, id, int};
use crate::embedded::writer::Write;
use crate::error::CallError;
use crate::model::{Begun, BegunCall, CallKey, NewCall};

impl Embedded {
    pub(crate) async fn begin_call(&self, call: NewCall, now: Timestamp) -> Result<Begun, CallError> {
        // Not synced: an intent says only that a call may have been billed, and its answer restores it.
        self.write_soon(move |write| begin(write, &call, now)).await
    }

    /// A call that is passed through: counted, not journaled. Returns the attempt's deadline.
    pub(crate) async fn pass_call(
        &self,
        held: Held,
        fleet: longshore_core::id::FleetName,
    ) -> Result<Timestamp, CallError> {
        self.write_soon(move |write| {
            let lease = valid_lease(write, held, &fleet)?;
            tick(write, lease.ord)?;
            let passed = "UPDATE journal SET passed = passed + 1 WHERE ord = ?1";
            write.connection.prepare_cached(passed)?.execute([lease.ord])?;
            Ok(lease.deadline)
        })
        .await
    }

    /// Whether this fence may still write, and may so for a worker of this fleet.
    pub(crate) async fn check_fence(
        &self,
        held: Held,
        fleet: longshore_core::id::FleetName,
    ) -> Result<(), CallError> {
        self.write_soon(move |write| valid_lease(write, held, &fleet).map(drop)).await
    }

    /// Asked before a call is sent that had to wait: false when no valid fence wants it any more; its intent is gone then.
    pub(crate) async fn may_send(
        &self,
        key: CallKey,
        owner: uuid::Uuid,
    ) -> Result<bool, crate::error::StoreError> {
        self.write_soon(move |write| Ok(may_send(write, &key, owner)?)).await
    }
}

pub(in crate::embedded) struct ValidLease {
    pub ord: i64,
    pub deadline: Timestamp,
}

/// The lease, if the fence is valid and the task is of this fleet.
pub(in crate::embedded) fn valid_lease(
    write: &Write<'_>,
    held: Held,
    fleet: &longshore_core::id::FleetName,
) -> Result<ValidLease, CallError> {
    let found: Option<(ValidLease, longshore_core::id::FleetName)> = write
        .connection
        .prepare_cached(
            "SELECT lease.ord, attempt.started_at + task.timeout_ms, task.fleet
             FROM task JOIN lease ON lease.ord = task.ord
                JOIN attempt ON attempt.ord = lease.ord AND attempt.number = lease.attempt
             WHERE task.id = ?1 AND lease.fence = ?2",
        )?
        .query_row(params![id(&held.task), int(held.fence.0)], |row| {
            Ok((ValidLease { ord: row.get(0)?, deadline: get(row, 1)? }, get(row, 2)?))
        })
        .optional()?;
    match found {
        None => Err(CallError::StaleFence),
        Some((_, of)) if of != *fleet => Err(CallError::OtherFleet),
        Some((lease, _)) => Ok(lease),
    }
}

fn begin(write: &mut Write<'_>, it: &NewCall, now: Timestamp) -> Result<Begun, CallError> {
    let lease = valid_lease(write, it.held, &it.fleet)?;
    let ord = lease.ord;
    let (generation, counter) = tick(write, ord)?;
    for call in &it.undelivered {
        ask::end(write, ord, it.held.fence, *call, AskState::Undelivered, counter)?;
    }
    let known = ask::known(write, ord, it.held.fence, it.call)?;
    if known.is_some_and(|known| known.digest != it.request.digest) {
        return Err(CallError::CallReused);
    }
    let key = match known {
        Some(known) => CallKey { task: it.held.task, ..known },
        None => {
            let asks = ask::of_request(write, ord, it.held.fence, &it.request.digest)?;
            let occurrence = allot(&asks, it.retry);
            CallKey { task: it.held.task, ord, generation, digest: it.request.digest, occurrence }
        }
    };
    let found = find(write, &key)?;
    let way = way(found);
    let live = matches!(way, Way::Live | Way::TakeOver);
    let ask = NewAsk { fence: it.held.fence, call: it.call, begun: counter, live, at: now };
    ask::record(write, &key, &ask, known.is_some())?;
    match way {
        Way::Live | Way::TakeOver => intend(write, it, &key, counter, now, way == Way::TakeOver)?,
        Way::Join | Way::Replay => {
            write
                .connection
                .prepare_cached(
                    "UPDATE journal_entry SET fence = max(fence, ?5)
                     WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
                )?
                .execute(key_params!(key, int(it.held.fence.0)))?;
        }
    }
    let what = match way {
        Way::Live | Way::TakeOver => BegunCall::Live,
        Way::Join => BegunCall::Join,
        Way::Replay => {
            // Whoever sends it tells if it did not arrive.
            ask::deliver(write, &key, it.held.fence, it.call, counter)?;
            BegunCall::Replay(Box::new(content::answer(write.connection, &key)?))
        }
    };
    Ok(Begun { key, what, deadline: lease.deadline })
}

/// What there is for a key; an owner is alive while it is its gateway's newest start.
fn find(write: &Write<'_>, key: &CallKey) -> rusqlite::Result<Found> {
    let found: Option<(bool, bool, bool)> = write
        .connection
        .prepare_cached(
            "SELECT status IS NOT NULL, owner IS NOT NULL, EXISTS (SELECT 1 FROM gateway WHERE nonce = owner)
             FROM journal_entry WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
        )?
        .query_row(key_params!(key), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    Ok(match found {
        None | Some((false, false, _)) => Found::Nothing,
        Some((true, ..)) => Found::Answered,
        Some((false, true, alive)) => Found::Intent { owner_gone: !alive },
    })
}

fn intend(
    write: &mut Write<'_>,
    it: &NewCall,
    key: &CallKey,
    counter: u64,
    now: Timestamp,
    taken_over: bool,
) -> rusqlite::Result<()> {
    request::store(write, key.ord, &it.request)?;
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal_entry (ord, generation, digest, occurrence, begun, fence, owner, provider, path, model,
                begun_at, currency)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?13)
             ON CONFLICT DO UPDATE SET owner = excluded.owner, fence = max(fence, excluded.fence),
                maybe_billed = maybe_billed + ?12",
        )?
        .execute(key_params!(
            key,
            int(counter),
            int(it.held.fence.0),
            it.owner.as_bytes(),
            it.provider,
            it.path,
            it.model,
            now.0,
            taken_over,
            it.currency,
        ))?;
    if taken_over {
        crate::embedded::usage::may_have_been_billed(write, key, 1)?;
    }
    Ok(())
}

fn may_send(write: &mut Write<'_>, key: &CallKey, owner: uuid::Uuid) -> rusqlite::Result<bool> {
    let valid: Option<bool> = write
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM lease WHERE lease.ord = journal_entry.ord AND lease.fence = journal_entry.fence)
             FROM journal_entry
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4 AND owner = ?5",
        )?
        .query_row(key_params!(key, owner.as_bytes()), |row| row.get(0))
        .optional()?;
    if valid == Some(false) {
        give_up(write, key, 0)?;
        write.wake_journal(key.task);
    }
    Ok(valid == Some(true))
}

/// The intent goes, but not the mark that it may have been billed.
pub(super) fn give_up(write: &Write<'_>, key: &CallKey, billed: u32) -> rusqlite::Result<()> {
    let freed = write
        .connection
        .prepare_cached(
            "UPDATE journal_entry SET owner = NULL, maybe_billed = maybe_billed + ?5
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4 AND maybe_billed + ?5 > 0",
        )?
        .execute(key_params!(key, billed))?;
    if freed == 0 {
        write
            .connection
            .prepare_cached(
                "DELETE FROM journal_entry WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
            )?
            .execute(key_params!(key))?;
    }
    Ok(())
}

/// The key that an ask was given, read from its row.
pub(super) fn key_of(row: &rusqlite::Row<'_>, ord: i64) -> rusqlite::Result<CallKey> {
    Ok(CallKey {
        task: longshore_core::id::TaskId(uuid::Uuid::nil()),
        ord,
        generation: count(row, 0)?,
        digest: digest(row, 1)?,
        occurrence: count(row, 2)?,
    })
}
