//! Fleets: declarations, counts, the scaler's decisions.

use longshore_core::cap::{self, Ready};
use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::column::{count, document, get, get_option, int};
use super::lane::{self, Gate};
use super::rollout::{self, Wished};
use super::writer::Write;
use crate::error::StoreError;
use crate::model::{
    DecisionRecord, Deployed, Epoch, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load,
    NewRelease, fleet_changes,
};

/// Decisions kept of each fleet.
const DECISIONS: i64 = 200;

impl Embedded {
    pub(crate) async fn put_fleets(
        &self,
        fleets: Vec<Fleet>,
        now: Timestamp,
    ) -> Result<Vec<FleetChange>, StoreError> {
        self.write(move |write| {
            let records = all(write.connection)?;
            let mut changes = fleet_changes(&records, &fleets);
            for change in &mut changes {
                let record = records.iter().find(|record| record.name == change.name);
                change.release = apply(write, change, record, now)?;
                // Under other caps others may start.
                write.wake_fleet(&change.name);
            }
            write.caps_changed()?;
            Ok(changes)
        })
        .await
    }

    pub(crate) async fn fleets(&self) -> Result<Vec<FleetRecord>, StoreError> {
        self.read(|connection| Ok(all(connection)?)).await
    }

    pub(crate) async fn fleet(&self, name: FleetName) -> Result<Option<FleetRecord>, StoreError> {
        self.read(move |connection| Ok(find(connection, &name)?)).await
    }

