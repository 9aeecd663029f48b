//! Fleets: declarations, counts, the scaler's decisions.

use longshore_core::fleet::Fleet;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, count_option, document, get, get_option, int};
use super::connection::Connection;
use super::fault::DbError;
use super::replica::epoch;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{
    DecisionRecord, Epoch, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load, fleet_changes,
};

/// Decisions kept of each fleet.
const DECISIONS: i64 = 200;

macro_rules! columns {
    () => {
        "SELECT name, declaration, generation, active, replicas, changed_at FROM @fleet "
    };
}

const ALL: &str = concat!(columns!(), "ORDER BY name");
const ONE: &str = concat!(columns!(), "WHERE name = $1");

/// One declaration at a time: two replicas that start at once must not add up to a mixture.
const LOCK: &str = "LOCK TABLE @fleet IN SHARE ROW EXCLUSIVE MODE";

const PUT: &str =
    "INSERT INTO @fleet (name, declaration, generation, active, changed_at) VALUES ($1, $2, $3, true, $4)
     ON CONFLICT (name) DO UPDATE SET declaration = $2, generation = $3, active = true, changed_at = $4";
const REMOVE: &str = "UPDATE @fleet SET active = false, changed_at = $2 WHERE name = $1";
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

/// The oldest wait is looked for among the first of each priority: in the order of claims those are the oldest, but for
/// some that came back.
const LOAD: &str = "WITH RECURSIVE ranks (rank) AS (
        (SELECT rank FROM @live WHERE fleet = $1 AND hold = 'ready' ORDER BY rank LIMIT 1)
        UNION ALL
        SELECT (SELECT l.rank FROM @live AS l WHERE l.fleet = $1 AND l.hold = 'ready' AND l.rank > ranks.rank
            ORDER BY l.rank LIMIT 1)
        FROM ranks WHERE ranks.rank IS NOT NULL)
     SELECT coalesce(sum(runnable), 0)::bigint, coalesce(sum(running), 0)::bigint, coalesce(sum(delayed), 0)::bigint,
        coalesce(sum(held), 0)::bigint,
        (SELECT min(since) FROM ranks CROSS JOIN LATERAL (SELECT since FROM @live AS l
            WHERE l.fleet = $1 AND l.hold = 'ready' AND l.rank = ranks.rank ORDER BY l.id LIMIT 64) AS first)
     FROM @fleet_count WHERE fleet = $1";

impl Shared {
    pub(crate) async fn put_fleets(
        &self,
        fleets: Vec<Fleet>,
        now: Timestamp,
    ) -> Result<Vec<FleetChange>, StoreError> {
        let done = self.core().run(async |it| {
            it.begin().await?;
            it.execute(LOCK, args![]).await?;
            let changes = fleet_changes(&all(&it).await?, &fleets);
            for change in &changes {
                apply(&it, change, now).await?;
            }
            it.commit().await?;
            Ok(changes)
        });
        Ok(done.await?)
    }

    pub(crate) async fn fleets(&self) -> Result<Vec<FleetRecord>, StoreError> {
        Ok(self.core().run(async |it| all(&it).await).await?)
    }

    pub(crate) async fn fleet(&self, name: FleetName) -> Result<Option<FleetRecord>, StoreError> {
        let row = self.core().run(async |it| it.query_opt(ONE, args![name.as_str()]).await).await?;
        Ok(row.as_ref().map(read).transpose()?)
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

    pub(crate) async fn load(&self, fleet: FleetName, _now: Timestamp) -> Result<Load, StoreError> {
        let row = self.core().run(async |it| it.query_one(LOAD, args![fleet.as_str()]).await).await?;
        Ok(Load {
            runnable: count(&row, 0)?,
            oldest_runnable_since: get_option(&row, 4)?,
            running: count(&row, 1)?,
            delayed: count(&row, 2)?,
            held: count(&row, 3)?,
            ..Load::default()
        })
    }

    pub(crate) async fn counts(&self) -> Result<Vec<FleetCounts>, StoreError> {
        let rows = self.core().run(async |it| it.query(COUNTS, args![]).await).await?;
        Ok(rows.iter().map(counts).collect::<Result<_, _>>()?)
    }
}

async fn all(connection: &Connection) -> Result<Vec<FleetRecord>, DbError> {
    connection.query(ALL, args![]).await?.iter().map(read).collect()
}

async fn apply(connection: &Connection, change: &FleetChange, now: Timestamp) -> Result<(), DbError> {
    let name = change.name.as_str();
    match (&change.after, change.kind) {
        (_, FleetChangeKind::Unchanged) => Ok(()),
        (Some(declaration), _) => {
            let declaration = Json::of(declaration);
            let generation = int(change.generation);
            connection.execute(PUT, args![name, declaration.text(), generation, now.0]).await.map(drop)
        }
        (None, _) => connection.execute(REMOVE, args![name, now.0]).await.map(drop),
    }
}

fn read(row: &Row) -> Result<FleetRecord, DbError> {
    Ok(FleetRecord {
        name: get(row, 0)?,
        declaration: document(row, 1)?,
        generation: count(row, 2)?,
        active: row.try_get(3)?,
        replicas: count_option(row, 4)?,
        changed_at: get(row, 5)?,
        paused: false,
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
