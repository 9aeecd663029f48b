//! Steps: pieces of an agent's work that run once, their results remembered for the task.

use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;

use super::Shared;
use super::column::{count, get, get_option};
use super::connection::Connection;
use super::fault::DbError;
use super::journal::valid_lease;
use super::sql::args;
use crate::error::CallError;
use crate::model::{StepBegun, StepRecord};

const BEGIN: &str = "INSERT INTO @step AS s (task, name, begun, begun_at) VALUES ($1, $2, 1, $3)
     ON CONFLICT (task, name) DO UPDATE SET begun = s.begun + CASE WHEN s.result IS NULL THEN 1 ELSE 0 END
     RETURNING result, begun";
const END: &str =
    "INSERT INTO @step AS s (task, name, begun, begun_at, ended_at, result) VALUES ($1, $2, 1, $3, $3, $4)
     ON CONFLICT (task, name) DO UPDATE SET ended_at = coalesce(s.ended_at, excluded.ended_at),
        result = coalesce(s.result, excluded.result)
     RETURNING result";
const ALL: &str =
    "SELECT name, begun, begun_at, ended_at, result FROM @step WHERE task = $1 ORDER BY begun_at, name";

impl Shared {
    pub(crate) async fn begin_step(
        &self,
        held: Held,
        fleet: FleetName,
        name: String,
        now: Timestamp,
    ) -> Result<StepBegun, CallError> {
        let begun = self.core().run(async |it| {
            it.begin().await?;
            if let Err(refused) = valid_lease(&it, held, &fleet).await? {
                it.roll_back().await;
                return Ok(Err(refused));
            }
            let row = it.query_one(BEGIN, args![held.task.0, name, now.0]).await?;
            let (result, begun): (Option<Json>, u32) = (get_option(&row, 0)?, count(&row, 1)?);
            it.commit().await?;
            Ok(Ok(result.map_or(StepBegun::Run { begun }, StepBegun::Done)))
        });
        begun.await?
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
        let ended = self.core().run(async |it| {
            it.begin().await?;
            if let Err(refused) = valid_lease(&it, held, &fleet).await? {
                it.roll_back().await;
                return Ok(Err(refused));
            }
            let row = it.query_one(END, args![held.task.0, name, now.0, result.text()]).await?;
            let result = get(&row, 0)?;
            it.commit().await?;
            Ok(Ok(result))
        });
        ended.await?
    }
}

pub(super) async fn all(connection: &Connection, task: TaskId) -> Result<Vec<StepRecord>, DbError> {
    let rows = connection.query(ALL, args![task.0]).await?;
    rows.iter()
        .map(|row| {
            Ok(StepRecord {
                name: get(row, 0)?,
                begun: count(row, 1)?,
                begun_at: get(row, 2)?,
                ended_at: get_option(row, 3)?,
                result: get_option(row, 4)?,
            })
        })
        .collect()
}
