//! How starting workers has gone lately, and when it may be tried again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use longshore_core::restart::{failures_after, restart_after};
use longshore_core::time::Timestamp;
use longshore_platform::End;
use tracing::warn;

use crate::app::{App, now, roll};

/// A worker that a signal ends this soon after its start most likely ended by its own doing.
const SOON: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct Starts(Mutex<HashMap<FleetName, Fleet>>);

#[derive(Default)]
struct Fleet {
    failures: u32,
    not_before: Option<Instant>,
    failed_at: Timestamp,
    /// When something else than its workers was last found to be in the way.
    held: Option<Instant>,
}

/// How soon what holds a fleet's starts is looked at again.
const HELD_FOR: Duration = Duration::from_secs(2);

/// How long the reason of a hold is told, if nobody wants to start any more.
const HOLD_TOLD: Duration = Duration::from_secs(10);

impl Starts {
    /// Whether starts have not failed too often lately.
    pub fn allow(&self, fleet: &FleetName) -> bool {
        let not_before = self.lock().get(fleet).and_then(|starts| starts.not_before);
        not_before.is_none_or(|at| at <= Instant::now())
    }

    /// The next one waits, longer each time, unless the worker lived for a while.
    pub fn failed(&self, app: &App, fleet: &FleetName, why: String, uptime: Duration) {
        let mut starts = self.lock();
        let starts = starts.entry(fleet.clone()).or_default();
        let uptime_ms = uptime.as_millis() as u64;
        starts.failures = failures_after(starts.failures, uptime_ms);
        let wait = restart_after(starts.failures, uptime_ms, roll());
        starts.not_before = Some(Instant::now() + wait);
        starts.failed_at = now();
        warn!(%fleet, why, failures = starts.failures, wait_ms = wait.as_millis() as u64, "workers do not come up");
        app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why);
    }

    /// None can be started now, by no fault of the fleet's workers: it is tried again soon, as often as need be.
    pub fn hold(&self, app: &App, fleet: &FleetName, why: String) {
        let mut starts = self.lock();
        let starts = starts.entry(fleet.clone()).or_default();
        starts.not_before = Some(Instant::now() + HELD_FOR);
        let before = starts.held.replace(Instant::now());
        let mut trouble = app.trouble.lock().expect("no holder panics");
        if before.is_none() || trouble.get(fleet) != Some(&why) {
            warn!(%fleet, why, "workers are not started for now");
        }
        trouble.insert(fleet.clone(), why);
    }

    /// What held the fleet's starts is over.
    pub fn let_go(&self, app: &App, fleet: &FleetName) {
        let mut starts = self.lock();
        let Some(starts) = starts.get_mut(fleet) else { return };
        if starts.held.take().is_some() {
            app.trouble.lock().expect("no holder panics").remove(fleet);
        }
    }

    /// A worker of the current declaration registered at this time and is ready: if that was after the last failed
    /// start, whatever kept the fleet's workers from coming up is over.
    pub fn came_up(&self, app: &App, fleet: &FleetName, registered_at: Timestamp) {
        let mut starts = self.lock();
        let held = |starts: &Fleet| starts.held.is_some_and(|at| at.elapsed() < HOLD_TOLD);
        if starts.get(fleet).is_some_and(|starts| registered_at <= starts.failed_at || held(starts)) {
            return;
        }
        starts.remove(fleet);
        app.trouble.lock().expect("no holder panics").remove(fleet);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FleetName, Fleet>> {
        self.0.lock().expect("no holder panics")
    }
}

/// Whether a worker that nobody told to end did so by its own doing, and so will its successor.
pub fn is_failed_start(end: End, uptime: Duration) -> bool {
    match end {
        End::Exited(status) => status != 0,
        End::Signaled(_) => end.is_crash() || uptime < SOON,
        End::OutOfMemory => true,
        End::Gone => false,
    }
}
