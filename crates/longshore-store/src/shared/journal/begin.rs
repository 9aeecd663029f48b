//! An ask: one transaction that allots its occurrence and finds the way to its answer.

use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::journal::{Found, Way, allot, way};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::ask::{self, NewAsk};
use super::{KeyColumns, SILENT_MS, columns, content, request, tick};
use crate::error::{CallError, StoreError};
use crate::model::{Begun, BegunCall, CallKey, NewCall};
use crate::shared::Shared;
use crate::shared::column::{count, get, int};
use crate::shared::connection::Connection;
use crate::shared::core::Core;
use crate::shared::fault::DbError;
use crate::shared::sql::args;
use crate::shared::usage;
use crate::signals::Topic;

/// The attempt cannot end while this transaction lasts: an intent is never written for a fence that is stale.
pub(in crate::shared) const VALID_LEASE: &str =
    "SELECT attempt_at + timeout_ms, fleet FROM @live WHERE id = $1 AND fence = $2 FOR SHARE";

const PASSED: &str = "UPDATE @journal SET passed = passed + 1 WHERE task = $1";

/// Whatever there is for a request, and whether its owner is still there.
const ENTRIES: &str = "SELECT generation, occurrence, status IS NOT NULL, owner IS NOT NULL,
        EXISTS (SELECT 1 FROM @gateway AS g, @clock AS c WHERE g.nonce = e.owner AND g.seen_ms > c.service_ms - $3)
     FROM @journal_entry AS e WHERE task = $1 AND digest = $2";

const TOUCH: &str = "UPDATE @journal_entry SET fence = greatest(fence, $5)
     WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4";

const INTEND: &str =
    "INSERT INTO @journal_entry AS e (task, generation, digest, occurrence, begun, fence, owner, provider, path, model,
        begun_at, currency)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13)
     ON CONFLICT (task, generation, digest, occurrence) DO UPDATE SET owner = excluded.owner,
        fence = greatest(e.fence, excluded.fence), maybe_billed = e.maybe_billed + $12";

const STILL_WANTED: &str = "SELECT EXISTS (SELECT 1 FROM @live AS l WHERE l.id = e.task AND l.fence = e.fence)
     FROM @journal_entry AS e WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4 AND owner = $5
     FOR UPDATE OF e";

const GIVE_UP: &str = "WITH freed AS (
        UPDATE @journal_entry SET owner = NULL, maybe_billed = maybe_billed + $5
        WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4 AND maybe_billed + $5 > 0 RETURNING 1)
     DELETE FROM @journal_entry WHERE task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4
        AND maybe_billed + $5 = 0 AND NOT EXISTS (SELECT 1 FROM freed)";

impl Shared {
    pub(crate) async fn begin_call(&self, call: NewCall, now: Timestamp) -> Result<Begun, CallError> {
        let core = self.core();
        let begun = core.run(async |it| {
            let done = begin(core, &it, &call, now).await;
            if matches!(done, Ok(Err(_))) {
                it.roll_back().await;
            }
            done
        });
        begun.await?
    }

    /// A call that is passed through: counted, not journaled. Returns the attempt's deadline.
    pub(crate) async fn pass_call(&self, held: Held, fleet: FleetName) -> Result<Timestamp, CallError> {
        let passed = self.core().run(async |it| {
            it.begin_unsynced().await?;
            let deadline = match valid_lease(&it, held, &fleet).await? {
                Ok(deadline) => deadline,
                Err(refused) => {
                    it.roll_back().await;
                    return Ok(Err(refused));
                }
            };
            tick(&it, held.task).await?;
            it.execute(PASSED, args![held.task.0]).await?;
            it.commit().await?;
            Ok(Ok(deadline))
        });
        passed.await?
    }

    /// Whether this fence may still write, and may so for a worker of this fleet.
    pub(crate) async fn check_fence(&self, held: Held, fleet: FleetName) -> Result<(), CallError> {
        self.core().run(async |it| valid_lease(&it, held, &fleet).await).await?.map(drop)
    }

    /// Asked before a call is sent that had to wait: false when no valid fence wants it any more; its intent is gone then.
    pub(crate) async fn may_send(&self, key: CallKey, owner: Uuid) -> Result<bool, StoreError> {
        let core = self.core();
        let may = core.run(async |it| {
            let KeyColumns { task, generation, digest, occurrence } = columns(&key);
            it.begin_unsynced().await?;
            let args = args![task, generation, digest.as_slice(), occurrence, owner];
            let row = it.query_opt(STILL_WANTED, args).await?;
            let valid: Option<bool> = row.map(|row| row.try_get(0)).transpose()?;
            if valid == Some(false) {
                give_up(&it, &key, 0).await?;
            }
            it.commit().await?;
            Ok(valid)
        });
        let valid = may.await?;
        if valid == Some(false) {
            core.fire([Topic::Journal(key.task)].into());
        }
        Ok(valid == Some(true))
    }
}

/// When the attempt's time is up, if the fence is valid and the task is of this fleet.
pub(in crate::shared) async fn valid_lease(
    connection: &Connection,
    held: Held,
    fleet: &FleetName,
) -> Result<Result<Timestamp, CallError>, DbError> {
    let row = connection.query_opt(VALID_LEASE, args![held.task.0, int(held.fence.0)]).await?;
    judge_lease(row.as_ref(), fleet)
}

