//! Fleets: declarations, counts, the scaler's decisions.

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::column::{count, get, get_option, int};
use super::writer::Write;
use crate::error::StoreError;
use crate::model::{
    DecisionRecord, Epoch, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load, fleet_changes,
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
            let changes = fleet_changes(&all(write.connection)?, &fleets);
            for change in &changes {
                apply(write, change, now)?;
            }
            Ok(changes)
        })
        .await
    }

    pub(crate) async fn fleets(&self) -> Result<Vec<FleetRecord>, StoreError> {
        self.read(|connection| Ok(all(connection)?)).await
    }

    pub(crate) async fn fleet(&self, name: FleetName) -> Result<Option<FleetRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("SELECT {COLUMNS} FROM fleet WHERE name = ?1");
            Ok(connection.prepare_cached(&select)?.query_row([name.as_str()], read).optional()?)
        })
        .await
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

    pub(crate) async fn load(&self, fleet: FleetName) -> Result<Load, StoreError> {
        self.read(move |connection| Ok(load(connection, &fleet)?)).await
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

const COLUMNS: &str = "name, declaration, generation, active, replicas, changed_at";

fn read(row: &Row<'_>) -> rusqlite::Result<FleetRecord> {
    let declaration: Json = get(row, 1)?;
    let declaration = declaration.read().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(FleetRecord {
        name: get(row, 0)?,
        declaration,
        generation: count(row, 2)?,
        active: row.get(3)?,
        replicas: row.get(4)?,
        changed_at: get_option(row, 5)?.unwrap_or_default(),
    })
}

fn all(connection: &Connection) -> rusqlite::Result<Vec<FleetRecord>> {
    let mut select = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM fleet ORDER BY name"))?;
    select.query_map([], read)?.collect()
}

fn apply(write: &Write<'_>, change: &FleetChange, now: Timestamp) -> rusqlite::Result<()> {
    match (&change.after, change.kind) {
        (_, FleetChangeKind::Unchanged) => Ok(()),
        (Some(declaration), _) => write
            .connection
            .prepare_cached(
                "INSERT INTO fleet (name, declaration, generation, active, changed_at) VALUES (?1, ?2, ?3, 1, ?4)
                 ON CONFLICT (name) DO UPDATE SET declaration = ?2, generation = ?3, active = 1, changed_at = ?4",
            )?
            .execute(params![
                change.name.as_str(),
                Json::of(declaration).text(),
                int(change.generation),
                now.0
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

fn load(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<Load> {
    let load = connection
        .prepare_cached(
            "SELECT runnable, (SELECT min(since) FROM runnable WHERE fleet = ?1), running, delayed, held
             FROM fleet_count WHERE fleet = ?1",
        )?
        .query_row([fleet.as_str()], |row| {
            Ok(Load {
                runnable: count(row, 0)?,
                oldest_runnable_since: get_option(row, 1)?,
                running: count(row, 2)?,
                delayed: count(row, 3)?,
                held: count(row, 4)?,
            })
        })
        .optional()?;
    // A fleet that never had a task has no row.
    Ok(load.unwrap_or_default())
}
