//! Tasks that must finish on the release they began on: which of them a worker may take, and until when they must.

use std::collections::BTreeMap;

use longshore_core::id::FleetName;
use longshore_core::rollout::{Plan, Release};
use rusqlite::{Connection, OptionalExtension, params};

use super::Embedded;
use super::column::{count, int};
use super::writer::Write;
use crate::error::StoreError;

/// What a worker of a fleet whose tasks are pinned may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    /// Tasks that are pinned to its release.
    pub release: Release,
    /// And those that are pinned to none yet.
    pub fresh: bool,
}

impl Pin {
    /// `None`: whatever there is.
    pub(super) fn of(
        connection: &Connection,
        fleet: &FleetName,
        release: Release,
    ) -> rusqlite::Result<Option<Pin>> {
        let retiring: Option<Option<i64>> = connection
            .prepare_cached("SELECT retiring FROM fleet WHERE name = ?1 AND pin_release")?
            .query_row([fleet.as_str()], |row| row.get(0))
            .optional()?;
        Ok(retiring.map(|retiring| Pin { release, fresh: retiring != Some(int(release)) }))
    }

    /// Whether it may take this very task.
    pub(super) fn lets(self, connection: &Connection, ord: i64) -> rusqlite::Result<bool> {
        let pinned: Option<i64> = connection
            .prepare_cached("SELECT pinned FROM task WHERE ord = ?1")?
            .query_row([ord], |row| row.get(0))?;
        Ok(pinned.map_or(self.fresh, |pinned| pinned == int(self.release)))
    }

    /// The task has to finish here.
    pub(super) fn hold(self, write: &Write<'_>, ord: i64) -> rusqlite::Result<()> {
        write
            .connection
            .prepare_cached("UPDATE task SET pinned = ?2 WHERE ord = ?1 AND pinned IS NULL")?
            .execute(params![ord, int(self.release)])
            .map(drop)
    }
}

/// What a plan means for tasks that are pinned, and for workers that are there for nothing else.
pub(super) fn follow(write: &mut Write<'_>, fleet: &FleetName, plan: &Plan) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("UPDATE fleet SET retiring = ?2 WHERE name = ?1 AND retiring IS NOT ?2")?
        .execute(params![fleet.as_str(), plan.retiring().map(int)])?;
    let Some(to) = plan.unpins() else { return Ok(()) };
    let unpinned = write
        .connection
        .prepare_cached(
            "UPDATE task SET pinned = NULL
             WHERE fleet = ?1 AND pinned IS NOT NULL AND pinned != ?2 AND finished_at IS NULL",
        )?
        .execute(params![fleet.as_str(), int(to)])?;
    if unpinned > 0 {
        write.wake_fleet(fleet);
    }
    Ok(())
}

impl Embedded {
    pub(crate) async fn pinned(&self, fleet: FleetName) -> Result<BTreeMap<Release, u64>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT pinned, count(*) FROM task
                 WHERE fleet = ?1 AND pinned IS NOT NULL AND finished_at IS NULL GROUP BY pinned",
            )?;
            let rows = select.query_map([fleet.as_str()], |row| Ok((count(row, 0)?, count(row, 1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}