    pub(crate) async fn set_replicas(
        &self,
        fleet: FleetName,
        replicas: Option<u32>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |write| {
            let update = "UPDATE fleet SET replicas = ?2, changed_at = ?3 WHERE name = ?1";
            let update =
                write.connection.prepare_cached(update)?.execute(params![fleet.as_str(), replicas, now.0])?;
            Ok(update > 0)
        })
        .await
    }

    pub(crate) async fn set_paused(
        &self,
        fleet: FleetName,
        paused: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write(move |write| {
            let update = "UPDATE fleet SET paused = ?2, changed_at = ?3 WHERE name = ?1";
            let update =
                write.connection.prepare_cached(update)?.execute(params![fleet.as_str(), paused, now.0])?;
            write.wake_fleet(&fleet);
            Ok(update > 0)
        })
        .await
    }

    pub(crate) async fn record_decision(
        &self,
        fleet: FleetName,
        decision: DecisionRecord,
        _epoch: Epoch,
    ) -> Result<(), StoreError> {
        self.write(move |write| Ok(record(write, &fleet, &decision)?)).await
    }

    pub(crate) async fn decisions(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<DecisionRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT at, from_n, to_n, kind, reason, inputs FROM decision WHERE fleet = ?1 ORDER BY seq DESC LIMIT ?2",
            )?;
            let rows = select.query_map(params![fleet.as_str(), int(limit as u64)], |row| {
                Ok(DecisionRecord {
                    at: get(row, 0)?,
                    from: count(row, 1)?,
                    to: count(row, 2)?,
                    kind: row.get(3)?,
                    reason: row.get(4)?,
                    inputs: get(row, 5)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn load(&self, fleet: FleetName, now: Timestamp) -> Result<Load, StoreError> {
        self.read(move |connection| Ok(load(connection, &fleet, now)?)).await
    }

    pub(crate) async fn counts(&self) -> Result<Vec<FleetCounts>, StoreError> {
        self.read(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT name, coalesce(runnable, 0), coalesce(delayed, 0), coalesce(held, 0), coalesce(running, 0),
                    coalesce(waiting, 0), coalesce(succeeded, 0), coalesce(failed, 0), coalesce(cancelled, 0)
                 FROM fleet LEFT JOIN fleet_count ON fleet = name ORDER BY name",
            )?;
            let rows = select.query_map([], |row| {
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
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

pub(super) fn find(connection: &Connection, name: &FleetName) -> rusqlite::Result<Option<FleetRecord>> {
    let select = format!("SELECT {COLUMNS} FROM fleet WHERE name = ?1");
    connection.prepare_cached(&select)?.query_row([name.as_str()], read).optional()
}

const COLUMNS: &str = "name, declaration, release, active, replicas, changed_at, paused";

fn read(row: &Row<'_>) -> rusqlite::Result<FleetRecord> {
    Ok(FleetRecord {
        name: get(row, 0)?,
        declaration: document(row, 1)?,
        release: count(row, 2)?,
        active: row.get(3)?,
        replicas: row.get(4)?,
        changed_at: get_option(row, 5)?.unwrap_or_default(),
        paused: row.get(6)?,
    })
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<FleetRecord>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM fleet ORDER BY name"))?;
    select.query_map([], read)?.collect()
}

/// Makes a change; returns the release that its workers are to run.
fn apply(
    write: &mut Write<'_>,
    change: &FleetChange,
    record: Option<&FleetRecord>,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    let Some(declaration) = change.after.as_ref().filter(|_| change.kind != FleetChangeKind::Unchanged)
    else {
        declare(write, change, change.release, now)?;
        if change.kind == FleetChangeKind::Removed {
            rollout::drop_open(write, &change.name, now)?;
        }
        return Ok(change.release);
    };
    let Some(record) = record else {
        let release = rollout::first(write, declaration, now)?;
        declare(write, change, release, now)?;
        return Ok(release);
    };
    declare(write, change, record.release, now)?;
    if !change.restarts {
        return Ok(record.release);
    }
    let new = NewRelease { declaration: declaration.clone(), commit: None, supersede: true };
    let record = FleetRecord { declaration: declaration.clone(), ..record.clone() };
    Ok(match rollout::wish(write, &record, Wished::New(&new), true, now)? {
        Deployed::Begun(rollout) | Deployed::UnderWay(rollout) => rollout.plan.heads_for(),
        _ => record.release,
    })
}

fn declare(write: &Write<'_>, change: &FleetChange, release: u64, now: Timestamp) -> rusqlite::Result<()> {
    match (&change.after, change.kind) {
        (_, FleetChangeKind::Unchanged) => Ok(()),
        (Some(declaration), _) => write
            .connection
            .prepare_cached(
                "INSERT INTO fleet (name, declaration, release, active, changed_at, max_running, tenant_max_running,
                    rate_tasks, rate_per_ms, pin_release)
                 VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (name) DO UPDATE SET declaration = ?2, active = 1, changed_at = ?4,
                    max_running = ?5, tenant_max_running = ?6, rate_tasks = ?7, rate_per_ms = ?8, pin_release = ?9",
            )?
            .execute(params![
                change.name.as_str(),
                Json::of(declaration).text(),
                int(release),
                now.0,
                declaration.max_running,
                declaration.tenants.max_running,
                declaration.rate.map(|rate| rate.tasks),
                declaration.rate.map(|rate| int(rate.per_ms)),
                declaration.rollout.pin_release,
            ])
            .map(drop),
        (None, _) => write
            .connection
            .prepare_cached("UPDATE fleet SET active = 0, changed_at = ?2 WHERE name = ?1")?
            .execute(params![change.name.as_str(), now.0])
            .map(drop),
    }
}

fn record(write: &Write<'_>, fleet: &FleetName, it: &DecisionRecord) -> rusqlite::Result<()> {
    let seq: i64 = write
        .connection
        .prepare_cached(
            "INSERT INTO decision (fleet, seq, at, from_n, to_n, kind, reason, inputs)
             SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3, ?4, ?5, ?6, ?7 FROM decision WHERE fleet = ?1
             RETURNING seq",
        )?
        .query_row(
            params![fleet.as_str(), it.at.0, it.from, it.to, it.kind, it.reason, it.inputs.text()],
            |row| row.get(0),
        )?;
    write
        .connection
        .prepare_cached("DELETE FROM decision WHERE fleet = ?1 AND seq <= ?2")?
        .execute(params![fleet.as_str(), seq - DECISIONS])
        .map(drop)
}

fn load(connection: &Connection, fleet: &FleetName, now: Timestamp) -> rusqlite::Result<Load> {
    // One snapshot for all questions.
    let snapshot = connection.unchecked_transaction()?;
    let counted = snapshot
        .prepare_cached("SELECT runnable, running, delayed, held, waiting FROM fleet_count WHERE fleet = ?1")?
        .query_row([fleet.as_str()], |row| {
            let load = Load {
                running: count(row, 1)?,
                delayed: count(row, 2)?,
                held: count(row, 3)?,
                waiting: count(row, 4)?,
                ..Load::default()
            };
            Ok((count(row, 0)?, load))
        })
        .optional()?;
    // A fleet that never had a task has no row.
    let Some((ready, load)) = counted else { return Ok(Load::default()) };
    let gate = Gate::read(&snapshot, fleet)?;
    let within = lane::within_tenants(&snapshot, fleet, &gate.caps, ready)?;
    let Ready { runnable, capped, paused } = cap::split(ready, within, gate.room(now), gate.caps.paused);
    let oldest_runnable_since = match (runnable, within == ready) {
        (0, _) => None,
        (_, true) => oldest(&snapshot, fleet)?,
        (_, false) => lane::oldest_within_tenants(&snapshot, fleet, &gate.caps)?,
    };
    Ok(Load { runnable, capped, paused, oldest_runnable_since, ..load })
}

fn oldest(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<Option<Timestamp>> {
    connection
        .prepare_cached("SELECT min(since) FROM runnable WHERE fleet = ?1")?
        .query_row([fleet.as_str()], |row| get_option(row, 0))
}
