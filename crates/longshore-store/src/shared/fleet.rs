//! Fleets: declarations, counts, the scaler's decisions.

use longshore_core::cap::{self, Ready};
use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TenantName};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, count_option, document, get, get_option, int};
use super::connection::Connection;
use super::fault::DbError;
use super::lane;
use super::replica::epoch;
use super::rollout::{self, Wished};
use super::sql::args;
use crate::error::StoreError;
use crate::model::{
    DecisionRecord, Deployed, Epoch, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load,
    NewRelease, fleet_changes,
};

use crate::signals::{Topic, Wakes};

/// Decisions kept of each fleet.
const DECISIONS: i64 = 200;

macro_rules! columns {
    () => {
        "SELECT name, declaration, release, active, replicas, changed_at,
            coalesce((SELECT paused FROM @gate AS gate WHERE gate.fleet = name), false) FROM @fleet "
    };
}

const ALL: &str = concat!(columns!(), "ORDER BY name");
const ONE: &str = concat!(columns!(), "WHERE name = $1");

/// One declaration at a time: two replicas that start at once must not add up to a mixture.
pub(super) const LOCK: &str = "LOCK TABLE @fleet IN SHARE ROW EXCLUSIVE MODE";

const PUT: &str =
    "INSERT INTO @fleet (name, declaration, release, active, changed_at) VALUES ($1, $2, $3, true, $4)
     ON CONFLICT (name) DO UPDATE SET declaration = $2, active = true, changed_at = $4";
/// What an operator or claims wrote there stays.
const PUT_GATE: &str = "INSERT INTO @gate (fleet, max_running, tenant_max_running, rate_tasks, rate_per_ms, pin_release)
     VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (fleet) DO UPDATE SET max_running = $2, tenant_max_running = $3, rate_tasks = $4, rate_per_ms = $5,
        pin_release = $6";
const REMOVE: &str = "UPDATE @fleet SET active = false, changed_at = $2 WHERE name = $1";
const PAUSE: &str = "WITH fleet AS (UPDATE @fleet SET changed_at = $3 WHERE name = $1)
     UPDATE @gate SET paused = $2 WHERE fleet = $1";
const REPLICAS: &str = "UPDATE @fleet SET replicas = $2, changed_at = $3 WHERE name = $1";

const DECIDED: &str = "INSERT INTO @decision (fleet, seq, at, from_n, to_n, kind, reason, inputs)
     SELECT $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5, $6, $7 FROM @decision WHERE fleet = $1
     HAVING EXISTS (SELECT 1 FROM @leader WHERE epoch = $8) RETURNING seq";
const FORGET: &str = "DELETE FROM @decision WHERE fleet = $1 AND seq <= $2";
const NEWEST: &str = "SELECT at, from_n, to_n, kind, reason, inputs FROM @decision WHERE fleet = $1 ORDER BY seq DESC LIMIT $2";

const COUNTS: &str = "SELECT name, coalesce(sum(runnable), 0)::bigint, coalesce(sum(delayed), 0)::bigint,
        coalesce(sum(held), 0)::bigint, coalesce(sum(running), 0)::bigint, coalesce(sum(waiting), 0)::bigint,
        coalesce(sum(succeeded), 0)::bigint, coalesce(sum(failed), 0)::bigint, coalesce(sum(cancelled), 0)::bigint
     FROM @fleet LEFT JOIN @fleet_count ON fleet = name GROUP BY name ORDER BY name";

const LOAD: &str = concat!(
    "SELECT c.runnable, c.running, c.delayed, c.held, c.waiting, ",
    lane::gate_columns!(),
    " FROM (SELECT coalesce(sum(runnable), 0)::bigint AS runnable, coalesce(sum(running), 0)::bigint AS running,
            coalesce(sum(delayed), 0)::bigint AS delayed, coalesce(sum(held), 0)::bigint AS held,
            coalesce(sum(waiting), 0)::bigint AS waiting FROM @fleet_count WHERE fleet = $1) AS c
        JOIN @gate AS gate ON gate.fleet = $1"
);

/// Lanes whose tenants have a cap, and something to start.
const CAPPED: &str =
    "SELECT l.fleet, l.tenant, l.runnable, l.running, 1, t.max_running, CASE WHEN t.max_running IS NULL THEN 0
        ELSE (SELECT sum(running) FROM @lane AS o WHERE o.tenant = l.tenant)::bigint END
     FROM @lane AS l JOIN @gate AS gate ON gate.fleet = l.fleet LEFT JOIN @tenant AS t ON t.name = l.tenant
     WHERE l.fleet = $1 AND l.runnable > 0 AND (gate.tenant_max_running IS NOT NULL OR t.max_running IS NOT NULL)";

