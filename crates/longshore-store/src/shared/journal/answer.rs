//! The end of a call: its answer, written once, or its being given up.

use std::sync::Arc;

use longshore_core::id::Held;
use longshore_core::journal::AskState;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::{KeyColumns, ask, begin, columns, content, request, tick_if_stored};
use crate::error::StoreError;
use crate::model::{AnswerOutcome, CallKey, NewAnswer, NewCall};
use crate::shared::Shared;
use crate::shared::column::int;
use crate::shared::connection::Connection;
use crate::shared::core::Core;
use crate::shared::fault::DbError;
use crate::shared::sql::args;
use crate::shared::usage;

/// Whether there is an entry, and whether it is still this owner's.
const OWNED: &str = "SELECT owner IS NOT DISTINCT FROM $5 AND status IS NULL FROM @journal_entry
     WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4 FOR UPDATE";

const ANSWER: &str =
    "UPDATE @journal_entry SET owner = NULL, status = $5, headers = $6, body = $7, answered_at = $8, input = $9,
        cached = $10, output = $11, cost_nano = $12, waited_ms = $13, first_ms = $14, total_ms = $15,
        maybe_billed = maybe_billed + $16
     WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4";

const RESTORE: &str =
    "INSERT INTO @journal_entry (task, generation, digest, occurrence, begun, fence, owner, provider, path, model,
        begun_at, currency)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

const FAILED: &str = "UPDATE @journal_ask SET state = 'failed', ended = $5
     WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4 AND state = 'open'";

impl Shared {
    pub(crate) async fn answer_call(
        &self,
        key: CallKey,
        call: Arc<NewCall>,
        answer: NewAnswer,
        now: Timestamp,
    ) -> Result<AnswerOutcome, StoreError> {
        let core = self.core();
        let stored = core.run(async |it| {
            // Synced: the agent may act on it.
            it.begin().await?;
            let Some(counter) = tick_if_stored(&it, key.task).await? else {
                it.roll_back().await;
                return Ok(AnswerOutcome::Superseded);
            };
            let outcome = store(core, &it, (&key, counter), &call, &answer, now).await?;
            it.commit().await?;
            Ok(outcome)
        });
        let outcome = stored.await?;
        core.fire([begin::journal_of(key.task)].into());
        Ok(outcome)
    }

    /// `billed`: how many tries the provider may have billed all the same.
    pub(crate) async fn fail_call(&self, key: CallKey, owner: Uuid, billed: u32) -> Result<(), StoreError> {
        let core = self.core();
        let failed = core.run(async |it| {
            it.begin_unsynced().await?;
            match tick_if_stored(&it, key.task).await? {
                Some(counter) => fail(core, &it, (&key, counter), owner, billed).await?,
                None => {
                    it.roll_back().await;
                    return Ok(());
                }
            }
            it.commit().await
        });
        failed.await?;
        core.fire([begin::journal_of(key.task)].into());
        Ok(())
    }

    /// Begun at once, so that what the worker tells after the agent had its answer comes after it: what is done for one
    /// task is done in order.
    pub(crate) fn call_ended(
        &self,
        key: CallKey,
        held: Held,
        call: Uuid,
        whole: bool,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let store = self.clone();
        let ended = tokio::spawn(async move {
            let core = store.core();
            core.run(async |it| {
                it.begin_unsynced().await?;
                let Some(counter) = tick_if_stored(&it, key.task).await? else {
                    it.roll_back().await;
                    return Ok(());
                };
                if whole {
                    ask::deliver(core, &it, &key, held.fence, call, counter).await?;
                } else {
                    ask::end(&it, key.task, held.fence, call, AskState::Undelivered, counter).await?;
                }
                it.commit().await
            })
            .await
        });
        async move {
            match ended.await {
                Ok(ended) => Ok(ended?),
                Err(_) => Err(StoreError::Closed),
            }
        }
    }
}

async fn store(
    core: &Core,
    connection: &Connection,
    (key, counter): (&CallKey, i64),
    call: &NewCall,
    answer: &NewAnswer,
    now: Timestamp,
) -> Result<AnswerOutcome, DbError> {
    match owns(connection, key, call.owner).await? {
        Some(true) => {}
        Some(false) => return Ok(AnswerOutcome::Superseded),
        None => restore(connection, key, call, counter, now).await?,
    }
    content::keep(connection, key.task, std::slice::from_ref(&answer.body)).await?;
    write(connection, key, answer, now).await?;
    usage::bought(core, connection, call, answer).await?;
    if answer.deliver {
        let (fence, call) = (call.held.fence, call.call);
        ask::end(connection, key.task, fence, call, AskState::Delivered, counter).await?;
    }
    Ok(AnswerOutcome::Stored)
}

/// `None`: there is no such entry.
async fn owns(connection: &Connection, key: &CallKey, owner: Uuid) -> Result<Option<bool>, DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![task, generation, digest.as_slice(), occurrence, owner];
    let row = connection.query_opt(OWNED, args).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn write(
    connection: &Connection,
    key: &CallKey,
    answer: &NewAnswer,
    now: Timestamp,
) -> Result<(), DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![
        task,
        generation,
        digest.as_slice(),
        occurrence,
        i64::from(answer.status),
        answer.headers.text(),
        &answer.body.hash[..],
        now.0,
        answer.used.map(|used| int(used.input)),
        answer.used.map(|used| int(used.cached)),
        answer.used.map(|used| int(used.output)),
        int(answer.cost_nano),
        int(answer.waited_ms),
        int(answer.first_ms),
        int(answer.total_ms),
        i64::from(answer.maybe_billed),
    ];
    connection.execute(ANSWER, args).await.map(drop)
}

/// The intent was lost with the database's power, but its call was paid for.
async fn restore(
    connection: &Connection,
    key: &CallKey,
    call: &NewCall,
    counter: i64,
    now: Timestamp,
) -> Result<(), DbError> {
    let missing = request::missing(connection, key.task, &call.request).await?;
    request::store(connection, key.task, &call.request, &missing).await?;
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![
        task,
        generation,
        digest.as_slice(),
        occurrence,
        counter,
        int(call.held.fence.0),
        call.owner,
        call.provider,
        call.path,
        call.model,
        now.0,
        call.currency,
    ];
    connection.execute(RESTORE, args).await.map(drop)
}

async fn fail(
    core: &Core,
    connection: &Connection,
    (key, counter): (&CallKey, i64),
    owner: Uuid,
    billed: u32,
) -> Result<(), DbError> {
    if owns(connection, key, owner).await? != Some(true) {
        return Ok(());
    }
    if billed > 0 {
        usage::may_have_been_billed(core, connection, key, billed).await?;
    }
    begin::give_up(connection, key, billed).await?;
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![task, generation, digest.as_slice(), occurrence, counter];
    connection.execute(FAILED, args).await.map(drop)
}
