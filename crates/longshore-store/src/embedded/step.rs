//! Steps: pieces of an agent's work that run once, their results remembered for the task.

use longshore_core::id::{FleetName, Held};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, params};

use super::Embedded;
use super::column::{count, get, get_option};
use super::journal::begin::valid_lease;
use super::writer::Write;
use crate::error::CallError;
use crate::model::{StepBegun, StepRecord};

impl Embedded {
    pub(crate) async fn begin_step(
        &self,
        held: Held,
        fleet: FleetName,
        name: String,
        now: Timestamp,
    ) -> Result<StepBegun, CallError> {
        self.write(move |write| {
            let ord = valid_lease(write, held, &fleet)?.ord;
            Ok(begin(write, ord, &name, now)?)
        })
        .await
    }

    /// The first result stays: it is what comes back, whichever was given.
    pub(crate) async fn end_step(
        &self,
        held: Held,
        fleet: FleetName,
        name: String,
        result: Json,
        now: Timestamp,
    ) -> Result<Json, CallError> {
        self.write(move |write| {
            let ord = valid_lease(write, held, &fleet)?.ord;
            Ok(end(write, ord, &name, &result, now)?)
        })
        .await
    }
}

fn begin(write: &Write<'_>, ord: i64, name: &str, now: Timestamp) -> rusqlite::Result<StepBegun> {
    let (result, begun): (Option<Json>, u32) = write
        .connection
        .prepare_cached(
            "INSERT INTO step (ord, name, begun, begun_at) VALUES (?1, ?2, 1, ?3)
             ON CONFLICT DO UPDATE SET begun = begun + (result IS NULL) RETURNING result, begun",
        )?
        .query_row(params![ord, name, now.0], |row| Ok((get_option(row, 0)?, count(row, 1)?)))?;
    Ok(result.map_or(StepBegun::Run { begun }, StepBegun::Done))
}

fn end(write: &Write<'_>, ord: i64, name: &str, result: &Json, now: Timestamp) -> rusqlite::Result<Json> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO step (ord, name, begun, begun_at, ended_at, result) VALUES (?1, ?2, 1, ?3, ?3, ?4)
             ON CONFLICT DO UPDATE SET ended_at = coalesce(ended_at, excluded.ended_at),
                result = coalesce(result, excluded.result) RETURNING result",
        )?
        .query_row(params![ord, name, now.0, result.text()], |row| get(row, 0))
}

pub(super) fn all(connection: &Connection, ord: i64) -> rusqlite::Result<Vec<StepRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT name, begun, begun_at, ended_at, result FROM step WHERE ord = ?1 ORDER BY begun_at, name",
    )?;
    let rows = select.query_map([ord], |row| {
        Ok(StepRecord {
            name: row.get(0)?,
            begun: count(row, 1)?,
            begun_at: get(row, 2)?,
            ended_at: get_option(row, 3)?,
            result: get_option(row, 4)?,
        })
    })?;
    rows.collect()
}