/// The oldest wait is looked for among the first of each priority of each tenant: in the order of claims those are the
/// oldest, but for some that came back. Not of tenants whose caps let none start.
const OLDEST: &str = "WITH RECURSIVE heads (tenant, rank) AS (
        (SELECT tenant, rank FROM @live WHERE fleet = $1 AND hold = 'ready' ORDER BY tenant, rank LIMIT 1)
        UNION ALL
        SELECT next.tenant, next.rank FROM heads CROSS JOIN LATERAL (SELECT l.tenant, l.rank FROM @live AS l
            WHERE l.fleet = $1 AND l.hold = 'ready' AND (l.tenant, l.rank) > (heads.tenant, heads.rank)
            ORDER BY l.tenant, l.rank LIMIT 1) AS next)
     SELECT min(since) FROM heads CROSS JOIN LATERAL (SELECT since FROM @live AS l
        WHERE l.fleet = $1 AND l.hold = 'ready' AND l.tenant = heads.tenant AND l.rank = heads.rank
        ORDER BY l.id LIMIT 64) AS first
     WHERE NOT heads.tenant = ANY($2)";

impl Shared {
    pub(crate) async fn put_fleets(
        &self,
        fleets: Vec<Fleet>,
        now: Timestamp,
    ) -> Result<Vec<FleetChange>, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(LOCK, args![]).await?;
            it.query(rollout::LOCK_OPEN, args![]).await?;
            let records = all(&it).await?;
            let mut changes = fleet_changes(&records, &fleets);
            for change in &mut changes {
                let record = records.iter().find(|record| record.name == change.name);
                change.release = apply(&it, change, record, now).await?;
            }
            it.commit().await?;
            Ok(changes)
        });
        let changes = done.await?;
        // Under other caps others may start.
        let names = changes.iter().map(|change| change.name.clone());
        self.core().fire(Wakes::from(names.map(Topic::Runnable)));
        Ok(changes)
    }

    pub(crate) async fn fleets(&self) -> Result<Vec<FleetRecord>, StoreError> {
        Ok(self.core().run(async |it| all(&it).await).await?)
    }

    pub(crate) async fn fleet(&self, name: FleetName) -> Result<Option<FleetRecord>, StoreError> {
        Ok(self.core().run(async |it| find(&it, &name).await).await?)
    }

    pub(crate) async fn set_replicas(
        &self,
        fleet: FleetName,
        replicas: Option<u32>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let replicas = replicas.map(i64::from);
        let set =
            self.core().run(async |it| it.execute(REPLICAS, args![fleet.as_str(), replicas, now.0]).await);
        Ok(set.await? > 0)
    }

    pub(crate) async fn set_paused(
        &self,
        fleet: FleetName,
        paused: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let args = args![fleet.as_str(), paused, now.0];
        let set = self.core().run(async |it| it.execute(PAUSE, args).await).await?;
        self.core().fire(Wakes::from([Topic::Runnable(fleet.clone())]));
        Ok(set > 0)
    }

    pub(crate) async fn record_decision(
        &self,
        fleet: FleetName,
        decision: DecisionRecord,
        of: Epoch,
    ) -> Result<(), StoreError> {
        let it = &decision;
        let done = self.core().run(async |connection| {
            let (from, to) = (i64::from(it.from), i64::from(it.to));
            let inputs = it.inputs.text();
            let args = args![fleet.as_str(), it.at.0, from, to, it.kind, it.reason, inputs, epoch(of)];
            let Some(row) = connection.query_opt(DECIDED, args).await? else { return Ok(()) };
            let newest: i64 = row.try_get(0)?;
            connection.execute(FORGET, args![fleet.as_str(), newest - DECISIONS]).await.map(drop)
        });
        Ok(done.await?)
    }

    pub(crate) async fn decisions(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<DecisionRecord>, StoreError> {
        let limit = int(limit as u64);
        let rows = self.core().run(async |it| it.query(NEWEST, args![fleet.as_str(), limit]).await).await?;
        let decision = |row: &Row| {
            Ok::<_, DbError>(DecisionRecord {
                at: get(row, 0)?,
                from: count(row, 1)?,
                to: count(row, 2)?,
                kind: get(row, 3)?,
                reason: get(row, 4)?,
                inputs: get(row, 5)?,
            })
        };
        Ok(rows.iter().map(decision).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn load(&self, fleet: FleetName, now: Timestamp) -> Result<Load, StoreError> {
        Ok(self.core().run(async |it| load(&it, &fleet, now).await).await?)
    }

    pub(crate) async fn counts(&self) -> Result<Vec<FleetCounts>, StoreError> {
        let rows = self.core().run(async |it| it.query(COUNTS, args![]).await).await?;
        Ok(rows.iter().map(counts).collect::<Result<_, _>>()?)
    }
}

async fn load(connection: &Connection, fleet: &FleetName, now: Timestamp) -> Result<Load, DbError> {
    let name = fleet.as_str();
    let (row, defaults, capped) = futures_util::try_join!(
        async { connection.query_opt(LOAD, args![name]).await },
        async { connection.query(lane::DEFAULTS, args![vec![name]]).await },
        async { connection.query(CAPPED, args![name]).await },
    )?;
    // Never declared: nothing can be there.
    let Some(row) = row else { return Ok(Load::default()) };
    let ready: u64 = count(&row, 0)?;
    let load = Load {
        running: count(&row, 1)?,
        delayed: count(&row, 2)?,
        held: count(&row, 3)?,
        waiting: count(&row, 4)?,
        ..Load::default()
    };
    let (caps, full_at) = lane::read_gate(&row, 5)?;
    let (mut over, mut full) = (0u64, Vec::new());
    for row in defaults.iter().chain(&capped) {
        let (runnable, running) = lane::read_running(row)?;
        let room = caps.tenant_room(running);
        over += runnable.saturating_sub(room);
        if room == 0 {
            full.push(get(row, 1)?);
        }
    }
    let room = caps.room(load.running, full_at, now);
    let Ready { runnable, capped, paused } = cap::split(ready, ready.saturating_sub(over), room, caps.paused);
    let oldest_runnable_since = match runnable {
        0 => None,
        _ => oldest(connection, fleet, &full).await?,
    };
    Ok(Load { runnable, capped, paused, oldest_runnable_since, ..load })
}

/// Since when the oldest task waits, but for those of these tenants.
async fn oldest(
    connection: &Connection,
    fleet: &FleetName,
    but: &[TenantName],
) -> Result<Option<Timestamp>, DbError> {
    let but: Vec<&str> = but.iter().map(TenantName::as_str).collect();
    get_option(&connection.query_one(OLDEST, args![fleet.as_str(), but]).await?, 0)
}

async fn all(connection: &Connection) -> Result<Vec<FleetRecord>, DbError> {
    connection.query(ALL, args![]).await?.iter().map(read).collect()
}

pub(super) async fn find(connection: &Connection, name: &FleetName) -> Result<Option<FleetRecord>, DbError> {
    connection.query_opt(ONE, args![name.as_str()]).await?.as_ref().map(read).transpose()
}

/// Makes a change; returns the release that its workers are to run.
async fn apply(
    connection: &Connection,
    change: &FleetChange,
    record: Option<&FleetRecord>,
    now: Timestamp,
) -> Result<u64, DbError> {
    let Some(declaration) = change.after.as_ref().filter(|_| change.kind != FleetChangeKind::Unchanged)
    else {
        declare(connection, change, change.release, now).await?;
        if change.kind == FleetChangeKind::Removed {
            rollout::drop_open(connection, &change.name, now).await?;
        }
        return Ok(change.release);
    };
    let Some(record) = record else {
        let release = rollout::first(connection, declaration, now).await?;
        declare(connection, change, release, now).await?;
        return Ok(release);
    };
    declare(connection, change, record.release, now).await?;
    if !change.restarts {
        return Ok(record.release);
    }
    let new = NewRelease { declaration: declaration.clone(), commit: None, supersede: true };
    let record = FleetRecord { declaration: declaration.clone(), ..record.clone() };
    Ok(match rollout::wish(connection, &record, Wished::New(&new), true, now).await? {
        Deployed::Begun(rollout) | Deployed::UnderWay(rollout) => rollout.plan.heads_for(),
        _ => record.release,
    })
}

async fn declare(
    connection: &Connection,
    change: &FleetChange,
    release: u64,
    now: Timestamp,
) -> Result<(), DbError> {
    let name = change.name.as_str();
    match (&change.after, change.kind) {
        (_, FleetChangeKind::Unchanged) => Ok(()),
        (Some(declaration), _) => {
            let (text, release) = (Json::of(declaration), int(release));
            let (fleet, tenants) = (declaration.max_running, declaration.tenants.max_running);
            let [fleet, tenants] = [fleet, tenants].map(|most| most.map(i64::from));
            let tasks = declaration.rate.map(|rate| i64::from(rate.tasks));
            let per = declaration.rate.map(|rate| int(rate.per_ms));
            connection.execute(PUT, args![name, text.text(), release, now.0]).await?;
            let pins = declaration.rollout.pin_release;
            connection.execute(PUT_GATE, args![name, fleet, tenants, tasks, per, pins]).await.map(drop)
        }
        (None, _) => connection.execute(REMOVE, args![name, now.0]).await.map(drop),
    }
}

fn read(row: &Row) -> Result<FleetRecord, DbError> {
    Ok(FleetRecord {
        name: get(row, 0)?,
        declaration: document(row, 1)?,
        release: count(row, 2)?,
        active: row.try_get(3)?,
        replicas: count_option(row, 4)?,
        changed_at: get(row, 5)?,
        paused: row.try_get(6)?,
    })
}

fn counts(row: &Row) -> Result<FleetCounts, DbError> {
    Ok(FleetCounts {
        fleet: get(row, 0)?,
        runnable: count(row, 1)?,
        delayed: count(row, 2)?,
        held: count(row, 3)?,
        running: count(row, 4)?,
        waiting: count(row, 5)?,
        succeeded: count(row, 6)?,
        failed: count(row, 7)?,
        cancelled: count(row, 8)?,
    })
}
