//! Fleets whose tasks are not simply taken in order: a cap or a rate holds some back, or several tenants take turns.
//!
//! Decides nothing itself: `longshore_core::{cap, share, rate}` do, from what is read here. The default tenant has no lane:
//! its numbers are what a fleet has beyond its lanes, so that nothing is written for tenants where there are none.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use longshore_core::cap::{Caps, Running};
use longshore_core::id::{FleetName, TenantName};
use longshore_core::rate::{FullAt, Rate};
use longshore_core::share::{self, Advanced, Lane};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;

use super::changes::Changes;
use super::claim::{Picked, of_task, read_picked};
use super::column::{count, count_option, get, int};
use super::connection::Connection;
use super::fault::DbError;
use super::live::live_columns;
use super::pin::Pin;
use super::sql::args;

/// How a claim gets at a fleet's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// In order: there is one tenant, and nothing holds its tasks.
    Plain,
    /// None may start.
    Paused,
    /// One claim at a time, by what is counted.
    InTurn,
}

/// Of the fleets of some workers; read without a lock.
pub(super) const WAYS: &str = "SELECT gate.fleet, gate.paused, gate.max_running IS NOT NULL
        OR gate.tenant_max_running IS NOT NULL OR gate.rate_tasks IS NOT NULL
        OR EXISTS (SELECT 1 FROM @lane AS lane WHERE lane.fleet = gate.fleet AND lane.runnable > 0)
        OR EXISTS (SELECT 1 FROM @tenant AS tenant WHERE tenant.name = 'default' AND tenant.max_running IS NOT NULL)
     FROM @gate AS gate WHERE gate.fleet IN (SELECT fleet FROM @worker WHERE id = ANY($1))";

pub(super) async fn ways(
    connection: &Connection,
    workers: &[&str],
) -> Result<HashMap<FleetName, Way>, DbError> {
    let workers = workers.to_vec();
    let rows = connection.query(WAYS, args![workers]).await?;
    let way = |row: &Row| {
        Ok::<Way, DbError>(match (row.try_get(1)?, row.try_get(2)?) {
            (true, _) => Way::Paused,
            (_, true) => Way::InTurn,
            (false, false) => Way::Plain,
        })
    };
    rows.iter().map(|row| Ok((get(row, 0)?, way(row)?))).collect()
}

/// Columns of a gate in the order that [`read_gate`] reads them.
macro_rules! gate_columns {
    () => {
        "gate.paused, gate.max_running, gate.tenant_max_running, gate.rate_tasks, gate.rate_per_ms, gate.full_at"
    };
}
pub(super) use gate_columns;

/// Reads [`gate_columns`] that begin at a place.
pub(super) fn read_gate(row: &Row, at: usize) -> Result<(Caps, FullAt), DbError> {
    let (tasks, per): (Option<u32>, Option<u64>) = (count_option(row, at + 3)?, count_option(row, at + 4)?);
    let rate = tasks.zip(per).map(|(tasks, per_ms)| Rate { tasks, per_ms }).filter(|rate| rate.is_valid());
    let caps = Caps {
        paused: row.try_get(at)?,
        max_running: count_option(row, at + 1)?,
        tenant_max_running: count_option(row, at + 2)?,
        rate,
    };
    Ok((caps, FullAt(row.try_get(at + 5)?)))
}

/// Whoever starts tasks of these fleets waits here: so that what is counted stays true until they have started.
const LOCK_GATES: &str = concat!(
    "SELECT gate.fleet, ",
    gate_columns!(),
    ", gate.virtual_time, gate.pass FROM @gate AS gate WHERE fleet = ANY($1) ORDER BY fleet FOR NO KEY UPDATE"
);

/// A tenant's own cap is counted over all fleets: where there is one, one claim at a time counts.
const LOCK_CAPS: &str =
    "SELECT 1 FROM @cap WHERE EXISTS (SELECT 1 FROM @tenant WHERE max_running IS NOT NULL) FOR UPDATE";

