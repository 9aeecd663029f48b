//! Counts per fleet and tenant, added up over a group and written once.

use std::collections::HashMap;

use longshore_core::id::{FleetName, TenantName};
use longshore_core::task::{Hold, State};
use rusqlite::{Connection, params};

use super::batches;

/// Where a task stands, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Runnable,
    /// Runnable, but alone.
    Suspect,
    Delayed,
    Held,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Cancelled,
}

/// How many there are.
pub(crate) const PLACES: usize = 9;

impl Place {
    pub(crate) fn of(state: State, hold: Option<Hold>) -> Place {
        match (state, hold) {
            (State::Queued, Some(Hold::Scheduled | Hold::Backoff)) => Place::Delayed,
            (State::Queued, Some(Hold::Conversation)) => Place::Held,
            (State::Queued, Some(Hold::Ready) | None) => Place::Runnable,
            (State::Running, _) => Place::Running,
            (State::Waiting, _) => Place::Waiting,
            (State::Succeeded, _) => Place::Succeeded,
            (State::Failed, _) => Place::Failed,
            (State::Cancelled, _) => Place::Cancelled,
        }
    }

    /// Tells suspects from other runnable tasks.
    pub(in crate::embedded) fn alone(self, alone: bool) -> Place {
        if self == Place::Runnable && alone { Place::Suspect } else { self }
    }
}

/// By how much the counts of each fleet and tenant, and of each batch, change.
#[derive(Default)]
pub(super) struct Deltas {
    /// Fleets are few, tenants may be many.
    fleets: Vec<(FleetName, HashMap<TenantName, [i64; PLACES]>)>,
    pub(super) batches: batches::Deltas,
}

impl Deltas {
    /// Counts a task that goes from one place to another; that is new; or that is no more.
    pub(super) fn count(
        &mut self,
        fleet: &FleetName,
        tenant: &TenantName,
        from: Option<Place>,
        to: Option<Place>,
    ) {
        let counts = self.lane(fleet, tenant);
        if let Some(from) = from {
            counts[from as usize] -= 1;
        }
        if let Some(to) = to {
            counts[to as usize] += 1;
        }
    }

    fn lane(&mut self, fleet: &FleetName, tenant: &TenantName) -> &mut [i64; PLACES] {
        let known = self.fleets.iter().position(|(known, _)| known == fleet);
        let at = known.unwrap_or_else(|| {
            self.fleets.push((fleet.clone(), HashMap::new()));
            self.fleets.len() - 1
        });
        self.fleets[at].1.entry(tenant.clone()).or_default()
    }

    pub(super) fn add(&mut self, more: Deltas) {
        self.batches.add(more.batches);
        if self.fleets.is_empty() {
            self.fleets = more.fleets;
            return;
        }
        for (fleet, lanes) in more.fleets {
            for (tenant, more) in lanes {
                plus(self.lane(&fleet, &tenant), &more);
            }
        }
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (fleet, lanes) in &self.fleets {
            let mut sum = [0; PLACES];
            for (tenant, counts) in lanes {
                plus(&mut sum, counts);
                save_lane(connection, fleet, tenant, counts)?;
            }
            save_fleet(connection, fleet, &sum)?;
        }
        self.batches.save(connection)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fleets.is_empty()
    }
}

fn plus(sum: &mut [i64; PLACES], more: &[i64; PLACES]) {
    sum.iter_mut().zip(more).for_each(|(count, by)| *count += by);
}

// Both: an upsert would check the new row's constraints before it looks for the old one.

fn save_lane(
    connection: &Connection,
    fleet: &FleetName,
    tenant: &TenantName,
    counts: &[i64; PLACES],
) -> rusqlite::Result<()> {
    let [plain, suspects, delayed, held, running, waiting, succeeded, failed, cancelled] = counts;
    let mut update = connection.prepare_cached(
        "UPDATE lane SET runnable = runnable + ?3, suspects = suspects + ?4, delayed = delayed + ?5, held = held + ?6,
            running = running + ?7, waiting = waiting + ?8, succeeded = succeeded + ?9, failed = failed + ?10,
            cancelled = cancelled + ?11
         WHERE fleet = ?1 AND tenant = ?2",
    )?;
    let (fleet, tenant, runnable) = (fleet.as_str(), tenant.as_str(), plain + suspects);
    let mut update = || {
        update.execute(params![
            fleet, tenant, runnable, suspects, delayed, held, running, waiting, succeeded, failed, cancelled
        ])
    };
    if update()? == 0 {
        let insert = "INSERT INTO lane (fleet, tenant) VALUES (?1, ?2)";
        connection.prepare_cached(insert)?.execute([fleet, tenant])?;
        update()?;
    }
    Ok(())
}

fn save_fleet(connection: &Connection, fleet: &FleetName, counts: &[i64; PLACES]) -> rusqlite::Result<()> {
    let [plain, suspects, delayed, held, running, waiting, succeeded, failed, cancelled] = counts;
    let mut update = connection.prepare_cached(
        "UPDATE fleet_count SET runnable = runnable + ?2, delayed = delayed + ?3, held = held + ?4,
            running = running + ?5, waiting = waiting + ?6, succeeded = succeeded + ?7, failed = failed + ?8,
            cancelled = cancelled + ?9
         WHERE fleet = ?1",
    )?;
    let (fleet, runnable) = (fleet.as_str(), plain + suspects);
    let mut update = || {
        update
            .execute(params![fleet, runnable, delayed, held, running, waiting, succeeded, failed, cancelled])
    };
    if update()? == 0 {
        let insert =
            "INSERT INTO fleet_count (fleet, runnable, delayed, held, running, waiting, succeeded, failed,
                cancelled)
             VALUES (?1, 0, 0, 0, 0, 0, 0, 0, 0)";
        connection.prepare_cached(insert)?.execute([fleet])?;
        update()?;
    }
    Ok(())
}
