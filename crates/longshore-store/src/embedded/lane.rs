//! A fleet's queue by tenant: what caps let start, whose turn it is, which tasks that means.
//!
//! Decides nothing itself: `longshore_core::{cap, share, rate}` do, from what is read here. The counts have to be settled
//! before they are asked for a claim.

use longshore_core::cap::{Caps, Running};
use longshore_core::id::{FleetName, TenantName};
use longshore_core::rate::{FullAt, Rate};
use longshore_core::share::{self, Lane};
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::column::{count, get, int};
use super::pin::Pin;
use super::writer::Write;

/// What a fleet may start, and where its virtual time stands.
#[derive(Default)]
pub(super) struct Gate {
    pub caps: Caps,
    running: u64,
    virtual_time: u64,
    full_at: FullAt,
}

impl Gate {
    pub(super) fn read(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<Gate> {
        let gate = connection
            .prepare_cached(
                "SELECT paused, max_running, tenant_max_running, rate_tasks, rate_per_ms, coalesce(running, 0),
                    coalesce(virtual_time, 0), coalesce(full_at, 0)
                 FROM fleet LEFT JOIN fleet_count ON fleet = name WHERE name = ?1",
            )?
            .query_row([fleet.as_str()], |row| {
                let caps = Caps {
                    paused: row.get(0)?,
                    max_running: row.get(1)?,
                    tenant_max_running: row.get(2)?,
                    rate: rate(row, 3)?,
                };
                let full_at = FullAt(row.get(7)?);
                Ok(Gate { caps, running: count(row, 5)?, virtual_time: count(row, 6)?, full_at })
            })
            .optional()?;
        Ok(gate.unwrap_or_default())
    }

    /// How many more tasks it may start now, whosever they are.
    pub(super) fn room(&self, now: Timestamp) -> u64 {
        self.caps.room(self.running, self.full_at, now)
    }

    /// When its rate lets the next one start; none: it has no rate, or may start now.
    pub(super) fn opens(&self, now: Timestamp) -> Option<Timestamp> {
        self.caps.rate.map(|rate| rate.next(self.full_at, now)).filter(|at| *at > now)
    }
}

fn rate(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Rate>> {
    let (tasks, per): (Option<u32>, Option<i64>) = (row.get(at)?, row.get(at + 1)?);
    let rate = tasks.zip(per).map(|(tasks, per)| Rate { tasks, per_ms: per.unsigned_abs() });
    Ok(rate.filter(|rate| rate.is_valid()))
}

/// A tenant's lane in a fleet's queue.
struct Found {
    tenant: TenantName,
    /// `may_start`: what its caps allow of its ordinary tasks.
    lane: Lane,
    /// What its caps allow at all.
    room: u64,
    runnable: u64,
}

const COLUMNS: &str =
    "lane.tenant, lane.pass, lane.runnable, lane.suspects, lane.running, coalesce(weight, 1),
    tenant.max_running, iif(tenant.max_running IS NULL, 0,
        (SELECT sum(running) FROM lane AS everywhere WHERE everywhere.tenant = lane.tenant))";

fn read(row: &Row<'_>, caps: &Caps) -> rusqlite::Result<Found> {
    let (runnable, suspects): (u64, u64) = (count(row, 2)?, count(row, 3)?);
    let running = Running { here: count(row, 4)?, everywhere: count(row, 7)?, max_everywhere: row.get(6)? };
    let room = caps.tenant_room(running);
    let may_start = runnable.saturating_sub(suspects).min(room);
    let lane = Lane { weight: count(row, 5)?, pass: count(row, 1)?, may_start };
    Ok(Found { tenant: get(row, 0)?, lane, room, runnable })
}

/// Tasks to start, with whose turns that takes.
pub(super) struct Turn {
    fleet: FleetName,
    gate: Gate,
    lanes: Vec<Found>,
    /// In order: the task and the number of its lane.
    pub picks: Vec<(i64, usize)>,
}

/// Whether any task of the fleet has to run alone.
pub(super) fn has_suspects(connection: &Connection, fleet: &FleetName) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM lane WHERE fleet = ?1 AND suspects > 0")?
        .exists([fleet.as_str()])
}

/// A suspect that is at the head of a lane whose caps let it start.
pub(super) fn suspect(
    connection: &Connection,
    fleet: &FleetName,
    pin: Option<Pin>,
    now: Timestamp,
) -> rusqlite::Result<Option<Turn>> {
    // Nearly always there is none.
    if !has_suspects(connection, fleet)? {
        return Ok(None);
    }
    let gate = Gate::read(connection, fleet)?;
    if gate.room(now) == 0 {
        return Ok(None);
    }
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM lane LEFT JOIN tenant ON tenant.name = lane.tenant
         WHERE fleet = ?1 AND suspects > 0 ORDER BY pass, lane.tenant"
    ))?;
    let mut rows = select.query([fleet.as_str()])?;
    while let Some(row) = rows.next()? {
        let found = read(row, &gate.caps)?;
        if found.room == 0 {
            continue;
        }
        if let Some(ord) = suspect_at_head(connection, fleet, &found.tenant)?
            && pin.is_none_or(|pin| pin.lets(connection, ord).unwrap_or(true))
        {
            let fleet = fleet.clone();
            return Ok(Some(Turn { fleet, gate, lanes: vec![found], picks: vec![(ord, 0)] }));
        }
    }
    Ok(None)
}

