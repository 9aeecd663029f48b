//! Who a worker is: its id, and the nonce of this start.

use longshore_core::id::{FleetName, WorkerId};
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::column::{count, drain_mode_text, get, get_option, int};
use super::writer::Write;
use super::{Embedded, ending, lease};
use crate::error::{LinkError, RegisterError};
use crate::model::{DrainOrder, RegisterOutcome, Registration, WorkerState};

/// What the link needs to know of a worker.
pub(super) struct Known {
    pub fleet: FleetName,
    pub nonce: Option<Uuid>,
    pub claim_seq: u64,
    pub state: WorkerState,
    pub drain: Option<DrainOrder>,
    pub platform: String,
    pub release: u64,
}

/// The worker, if this is its newest nonce and it has not ended.
pub(super) fn known(connection: &Connection, worker: &WorkerId, nonce: Uuid) -> Result<Known, LinkError> {
    let unknown = || LinkError::UnknownWorker(worker.clone());
    let known = find(connection, worker)?.ok_or_else(unknown)?;
    if known.nonce == Some(nonce) && known.state != WorkerState::Gone {
        Ok(known)
    } else if is_stale(connection, worker, nonce)? {
        Err(LinkError::StaleNonce(worker.clone()))
    } else {
        // It may come back by registering.
        Err(unknown())
    }
}

fn find(connection: &Connection, worker: &WorkerId) -> rusqlite::Result<Option<Known>> {
    connection
        .prepare_cached(
            "SELECT fleet, nonce, claim_seq, state, drain_mode, drain_timeout_ms, platform, release
             FROM worker WHERE id = ?1",
        )?
        .query_row([worker.as_str()], |row| {
            let drain = match get_option(row, 4)? {
                Some(mode) => Some(DrainOrder { mode, timeout_ms: count(row, 5)? }),
                None => None,
            };
            Ok(Known {
                fleet: get(row, 0)?,
                nonce: get_option(row, 1)?,
                claim_seq: count(row, 2)?,
                state: get(row, 3)?,
                drain,
                platform: row.get(6)?,
                release: count(row, 7)?,
            })
        })
        .optional()
}

fn is_stale(connection: &Connection, worker: &WorkerId, nonce: Uuid) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM stale_nonce WHERE worker = ?1 AND nonce = ?2")?
        .exists(params![worker.as_str(), nonce.as_bytes()])
}

impl Embedded {
    pub(crate) async fn register(
        &self,
        registration: Registration,
        now: Timestamp,
    ) -> Result<RegisterOutcome, RegisterError> {
        self.write(move |write| register(write, &registration, now)).await
    }
}

fn register(
    write: &mut Write<'_>,
    it: &Registration,
    now: Timestamp,
) -> Result<RegisterOutcome, RegisterError> {
    let release = served(write, &it.fleet)?;
    let Some(known) = find(write.connection, &it.worker)? else {
        insert(write, it, release, now)?;
        return Ok(RegisterOutcome { last_claim: 0, released: Vec::new() });
    };
    if known.fleet != it.fleet {
        return Err(RegisterError::OtherFleet { worker: it.worker.clone(), fleet: known.fleet });
    }
    if is_stale(write.connection, &it.worker, it.nonce)? {
        return Err(RegisterError::StaleNonce(it.worker.clone()));
    }
    let same = known.nonce == Some(it.nonce);
    let released = if same { Vec::new() } else { supersede(write, it, &known, now)? };
    let last_claim = if same { known.claim_seq } else { 0 };
    // A planned worker runs what it was planned for; any other learns the newest declaration by this very
    // answer.
    let release = if same || known.platform != EXTERNAL { known.release } else { release };
    update(write, it, (last_claim, release, same), now)?;
    Ok(RegisterOutcome { last_claim, released })
}

/// The platform of a worker that nobody planned.
const EXTERNAL: &str = "external";

fn served(write: &Write<'_>, fleet: &FleetName) -> Result<u64, RegisterError> {
    let release = write
        .connection
        .prepare_cached("SELECT release FROM fleet WHERE name = ?1")?
        .query_row([fleet.as_str()], |row| count(row, 0))
        .optional()?;
    release.ok_or_else(|| RegisterError::UnknownFleet(fleet.clone()))
}

/// Remembers the old nonce as stale and takes back what it held.
fn supersede(
    write: &mut Write<'_>,
    it: &Registration,
    known: &Known,
    now: Timestamp,
) -> rusqlite::Result<Vec<longshore_core::id::Held>> {
    if let Some(old) = known.nonce {
        write
            .connection
            .prepare_cached("INSERT OR IGNORE INTO stale_nonce (worker, nonce) VALUES (?1, ?2)")?
            .execute(params![it.worker.as_str(), old.as_bytes()])?;
    }
    let leases = lease::of_worker(write.connection, &it.worker)?;
    ending::interrupt(write, &leases, Interruption::Superseded, 0.0, now)
}

fn insert(write: &Write<'_>, it: &Registration, release: u64, now: Timestamp) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO worker (id, fleet, nonce, state, concurrency, version, host, pid, probe_addr, platform,
                release, registered_at, last_seen)
             VALUES (?1, ?2, ?3, 'starting', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)",
        )?
        .execute(params![
            it.worker.as_str(),
            it.fleet.as_str(),
            it.nonce.as_bytes(),
            it.concurrency,
            it.version,
            it.host,
            it.pid,
            it.probe_addr,
            EXTERNAL,
            int(release),
            now.0,
        ])
        .map(drop)
}

/// A worker that merely repeats itself stays in its state, unless it was given up for gone. One that was
/// started anew has obeyed any order to drain: else a worker that is restarted in place would drain for ever.
fn update(
    write: &Write<'_>,
    it: &Registration,
    (last_claim, release, same): (u64, u64, bool),
    now: Timestamp,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "UPDATE worker SET nonce = ?2, claim_seq = ?3, concurrency = ?4, version = ?5, host = ?6, pid = ?7,
                probe_addr = ?8, release = ?9, last_seen = ?10, ended_at = NULL, end = NULL,
                registered_at = iif(?11, registered_at, ?10),
                state = iif(?11 AND state != 'gone', state, 'starting'), reason = iif(?11, reason, ''),
                drain_mode = iif(?11, drain_mode, NULL), drain_timeout_ms = iif(?11, drain_timeout_ms, NULL),
                drain_at = iif(?11, drain_at, NULL)
             WHERE id = ?1",
        )?
        .execute(params![
            it.worker.as_str(),
            it.nonce.as_bytes(),
            last_claim as i64,
            it.concurrency,
            it.version,
            it.host,
            it.pid,
            it.probe_addr,
            int(release),
            now.0,
            same,
        ])
        .map(drop)
}

/// Stores an order to drain; false if there is nobody to obey it.
pub(super) fn order(
    write: &mut Write<'_>,
    worker: &WorkerId,
    order: DrainOrder,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let changed = write
        .connection
        .prepare_cached(
            "UPDATE worker SET drain_mode = ?2, drain_timeout_ms = ?3, drain_at = coalesce(drain_at, ?4)
             WHERE id = ?1 AND state != 'gone'",
        )?
        .execute(params![worker.as_str(), drain_mode_text(order.mode), int(order.timeout_ms), now.0])?;
    write.wake_worker(worker);
    Ok(changed > 0)
}
