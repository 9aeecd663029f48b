//! Who a worker is: its id, and the nonce of this start.

use std::collections::HashMap;

use longshore_core::id::{FleetName, Held, WorkerId};
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::changes::Changes;
use super::column::{count, get, get_option, int};
use super::connection::Connection;
use super::ending::{self, By, EndOf};
use super::fault::DbError;
use super::lease;
use super::sql::args;
use crate::error::{LinkError, RegisterError};
use crate::model::{DrainOrder, RegisterOutcome, Registration, WorkerState};

/// What the link needs to know of a worker.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub fleet: FleetName,
    pub nonce: Option<Uuid>,
    pub claim_seq: u64,
    pub state: WorkerState,
    pub drain: Option<DrainOrder>,
    pub platform: String,
    pub release: i64,
}

/// Why a worker's word is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Unknown,
    Stale,
}

/// The same, with its name.
pub(super) struct Named(WorkerId, Who);

impl Who {
    pub(super) fn named(self, worker: WorkerId) -> Named {
        Named(worker, self)
    }
}

impl From<Named> for LinkError {
    fn from(Named(worker, who): Named) -> LinkError {
        match who {
            Who::Unknown => LinkError::UnknownWorker(worker),
            Who::Stale => LinkError::StaleNonce(worker),
        }
    }
}

const FIND: &str =
    "SELECT id, fleet, nonce, claim_seq, state, drain_mode, drain_timeout_ms, platform, release
     FROM @worker WHERE id = ANY($1)";

/// In order of names, so that two transactions never wait crosswise.
pub(super) const LOCK: &str =
    "SELECT id, fleet, nonce, claim_seq, state, drain_mode, drain_timeout_ms, platform, release
     FROM @worker WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

const IS_STALE: &str = "SELECT 1 FROM @stale_nonce WHERE worker = $1 AND nonce = $2";

pub(super) async fn find(
    connection: &Connection,
    workers: &[&str],
) -> Result<HashMap<WorkerId, Known>, DbError> {
    let workers = workers.to_vec();
    connection.query(FIND, args![workers]).await?.iter().map(read).collect()
}

/// The same, and nobody else changes them until this transaction ends.
pub(super) async fn lock(
    connection: &Connection,
    workers: &[&str],
) -> Result<HashMap<WorkerId, Known>, DbError> {
    let workers = workers.to_vec();
    connection.query(LOCK, args![workers]).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<(WorkerId, Known), DbError> {
    let drain = match get_option(row, 5)? {
        Some(mode) => Some(DrainOrder { mode, timeout_ms: count(row, 6)? }),
        None => None,
    };
    let known = Known {
        fleet: get(row, 1)?,
        nonce: get_option(row, 2)?,
        claim_seq: count(row, 3)?,
        state: get(row, 4)?,
        drain,
        platform: get(row, 7)?,
        release: row.try_get(8)?,
    };
    Ok((get(row, 0)?, known))
}

/// The worker, if this is its newest nonce and it has not ended.
pub(super) async fn judge<'a>(
    connection: &Connection,
    known: Option<&'a Known>,
    worker: &WorkerId,
    nonce: Uuid,
) -> Result<Result<&'a Known, Who>, DbError> {
    let Some(known) = known else { return Ok(Err(Who::Unknown)) };
    if known.nonce == Some(nonce) && known.state != WorkerState::Gone {
        return Ok(Ok(known));
    }
    // One that ended may come back by registering.
    Ok(Err(if is_stale(connection, worker, nonce).await? { Who::Stale } else { Who::Unknown }))
}

async fn is_stale(connection: &Connection, worker: &WorkerId, nonce: Uuid) -> Result<bool, DbError> {
    Ok(connection.query_opt(IS_STALE, args![worker.as_str(), nonce]).await?.is_some())
}

impl Shared {
    pub(crate) async fn register(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<RegisterOutcome, RegisterError> {
        let core = self.core();
        core.run(async |it| {
            it.begin().await?;
            let mut changes = Changes::new(now);
            let outcome = register(&it, &mut changes, &registration, now).await?;
            match outcome {
                Ok(outcome) => {
                    core.commit(&it, changes).await?;
                    Ok(Ok(outcome))
                }
                Err(refused) => {
                    it.roll_back().await;
                    Ok(Err(refused))
                }
            }
        })
        .await?
    }
}

/// The platform of a worker that nobody planned.
const EXTERNAL: &str = "external";

const SERVED: &str = "SELECT release FROM @fleet WHERE name = $1";

/// Two that start at once under one name: the second waits for the first, and then finds it.
const INSERT: &str =
    "INSERT INTO @worker (id, fleet, nonce, state, concurrency, version, host, pid, probe_addr, platform, release,
        registered_at, last_seen)
     VALUES ($1, $2, $3, 'starting', $4, $5, $6, $7, $8, 'external', $9, $10, $10) ON CONFLICT DO NOTHING";

