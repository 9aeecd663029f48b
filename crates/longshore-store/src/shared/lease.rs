//! Leases as they stand.

use longshore_core::id::{Held, WorkerId};
use longshore_core::time::ServiceTime;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, get};
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::LeaseRecord;

/// When a lease expires: what its claim was given, until a heartbeat that knows of the claim renews it.
macro_rules! expiry {
    () => {
        "CASE WHEN live.claim_seq <= worker.renewed_claim THEN worker.renewed_until ELSE live.expires_ms END"
    };
}
pub(super) use expiry;

/// Joins what the workers in `$1` hold as `live`, given what to select of it. Each worker's leases are looked up by
/// themselves, from the first fence that may be alive.
macro_rules! held_by_workers {
    ($select:literal) => {
        concat!(
            "FROM unnest($1::text[]) AS w (id) LEFT JOIN @worker AS worker ON worker.id = w.id
                CROSS JOIN LATERAL (SELECT ",
            $select,
            " FROM @live AS live WHERE live.worker = w.id AND live.fence >= coalesce(worker.held_from, 0) OFFSET 0) AS live "
        )
    };
}
pub(super) use held_by_workers;

/// A lease with what a heartbeat has to know of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brief {
    pub held: Held,
    pub claim_seq: i64,
    pub cancel: bool,
}

/// A worker's leases, oldest first.
pub(super) async fn of_worker(connection: &Connection, worker: &WorkerId) -> Result<Vec<Held>, DbError> {
    let select = "SELECT id, fence FROM @live WHERE worker = $1 ORDER BY fence";
    let rows = connection.query(select, args![worker.as_str()]).await?;
    rows.iter().map(|row| Ok(Held { task: get(row, 0)?, fence: get(row, 1)? })).collect()
}

const OF_WORKERS: &str = concat!(
    "SELECT w.id, live.id, live.fence, live.claim_seq, live.cancel ",
    held_by_workers!("live.id, live.fence, live.claim_seq, live.cancel_requested OR live.expired AS cancel"),
    "ORDER BY live.fence"
);

/// The leases of many workers, oldest first.
pub(super) async fn of_workers(
    connection: &Connection,
    workers: &[&str],
) -> Result<Vec<(String, Brief)>, DbError> {
    let workers = workers.to_vec();
    let rows = connection.query(OF_WORKERS, args![workers]).await?;
    rows.iter()
        .map(|row| {
            let held = Held { task: get(row, 1)?, fence: get(row, 2)? };
            Ok((row.try_get(0)?, Brief { held, claim_seq: row.try_get(3)?, cancel: row.try_get(4)? }))
        })
        .collect()
}

const ALL: &str = concat!(
    "SELECT live.id, live.fence, live.worker, live.fleet, live.attempts, live.attempt_at, ",
    expiry!(),
    ", live.alone, live.cancel_requested OR live.expired
     FROM @live AS live LEFT JOIN @worker AS worker ON worker.id = live.worker
     WHERE live.worker IS NOT NULL AND ($1::text IS NULL OR live.worker = $1) ORDER BY live.attempt_at, live.fence"
);

impl Shared {
    pub(crate) async fn leases(&self, worker: Option<WorkerId>) -> Result<Vec<LeaseRecord>, StoreError> {
        let worker = worker.as_ref().map(WorkerId::as_str);
        let rows = self.core().run(async |it| it.query(ALL, args![worker]).await).await?;
        Ok(rows.iter().map(record).collect::<Result<_, _>>()?)
    }
}

fn record(row: &Row) -> Result<LeaseRecord, DbError> {
    Ok(LeaseRecord {
        held: Held { task: get(row, 0)?, fence: get(row, 1)? },
        worker: get(row, 2)?,
        fleet: get(row, 3)?,
        attempt: count(row, 4)?,
        started_at: get(row, 5)?,
        expires: ServiceTime(row.try_get(6)?),
        alone: row.try_get(7)?,
        cancel_requested: row.try_get(8)?,
    })
}
