//! Counts per fleet, added up over a group and written once.

use std::collections::HashMap;

use longshore_core::id::FleetName;
use longshore_core::task::{Hold, State};
use rusqlite::{Connection, params};

use super::batches;

/// Where a task stands, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Runnable,
    Delayed,
    Held,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Cancelled,
}

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
}

/// By how much the counts of each fleet, and of each batch, change.
#[derive(Default)]
pub(super) struct Deltas {
    fleets: HashMap<FleetName, [i64; 8]>,
    pub(super) batches: batches::Deltas,
}

impl Deltas {
    pub(super) fn count(&mut self, fleet: &FleetName, place: Place, by: i64) {
        if !self.fleets.contains_key(fleet) {
            self.fleets.insert(fleet.clone(), [0; 8]);
        }
        if let Some(counts) = self.fleets.get_mut(fleet) {
            counts[place as usize] += by;
        }
    }

    pub(super) fn add(&mut self, more: Deltas) {
        self.batches.add(more.batches);
        for (fleet, more) in more.fleets {
            let counts = self.fleets.entry(fleet).or_default();
            counts.iter_mut().zip(more).for_each(|(count, by)| *count += by);
        }
    }

    pub(super) fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        // An upsert would check the new row's constraints before it looks for the old one.
        for (fleet, [a, b, c, d, e, f, g, h]) in &self.fleets {
            connection
                .prepare_cached("INSERT OR IGNORE INTO fleet_count VALUES (?1, 0, 0, 0, 0, 0, 0, 0, 0)")?
                .execute([fleet.as_str()])?;
            connection
                .prepare_cached(
                    "UPDATE fleet_count SET runnable = runnable + ?2, delayed = delayed + ?3, held = held + ?4,
                        running = running + ?5, waiting = waiting + ?6, succeeded = succeeded + ?7,
                        failed = failed + ?8, cancelled = cancelled + ?9
                     WHERE fleet = ?1",
                )?
                .execute(params![fleet.as_str(), a, b, c, d, e, f, g, h])?;
        }
        self.batches.save(connection)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fleets.is_empty()
    }
}