fn judge_lease(row: Option<&Row>, fleet: &FleetName) -> Result<Result<Timestamp, CallError>, DbError> {
    let Some(row) = row else { return Ok(Err(CallError::StaleFence)) };
    let (deadline, of): (Timestamp, FleetName) = (get(row, 0)?, get(row, 1)?);
    Ok(if of == *fleet { Ok(deadline) } else { Err(CallError::OtherFleet) })
}

async fn begin(
    core: &Core,
    connection: &Connection,
    it: &NewCall,
    now: Timestamp,
) -> Result<Result<Begun, CallError>, DbError> {
    let task = it.held.task;
    connection.ready(&[VALID_LEASE, super::TICK, ENTRIES, INTEND]).await?;
    connection.ready(ask::STATEMENTS).await?;
    connection.ready(request::STATEMENTS).await?;
    let fence = int(it.held.fence.0);
    // Not synced: an intent says only that a call may have been billed, and its answer restores it.
    let (begun, lease, ticked, undelivered, known, asks, entries, missing) = futures_util::join!(
        connection.begin_unsynced(),
        async { connection.query_opt(VALID_LEASE, args![task.0, fence]).await },
        tick(connection, task),
        ask::undelivered(connection, task, it.held.fence, &it.undelivered),
        ask::known(connection, task, it.held.fence, it.call),
        ask::of_request(connection, task, it.held.fence, &it.request.digest),
        async { connection.query(ENTRIES, args![task.0, &it.request.digest[..], SILENT_MS]).await },
        request::missing(connection, task, &it.request),
    );
    begun?;
    let deadline = match judge_lease(lease?.as_ref(), &it.fleet)? {
        Ok(deadline) => deadline,
        Err(refused) => return Ok(Err(refused)),
    };
    let (generation, counter) = ticked?;
    undelivered?;
    let (known, asks, missing) = (known?, asks?, missing?);
    if known.is_some_and(|known| known.digest != it.request.digest) {
        return Ok(Err(CallError::CallReused));
    }
    let key = known.unwrap_or_else(|| {
        let occurrence = allot(&asks, it.retry);
        CallKey { task, ord: 0, generation, digest: it.request.digest, occurrence }
    });
    let way = way(find(&entries?, &key)?);
    let live = matches!(way, Way::Live | Way::TakeOver);
    let ask = NewAsk { fence: it.held.fence, call: it.call, begun: counter, live, at: now };
    ask::record(connection, &key, &ask, known.is_some()).await?;
    let what = follow(core, connection, it, (&key, counter, now), way, missing).await?;
    connection.commit().await?;
    Ok(Ok(Begun { key, what, deadline }))
}

async fn follow(
    core: &Core,
    connection: &Connection,
    it: &NewCall,
    (key, counter, now): (&CallKey, i64, Timestamp),
    way: Way,
    missing: request::Missing,
) -> Result<BegunCall, DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let fence = int(it.held.fence.0);
    match way {
        Way::Live | Way::TakeOver => {
            request::store(connection, key.task, &it.request, &missing).await?;
            intend(connection, it, key, counter, now, way == Way::TakeOver).await?;
            if way == Way::TakeOver {
                usage::may_have_been_billed(core, connection, key, 1).await?;
            }
            Ok(BegunCall::Live)
        }
        Way::Join => {
            let args = args![task, generation, digest.as_slice(), occurrence, fence];
            connection.execute(TOUCH, args).await?;
            Ok(BegunCall::Join)
        }
        Way::Replay => {
            let args = args![task, generation, digest.as_slice(), occurrence, fence];
            connection.execute(TOUCH, args).await?;
            // Whoever sends it tells if it did not arrive.
            ask::deliver(core, connection, key, it.held.fence, it.call, counter).await?;
            Ok(BegunCall::Replay(Box::new(content::answer(connection, key).await?)))
        }
    }
}

/// What there is for a key; an owner is alive while it is its gateway's newest start and was seen lately.
fn find(entries: &[Row], key: &CallKey) -> Result<Found, DbError> {
    for row in entries {
        let (generation, occurrence): (u32, u32) = (count(row, 0)?, count(row, 1)?);
        if (generation, occurrence) != (key.generation, key.occurrence) {
            continue;
        }
        let (answered, owned, alive): (bool, bool, bool) =
            (row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        return Ok(match (answered, owned) {
            (true, _) => Found::Answered,
            (false, true) => Found::Intent { owner_gone: !alive },
            (false, false) => Found::Nothing,
        });
    }
    Ok(Found::Nothing)
}

async fn intend(
    connection: &Connection,
    it: &NewCall,
    key: &CallKey,
    counter: i64,
    now: Timestamp,
    taken_over: bool,
) -> Result<(), DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![
        task,
        generation,
        digest.as_slice(),
        occurrence,
        counter,
        int(it.held.fence.0),
        it.owner,
        it.provider,
        it.path,
        it.model,
        now.0,
        i64::from(taken_over),
        it.currency,
    ];
    connection.execute(INTEND, args).await.map(drop)
}

/// The intent goes, but not the mark that it may have been billed.
pub(super) async fn give_up(connection: &Connection, key: &CallKey, billed: u32) -> Result<(), DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let args = args![task, generation, digest.as_slice(), occurrence, i64::from(billed)];
    connection.execute(GIVE_UP, args).await.map(drop)
}

/// Whose journal it is.
pub(super) fn journal_of(task: TaskId) -> Topic {
    Topic::Journal(task)
}
