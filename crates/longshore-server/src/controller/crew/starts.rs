//! How starting workers has gone lately, and when it may be tried again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use longshore_core::restart::{failures_after, restart_after};
use longshore_core::rollout::Release;
use longshore_core::time::Timestamp;
use longshore_platform::End;
use tracing::warn;

use crate::app::{App, now, roll};

/// A worker that a signal ends this soon after its start most likely ended by its own doing.
const SOON: Duration = Duration::from_secs(3);

/// By release: what keeps workers of one from coming up does not hold up those of another.
#[derive(Default)]
pub struct Starts(Mutex<HashMap<Key, Record>>);

type Key = (FleetName, Release);

#[derive(Default)]
struct Record {
    failures: u32,
    not_before: Option<Instant>,
    failed_at: Timestamp,
    held: Option<Held>,
}

/// Something else than its workers is in the way.
struct Held {
    /// When it was last found to be.
    at: Instant,
    why: String,
}

/// How soon what holds a fleet's starts is looked at again.
const HELD_FOR: Duration = Duration::from_secs(2);

/// How long the reason of a hold is told, if nobody wants to start any more.
const HOLD_TOLD: Duration = Duration::from_secs(10);

impl Starts {
    /// Whether starts have not failed too often lately.
    pub fn allow(&self, fleet: &FleetName, release: Release) -> bool {
        let not_before = self.lock().get(&(fleet.clone(), release)).and_then(|starts| starts.not_before);
        not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Whether the last starts failed: one at a time is tried then.
    pub fn have_failed(&self, fleet: &FleetName, release: Release) -> bool {
        self.lock().get(&(fleet.clone(), release)).is_some_and(|starts| starts.failures > 0)
    }

    /// Why none of a release's workers can be started now, by no fault of theirs.
    pub fn held(&self, fleet: &FleetName, release: Release) -> Option<String> {
        let starts = self.lock();
        let held = starts.get(&(fleet.clone(), release))?.held.as_ref()?;
        (held.at.elapsed() < HOLD_TOLD).then(|| held.why.clone())
    }

    /// The next one waits, longer each time, unless the worker lived for a while.
    pub fn failed(&self, app: &App, (fleet, release): (&FleetName, Release), why: String, uptime: Duration) {
        let mut starts = self.lock();
        let starts = starts.entry((fleet.clone(), release)).or_default();
        let uptime_ms = uptime.as_millis() as u64;
        starts.failures = failures_after(starts.failures, uptime_ms);
        let wait = restart_after(starts.failures, uptime_ms, roll());
        starts.not_before = Some(Instant::now() + wait);
        starts.failed_at = now();
        warn!(%fleet, release, why, failures = starts.failures, wait_ms = wait.as_millis() as u64, "workers do not come up");
        app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why);
    }

    /// None can be started now, by no fault of the fleet's workers: it is tried again soon, as often as need be.
    pub fn hold(&self, app: &App, (fleet, release): (&FleetName, Release), why: String) {
        let mut starts = self.lock();
        let starts = starts.entry((fleet.clone(), release)).or_default();
        starts.not_before = Some(Instant::now() + HELD_FOR);
        let before = starts.held.replace(Held { at: Instant::now(), why: why.clone() });
        if before.is_none_or(|before| before.why != why) {
            warn!(%fleet, release, why, "workers are not started for now");
        }
        app.trouble.lock().expect("no holder panics").insert(fleet.clone(), why);
    }

    /// What held the fleet's starts is over.
    pub fn let_go(&self, app: &App, (fleet, release): (&FleetName, Release)) {
        let mut starts = self.lock();
        let Some(starts) = starts.get_mut(&(fleet.clone(), release)) else { return };
        if starts.held.take().is_some() {
            app.trouble.lock().expect("no holder panics").remove(fleet);
        }
    }

    /// A worker of this release registered at this time and is ready: if that was after the last failed start, whatever
    /// kept its workers from coming up is over. What was in the way of releases that are no more is over as well: `others` are
    /// those of a rollout that is under way.
    pub fn came_up(
        &self,
        app: &App,
        (fleet, release): (&FleetName, Release),
        others: &[Release],
        registered_at: Timestamp,
    ) {
        let mut starts = self.lock();
        starts.retain(|(other, of), _| other != fleet || *of == release || others.contains(of));
        let held = |starts: &Record| starts.held.as_ref().is_some_and(|held| held.at.elapsed() < HOLD_TOLD);
        let key = (fleet.clone(), release);
        if starts.get(&key).is_some_and(|starts| registered_at <= starts.failed_at || held(starts)) {
            return;
        }
        let had_trouble = starts.remove(&key).is_some();
        if had_trouble || !starts.keys().any(|(other, _)| other == fleet) {
            app.trouble.lock().expect("no holder panics").remove(fleet);
        }
    }

    /// A rollout has ended: whatever was in the way of releases that came or went is over.
    pub fn forget(&self, app: &App, fleet: &FleetName) {
        self.lock().retain(|(other, _), _| other != fleet);
        app.trouble.lock().expect("no holder panics").remove(fleet);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Record>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scene;

    #[tokio::test]
    async fn what_was_in_the_way_of_a_release_that_is_no_more_is_over_once_another_comes_up() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut server = scene::start(&dir, "", None).await.expect("it starts");
        let (app, fleet) = (server.app().clone(), scene::fleet("research"));
        let told = || app.trouble.lock().expect("no holder panics").get(&fleet).cloned();
        let starts = Starts::default();
        let fails = || starts.failed(&app, (&fleet, 1), "no such program".into(), Duration::ZERO);
        fails();
        starts.came_up(&app, (&fleet, 2), &[1, 2], now());
        assert_eq!(told().as_deref(), Some("no such program"), "a rollout may go back to it");
        starts.came_up(&app, (&scene::fleet("other"), 2), &[], now());
        assert!(told().is_some());
        starts.came_up(&app, (&fleet, 2), &[], now());
        assert_eq!(told(), None);
        assert!(starts.allow(&fleet, 1));
        server.stop().await;
    }
}
