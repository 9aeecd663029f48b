//! Releases and rollouts: what a fleet's workers run, and how one release takes the place of another.

use std::collections::BTreeMap;

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::rollout::{Order, Plan, Release, Sample};
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Embedded;
use super::column::{count, document, get, get_option, int};
use super::writer::Write;
use super::{fleet, pin};
use crate::error::StoreError;
use crate::model::{
    Deployed, Epoch, FleetRecord, Means, NewRelease, Ordered, ROLLOUTS, ReleaseRecord, RolloutRecord, Stand,
};

impl Embedded {
    pub(crate) async fn deploy(
        &self,
        fleet: FleetName,
        release: NewRelease,
        now: Timestamp,
    ) -> Result<Deployed, StoreError> {
        self.write(move |write| {
            let Some(record) = fleet::find(write.connection, &fleet)? else {
                return Ok(Deployed::UnknownFleet);
            };
            let supersede = release.supersede;
            Ok(wish(write, &record, Wished::New(&release), supersede, now)?)
        })
        .await
    }

    pub(crate) async fn undo_rollout(
        &self,
        fleet: FleetName,
        to: Option<Release>,
        reason: String,
        now: Timestamp,
    ) -> Result<Deployed, StoreError> {
        self.write(move |write| Ok(undo(write, &fleet, to, reason, now)?)).await
    }

    pub(crate) async fn order_rollout(
        &self,
        fleet: FleetName,
        order: Order,
        now: Timestamp,
    ) -> Result<Ordered, StoreError> {
        self.write(move |write| {
            let Some(open) = open(write.connection, &fleet)? else { return Ok(Ordered::None) };
            Ok(match obey(write, open, order, now)? {
                Ok(record) => Ordered::Obeyed(record),
                Err((record, refused)) => Ordered::Refused(record, refused),
            })
        })
        .await
    }

    pub(crate) async fn save_rollout(
        &self,
        rollout: RolloutRecord,
        _epoch: Epoch,
        now: Timestamp,
    ) -> Result<Option<RolloutRecord>, StoreError> {
        self.write(move |write| Ok(save(write, rollout, now)?)).await
    }

