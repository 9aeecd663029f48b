//! Workers beside the link: planned, found again, told to drain, ended, forgotten.

use longshore_core::fleet::DrainMode;
use longshore_core::id::{Held, WorkerId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::Shared;
use super::changes::Changes;
use super::column::{count, count_option, get, get_option, int};
use super::connection::Connection;
use super::ending::{self, By, EndOf};
use super::fault::DbError;
use super::lease;
use super::replica::epoch;
use super::sql::args;
use crate::embedded::drain_mode_text;
use crate::error::StoreError;
use crate::model::{DrainOrder, Epoch, PlannedWorker, WorkerEnd, WorkerFilter, WorkerRecord};

macro_rules! columns {
    () => {
        "SELECT id, fleet, nonce, claim_seq, state, reason, memory, concurrency, version, host, pid, probe_addr, platform,
            identity, release, planned_at, registered_at, last_seen, drain_mode, drain_timeout_ms, drain_at, ended_at,
            \"end\", (SELECT count(*) FROM @live AS live WHERE live.worker = worker.id)
         FROM @worker AS worker "
    };
}

const MANY: &str = concat!(
    columns!(),
    "WHERE ($1::text IS NULL OR fleet = $1) AND ($2 OR state <> 'gone') ORDER BY fleet, id"
);
const ONE: &str = concat!(columns!(), "WHERE id = $1");

const PLAN: &str = "INSERT INTO @worker AS w (id, fleet, state, platform, release, planned_at)
     SELECT $1, $2, 'starting', $3, $4, $5 FROM @leader WHERE epoch = $6
     ON CONFLICT (id) DO UPDATE SET platform = $3, release = $4, planned_at = $5
     WHERE w.fleet = $2 AND (w.platform = 'external' OR w.platform = $3 AND w.release <> $4)";
const IDENTITY: &str = "UPDATE @worker SET identity = $2 WHERE id = $1";
const GONE: &str = "UPDATE @worker SET state = 'gone', ended_at = $2, \"end\" = $3
     WHERE id = $1 AND state <> 'gone' AND ($4::uuid IS NULL OR nonce = $4)";
const DRAIN: &str =
    "UPDATE @worker SET drain_mode = $2, drain_timeout_ms = $3, drain_at = coalesce(drain_at, $4)
     WHERE id = $1 AND state <> 'gone'";
const FORGET: &str = "WITH gone AS (DELETE FROM @worker WHERE ended_at < $1 RETURNING id),
        nonces AS (DELETE FROM @stale_nonce WHERE worker IN (SELECT id FROM gone))
     SELECT count(*) FROM gone";

impl Shared {
    pub(crate) async fn plan_worker(
        &self,
        it: PlannedWorker,
        of: Epoch,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let planned = self.core().run(async |connection| {
            let args =
                args![it.id.as_str(), it.fleet.as_str(), it.platform, int(it.release), now.0, epoch(of)];
            connection.execute(PLAN, args).await
        });
        Ok(planned.await? > 0)
    }

    pub(crate) async fn save_identity(
        &self,
        worker: WorkerId,
        identity: Json,
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        let text = identity.text();
        Ok(self.core().run(async |it| it.execute(IDENTITY, args![worker.as_str(), text]).await).await? > 0)
    }

    /// Marks the worker as gone, once, and interrupts what it held.
    pub(crate) async fn worker_ended(
        &self,
        end: WorkerEnd,
        roll: f64,
        now: Timestamp,
    ) -> Result<Vec<Held>, StoreError> {
        let core = self.core();
        let why = end.why.replace('\0', "");
        let ended = core.run(async |it| {
            it.begin().await?;
            if it.execute(GONE, args![end.worker.as_str(), now.0, why, end.nonce]).await? == 0 {
                it.roll_back().await;
                return Ok(Vec::new());
            }
            let mut changes = Changes::new(now);
            changes.wake_worker(&end.worker);
            let held = interrupt_all(&it, &mut changes, &end, roll).await?;
            core.commit(&it, changes).await?;
            Ok(held)
        });
        Ok(ended.await?)
    }

    pub(crate) async fn order_drain(
        &self,
        worker: WorkerId,
        mode: DrainMode,
        timeout_ms: u64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let core = self.core();
        let (mode, timeout) = (drain_mode_text(mode), int(timeout_ms));
        let ordered = core
            .run(async |it| it.execute(DRAIN, args![worker.as_str(), mode, timeout, now.0]).await)
            .await?;
        core.fire([crate::signals::Topic::Worker(worker)].into());
        Ok(ordered > 0)
    }

    pub(crate) async fn forget_workers(&self, ended_before: Timestamp) -> Result<usize, StoreError> {
        let row = self.core().run(async |it| it.query_one(FORGET, args![ended_before.0]).await).await?;
        Ok(count(&row, 0)?)
    }

    pub(crate) async fn workers(&self, filter: WorkerFilter) -> Result<Vec<WorkerRecord>, StoreError> {
        let fleet = filter.fleet.as_ref().map(|it| it.as_str());
        let rows = self.core().run(async |it| it.query(MANY, args![fleet, filter.gone]).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![id.as_str()]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
    }
}

async fn interrupt_all(
    connection: &Connection,
    changes: &mut Changes,
    end: &WorkerEnd,
    roll: f64,
) -> Result<Vec<Held>, DbError> {
    let leases = lease::of_worker(connection, &end.worker).await?;
    let ends: Vec<EndOf> =
        leases.into_iter().map(|held| EndOf::interruption(held, end.cause, roll)).collect();
    ending::end(connection, changes, &ends, By::Control).await
}

fn read(row: &Row) -> Result<WorkerRecord, DbError> {
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
        reason: get(row, 5)?,
        memory: count(row, 6)?,
        concurrency: count(row, 7)?,
        version: get(row, 8)?,
        host: get_option(row, 9)?,
        pid: count_option(row, 10)?,
        probe_addr: get_option(row, 11)?,
        platform: get(row, 12)?,
        identity: get_option(row, 13)?,
        release: count(row, 14)?,
        planned_at: get_option(row, 15)?,
        registered_at: get_option(row, 16)?,
        last_seen: get_option(row, 17)?,
        drain,
        drain_ordered_at: get_option(row, 20)?,
        ended_at: get_option(row, 21)?,
        end: get_option(row, 22)?,
        in_flight: count(row, 23)?,
    })
}
