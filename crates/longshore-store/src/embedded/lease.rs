//! Leases: the only proof that an attempt may still write.

use longshore_core::id::{Fence, Held, TaskId, WorkerId};
use longshore_core::time::ServiceTime;
use rusqlite::{OptionalExtension, Row, params};

use super::Embedded;
use super::column::{count, get, id, int};
use super::writer::Write;
use crate::error::StoreError;
use crate::model::LeaseRecord;

pub(super) struct Lease {
    pub ord: i64,
    pub fence: Fence,
    pub worker: WorkerId,
    pub claim_seq: i64,
    pub attempt: i64,
    pub alone: bool,
    pub cancel: bool,
}

const COLUMNS: &str = "ord, fence, worker, claim_seq, attempt, alone, cancel";

fn read(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        ord: row.get(0)?,
        fence: get(row, 1)?,
        worker: get(row, 2)?,
        claim_seq: row.get(3)?,
        attempt: row.get(4)?,
        alone: row.get(5)?,
        cancel: row.get(6)?,
    })
}

/// The lease, if the fence is still valid.
pub(super) fn find(write: &Write<'_>, held: Held) -> rusqlite::Result<Option<Lease>> {
    let select = format!(
        "SELECT {COLUMNS} FROM lease WHERE ord = (SELECT ord FROM task WHERE id = ?1) AND fence = ?2"
    );
    write
        .connection
        .prepare_cached(&select)?
        .query_row(params![id(&held.task), int(held.fence.0)], read)
        .optional()
}

/// Ends the lease: whoever gets the row back, and nobody else, may end the attempt.
pub(super) fn take(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<Option<Lease>> {
    let delete = format!("DELETE FROM lease WHERE ord = ?1 AND fence = ?2 RETURNING {COLUMNS}");
    write.connection.prepare_cached(&delete)?.query_row(params![ord, int(fence.0)], read).optional()
}

pub(super) fn grant(write: &Write<'_>, lease: &Lease, expires: ServiceTime) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO lease (ord, fence, worker, claim_seq, attempt, expires_ms, alone)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            lease.ord,
            int(lease.fence.0),
            lease.worker.as_str(),
            lease.claim_seq,
            lease.attempt,
            expires.0,
            lease.alone,
        ])
        .map(drop)
}

/// A worker's leases with their tasks.
pub(super) fn of_worker(
    connection: &rusqlite::Connection,
    worker: &WorkerId,
) -> rusqlite::Result<Vec<(TaskId, Lease)>> {
    let mut select = connection.prepare_cached(
        "SELECT lease.ord, fence, worker, claim_seq, attempt, lease.alone, cancel, task.id
         FROM lease JOIN task ON task.ord = lease.ord WHERE worker = ?1 ORDER BY fence",
    )?;
    let rows = select.query_map([worker.as_str()], |row| Ok((get(row, 7)?, read(row)?)))?;
    rows.collect()
}

/// Leases that have expired, oldest first, at most `limit`.
pub(super) fn expired(write: &Write<'_>, limit: usize) -> rusqlite::Result<Vec<(TaskId, Lease)>> {
    let mut select = write.connection.prepare_cached(
        "SELECT lease.ord, fence, worker, claim_seq, attempt, lease.alone, cancel, task.id
         FROM lease JOIN task ON task.ord = lease.ord WHERE expires_ms <= ?1 ORDER BY expires_ms LIMIT ?2",
    )?;
    let rows = select
        .query_map(params![write.service().0, int(limit as u64)], |row| Ok((get(row, 7)?, read(row)?)))?;
    rows.collect()
}

/// When the next lease expires.
pub(super) fn next_expiry(write: &Write<'_>) -> rusqlite::Result<Option<ServiceTime>> {
    write
        .connection
        .prepare_cached("SELECT min(expires_ms) FROM lease")?
        .query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(ServiceTime)))
}

pub(super) fn any(write: &Write<'_>) -> rusqlite::Result<bool> {
    write.connection.prepare_cached("SELECT 1 FROM lease LIMIT 1")?.exists([])
}

/// Whether a worker holds one lease and no more.
pub(super) fn is_only(write: &Write<'_>, worker: &WorkerId) -> rusqlite::Result<bool> {
    let mut select = write.connection.prepare_cached("SELECT ord FROM lease WHERE worker = ?1 LIMIT 2")?;
    let mut rows = select.query([worker.as_str()])?;
    Ok(rows.next()?.is_some() && rows.next()?.is_none())
}

impl Embedded {
    pub(crate) async fn leases(&self, worker: Option<WorkerId>) -> Result<Vec<LeaseRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT task.id, lease.fence, lease.worker, task.fleet, lease.attempt, attempt.started_at,
                    lease.expires_ms, lease.alone, lease.cancel
                 FROM lease JOIN task ON task.ord = lease.ord
                    JOIN attempt ON attempt.ord = lease.ord AND attempt.number = lease.attempt
                 WHERE ?1 IS NULL OR lease.worker = ?1 ORDER BY attempt.started_at, lease.fence",
            )?;
            let rows = select.query_map([worker.as_ref().map(|it| it.as_str())], record)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

fn record(row: &Row<'_>) -> rusqlite::Result<LeaseRecord> {
    Ok(LeaseRecord {
        held: Held { task: get(row, 0)?, fence: get(row, 1)? },
        worker: get(row, 2)?,
        fleet: get(row, 3)?,
        attempt: count(row, 4)?,
        started_at: get(row, 5)?,
        expires: ServiceTime(row.get(6)?),
        alone: row.get(7)?,
        cancel_requested: row.get(8)?,
    })
}
