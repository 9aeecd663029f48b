//! The end of a call: its answer, written once, or its being given up.

use longshore_core::id::Held;
use longshore_core::journal::AskState;
use longshore_core::time::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::{ask, begin, content, key_params, tick};
use crate::embedded::column::int;
use crate::embedded::writer::Write;
use crate::embedded::{Embedded, usage};
use crate::error::StoreError;
use crate::model::{AnswerOutcome, CallKey, NewAnswer, NewCall};

impl Embedded {
    pub(crate) async fn answer_call(
        &self,
        key: CallKey,
        call: std::sync::Arc<NewCall>,
        answer: NewAnswer,
        now: Timestamp,
    ) -> Result<AnswerOutcome, StoreError> {
        self.write(move |write| Ok(store(write, &key, &call, &answer, now)?)).await
    }

    /// `billed`: how many tries the provider may have billed all the same.
    pub(crate) async fn fail_call(&self, key: CallKey, owner: Uuid, billed: u32) -> Result<(), StoreError> {
        self.write_soon(move |write| match is_stored(write, &key)? {
            true => Ok(fail(write, &key, owner, billed)?),
            false => Ok(()),
        })
        .await
    }

    /// Queued at once, so that what the worker tells after the agent had its answer comes after it.
    pub(crate) fn call_ended(
        &self,
        key: CallKey,
        held: Held,
        call: Uuid,
        whole: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        self.write_soon(move |write| {
            if !is_stored(write, &key)? {
                return Ok(());
            }
            let (_, counter) = tick(write, key.ord)?;
            if whole {
                ask::deliver(write, &key, held.fence, call, counter)?;
            } else {
                ask::end(write, key.ord, held.fence, call, AskState::Undelivered, counter)?;
            }
            Ok(())
        })
    }
}

fn is_stored(write: &Write<'_>, key: &CallKey) -> rusqlite::Result<bool> {
    write.connection.prepare_cached("SELECT 1 FROM task WHERE ord = ?1")?.exists([key.ord])
}

fn store(
    write: &mut Write<'_>,
    key: &CallKey,
    call: &NewCall,
    answer: &NewAnswer,
    now: Timestamp,
) -> rusqlite::Result<AnswerOutcome> {
    if !owns(write, key, call.owner)? {
        let lost = !exists(write, key)?;
        // Its task was deleted meanwhile: nothing must be written for it.
        if !lost || !is_stored(write, key)? {
            return Ok(AnswerOutcome::Superseded);
        }
        restore(write, key, call, now)?;
    }
    content::keep(write, key.ord, &answer.body)?;
    write
        .connection
        .prepare_cached(
            "UPDATE journal_entry SET owner = NULL, status = ?5, headers = ?6, body = ?7, answered_at = ?8, input = ?9,
                cached = ?10, output = ?11, cost_nano = ?12, waited_ms = ?13, first_ms = ?14,
                total_ms = ?15, maybe_billed = maybe_billed + ?16
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
        )?
        .execute(key_params!(
            key,
            answer.status,
            answer.headers.text(),
            answer.body.hash,
            now.0,
            answer.used.map(|used| int(used.input)),
            answer.used.map(|used| int(used.cached)),
            answer.used.map(|used| int(used.output)),
            int(answer.cost_nano),
            int(answer.waited_ms),
            int(answer.first_ms),
            int(answer.total_ms),
            answer.maybe_billed,
        ))?;
    usage::bought(write, key.ord, call, answer)?;
    if answer.deliver {
        let (_, counter) = tick(write, key.ord)?;
        ask::end(write, key.ord, call.held.fence, call.call, AskState::Delivered, counter)?;
    }
    write.wake_journal(key.task);
    Ok(AnswerOutcome::Stored)
}

fn owns(write: &Write<'_>, key: &CallKey, owner: Uuid) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached(
            "SELECT 1 FROM journal_entry
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4 AND owner = ?5 AND status IS NULL",
        )?
        .exists(key_params!(key, owner.as_bytes()))
}

fn exists(write: &Write<'_>, key: &CallKey) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached(
            "SELECT 1 FROM journal_entry WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
        )?
        .exists(key_params!(key))
}

/// The intent was lost with the machine's power, but its call was paid for.
fn restore(write: &mut Write<'_>, key: &CallKey, call: &NewCall, now: Timestamp) -> rusqlite::Result<()> {
    let (_, counter) = tick(write, key.ord)?;
    super::request::store(write, key.ord, &call.request)?;
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal_entry (ord, generation, digest, occurrence, begun, fence, owner, provider, path, model,
                begun_at, currency)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(key_params!(
            key,
            int(counter),
            int(call.held.fence.0),
            call.owner.as_bytes(),
            call.provider,
            call.path,
            call.model,
            now.0,
            call.currency,
        ))
        .map(drop)
}

fn fail(write: &mut Write<'_>, key: &CallKey, owner: Uuid, billed: u32) -> rusqlite::Result<()> {
    if !owns(write, key, owner)? {
        return Ok(());
    }
    if billed > 0 {
        usage::may_have_been_billed(write, key, billed)?;
    }
    begin::give_up(write, key, billed)?;
    let (_, counter) = tick(write, key.ord)?;
    write
        .connection
        .prepare_cached(
            "UPDATE journal_ask SET state = 'failed', ended = ?5
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4 AND state = 'open'",
        )?
        .execute(params![key.ord, key.generation, key.digest, key.occurrence, int(counter)])?;
    write.wake_journal(key.task);
    Ok(())
}