async fn register(
    connection: &Connection,
    changes: &mut Changes,
    it: &Registration,
    now: Timestamp,
) -> Result<Result<RegisterOutcome, RegisterError>, DbError> {
    let Some(row) = connection.query_opt(SERVED, args![it.fleet.as_str()]).await? else {
        return Ok(Err(RegisterError::UnknownFleet(it.fleet.clone())));
    };
    let release: i64 = row.try_get(0)?;
    let inserted = connection
        .execute(
            INSERT,
            args![
                it.worker.as_str(),
                it.fleet.as_str(),
                it.nonce,
                i64::from(it.concurrency),
                it.version,
                it.host,
                it.pid.map(i64::from),
                it.probe_addr,
                release,
                now.0,
            ],
        )
        .await?;
    if inserted > 0 {
        return Ok(Ok(RegisterOutcome { last_claim: 0, released: Vec::new() }));
    }
    let known = lock(connection, &[it.worker.as_str()]).await?.remove(&it.worker).ok_or(DbError::Missing)?;
    if known.fleet != it.fleet {
        return Ok(Err(RegisterError::OtherFleet { worker: it.worker.clone(), fleet: known.fleet }));
    }
    if is_stale(connection, &it.worker, it.nonce).await? {
        return Ok(Err(RegisterError::StaleNonce(it.worker.clone())));
    }
    let same = known.nonce == Some(it.nonce);
    let released = if same { Vec::new() } else { supersede(connection, changes, it, &known).await? };
    let last_claim = if same { known.claim_seq } else { 0 };
    // A planned worker runs what it was planned for; any other learns the newest declaration by this very answer.
    let release = if same || known.platform != EXTERNAL { known.release } else { release };
    update(connection, it, (last_claim, release, same), now).await?;
    Ok(Ok(RegisterOutcome { last_claim, released }))
}

/// Remembers the old nonce as stale and takes back what it held.
async fn supersede(
    connection: &Connection,
    changes: &mut Changes,
    it: &Registration,
    known: &Known,
) -> Result<Vec<Held>, DbError> {
    if let Some(old) = known.nonce {
        let insert = "INSERT INTO @stale_nonce (worker, nonce) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        connection.execute(insert, args![it.worker.as_str(), old]).await?;
    }
    let leases = lease::of_worker(connection, &it.worker).await?;
    let ends: Vec<EndOf> =
        leases.into_iter().map(|held| EndOf::interruption(held, Interruption::Superseded, 0.0)).collect();
    ending::end(connection, changes, &ends, By::Control).await
}

/// A worker that merely repeats itself stays in its state, unless it was given up for gone. One that was started anew has
/// obeyed any order to drain: else a worker that is restarted in place would drain for ever.
const UPDATE: &str =
    "UPDATE @worker SET nonce = $2, claim_seq = $3, concurrency = $4, version = $5, host = $6, pid = $7, probe_addr = $8,
        release = $9, last_seen = $10, ended_at = NULL, \"end\" = NULL,
        registered_at = CASE WHEN $11 THEN registered_at ELSE $10 END,
        state = CASE WHEN $11 AND state <> 'gone' THEN state ELSE 'starting' END,
        reason = CASE WHEN $11 THEN reason ELSE '' END,
        drain_mode = CASE WHEN $11 THEN drain_mode END,
        drain_timeout_ms = CASE WHEN $11 THEN drain_timeout_ms END,
        drain_at = CASE WHEN $11 THEN drain_at END,
        renewed_claim = CASE WHEN $11 THEN renewed_claim ELSE 0 END
     WHERE id = $1";

async fn update(
    connection: &Connection,
    it: &Registration,
    (last_claim, release, same): (u64, i64, bool),
    now: Timestamp,
) -> Result<(), DbError> {
    connection
        .execute(
            UPDATE,
            args![
                it.worker.as_str(),
                it.nonce,
                int(last_claim),
                i64::from(it.concurrency),
                it.version,
                it.host,
                it.pid.map(i64::from),
                it.probe_addr,
                release,
                now.0,
                same,
            ],
        )
        .await
        .map(drop)
}