/// The default tenant in each of these fleets, and what runs in them at all.
pub(super) const DEFAULTS: &str =
    "SELECT f.fleet, 'default'::text, c.runnable - l.runnable, c.running - l.running, coalesce(t.weight, 1), t.max_running,
        CASE WHEN t.max_running IS NULL THEN 0 ELSE (SELECT sum(running) FROM @fleet_count)::bigint
            - coalesce((SELECT sum(running) FROM @lane), 0)::bigint END, c.running
     FROM unnest($1::text[]) AS f (fleet)
        CROSS JOIN LATERAL (SELECT coalesce(sum(runnable), 0)::bigint AS runnable,
            coalesce(sum(running), 0)::bigint AS running FROM @fleet_count WHERE fleet = f.fleet) AS c
        CROSS JOIN LATERAL (SELECT coalesce(sum(runnable), 0)::bigint AS runnable,
            coalesce(sum(running), 0)::bigint AS running FROM @lane WHERE fleet = f.fleet) AS l
        LEFT JOIN @tenant AS t ON t.name = 'default'";

/// Of each fleet the lanes that have come least far, of those that may start any; as many as tasks are wanted.
const LANES: &str =
    "SELECT lane.fleet, lane.tenant, lane.runnable, lane.running, lane.weight, lane.max_running, lane.everywhere, lane.pass
     FROM unnest($1::text[], $2::bigint[]) AS f (fleet, n) JOIN @gate AS gate ON gate.fleet = f.fleet
        CROSS JOIN LATERAL (SELECT l.*, coalesce(t.weight, 1) AS weight, t.max_running, e.everywhere
            FROM @lane AS l LEFT JOIN @tenant AS t ON t.name = l.tenant
                CROSS JOIN LATERAL (SELECT CASE WHEN t.max_running IS NULL THEN 0
                    ELSE (SELECT sum(o.running) FROM @lane AS o WHERE o.tenant = l.tenant)::bigint END
                    AS everywhere) AS e
            WHERE l.fleet = f.fleet AND l.runnable > 0
                AND (gate.tenant_max_running IS NULL OR l.running < gate.tenant_max_running)
                AND (t.max_running IS NULL OR e.everywhere < t.max_running)
            ORDER BY l.pass, l.tenant LIMIT f.n) AS lane";

/// Counted wherever they stand, so that the index of suspects is what is looked at.
const SUSPECTS: &str = "SELECT fleet, tenant, count(*) FILTER (WHERE hold = 'ready') FROM @live
     WHERE alone AND fleet = ANY($1) GROUP BY fleet, tenant";

/// The first task of each of these lanes.
const HEADS: &str = concat!(
    "SELECT ",
    live_columns!(),
    ", task.input, task.labels FROM unnest($2::text[]) WITH ORDINALITY AS lane (tenant, at)
        CROSS JOIN LATERAL (SELECT * FROM @live WHERE fleet = $1 AND tenant = lane.tenant AND hold = 'ready'
            ORDER BY rank, id LIMIT 1 FOR UPDATE SKIP LOCKED) AS live",
    of_task!(),
    "WHERE live.alone ORDER BY lane.at"
);

/// So many tasks of each of these lanes that need not be alone.
const PICK: &str = concat!(
    "SELECT ",
    live_columns!(),
    ", task.input, task.labels FROM unnest($2::text[], $3::bigint[]) AS lane (tenant, n)
        CROSS JOIN LATERAL (SELECT * FROM @live WHERE fleet = $1 AND tenant = lane.tenant AND hold = 'ready' AND NOT alone
                AND ($4::bigint IS NULL OR coalesce(pinned, $4) = $4)
            ORDER BY rank, id LIMIT lane.n FOR UPDATE SKIP LOCKED) AS live",
    of_task!(),
    "ORDER BY live.tenant, live.rank, live.id"
);

/// The same for workers that take nothing new: of what is pinned to their release.
const PICK_PINNED: &str = concat!(
    "SELECT ",
    live_columns!(),
    ", task.input, task.labels FROM unnest($2::text[], $3::bigint[]) AS lane (tenant, n)
        CROSS JOIN LATERAL (SELECT * FROM @live WHERE fleet = $1 AND pinned = $4 AND tenant = lane.tenant AND hold = 'ready'
                AND NOT alone
            ORDER BY rank, id LIMIT lane.n FOR UPDATE SKIP LOCKED) AS live",
    of_task!(),
    "ORDER BY live.tenant, live.rank, live.id"
);

const SAVE: &str = "UPDATE @gate AS gate SET virtual_time = n.virtual_time, pass = n.pass, full_at = n.full_at
     FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS n (fleet, virtual_time, pass, full_at)
     WHERE gate.fleet = n.fleet";

