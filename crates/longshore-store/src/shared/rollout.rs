//! Releases and rollouts: what a fleet's workers run, and how one release takes the place of another.
//!
//! Whoever wants another release, or orders something, holds the lock on declarations: so of two at once the second sees what
//! the first has done. The leader saves its plans without it, under the rollout's own row.

use std::collections::BTreeMap;

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::rollout::{Order, Plan, Refused, Release, Sample};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, document, get, get_option, int};
use super::connection::Connection;
use super::fault::DbError;
use super::replica::epoch;
use super::sql::args;
use super::{fleet, pin};
use crate::error::StoreError;
use crate::model::{
    Deployed, Epoch, FleetRecord, Means, NewRelease, Ordered, ROLLOUTS, ReleaseRecord, RolloutRecord, Stand,
};
use crate::signals::{Topic, Wakes};

macro_rules! columns {
    () => {
        "SELECT fleet, number, version, plan, started_at, ended_at FROM @rollout "
    };
}

/// So that the leader writes no other plan meanwhile.
const OPEN: &str = concat!(columns!(), "WHERE fleet = $1 AND ended_at IS NULL FOR UPDATE");
/// Rollouts are locked before gates and tasks, as whoever saves a plan locks them.
pub(super) const LOCK_OPEN: &str =
    "SELECT 1 FROM @rollout WHERE ended_at IS NULL ORDER BY fleet, number FOR UPDATE";
const ALL_OPEN: &str = concat!(columns!(), "WHERE ended_at IS NULL ORDER BY fleet");
const OF_FLEET: &str = concat!(columns!(), "WHERE fleet = $1 ORDER BY number DESC LIMIT $2");
const NEWEST: &str = concat!(columns!(), "ORDER BY started_at DESC, fleet, number DESC LIMIT $1");
const INSERT: &str = "INSERT INTO @rollout (fleet, number, version, plan, started_at, ended_at)
     VALUES ($1, $2, $3, $4, $5, $6)";
const FORGET: &str = "DELETE FROM @rollout WHERE fleet = $1 AND number <= $2 AND ended_at IS NOT NULL";
const NUMBER: &str = "SELECT coalesce(max(number), 0) + 1 FROM @rollout WHERE fleet = $1";
const SAVE: &str = "UPDATE @rollout SET plan = $4, ended_at = $5, version = version + 1
     WHERE fleet = $1 AND number = $2 AND version = $3 AND ended_at IS NULL
        AND ($6::bigint IS NULL OR EXISTS (SELECT 1 FROM @leader WHERE epoch = $6))";
const SERVE: &str = "UPDATE @fleet SET release = $2 WHERE name = $1 AND release <> $2";
const SERVED: &str = "SELECT release FROM @fleet WHERE name = $1";

macro_rules! release {
    () => {
        "SELECT r.fleet, number, declaration, built_from, created_at, coalesce(o.succeeded, 0), coalesce(o.failed, 0),
            coalesce(o.succeeded_ms, 0), coalesce(o.cost_nano, 0)
         FROM @release AS r LEFT JOIN (SELECT release, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
                sum(succeeded_ms)::bigint AS succeeded_ms, sum(cost_nano)::bigint AS cost_nano
            FROM @outcome WHERE fleet = $1 GROUP BY release) AS o ON o.release = r.number "
    };
}

const RELEASES: &str = concat!(release!(), "WHERE r.fleet = $1 ORDER BY number DESC LIMIT $2");
const RELEASE: &str = concat!(release!(), "WHERE r.fleet = $1 AND number = $2");
const NEW_RELEASE: &str = "INSERT INTO @release (fleet, number, declaration, built_from, created_at)
     SELECT $1, coalesce(max(number), 0) + 1, $2, $3, $4 FROM @release WHERE fleet = $1 RETURNING number";
const SAMPLES: &str =
    "SELECT release, sum(succeeded)::bigint, sum(failed)::bigint, sum(succeeded_ms)::bigint, sum(cost_nano)::bigint
     FROM @outcome WHERE fleet = $1 GROUP BY release";
const HAS_WORKERS: &str = "SELECT 1 FROM @worker
     WHERE fleet = $1 AND state <> 'gone' AND drain_mode IS NULL AND platform <> 'external' LIMIT 1";

