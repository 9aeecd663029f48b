//! Workers beside the link: planned, found again, told to drain, ended, forgotten.

use longshore_core::fleet::DrainMode;
use longshore_core::id::{Held, WorkerId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, Row, params};

use super::column::{count, get, get_option, int};
use super::writer::Write;
use super::{Embedded, ending, lease, register};
use crate::error::StoreError;
use crate::model::{DrainOrder, Epoch, PlannedWorker, WorkerEnd, WorkerFilter, WorkerRecord};

impl Embedded {
    pub(crate) async fn plan_worker(
        &self,
        it: PlannedWorker,
        _epoch: Epoch,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |write| {
            let inserted = write
                .connection
                .prepare_cached(
                    "INSERT INTO worker (id, fleet, state, platform, release, planned_at)
                     VALUES (?1, ?2, 'starting', ?3, ?4, ?5)
                     ON CONFLICT DO UPDATE SET platform = ?3, release = ?4, planned_at = ?5
                     WHERE fleet = ?2 AND (platform = 'external' OR platform = ?3 AND release <> ?4)",
                )?
                .execute(params![it.id.as_str(), it.fleet.as_str(), it.platform, int(it.release), now.0])?;
            Ok(inserted > 0)
        })
        .await
    }

    pub(crate) async fn save_identity(
        &self,
        worker: WorkerId,
        identity: Json,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |write| {
            let update = "UPDATE worker SET identity = ?2 WHERE id = ?1";
            Ok(write.connection.prepare_cached(update)?.execute([worker.as_str(), identity.text()])? > 0)
        })
        .await
    }

    pub(crate) async fn worker_ended(
        &self,
        end: WorkerEnd,
        roll: f64,
        now: Timestamp,
    ) -> Result<Vec<Held>, StoreError> {
        self.write(move |write| Ok(ended(write, &end, roll, now)?)).await
    }

    pub(crate) async fn order_drain(
        &self,
        worker: WorkerId,
        mode: DrainMode,
        timeout_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let order = DrainOrder { mode, timeout_ms };
        self.write(move |write| Ok(register::order(write, &worker, order, now)?)).await
    }

    pub(crate) async fn forget_workers(&self, ended_before: Timestamp) -> Result<usize, StoreError> {
        self.write(move |write| {
            let nonces =
                "DELETE FROM stale_nonce WHERE worker IN (SELECT id FROM worker WHERE ended_at < ?1)";
            write.connection.prepare_cached(nonces)?.execute([ended_before.0])?;
            let workers = "DELETE FROM worker WHERE ended_at < ?1";
            Ok(write.connection.prepare_cached(workers)?.execute([ended_before.0])?)
        })
        .await
    }

    pub(crate) async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM worker
                 WHERE (?1 IS NULL OR fleet = ?1) AND (?2 OR state != 'gone') ORDER BY fleet, id"
            ))?;
            let fleet = filter.fleet.as_ref().map(|it| it.as_str());
            let rows = select.query_map(params![fleet, filter.gone], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("SELECT {COLUMNS} FROM worker WHERE id = ?1");
            Ok(connection.prepare_cached(&select)?.query_row([id.as_str()], read).optional()?)
        })
        .await
    }
}

/// Marks the worker as gone, once, and interrupts what it held.
fn ended(write: &mut Write<'_>, end: &WorkerEnd, roll: f64, now: Timestamp) -> rusqlite::Result<Vec<Held>> {
    let nonce = end.nonce.as_ref().map(|nonce| nonce.as_bytes().as_slice());
    let changed = write
        .connection
        .prepare_cached(
            "UPDATE worker SET state = 'gone', ended_at = ?2, end = ?3
             WHERE id = ?1 AND state != 'gone' AND (?4 IS NULL OR nonce = ?4)",
        )?
        .execute(params![end.worker.as_str(), now.0, end.why, nonce])?;
    if changed == 0 {
        return Ok(Vec::new());
    }
    write.wake_worker(&end.worker);
    let leases = lease::of_worker(write.connection, &end.worker)?;
    ending::interrupt(write, &leases, end.cause, roll, now)
}

const COLUMNS: &str =
    "id, fleet, nonce, claim_seq, state, reason, memory, concurrency, version, host, pid, probe_addr,
    platform, identity, release, planned_at, registered_at, last_seen, drain_mode, drain_timeout_ms, drain_at,
    ended_at, end, (SELECT count(*) FROM lease WHERE lease.worker = worker.id)";

fn read(row: &Row<'_>) -> rusqlite::Result<WorkerRecord> {
    let drain = match get_option(row, 18)? {
        Some(mode) => Some(DrainOrder { mode, timeout_ms: count(row, 19)? }),
        None => None,
    };
    Ok(WorkerRecord {
        id: get(row, 0)?,
        fleet: get(row, 1)?,
        nonce: get_option(row, 2)?,
        last_claim: count(row, 3)?,
        state: get(row, 4)?,
        reason: row.get(5)?,
        memory: count(row, 6)?,
        concurrency: count(row, 7)?,
        version: row.get(8)?,
        host: row.get(9)?,
        pid: row.get(10)?,
        probe_addr: row.get(11)?,
        platform: row.get(12)?,
        identity: get_option(row, 13)?,
        release: count(row, 14)?,
        planned_at: get_option(row, 15)?,
        registered_at: get_option(row, 16)?,
        last_seen: get_option(row, 17)?,
        drain,
        drain_ordered_at: get_option(row, 20)?,
        ended_at: get_option(row, 21)?,
        end: row.get(22)?,
        in_flight: count(row, 23)?,
    })
}
