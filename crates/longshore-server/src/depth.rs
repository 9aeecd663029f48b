//! How deep a fleet's queue is: what the store counted, and what only this process knows of providers.

use longshore_api::fleet::Depth;
use longshore_core::fleet::Fleet;
use longshore_core::scale::{self, Standstill};
use longshore_core::time::Timestamp;
use longshore_store::{FleetRecord, Load, StoreError};

use crate::app::{App, now};

/// A fleet's queue at one moment.
pub struct Queue {
    pub depth: Depth,
    /// Since when the oldest task waits that could run now.
    pub oldest: Option<Timestamp>,
    pub standstill: Option<Standstill>,
}

/// Reads a fleet's queue from the store.
pub async fn of(app: &App, fleet: &FleetRecord) -> Result<Queue, StoreError> {
    let load = app.store.load(fleet.name.clone(), now()).await?;
    Ok(queue(load, fleet.paused, cut_off(app, &fleet.declaration)))
}

/// Whether a provider of the fleet cannot be reached: then its workers are not ready, and claim nothing.
fn cut_off(app: &App, fleet: &Fleet) -> bool {
    !crate::probes::unreachable(app, |name| fleet.providers.contains(name)).is_empty()
}

fn queue(load: Load, paused: bool, cut_off: bool) -> Queue {
    let (runnable, held_by_provider) = if cut_off { (0, load.runnable) } else { (load.runnable, 0) };
    let standstill = match (paused, cut_off) {
        (true, _) => Some(Standstill::Paused),
        (false, true) => Some(Standstill::Provider),
        (false, false) => None,
    };
    let depth = Depth {
        runnable,
        scheduled: load.delayed,
        held_by_conversation: load.held,
        held_by_cap: load.capped,
        held_by_provider,
        held_by_pause: load.paused,
        running: load.running,
        waiting: load.waiting,
    };
    Queue { depth, oldest: load.oldest_runnable_since.filter(|_| runnable > 0), standstill }
}

impl Queue {
    /// How long the oldest task has waited that could run now.
    pub fn oldest_wait_ms(&self) -> Option<u64> {
        self.oldest.map(|since| now().since(since).as_millis() as u64)
    }

    /// As the scaler sees it.
    pub fn load(&self) -> scale::Load {
        scale::Load {
            runnable: self.depth.runnable,
            oldest_wait_ms: self.oldest_wait_ms(),
            running: self.depth.running,
            fresh: true,
            standstill: self.standstill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        let oldest_runnable_since = Some(Timestamp(1));
        Load {
            runnable: 5,
            oldest_runnable_since,
            capped: 3,
            running: 2,
            delayed: 7,
            held: 1,
            ..Load::default()
        }
    }

    #[test]
    fn what_a_lost_provider_holds_is_not_runnable_and_asks_for_no_worker() {
        let queue = queue(load(), false, true);
        assert_eq!((queue.depth.runnable, queue.depth.held_by_provider, queue.depth.held_by_cap), (0, 5, 3));
        assert_eq!((queue.standstill, queue.oldest_wait_ms()), (Some(Standstill::Provider), None));
        assert_eq!(queue.load().runnable, 0);
    }

    #[test]
    fn what_caps_hold_asks_for_no_worker() {
        let queue = queue(load(), false, false);
        assert_eq!((queue.load().runnable, queue.load().standstill), (5, None));
        assert_eq!((queue.depth.scheduled, queue.depth.held_by_conversation), (7, 1));
    }

    #[test]
    fn a_pause_goes_before_a_lost_provider() {
        let halted = Load { runnable: 0, paused: 8, oldest_runnable_since: None, ..load() };
        let queue = queue(halted, true, true);
        assert_eq!((queue.depth.held_by_pause, queue.depth.held_by_provider), (8, 0));
        assert_eq!(queue.standstill, Some(Standstill::Paused));
    }
}