fn suspect_at_head(
    connection: &Connection,
    fleet: &FleetName,
    tenant: &TenantName,
) -> rusqlite::Result<Option<i64>> {
    let head: Option<(i64, bool)> = connection
        .prepare_cached(
            "SELECT ord, alone FROM runnable WHERE fleet = ?1 AND tenant = ?2 ORDER BY rank, ord LIMIT 1",
        )?
        .query_row([fleet.as_str(), tenant.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(head.filter(|(_, alone)| *alone).map(|(ord, _)| ord))
}

/// The next tasks of a fleet that need not run alone, at most `n`.
pub(super) fn turn(
    connection: &Connection,
    fleet: &FleetName,
    n: u32,
    pin: Option<Pin>,
    now: Timestamp,
) -> rusqlite::Result<Turn> {
    let gate = Gate::read(connection, fleet)?;
    let n = usize::try_from(gate.room(now).min(n.into())).unwrap_or(usize::MAX);
    let found = if n == 0 { Vec::new() } else { foremost(connection, fleet, &gate.caps, n)? };
    let lanes: Vec<Lane> = found.iter().map(|found| found.lane).collect();
    let order = share::plan(&lanes, gate.virtual_time, n);
    let mut turns = vec![0; lanes.len()];
    order.iter().for_each(|at| turns[*at] += 1);
    let mut tasks = Vec::with_capacity(found.len());
    for (found, n) in found.iter().zip(turns) {
        tasks.push(tasks_of(connection, fleet, &found.tenant, n, pin)?.into_iter());
    }
    let picks = order.into_iter().filter_map(|at| Some((tasks[at].next()?, at))).collect();
    Ok(Turn { fleet: fleet.clone(), gate, lanes: found, picks })
}

/// In the order of its index, so that no more lanes are read than are asked for.
fn foremost_sql() -> String {
    format!(
        "SELECT {COLUMNS} FROM lane LEFT JOIN tenant ON tenant.name = lane.tenant
         WHERE fleet = ?1 AND runnable > 0 ORDER BY pass, lane.tenant"
    )
}

/// The `n` lanes that have come least far, of those that may start any.
fn foremost(
    connection: &Connection,
    fleet: &FleetName,
    caps: &Caps,
    n: usize,
) -> rusqlite::Result<Vec<Found>> {
    let mut select = connection.prepare_cached(&foremost_sql())?;
    let mut rows = select.query([fleet.as_str()])?;
    let mut lanes = Vec::new();
    while lanes.len() < n
        && let Some(row) = rows.next()?
    {
        let found = read(row, caps)?;
        if found.lane.may_start > 0 {
            lanes.push(found);
        }
    }
    Ok(lanes)
}

fn tasks_of(
    connection: &Connection,
    fleet: &FleetName,
    tenant: &TenantName,
    n: usize,
    pin: Option<Pin>,
) -> rusqlite::Result<Vec<i64>> {
    if n == 0 {
        return Ok(Vec::new());
    }
    if let Some(pin) = pin {
        return pinned_tasks_of(connection, fleet, tenant, n, pin);
    }
    let mut select = connection.prepare_cached(
        "SELECT ord FROM runnable WHERE fleet = ?1 AND tenant = ?2 AND NOT alone ORDER BY rank, ord LIMIT ?3",
    )?;
    let rows = select.query_map(params![fleet.as_str(), tenant.as_str(), int(n as u64)], |row| row.get(0))?;
    rows.collect()
}

/// The same of those that a worker may take. One that takes nothing new looks at pinned tasks alone, which are few.
fn pinned_tasks_of(
    connection: &Connection,
    fleet: &FleetName,
    tenant: &TenantName,
    n: usize,
    pin: Pin,
) -> rusqlite::Result<Vec<i64>> {
    let mut select = connection.prepare_cached(match pin.fresh {
        true => {
            "SELECT ord FROM runnable WHERE fleet = ?1 AND tenant = ?2 AND NOT alone
                AND coalesce((SELECT pinned FROM task WHERE task.ord = runnable.ord), ?4) = ?4
             ORDER BY rank, ord LIMIT ?3"
        }
        false => {
            "SELECT r.ord FROM task AS t JOIN runnable AS r ON r.fleet = t.fleet AND r.tenant = t.tenant
                AND r.rank = -t.priority AND r.ord = t.ord
             WHERE t.fleet = ?1 AND t.tenant = ?2 AND t.pinned = ?4 AND t.finished_at IS NULL AND NOT r.alone
             ORDER BY r.rank, r.ord LIMIT ?3"
        }
    })?;
    let (n, release) = (int(n as u64), int(pin.release));
    let rows = select.query_map(params![fleet.as_str(), tenant.as_str(), n, release], |row| row.get(0))?;
    rows.collect()
}

impl Turn {
    /// Writes what the first `started` of its picks cost.
    pub(super) fn taken(&self, write: &Write<'_>, started: usize, now: Timestamp) -> rusqlite::Result<()> {
        let lanes: Vec<Lane> = self.lanes.iter().map(|found| found.lane).collect();
        let order: Vec<usize> = self.picks[..started].iter().map(|(_, at)| *at).collect();
        let after = share::advance(&lanes, self.gate.virtual_time, &order);
        for (found, pass) in
            self.lanes.iter().zip(after.passes).filter(|(found, pass)| found.lane.pass != *pass)
        {
            write
                .connection
                .prepare_cached("UPDATE lane SET pass = ?3 WHERE fleet = ?1 AND tenant = ?2")?
                .execute(params![self.fleet.as_str(), found.tenant.as_str(), int(pass)])?;
        }
        let full_at = self.gate.caps.rate.map(|rate| rate.after(self.gate.full_at, now, started as u64));
        write
            .connection
            .prepare_cached(
                "UPDATE fleet_count SET virtual_time = ?2, full_at = coalesce(?3, full_at) WHERE fleet = ?1",
            )?
            .execute(params![self.fleet.as_str(), int(after.virtual_time), full_at.map(|at| at.0)])
            .map(drop)
    }
}

/// A running task has ended: wakes whoever waits for the room that this may have made.
pub(super) fn freed(write: &mut Write<'_>, fleet: &FleetName, tenant: &TenantName) -> rusqlite::Result<()> {
    if !write.capped() {
        return Ok(());
    }
    if Gate::read(write.connection, fleet)?.caps.any() {
        write.wake_fleet(fleet);
    }
    let fleets: Vec<FleetName> = {
        let mut select = write.connection.prepare_cached(
            "SELECT lane.fleet FROM tenant JOIN lane ON lane.tenant = tenant.name
             WHERE tenant.name = ?1 AND tenant.max_running IS NOT NULL",
        )?;
        let fleets = select.query_map([tenant.as_str()], |row| get(row, 0))?;
        fleets.collect::<Result<_, _>>()?
    };
    fleets.iter().for_each(|fleet| write.wake_fleet(fleet));
    Ok(())
}

/// Whether any cap is declared that the end of a task may make room under.
pub(super) fn any_caps(connection: &Connection) -> rusqlite::Result<bool> {
    let select =
        "SELECT EXISTS (SELECT 1 FROM fleet WHERE max_running IS NOT NULL OR tenant_max_running IS NOT NULL)
        OR EXISTS (SELECT 1 FROM tenant WHERE max_running IS NOT NULL)";
    connection.query_row(select, [], |row| row.get(0))
}

/// Fleets with a rate: wakes those that may start something by now; returns when the next one may.
pub(super) fn rates(write: &mut Write<'_>, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    let limited: Vec<FleetName> = {
        let mut select = write.connection.prepare_cached(
            "SELECT name FROM fleet JOIN fleet_count ON fleet = name
             WHERE rate_tasks IS NOT NULL AND NOT paused AND runnable > 0",
        )?;
        let fleets = select.query_map([], |row| get(row, 0))?;
        fleets.collect::<Result<_, _>>()?
    };
    let mut next: Option<Timestamp> = None;
    for fleet in &limited {
        match Gate::read(write.connection, fleet)?.opens(now) {
            Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            None => write.wake_fleet(fleet),
        }
    }
    Ok(next)
}

/// How many of a fleet's runnable tasks its tenants' caps let start, summed up.
pub(super) fn within_tenants(
    connection: &Connection,
    fleet: &FleetName,
    caps: &Caps,
    runnable: u64,
) -> rusqlite::Result<u64> {
    let mut select = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM lane LEFT JOIN tenant ON tenant.name = lane.tenant
         WHERE fleet = ?1 AND runnable > 0 AND (?2 OR tenant.max_running IS NOT NULL)"
    ))?;
    let mut rows = select.query(params![fleet.as_str(), caps.tenant_max_running.is_some()])?;
    let mut over = 0u64;
    while let Some(row) = rows.next()? {
        let found = read(row, caps)?;
        over += found.runnable.saturating_sub(found.room);
    }
    Ok(runnable.saturating_sub(over))
}

