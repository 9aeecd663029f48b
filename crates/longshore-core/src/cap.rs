//! What keeps tasks from being started though workers are free, and how many it keeps.
//!
//! A cap is asked when a task is claimed, under the store's own order of writes, so that none is ever exceeded; a cap that
//! is lowered stops nothing that runs.

use serde::{Deserialize, Serialize};

use crate::rate::{FullAt, Rate};
use crate::time::Timestamp;

/// The caps of one fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// An operator said so: nothing is claimed.
    pub paused: bool,
    pub max_running: Option<u32>,
    /// Of each tenant in this fleet.
    pub tenant_max_running: Option<u32>,
    pub rate: Option<Rate>,
}

/// A tenant in one fleet: what runs, and the tenant's cap over all fleets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    pub here: u64,
    pub everywhere: u64,
    pub max_everywhere: Option<u32>,
}

impl Caps {
    /// How many more tasks the fleet may start now, whosever they are.
    pub fn room(&self, running: u64, full_at: FullAt, now: Timestamp) -> u64 {
        if self.paused {
            return 0;
        }
        let by_rate = self.rate.map_or(u64::MAX, |rate| rate.available(full_at, now));
        below(self.max_running, running).min(by_rate)
    }

    /// How many more tasks of one tenant the fleet may start now, as far as the tenant is concerned.
    pub fn tenant_room(&self, running: Running) -> u64 {
        below(self.tenant_max_running, running.here).min(below(running.max_everywhere, running.everywhere))
    }

    /// Whether anything but a pause may ever hold its tasks; the tenants' own caps apart.
    pub fn any(&self) -> bool {
        self.max_running.is_some() || self.tenant_max_running.is_some() || self.rate.is_some()
    }
}

fn below(most: Option<u32>, running: u64) -> u64 {
    most.map_or(u64::MAX, |most| u64::from(most).saturating_sub(running))
}

/// Tasks of a fleet that wait for nothing but to be started, by what keeps them; each is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Only a free slot is missing.
    pub runnable: u64,
    /// A cap or the rate keeps them.
    pub capped: u64,
    /// The fleet is paused.
    pub paused: u64,
}

/// Splits a fleet's ready tasks.
///
/// `within_tenants`: how many of them their tenants' caps let start, summed up; `room`: [`Caps::room`].
pub fn split(ready: u64, within_tenants: u64, room: u64, paused: bool) -> Ready {
    if paused {
        return Ready { paused: ready, ..Ready::default() };
    }
    let runnable = ready.min(within_tenants).min(room);
    Ready { runnable, capped: ready - runnable, paused: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    #[test]
    fn the_narrowest_cap_decides() {
        let caps = Caps { max_running: Some(10), tenant_max_running: Some(3), ..Caps::default() };
        assert_eq!(caps.room(4, FullAt::default(), NOW), 6);
        assert_eq!(caps.room(11, FullAt::default(), NOW), 0, "a cap that was lowered");
        let running = Running { here: 1, everywhere: 5, max_everywhere: Some(6) };
        assert_eq!(caps.tenant_room(running), 1);
        assert_eq!(caps.tenant_room(Running { max_everywhere: None, ..running }), 2);
        let rate = Some(Rate { tasks: 2, per_ms: 1_000 });
        assert_eq!(Caps { rate, ..caps }.room(4, FullAt::default(), NOW), 2);
        assert_eq!(Caps { paused: true, ..Caps::default() }.room(0, FullAt::default(), NOW), 0);
        assert_eq!(Caps::default().room(9, FullAt::default(), NOW), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_ready_task_is_counted_once(ready: u32, within: u32, room: u64, paused: bool) {
            let split = split(ready.into(), within.into(), room, paused);
            prop_assert_eq!(split.runnable + split.capped + split.paused, u64::from(ready));
            prop_assert!(split.runnable <= room && split.runnable <= u64::from(within));
        }
    }
}
