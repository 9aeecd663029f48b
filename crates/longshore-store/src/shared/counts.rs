//! Counts per fleet and per lane, kept in the transactions that move tasks.

use std::collections::BTreeMap;

use longshore_core::id::{FleetName, TenantName};
use longshore_core::rollout::Sample;

use super::column::int;
use super::connection::Connection;
use super::fault::DbError;
use super::sql::args;
pub(super) use crate::embedded::{PLACES, Place};

/// How many rows each fleet's counts are spread over.
pub(super) const SLOTS: i16 = 16;

/// By how much the counts change; in order of names, so that two transactions never wait crosswise.
#[derive(Debug, Default)]
pub(super) struct Counts {
    fleets: BTreeMap<FleetName, [i64; PLACES]>,
    /// But for the default tenant, whose numbers are what is left.
    lanes: BTreeMap<(FleetName, TenantName), LaneChange>,
    /// What attempts on releases have come to.
    outcomes: BTreeMap<(FleetName, i64), Sample>,
}

#[derive(Debug, Default)]
struct LaneChange {
    places: [i64; PLACES],
    /// How far it has come in its fleet's virtual time; 0: no farther.
    pass: i64,
}

pub(super) const SAVE: &str = "INSERT INTO @fleet_count AS c (fleet, slot, runnable, delayed, held, running, waiting,
        succeeded, failed, cancelled)
     SELECT fleet, $2, a, b, d, e, f, g, h, i
     FROM unnest($1::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bigint[]) AS n (fleet, a, b, d, e, f, g, h, i)
     ON CONFLICT (fleet, slot) DO UPDATE SET runnable = c.runnable + excluded.runnable,
        delayed = c.delayed + excluded.delayed, held = c.held + excluded.held, running = c.running + excluded.running,
        waiting = c.waiting + excluded.waiting, succeeded = c.succeeded + excluded.succeeded,
        failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled";

pub(super) const SAVE_LANES: &str =
    "INSERT INTO @lane AS l (fleet, tenant, pass, runnable, delayed, held, running, waiting, succeeded, failed, cancelled)
     SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
     ON CONFLICT (fleet, tenant) DO UPDATE SET pass = greatest(l.pass, excluded.pass),
        runnable = l.runnable + excluded.runnable, delayed = l.delayed + excluded.delayed,
        held = l.held + excluded.held, running = l.running + excluded.running, waiting = l.waiting + excluded.waiting,
        succeeded = l.succeeded + excluded.succeeded, failed = l.failed + excluded.failed,
        cancelled = l.cancelled + excluded.cancelled";

pub(super) const SAVE_OUTCOMES: &str =
    "INSERT INTO @outcome AS o (fleet, release, slot, succeeded, failed, succeeded_ms, cost_nano)
     SELECT fleet, release, $3, a, b, c, d
     FROM unnest($1::text[], $2::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
        AS n (fleet, release, a, b, c, d)
     ON CONFLICT (fleet, release, slot) DO UPDATE SET succeeded = o.succeeded + excluded.succeeded,
        failed = o.failed + excluded.failed, succeeded_ms = o.succeeded_ms + excluded.succeeded_ms,
        cost_nano = o.cost_nano + excluded.cost_nano";

impl Counts {
    pub(super) fn add(&mut self, fleet: &FleetName, tenant: &TenantName, place: Place, by: i64) {
        if !self.fleets.contains_key(fleet) {
            self.fleets.insert(fleet.clone(), [0; PLACES]);
        }
        if let Some(counts) = self.fleets.get_mut(fleet) {
            counts[place as usize] += by;
        }
        if !tenant.is_default() {
            self.lane(fleet, tenant).places[place as usize] += by;
        }
    }

    /// Takes a lane forward.
    pub(super) fn pass(&mut self, fleet: &FleetName, tenant: &TenantName, pass: u64) {
        self.lane(fleet, tenant).pass = int(pass);
    }

    /// Adds an attempt's end to what is known of its release.
    pub(super) fn sample(&mut self, fleet: &FleetName, release: i64, it: &Sample) {
        let sum = self.outcomes.entry((fleet.clone(), release)).or_default();
        sum.succeeded += it.succeeded;
        sum.failed += it.failed;
        sum.succeeded_ms = sum.succeeded_ms.saturating_add(it.succeeded_ms);
        sum.cost_nano = sum.cost_nano.saturating_add(it.cost_nano);
    }

    fn lane(&mut self, fleet: &FleetName, tenant: &TenantName) -> &mut LaneChange {
        self.lanes.entry((fleet.clone(), tenant.clone())).or_default()
    }

    /// Lanes first: whoever waits for one holds nobody up who has none.
    pub(super) async fn save(&self, connection: &Connection, slot: i16) -> Result<(), DbError> {
        futures_util::try_join!(
            self.save_lanes(connection),
            self.save_fleets(connection, slot),
            self.save_outcomes(connection, slot)
        )?;
        Ok(())
    }

    async fn save_lanes(&self, connection: &Connection) -> Result<(), DbError> {
        if self.lanes.is_empty() {
            return Ok(());
        }
        let fleets: Vec<&str> = self.lanes.keys().map(|(fleet, _)| fleet.as_str()).collect();
        let tenants: Vec<&str> = self.lanes.keys().map(|(_, tenant)| tenant.as_str()).collect();
        let passes: Vec<i64> = self.lanes.values().map(|lane| lane.pass).collect();
        let [runnable, b, d, e, f, g, h, i] = columns(self.lanes.values().map(|lane| &lane.places));
        connection
            .execute(SAVE_LANES, args![fleets, tenants, passes, runnable, b, d, e, f, g, h, i])
            .await
            .map(drop)
    }

    async fn save_outcomes(&self, connection: &Connection, slot: i16) -> Result<(), DbError> {
        if self.outcomes.is_empty() {
            return Ok(());
        }
        let fleets: Vec<&str> = self.outcomes.keys().map(|(fleet, _)| fleet.as_str()).collect();
        let releases: Vec<i64> = self.outcomes.keys().map(|(_, release)| *release).collect();
        let sums = |of: fn(&Sample) -> u64| -> Vec<i64> {
            self.outcomes.values().map(|sample| int(of(sample))).collect()
        };
        let (a, b) = (sums(|it| it.succeeded), sums(|it| it.failed));
        let (c, d) = (sums(|it| it.succeeded_ms), sums(|it| it.cost_nano));
        connection.execute(SAVE_OUTCOMES, args![fleets, releases, slot, a, b, c, d]).await.map(drop)
    }

    async fn save_fleets(&self, connection: &Connection, slot: i16) -> Result<(), DbError> {
        if self.fleets.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.fleets.keys().map(FleetName::as_str).collect();
        let [runnable, b, d, e, f, g, h, i] = columns(self.fleets.values());
        connection.execute(SAVE, args![names, slot, runnable, b, d, e, f, g, h, i]).await.map(drop)
    }
}

/// The columns of a table of counts; suspects are runnable like others.
fn columns<'a>(rows: impl Iterator<Item = &'a [i64; PLACES]>) -> [Vec<i64>; 8] {
    let mut columns: [Vec<i64>; 8] = Default::default();
    for [plain, suspects, rest @ ..] in rows {
        columns[0].push(plain + suspects);
        columns[1..].iter_mut().zip(rest).for_each(|(column, by)| column.push(*by));
    }
    columns
}