impl Shared {
    pub(crate) async fn deploy(
        &self,
        fleet: FleetName,
        release: NewRelease,
        now: Timestamp,
    ) -> Result<Deployed, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(fleet::LOCK, args![]).await?;
            let deployed = match fleet::find(&it, &fleet).await? {
                Some(record) => wish(&it, &record, Wished::New(&release), release.supersede, now).await?,
                None => Deployed::UnknownFleet,
            };
            it.commit().await?;
            Ok(deployed)
        });
        Ok(done.await?)
    }

    pub(crate) async fn undo_rollout(
        &self,
        fleet: FleetName,
        to: Option<Release>,
        reason: String,
        now: Timestamp,
    ) -> Result<Deployed, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(fleet::LOCK, args![]).await?;
            let undone = undo(&it, &fleet, to, reason.clone(), now).await?;
            it.commit().await?;
            Ok(undone)
        });
        Ok(done.await?)
    }

    pub(crate) async fn order_rollout(
        &self,
        fleet: FleetName,
        order: Order,
        now: Timestamp,
    ) -> Result<Ordered, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(fleet::LOCK, args![]).await?;
            let ordered = match open(&it, &fleet).await? {
                None => Ordered::None,
                Some(open) => match obey(&it, open, order.clone(), now).await? {
                    Ok(record) => Ordered::Obeyed(record),
                    Err((record, refused)) => Ordered::Refused(record, refused),
                },
            };
            it.commit().await?;
            Ok(ordered)
        });
        Ok(done.await?)
    }

    pub(crate) async fn save_rollout(
        &self,
        rollout: RolloutRecord,
        of: Epoch,
        now: Timestamp,
    ) -> Result<Option<RolloutRecord>, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            let saved = save(&it, rollout.clone(), Some(of), now).await?;
            match &saved {
                Some(_) => it.commit().await?,
                None => it.roll_back().await,
            }
            Ok(saved)
        });
        let saved = done.await?;
        if saved.as_ref().is_some_and(|saved| saved.plan.policy.pin_release && saved.plan.unpins().is_some())
        {
            // What was pinned may run anywhere now.
            let fleet = saved.as_ref().map(|saved| Topic::Runnable(saved.fleet.clone()));
            self.core().fire(Wakes::from(fleet));
        }
        Ok(saved)
    }

    pub(crate) async fn open_rollouts(&self) -> Result<Vec<RolloutRecord>, StoreError> {
        let rows = self.core().run(async |it| it.query(ALL_OPEN, args![]).await).await?;
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn rollouts(
        &self,
        fleet: Option<FleetName>,
        limit: usize,
    ) -> Result<Vec<RolloutRecord>, StoreError> {
        let limit = int(limit as u64);
        let rows = self.core().run(async |it| match &fleet {
            Some(fleet) => it.query(OF_FLEET, args![fleet.as_str(), limit]).await,
            None => it.query(NEWEST, args![limit]).await,
        });
        Ok(rows.await?.iter().map(read).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn outcomes(&self, fleet: FleetName) -> Result<BTreeMap<Release, Sample>, StoreError> {
        Ok(self.core().run(async |it| samples(&it, &fleet).await).await?)
    }

    pub(crate) async fn releases(
        &self,
        fleet: FleetName,
        limit: usize,
    ) -> Result<Vec<ReleaseRecord>, StoreError> {
        let args = args![fleet.as_str(), int(limit as u64)];
        let rows = self.core().run(async |it| it.query(RELEASES, args).await).await?;
        Ok(rows.iter().map(read_release).collect::<Result<_, _>>()?)
    }

    pub(crate) async fn release(
        &self,
        fleet: FleetName,
        number: Release,
    ) -> Result<Option<ReleaseRecord>, StoreError> {
        Ok(self.core().run(async |it| release(&it, &fleet, number).await).await?)
    }
}

/// What somebody wants a fleet to run.
pub(super) enum Wished<'a> {
    New(&'a NewRelease),
    Known(&'a ReleaseRecord),
}

/// Begins a rollout, if there is anything to roll out; one that is under way gives way where that is allowed.
pub(super) async fn wish(
    connection: &Connection,
    record: &FleetRecord,
    wished: Wished<'_>,
    supersede: bool,
    now: Timestamp,
) -> Result<Deployed, DbError> {
    let stand = stand(connection, record).await?;
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
            return Ok(match obey(connection, open, Order::Undo { reason }, now).await? {
                Ok(open) => Deployed::UnderWay(open),
                Err((open, refused)) => Deployed::Refused(open, refused),
            });
        }
        (_, Some(open)) => {
            let by = "another release was asked for".into();
            if let Err((open, refused)) = obey(connection, open, Order::Supersede { by }, now).await? {
                return Ok(Deployed::Refused(open, refused));
            }
        }
        (_, None) => {}
    }
    let to = match &wished {
        Wished::New(new) => insert_release(connection, &record.name, new, now).await?,
        Wished::Known(known) => known.number,
    };
    let number = count(&connection.query_one(NUMBER, args![record.name.as_str()]).await?, 0)?;
    let rollout = stand.begin(&record.name, (number, to), &next, means, now);
    insert(connection, &rollout).await?;
    connection.execute(SERVE, args![record.name.as_str(), int(rollout.plan.serving())]).await?;
    pin::follow(connection, &record.name, &rollout.plan).await?;
    Ok(Deployed::Begun(rollout))
}

async fn undo(
    connection: &Connection,
    fleet: &FleetName,
    to: Option<Release>,
    reason: String,
    now: Timestamp,
) -> Result<Deployed, DbError> {
    let Some(record) = fleet::find(connection, fleet).await? else { return Ok(Deployed::UnknownFleet) };
    let open = open(connection, fleet).await?;
    if let Some(open) = open.filter(|open| to.is_none_or(|to| to == open.plan.from)) {
        match obey(connection, open, Order::Undo { reason }, now).await? {
            Ok(open) => return Ok(Deployed::Begun(open)),
            Err((_, Refused::Finishing)) => {}
            Err((open, refused)) => return Ok(Deployed::Refused(open, refused)),
        }
    }
    let to = match to {
        Some(to) => to,
        None => match before(connection, fleet, record.release).await? {
            Some(before) => before,
            None => return Ok(Deployed::NoHistory),
        },
    };
    match release(connection, fleet, to).await? {
        Some(known) => wish(connection, &record, Wished::Known(&known), true, now).await,
        None => Ok(Deployed::UnknownRelease(to)),
    }
}

/// The release that the fleet ran before the one that it runs now.
async fn before(
    connection: &Connection,
    fleet: &FleetName,
    now: Release,
) -> Result<Option<Release>, DbError> {
    let rows = connection.query(OF_FLEET, args![fleet.as_str(), int(ROLLOUTS)]).await?;
    for row in &rows {
        let plan = read(row)?.plan;
        if plan.serving() == now && plan.to == now && plan.from != now {
            return Ok(Some(plan.from));
        }
    }
    Ok(None)
}

/// A fleet that is not declared any more has nothing to roll out.
pub(super) async fn drop_open(
    connection: &Connection,
    fleet: &FleetName,
    now: Timestamp,
) -> Result<(), DbError> {
    if let Some(open) = open(connection, fleet).await? {
        let by = "the fleet is not declared any more".into();
        let _ = obey(connection, open, Order::Supersede { by }, now).await?;
    }
    Ok(())
}

type Obeyed = Result<RolloutRecord, (RolloutRecord, Refused)>;

async fn obey(
    connection: &Connection,
    mut open: RolloutRecord,
    order: Order,
    now: Timestamp,
) -> Result<Obeyed, DbError> {
    if let Err(refused) = open.plan.order(order) {
        return Ok(Err((open, refused)));
    }
    let saved = save(connection, open.clone(), None, now).await?;
    Ok(saved.ok_or((open, Refused::Ended)))
}

/// Writes a plan if nobody has written another one since it was read; by the leader, or by an order.
async fn save(
    connection: &Connection,
    mut it: RolloutRecord,
    of: Option<Epoch>,
    now: Timestamp,
) -> Result<Option<RolloutRecord>, DbError> {
    it.ended_at = it.plan.has_ended().then_some(now);
    let (fleet, serving) = (it.fleet.as_str(), int(it.plan.serving()));
    // The fleet's row before the rollout's, as in a new declaration: no two wait crosswise. It changes once in a rollout.
    let served: Option<i64> = match connection.query_opt(SERVED, args![fleet]).await? {
        Some(row) => row.try_get(0)?,
        None => None,
    };
    if served != Some(serving) {
        connection.execute(SERVE, args![fleet, serving]).await?;
    }
    let plan = Json::of(&it.plan);
    let (ended_at, of) = (it.ended_at.map(|at| at.0), of.map(epoch));
    let args = args![fleet, int(it.number), int(it.version), plan.text(), ended_at, of];
    if connection.execute(SAVE, args).await? == 0 {
        return Ok(None);
    }
    pin::follow(connection, &it.fleet, &it.plan).await?;
    it.version += 1;
    Ok(Some(it))
}

async fn stand(connection: &Connection, record: &FleetRecord) -> Result<Stand, DbError> {
    let declared = async |number: Release| -> Result<(Release, Fleet), DbError> {
        let known = release(connection, &record.name, number).await?;
        Ok((number, known.map_or_else(|| record.declaration.clone(), |known| known.declaration)))
    };
    let name = record.name.as_str();
    let open = open(connection, &record.name).await?;
    let serving = declared(record.release).await?;
    let target = match &open {
        Some(open) if open.plan.heads_for() != serving.0 => declared(open.plan.heads_for()).await?,
        _ => serving.clone(),
    };
    let has_workers = connection.query_opt(HAS_WORKERS, args![name]).await?.is_some();
    Ok(Stand { serving, open, target, has_workers, samples: samples(connection, &record.name).await? })
}

async fn samples(connection: &Connection, fleet: &FleetName) -> Result<BTreeMap<Release, Sample>, DbError> {
    let rows = connection.query(SAMPLES, args![fleet.as_str()]).await?;
    rows.iter().map(|row| Ok((count(row, 0)?, sample(row, 1)?))).collect()
}

fn sample(row: &Row, at: usize) -> Result<Sample, DbError> {
    Ok(Sample {
        succeeded: count(row, at)?,
        failed: count(row, at + 1)?,
        succeeded_ms: count(row, at + 2)?,
        cost_nano: count(row, at + 3)?,
    })
}

/// The first release of a fleet.
pub(super) async fn first(
    connection: &Connection,
    fleet: &Fleet,
    now: Timestamp,
) -> Result<Release, DbError> {
    let release = NewRelease { declaration: fleet.clone(), commit: None, supersede: false };
    insert_release(connection, &fleet.name, &release, now).await
}

async fn insert_release(
    connection: &Connection,
    fleet: &FleetName,
    new: &NewRelease,
    now: Timestamp,
) -> Result<Release, DbError> {
    let declaration = Json::of(&new.declaration);
    let args = args![fleet.as_str(), declaration.text(), new.commit.as_deref(), now.0];
    count(&connection.query_one(NEW_RELEASE, args).await?, 0)
}

async fn insert(connection: &Connection, it: &RolloutRecord) -> Result<(), DbError> {
    let (fleet, plan) = (it.fleet.as_str(), Json::of(&it.plan));
    let ended_at = it.ended_at.map(|at| at.0);
    let args = args![fleet, int(it.number), int(it.version), plan.text(), it.started_at.0, ended_at];
    connection.execute(INSERT, args).await?;
    connection.execute(FORGET, args![fleet, int(it.number.saturating_sub(ROLLOUTS))]).await.map(drop)
}

fn read(row: &Row) -> Result<RolloutRecord, DbError> {
    Ok(RolloutRecord {
        fleet: get(row, 0)?,
        number: count(row, 1)?,
        version: count(row, 2)?,
        plan: document::<Plan>(row, 3)?,
        started_at: get(row, 4)?,
        ended_at: get_option(row, 5)?,
    })
}

async fn open(connection: &Connection, fleet: &FleetName) -> Result<Option<RolloutRecord>, DbError> {
    connection.query_opt(OPEN, args![fleet.as_str()]).await?.as_ref().map(read).transpose()
}

fn read_release(row: &Row) -> Result<ReleaseRecord, DbError> {
    Ok(ReleaseRecord {
        fleet: get(row, 0)?,
        number: count(row, 1)?,
        declaration: document(row, 2)?,
        commit: row.try_get(3)?,
        created_at: get(row, 4)?,
        sample: sample(row, 5)?,
    })
}

pub(super) async fn release(
    connection: &Connection,
    fleet: &FleetName,
    number: Release,
) -> Result<Option<ReleaseRecord>, DbError> {
    let row = connection.query_opt(RELEASE, args![fleet.as_str(), int(number)]).await?;
    row.as_ref().map(read_release).transpose()
}