const STATEMENTS: &[&str] = &[LOCK_GATES, LOCK_CAPS, DEFAULTS, LANES, SUSPECTS, HEADS, PICK, SAVE];

/// What a fleet may start now, and whose turn it is; its gate is locked.
pub(super) struct Turn {
    pub fleet: FleetName,
    /// How many tasks may start, whosever they are.
    pub room: u64,
    caps: Caps,
    full_at: FullAt,
    virtual_time: u64,
    /// Of the default tenant.
    pass: u64,
    lanes: Vec<Found>,
    /// Nothing to be written.
    idle: bool,
}

/// A tenant's lane in a fleet's queue.
struct Found {
    tenant: TenantName,
    lane: Lane,
    runnable: u64,
    /// Of the runnable ones: those that have to be alone.
    suspects: u64,
    /// What its caps allow in this fleet.
    room: u64,
    /// What its own cap allows in all of them; other fleets of the same claim take from it.
    everywhere: u64,
}

impl Found {
    fn room(&self) -> u64 {
        self.room.min(self.everywhere)
    }
}

/// Locks the gates of fleets, and reads what may start of each; `wanted`: the most tasks that are asked for.
pub(super) async fn lock(
    connection: &Connection,
    wanted: &BTreeMap<&FleetName, u64>,
    now: Timestamp,
) -> Result<Vec<Turn>, DbError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    connection.ready(STATEMENTS).await?;
    let names: Vec<&str> = wanted.keys().map(|name| name.as_str()).collect();
    let most: Vec<i64> = wanted.values().map(|most| int(*most)).collect();
    // In this order: what is counted is read when nobody else can start any.
    let (gates, _, defaults, lanes, suspects) = futures_util::try_join!(
        async { connection.query(LOCK_GATES, args![names]).await },
        async { connection.query(LOCK_CAPS, args![]).await },
        async { connection.query(DEFAULTS, args![names]).await },
        async { connection.query(LANES, args![names, most]).await },
        async { connection.query(SUSPECTS, args![names]).await },
    )?;
    let suspects = suspects
        .iter()
        .map(|row| Ok(((get(row, 0)?, get(row, 1)?), count(row, 2)?)))
        .collect::<Result<HashMap<(FleetName, TenantName), u64>, DbError>>()?;
    let mut turns = gates.iter().map(read_turn).collect::<Result<Vec<Turn>, DbError>>()?;
    for row in &defaults {
        let fleet: FleetName = get(row, 0)?;
        let Some(turn) = turns.iter_mut().find(|turn| turn.fleet == fleet) else { continue };
        let most = wanted.get(&fleet).copied().unwrap_or_default();
        turn.room = turn.caps.room(count(row, 7)?, turn.full_at, now).min(most);
        let pass = turn.pass;
        turn.add(TenantName::default(), pass, row, &suspects)?;
    }
    for row in &lanes {
        let fleet: FleetName = get(row, 0)?;
        let Some(turn) = turns.iter_mut().find(|turn| turn.fleet == fleet) else { continue };
        turn.add(get(row, 1)?, count(row, 7)?, row, &suspects)?;
    }
    for turn in &mut turns {
        turn.lanes.sort_by(|a, b| (a.lane.pass, &a.tenant).cmp(&(b.lane.pass, &b.tenant)));
    }
    Ok(turns)
}

fn read_turn(row: &Row) -> Result<Turn, DbError> {
    let (caps, full_at) = read_gate(row, 1)?;
    Ok(Turn {
        fleet: get(row, 0)?,
        room: 0,
        caps,
        full_at,
        virtual_time: count(row, 7)?,
        pass: count(row, 8)?,
        lanes: Vec::new(),
        idle: true,
    })
}

/// What runs of a tenant, as [`DEFAULTS`] and [`LANES`] tell it in the same places.
pub(super) fn read_running(row: &Row) -> Result<(u64, Running), DbError> {
    let running =
        Running { here: count(row, 3)?, everywhere: count(row, 6)?, max_everywhere: count_option(row, 5)? };
    Ok((count(row, 2)?, running))
}

