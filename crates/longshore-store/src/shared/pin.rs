//! Tasks that must finish on the release they began on: which of them a worker may take, and until when they must.

use std::collections::{BTreeMap, HashMap};

use longshore_core::id::FleetName;
use longshore_core::rollout::{Plan, Release};
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, get, int};
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;

/// What a worker of a fleet whose tasks are pinned may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// Tasks that are pinned to its release.
    pub release: i64,
    /// And those that are pinned to none yet.
    pub fresh: bool,
}

/// Fleets whose tasks are pinned, each with the release that takes nothing new.
pub(super) type Pins = HashMap<FleetName, Option<i64>>;

/// What workers of this release of this fleet may take; `None`: whatever there is.
pub(super) fn of(pins: &Pins, fleet: &FleetName, release: Option<i64>) -> Option<Pin> {
    let (retiring, release) = (pins.get(fleet)?, release?);
    Some(Pin { release, fresh: *retiring != Some(release) })
}

const PINS: &str = "SELECT fleet, retiring FROM @gate
     WHERE pin_release AND fleet IN (SELECT fleet FROM @worker WHERE id = ANY($1))";

/// Of the fleets of some workers.
pub(super) async fn pins(connection: &Connection, workers: &[&str]) -> Result<Pins, DbError> {
    let workers = workers.to_vec();
    let rows = connection.query(PINS, args![workers]).await?;
    rows.iter().map(|row: &Row| Ok((get(row, 0)?, row.try_get(1)?))).collect()
}

const RETIRE: &str =
    "UPDATE @gate SET retiring = $2 WHERE fleet = $1 AND retiring IS DISTINCT FROM $2::bigint";
/// Tasks in order, so that no two transactions wait crosswise.
const UNPIN: &str = "UPDATE @live SET pinned = NULL WHERE id IN
        (SELECT id FROM @live WHERE fleet = $1 AND pinned IS NOT NULL AND pinned <> $2 ORDER BY id FOR UPDATE)";
const PINNED: &str =
    "SELECT pinned, count(*) FROM @live WHERE fleet = $1 AND pinned IS NOT NULL GROUP BY pinned";

/// What a plan means for workers that are there for nothing but pinned tasks.
pub(super) async fn follow(connection: &Connection, fleet: &FleetName, plan: &Plan) -> Result<(), DbError> {
    let retiring = plan.retiring().map(int);
    connection.execute(RETIRE, args![fleet.as_str(), retiring]).await?;
    if let Some(to) = plan.unpins() {
        connection.execute(UNPIN, args![fleet.as_str(), int(to)]).await?;
    }
    Ok(())
}

impl Shared {
    pub(crate) async fn pinned(&self, fleet: FleetName) -> Result<BTreeMap<Release, u64>, StoreError> {
        let rows = self.core().run(async |it| it.query(PINNED, args![fleet.as_str()]).await).await?;
        let pinned = rows.iter().map(|row| Ok::<_, DbError>((count(row, 0)?, count(row, 1)?)));
        Ok(pinned.collect::<Result<_, _>>()?)
    }
}