    pub(crate) async fn open_rollouts(&self) -> Result<Vec<RolloutRecord>, StoreError> {
        self.read(|connection| {
            let select = format!("SELECT {COLUMNS} FROM rollout WHERE ended_at IS NULL ORDER BY fleet");
            let mut select = connection.prepare_cached(&select)?;
            Ok(select.query_map([], read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn rollouts(
        &self,
        fleet: Option<FleetName>,
        limit: usize,
    ) -> Result<Vec<RolloutRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS} FROM rollout WHERE ?1 IS NULL OR fleet = ?1
                 ORDER BY started_at DESC, fleet, number DESC LIMIT ?2"
            );
            let fleet = fleet.as_ref().map(FleetName::as_str);
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map(params![fleet, int(limit as u64)], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn outcomes(&self, fleet: FleetName) -> Result<BTreeMap<Release, Sample>, StoreError> {
        self.read(move |connection| Ok(samples(connection, &fleet)?)).await
    }

    pub(crate) async fn releases(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<ReleaseRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!("{RELEASE} WHERE r.fleet = ?1 ORDER BY number DESC LIMIT ?2");
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map(params![fleet.as_str(), int(limit as u64)], read_release)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn release(
        &self,
        fleet: FleetName,
        number: Release,
    ) -> Result<Option<ReleaseRecord>, StoreError> {
        self.read(move |connection| Ok(release(connection, &fleet, number)?)).await
    }
}

/// What somebody wants a fleet to run.
pub(super) enum Wished<'a> {
    New(&'a NewRelease),
    Known(&'a ReleaseRecord),
}

/// Begins a rollout, if there is anything to roll out; one that is under way gives way where that is allowed.
pub(super) fn wish(
    write: &mut Write<'_>,
    record: &FleetRecord,
    wished: Wished<'_>,
    supersede: bool,
    now: Timestamp,
) -> rusqlite::Result<Deployed> {
    let stand = stand(write, record)?;
    let next = match &wished {
        Wished::New(new) => new.declaration.clone(),
        Wished::Known(known) => record.declaration.running(&known.declaration),
    };
    let means = stand.means(&next);
    match (means, stand.open.clone()) {
        (Means::Nothing, Some(open)) => return Ok(Deployed::UnderWay(open)),
        (Means::Nothing, None) => return Ok(Deployed::Runs(stand.target.0)),
        (_, Some(open)) if !supersede => return Ok(Deployed::Busy(open)),
        (Means::Back, Some(open)) => {
            let reason = format!("release {} was asked for again", stand.serving.0);
            return Ok(match obey(write, open, Order::Undo { reason }, now)? {
                Ok(open) => Deployed::UnderWay(open),
                Err((open, refused)) => Deployed::Refused(open, refused),
            });
        }
        (_, Some(open)) => {
            let by = "another release was asked for".into();
            if let Err((open, refused)) = obey(write, open, Order::Supersede { by }, now)? {
                return Ok(Deployed::Refused(open, refused));
            }
        }
        (_, None) => {}
    }
    let to = match &wished {
        Wished::New(new) => insert_release(write, &record.name, new, now)?,
        Wished::Known(known) => known.number,
    };
    let number = next_number(write.connection, &record.name)?;
    let rollout = stand.begin(&record.name, (number, to), &next, means, now);
    insert(write, &rollout)?;
    serve(write, &record.name, rollout.plan.serving())?;
    pin::follow(write, &record.name, &rollout.plan)?;
    Ok(Deployed::Begun(rollout))
}

fn undo(
    write: &mut Write<'_>,
    fleet: &FleetName,
    to: Option<Release>,
    reason: String,
    now: Timestamp,
) -> rusqlite::Result<Deployed> {
    let Some(record) = fleet::find(write.connection, fleet)? else { return Ok(Deployed::UnknownFleet) };
    let open = open(write.connection, fleet)?;
    if let Some(open) = open.filter(|open| to.is_none_or(|to| to == open.plan.from)) {
        match obey(write, open, Order::Undo { reason }, now)? {
            Ok(open) => return Ok(Deployed::Begun(open)),
            Err((_, longshore_core::rollout::Refused::Finishing)) => {}
            Err((open, refused)) => return Ok(Deployed::Refused(open, refused)),
        }
    }
    let to = match to {
        Some(to) => to,
        None => match before(write.connection, fleet, record.release)? {
            Some(before) => before,
            None => return Ok(Deployed::NoHistory),
        },
    };
    match release(write.connection, fleet, to)? {
        Some(known) => wish(write, &record, Wished::Known(&known), true, now),
        None => Ok(Deployed::UnknownRelease(to)),
    }
}

/// The release that the fleet ran before the one that it runs now.
fn before(connection: &Connection, fleet: &FleetName, now: Release) -> rusqlite::Result<Option<Release>> {
    let mut select = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM rollout WHERE fleet = ?1 ORDER BY number DESC"))?;
    let mut rows = select.query([fleet.as_str()])?;
    while let Some(row) = rows.next()? {
        let plan = read(row)?.plan;
        if plan.serving() == now && plan.to == now && plan.from != now {
            return Ok(Some(plan.from));
        }
    }
    Ok(None)
}

/// A fleet that is not declared any more has nothing to roll out.
pub(super) fn drop_open(write: &mut Write<'_>, fleet: &FleetName, now: Timestamp) -> rusqlite::Result<()> {
    if let Some(open) = open(write.connection, fleet)? {
        let by = "the fleet is not declared any more".into();
        let _ = obey(write, open, Order::Supersede { by }, now)?;
    }
    Ok(())
}

type Obeyed = Result<RolloutRecord, (RolloutRecord, longshore_core::rollout::Refused)>;

fn obey(
    write: &mut Write<'_>,
    mut open: RolloutRecord,
    order: Order,
    now: Timestamp,
) -> rusqlite::Result<Obeyed> {
    if let Err(refused) = open.plan.order(order) {
        return Ok(Err((open, refused)));
    }
    let saved = save(write, open.clone(), now)?;
    Ok(Ok(saved.unwrap_or(open)))
}

/// Writes a plan if nobody has written another one since it was read.
fn save(
    write: &mut Write<'_>,
    mut it: RolloutRecord,
    now: Timestamp,
) -> rusqlite::Result<Option<RolloutRecord>> {
    it.ended_at = it.plan.has_ended().then_some(now);
    let saved = write
        .connection
        .prepare_cached(
            "UPDATE rollout SET plan = ?4, ended_at = ?5, version = version + 1
             WHERE fleet = ?1 AND number = ?2 AND version = ?3 AND ended_at IS NULL",
        )?
        .execute(params![
            it.fleet.as_str(),
            int(it.number),
            int(it.version),
            Json::of(&it.plan).text(),
            it.ended_at.map(|at| at.0),
        ])?;
    if saved == 0 {
        return Ok(None);
    }
    serve(write, &it.fleet, it.plan.serving())?;
    pin::follow(write, &it.fleet, &it.plan)?;
    it.version += 1;
    Ok(Some(it))
}

/// The release that workers are started on from now on.
fn serve(write: &Write<'_>, fleet: &FleetName, release: Release) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("UPDATE fleet SET release = ?2 WHERE name = ?1 AND release != ?2")?
        .execute(params![fleet.as_str(), int(release)])
        .map(drop)
}

fn stand(write: &Write<'_>, record: &FleetRecord) -> rusqlite::Result<Stand> {
    let connection = write.connection;
    let declared = |number: Release| -> rusqlite::Result<(Release, Fleet)> {
        let known = release(connection, &record.name, number)?;
        Ok((number, known.map_or_else(|| record.declaration.clone(), |known| known.declaration)))
    };
    let open = open(connection, &record.name)?;
    let serving = declared(record.release)?;
    let target = match &open {
        Some(open) if open.plan.heads_for() != serving.0 => declared(open.plan.heads_for())?,
        _ => serving.clone(),
    };
    let has_workers = connection
        .prepare_cached(
            "SELECT 1 FROM worker
             WHERE fleet = ?1 AND state != 'gone' AND drain_mode IS NULL AND platform != 'external'",
        )?
        .exists([record.name.as_str()])?;
    Ok(Stand { serving, open, target, has_workers, samples: samples(connection, &record.name)? })
}

fn samples(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<BTreeMap<Release, Sample>> {
    let mut select = connection.prepare_cached(
        "SELECT release, succeeded, failed, succeeded_ms, cost_nano FROM outcome WHERE fleet = ?1",
    )?;
    let rows = select.query_map([fleet.as_str()], |row| Ok((count(row, 0)?, sample(row, 1)?)))?;
    rows.collect()
}

fn sample(row: &Row<'_>, at: usize) -> rusqlite::Result<Sample> {
    Ok(Sample {
        succeeded: count(row, at)?,
        failed: count(row, at + 1)?,
        succeeded_ms: count(row, at + 2)?,
        cost_nano: count(row, at + 3)?,
    })
}

/// The first release of a fleet.
pub(super) fn first(write: &Write<'_>, fleet: &Fleet, now: Timestamp) -> rusqlite::Result<Release> {
    let release = NewRelease { declaration: fleet.clone(), commit: None, supersede: false };
    insert_release(write, &fleet.name, &release, now)
}

fn insert_release(
    write: &Write<'_>,
    fleet: &FleetName,
    new: &NewRelease,
    now: Timestamp,
) -> rusqlite::Result<Release> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO release (fleet, number, declaration, built_from, created_at)
             SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM release WHERE fleet = ?1 RETURNING number",
        )?
        .query_row(
            params![fleet.as_str(), Json::of(&new.declaration).text(), new.commit, now.0],
            |row| count(row, 0),
        )
}

fn next_number(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(max(number), 0) + 1 FROM rollout WHERE fleet = ?1")?
        .query_row([fleet.as_str()], |row| count(row, 0))
}

fn insert(write: &Write<'_>, it: &RolloutRecord) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO rollout (fleet, number, version, plan, started_at, ended_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            it.fleet.as_str(),
            int(it.number),
            int(it.version),
            Json::of(&it.plan).text(),
            it.started_at.0,
            it.ended_at.map(|at| at.0),
        ])?;
    write
        .connection
        .prepare_cached("DELETE FROM rollout WHERE fleet = ?1 AND number <= ?2 AND ended_at IS NOT NULL")?
        .execute(params![it.fleet.as_str(), int(it.number.saturating_sub(ROLLOUTS))])
        .map(drop)
}

const COLUMNS: &str = "fleet, number, version, plan, started_at, ended_at";

fn read(row: &Row<'_>) -> rusqlite::Result<RolloutRecord> {
    Ok(RolloutRecord {
        fleet: get(row, 0)?,
        number: count(row, 1)?,
        version: count(row, 2)?,
        plan: document::<Plan>(row, 3)?,
        started_at: get(row, 4)?,
        ended_at: get_option(row, 5)?,
    })
}

fn open(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<Option<RolloutRecord>> {
    let select = format!("SELECT {COLUMNS} FROM rollout WHERE fleet = ?1 AND ended_at IS NULL");
    connection.prepare_cached(&select)?.query_row([fleet.as_str()], read).optional()
}

const RELEASE: &str = "SELECT r.fleet, number, declaration, built_from, created_at, coalesce(succeeded, 0),
        coalesce(failed, 0), coalesce(succeeded_ms, 0), coalesce(cost_nano, 0)
     FROM release AS r LEFT JOIN outcome AS o ON o.fleet = r.fleet AND o.release = r.number";

fn read_release(row: &Row<'_>) -> rusqlite::Result<ReleaseRecord> {
    Ok(ReleaseRecord {
        fleet: get(row, 0)?,
        number: count(row, 1)?,
        declaration: document(row, 2)?,
        commit: row.get(3)?,
        created_at: get(row, 4)?,
        sample: sample(row, 5)?,
    })
}

pub(super) fn release(
    connection: &Connection,
    fleet: &FleetName,
    number: Release,
) -> rusqlite::Result<Option<ReleaseRecord>> {
    connection
        .prepare_cached(&format!("{RELEASE} WHERE r.fleet = ?1 AND number = ?2"))?
        .query_row(params![fleet.as_str(), int(number)], read_release)
        .optional()
}

/// Adds an attempt's end to what is known of its release.
pub(super) fn add(
    write: &Write<'_>,
    fleet: &FleetName,
    release: Release,
    it: &Sample,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO outcome (fleet, release, succeeded, failed, succeeded_ms, cost_nano)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET succeeded = succeeded + excluded.succeeded, failed = failed + excluded.failed,
                succeeded_ms = succeeded_ms + excluded.succeeded_ms, cost_nano = cost_nano + excluded.cost_nano",
        )?
        .execute(params![
            fleet.as_str(),
            int(release),
            int(it.succeeded),
            int(it.failed),
            int(it.succeeded_ms),
            int(it.cost_nano),
        ])
        .map(drop)
}