impl Turn {
    fn add(
        &mut self,
        tenant: TenantName,
        pass: u64,
        row: &Row,
        suspects: &HashMap<(FleetName, TenantName), u64>,
    ) -> Result<(), DbError> {
        let (runnable, running) = read_running(row)?;
        let room = self.caps.tenant_room(running);
        let suspects = suspects.get(&(self.fleet.clone(), tenant.clone())).copied().unwrap_or_default();
        let lane = Lane { weight: count(row, 4)?, pass, may_start: 0 };
        if runnable > 0 && room > 0 {
            let everywhere = Caps::default().tenant_room(running);
            self.lanes.push(Found { tenant, lane, runnable, suspects, room, everywhere });
        }
        Ok(())
    }

    /// Tasks to be given away, locked: first suspects, each at the head of its lane, then others in the order of turns.
    pub(super) async fn pick(
        &mut self,
        connection: &Connection,
        pin: Option<Pin>,
    ) -> Result<VecDeque<Picked>, DbError> {
        if self.room == 0 || self.lanes.is_empty() {
            return Ok(VecDeque::new());
        }
        let mut picked = self.suspects(connection).await?;
        let reserved: HashSet<TenantName> = picked.iter().map(|task| task.row.tenant.clone()).collect();
        for found in &mut self.lanes {
            let room = found.room().saturating_sub(u64::from(reserved.contains(&found.tenant)));
            found.lane.may_start = found.runnable.saturating_sub(found.suspects).min(room);
        }
        let lanes: Vec<Lane> = self.lanes.iter().map(|found| found.lane).collect();
        let room = usize::try_from(self.room).unwrap_or(usize::MAX);
        let order = share::plan(&lanes, self.virtual_time, room);
        let mut tasks = self.tasks(connection, &order, pin).await?;
        picked.extend(order.iter().filter_map(|at| tasks.get_mut(&self.lanes[*at].tenant)?.pop_front()));
        Ok(picked)
    }

    async fn suspects(&self, connection: &Connection) -> Result<VecDeque<Picked>, DbError> {
        let suspected = self.lanes.iter().filter(|found| found.suspects > 0 && found.room() > 0);
        let tenants: Vec<&str> = suspected.map(|found| found.tenant.as_str()).collect();
        if tenants.is_empty() {
            return Ok(VecDeque::new());
        }
        let rows = connection.query(HEADS, args![self.fleet.as_str(), tenants]).await?;
        rows.iter().map(read_picked).collect()
    }

    /// As many tasks of each lane as it has turns.
    async fn tasks(
        &self,
        connection: &Connection,
        order: &[usize],
        pin: Option<Pin>,
    ) -> Result<HashMap<TenantName, VecDeque<Picked>>, DbError> {
        let mut turns: BTreeMap<&str, i64> = BTreeMap::new();
        for at in order {
            *turns.entry(self.lanes[*at].tenant.as_str()).or_default() += 1;
        }
        let (tenants, numbers): (Vec<&str>, Vec<i64>) = turns.into_iter().unzip();
        let pick = if pin.is_none_or(|pin| pin.fresh) { PICK } else { PICK_PINNED };
        let pinned = pin.map(|pin| pin.release);
        let rows = connection.query(pick, args![self.fleet.as_str(), tenants, numbers, pinned]).await?;
        let mut tasks: HashMap<TenantName, VecDeque<Picked>> = HashMap::new();
        for row in &rows {
            let task = read_picked(row)?;
            tasks.entry(task.row.tenant.clone()).or_default().push_back(task);
        }
        Ok(tasks)
    }

    /// Notes what the tasks cost that were given away, in order.
    pub(super) fn started(&mut self, changes: &mut Changes, tenants: &[TenantName], now: Timestamp) {
        let lanes: HashMap<&TenantName, usize> =
            self.lanes.iter().enumerate().map(|(at, found)| (&found.tenant, at)).collect();
        let order: Vec<usize> = tenants.iter().filter_map(|tenant| lanes.get(tenant).copied()).collect();
        if order.is_empty() {
            return;
        }
        self.idle = false;
        let lanes: Vec<Lane> = self.lanes.iter().map(|found| found.lane).collect();
        let Advanced { passes, virtual_time } = share::advance(&lanes, self.virtual_time, &order);
        self.virtual_time = virtual_time;
        for (found, pass) in self.lanes.iter().zip(passes).filter(|(found, pass)| found.lane.pass != *pass) {
            match found.tenant.is_default() {
                true => self.pass = pass,
                false => changes.pass(&self.fleet, &found.tenant, pass),
            }
        }
        if let Some(rate) = self.caps.rate {
            self.full_at = rate.after(self.full_at, now, order.len() as u64);
        }
    }
}

