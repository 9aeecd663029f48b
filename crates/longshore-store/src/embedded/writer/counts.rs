//! Counts per fleet and tenant, added up over a group and written once.

use std::collections::HashMap;

use longshore_core::id::{FleetName, TenantName};
use longshore_core::task::{Hold, State};
use rusqlite::{Connection, params};

/// Where a task stands, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::embedded) enum Place {
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

const PLACES: usize = 9;

impl Place {
    pub(in crate::embedded) fn of(state: State, hold: Option<Hold>) -> Place {
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

/// By how much the counts of each fleet and tenant change.
#[derive(Default)]
pub(super) struct Deltas(Vec<(FleetName, HashMap<TenantName, [i64; PLACES]>)>);

impl Deltas {
    /// Counts a task that goes from one place to another, or is new.
    pub(super) fn count(&mut self, fleet: &FleetName, tenant: &TenantName, from: Option<Place>, to: Place) {
        let counts = self.lane(fleet, tenant);
        if let Some(from) = from {
            counts[from as usize] -= 1;
        }
        counts[to as usize] += 1;
    }

    /// Fleets are few, tenants may be many.
    fn lane(&mut self, fleet: &FleetName, tenant: &TenantName) -> &mut [i64; PLACES] {
        let at = self.0.iter().position(|(known, _)| known == fleet).unwrap_or_else(|| {
            self.0.push((fleet.clone(), HashMap::new()));
            self.0.len() - 1
        });
        self.0[at].1.entry(tenant.clone()).or_default()
    }

    pub(super) fn add(&mut self, more: Deltas) {
        if self.0.is_empty() {
            self.0 = more.0;
            return;
        }
        for (fleet, lanes) in more.0 {
            for (tenant, more) in lanes {
                plus(self.lane(&fleet, &tenant), &more);
            }
        }
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        for (fleet, lanes) in &self.0 {
            let mut sum = [0; PLACES];
            for (tenant, counts) in lanes {
                plus(&mut sum, counts);
                save_lane(connection, fleet, tenant, counts)?;
            }
            save_fleet(connection, fleet, &sum)?;
        }
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