/// How many of the oldest tasks are looked at for one that no cap holds.
const LOOKED_AT: i64 = 1000;

/// Since when the oldest task waits whose tenant's caps let one start; none when there is none among the oldest.
pub(super) fn oldest_within_tenants(
    connection: &Connection,
    fleet: &FleetName,
    caps: &Caps,
) -> rusqlite::Result<Option<Timestamp>> {
    let mut select = connection
        .prepare_cached("SELECT tenant, since FROM runnable WHERE fleet = ?1 ORDER BY since LIMIT ?2")?;
    let mut rows = select.query(params![fleet.as_str(), LOOKED_AT])?;
    let mut full = std::collections::HashSet::new();
    while let Some(row) = rows.next()? {
        let tenant: TenantName = get(row, 0)?;
        if full.contains(&tenant) {
            continue;
        }
        if one(connection, fleet, &tenant, caps)?.is_some_and(|found| found.room > 0) {
            return Ok(Some(get(row, 1)?));
        }
        full.insert(tenant);
    }
    Ok(None)
}

fn one(
    connection: &Connection,
    fleet: &FleetName,
    tenant: &TenantName,
    caps: &Caps,
) -> rusqlite::Result<Option<Found>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM lane LEFT JOIN tenant ON tenant.name = lane.tenant
             WHERE fleet = ?1 AND lane.tenant = ?2"
        ))?
        .query_row([fleet.as_str(), tenant.as_str()], |row| read(row, caps))
        .optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::migrate;

    /// A sort, or a scan, would cost a claim more the more tenants there are.
    #[test]
    fn a_claim_reads_lanes_in_the_order_of_their_index() {
        let mut file = Connection::open_in_memory().expect("memory");
        migrate::run(&mut file, migrate::MIGRATIONS, 0).expect("the schema");
        let explain = format!("EXPLAIN QUERY PLAN {}", foremost_sql());
        let mut select = file.prepare(&explain).expect("a query");
        let steps = select.query_map(["a"], |row| row.get::<_, String>(3)).expect("a plan");
        let steps: Vec<String> = steps.collect::<Result<_, _>>().expect("text");
        assert!(steps[0].contains("USING INDEX lane_next (fleet=?)"), "{steps:?}");
        assert!(
            steps.iter().all(|step| !step.contains("TEMP B-TREE") && !step.contains("SCAN")),
            "{steps:?}"
        );
    }
}