impl Turn {
    /// Tasks of these tenants start: that leaves less room here, for other claims of the same transaction.
    pub(super) fn taken(&mut self, tenants: &[TenantName]) {
        self.room = self.room.saturating_sub(tenants.len() as u64);
        for tenant in tenants {
            if let Some(found) = self.lanes.iter_mut().find(|found| found.tenant == *tenant) {
                found.room = found.room.saturating_sub(1);
                found.runnable = found.runnable.saturating_sub(1);
            }
        }
    }
}

/// Tasks of these tenants start in one fleet: their own caps leave less room in the others.
pub(super) fn take_room(turns: &mut [Turn], tenants: &[TenantName]) {
    let mut taken: HashMap<&TenantName, u64> = HashMap::new();
    tenants.iter().for_each(|tenant| *taken.entry(tenant).or_default() += 1);
    for found in turns.iter_mut().flat_map(|turn| &mut turn.lanes) {
        let taken = taken.get(&found.tenant).copied().unwrap_or_default();
        found.everywhere = found.everywhere.saturating_sub(taken);
    }
}

/// Writes where the fleets stand from which something was started.
pub(super) async fn save(connection: &Connection, turns: &[Turn]) -> Result<(), DbError> {
    let started: Vec<&Turn> = turns.iter().filter(|turn| !turn.idle).collect();
    if started.is_empty() {
        return Ok(());
    }
    let fleets: Vec<&str> = started.iter().map(|turn| turn.fleet.as_str()).collect();
    let times: Vec<i64> = started.iter().map(|turn| int(turn.virtual_time)).collect();
    let passes: Vec<i64> = started.iter().map(|turn| int(turn.pass)).collect();
    let full: Vec<i64> = started.iter().map(|turn| turn.full_at.0).collect();
    connection.execute(SAVE, args![fleets, times, passes, full]).await.map(drop)
}

/// Fleets in which the end of a task may let another start: they have caps, or its tenant has one of its own.
pub(super) const FREED: &str =
    "SELECT fleet FROM @gate WHERE fleet = ANY($1) AND (max_running IS NOT NULL OR tenant_max_running IS NOT NULL)
     UNION SELECT lane.fleet FROM @tenant AS tenant JOIN @lane AS lane ON lane.tenant = tenant.name
        WHERE tenant.max_running IS NOT NULL AND tenant.name = ANY($2) AND lane.runnable > 0
     UNION SELECT gate.fleet FROM @tenant AS tenant, @gate AS gate
        WHERE tenant.name = 'default' AND 'default' = ANY($2) AND tenant.max_running IS NOT NULL";

/// Tasks have ended: wakes whoever waits for the room that this may have made.
pub(super) async fn freed(
    connection: &Connection,
    changes: &mut Changes,
    fleets: &[&str],
    tenants: &[&str],
) -> Result<(), DbError> {
    let (fleets, tenants) = (fleets.to_vec(), tenants.to_vec());
    for row in connection.query(FREED, args![fleets, tenants]).await? {
        changes.wake_fleet(&get(&row, 0)?);
    }
    Ok(())
}

const RATES: &str = concat!(
    "SELECT gate.fleet, ",
    gate_columns!(),
    " FROM @gate AS gate WHERE gate.rate_tasks IS NOT NULL AND NOT gate.paused
        AND (SELECT sum(runnable) FROM @fleet_count AS c WHERE c.fleet = gate.fleet) > 0"
);

/// Fleets with a rate and something to start: those that may by now, and when the next of the others may.
pub(super) async fn rates(
    connection: &Connection,
    now: Timestamp,
) -> Result<(Vec<FleetName>, Option<Timestamp>), DbError> {
    let (mut open, mut next) = (Vec::new(), None::<Timestamp>);
    for row in &connection.query(RATES, args![]).await? {
        let (caps, full_at) = read_gate(row, 1)?;
        match caps.rate.map(|rate| rate.next(full_at, now)).filter(|at| *at > now) {
            Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            None => open.push(get(row, 0)?),
        }
    }
    Ok((open, next))
}
