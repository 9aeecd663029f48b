//! Who waits for tasks of a fleet, in order: as many are woken as there are tasks, not all of them.
//!
//! A waiter takes its place before it looks into the store, so that nothing falls between the look and the wait. Being
//! called means "one task more, look": whoever is called and then leaves without having looked passes the call on, and so
//! does, a few times over, who looked in vain although tasks are left. Calls for which nobody waits are forgotten, since
//! whoever comes looks first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::id::FleetName;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How many waiters may look in vain after one another for the same task: one that nobody here may take, such as a
/// suspect that waits for an idle worker, must not go round for ever.
const HOPS: u32 = 8;

/// Calls are hints and may be lost between processes. So some waiter of each fleet looks uncalled this often, ms; one, not
/// each: what an idle fleet costs does not depend on its size.
const OWN_LOOK_MS: std::ops::Range<u64> = 1_000..2_000;

/// Nobody looks uncalled so soon after another waiter of the fleet has found nothing.
const FRESH: Duration = Duration::from_millis(900);

/// The lines of all fleets. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Mutex<HashMap<FleetName, Line>>>);

#[derive(Default)]
struct Line {
    /// By ticket: lower ones came earlier.
    seats: BTreeMap<u64, Seat>,
    /// Those that do nothing but wait.
    parked: BTreeSet<u64>,
    next_ticket: u64,
    /// When somebody looked and found nothing.
    looked: Option<Instant>,
}

#[derive(Default)]
struct Seat {
    bell: Arc<Notify>,
    /// A call that was not heard yet.
    call: Option<Call>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    /// How many more may look after one that looks in vain.
    hops: u32,
    /// Calls were lost, nobody knows how many: whoever finds a task calls the next.
    spreads: bool,
}

const COUNTED: Call = Call { hops: HOPS, spreads: false };
/// Of a call to everyone nothing has to be passed on.
const TO_ALL: Call = Call { hops: 0, spreads: false };
const LOST: Call = Call { hops: 0, spreads: true };

impl Lines {
    pub(super) fn join(&self, fleet: &FleetName) -> Turn {
        let bell = Arc::new(Notify::new());
        let seat = Seat { bell: Arc::clone(&bell), call: None };
        let ticket = self.lock().entry(fleet.clone()).or_default().sit_down(seat);
        Turn { lines: self.clone(), fleet: fleet.clone(), ticket, bell, heard: None }
    }

    /// So many tasks of this fleet became runnable.
    pub(super) fn call(&self, fleet: &FleetName, tasks: usize) {
        if let Some(line) = self.lock().get_mut(fleet) {
            line.call(tasks, COUNTED);
        }
    }

    /// Who may take what is not known: everyone looks again.
    pub(super) fn call_all(&self, fleet: &FleetName) {
        if let Some(line) = self.lock().get_mut(fleet) {
            line.call(usize::MAX, TO_ALL);
        }
    }

    /// The same for every fleet.
    pub(super) fn call_everyone(&self) {
        self.lock().values_mut().for_each(|line| line.call(usize::MAX, TO_ALL));
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FleetName, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn sit_down(&mut self, seat: Seat) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.seats.insert(ticket, seat);
        ticket
    }

    /// Calls those that wait; if there are too few, those that are looking, who may have looked too early for it.
    fn call(&mut self, tasks: usize, call: Call) {
        let left = self.call_parked(tasks, call);
        let busy = self.seats.values_mut().filter(|seat| seat.call.is_none());
        busy.take(left).for_each(|seat| seat.call = Some(call));
    }

    /// Returns how many could not be called.
    fn call_parked(&mut self, tasks: usize, call: Call) -> usize {
        let mut left = tasks;
        while left > 0
            && let Some(ticket) = self.parked.pop_first()
        {
            let seat = self.seats.get_mut(&ticket).expect("who is parked has a seat");
            seat.call = Some(call);
            seat.bell.notify_one();
            left -= 1;
        }
        left
    }
}

/// Why a waiter is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    Called,
    /// Nobody said anything for a while.
    Uncalled,
}

/// A place in a fleet's line. Look into the store after it was taken, and after each [`Turn::wait`]; then say what came
/// of it.
pub struct Turn {
    lines: Lines,
    fleet: FleetName,
    ticket: u64,
    bell: Arc<Notify>,
    /// The call that the look under way answers.
    heard: Option<Call>,
}

impl Turn {
    /// Waits to be called, or for the time to look uncalled. Returns at once if there was a call since the last return.
    /// Cancel-safe.
    pub async fn wait(&mut self) -> Woken {
        loop {
            if self.hear() {
                return Woken::Called;
            }
            let pause = Duration::from_millis(rand::random_range(OWN_LOOK_MS));
            if tokio::time::timeout(pause, self.bell.notified()).await.is_err() && self.look_uncalled() {
                return Woken::Uncalled;
            }
        }
    }

    /// The look brought tasks.
    pub fn found(&mut self) {
        let spreads = self.heard.take().filter(|call| call.spreads);
        if let Some(call) = spreads
            && let Some(line) = self.lines.lock().get_mut(&self.fleet)
        {
            line.call_parked(1, call);
        }
    }

    /// Whether somebody else should look if this look was in vain and tasks are left.
    pub fn may_pass_on(&self) -> bool {
        self.heard.is_some_and(|call| call.hops > 0)
    }

    /// The look was in vain.
    pub fn found_nothing(&mut self, tasks_left: bool) {
        let heard = self.heard.take();
        let mut lines = self.lines.lock();
        let line = lines.entry(self.fleet.clone()).or_default();
        line.looked = Some(Instant::now());
        if let Some(call) = heard.filter(|call| tasks_left && call.hops > 0) {
            // Not those that are looking: they look into the store later than this one did.
            line.call_parked(1, Call { hops: call.hops - 1, ..call });
        }
    }

    /// Takes a call, and a place at the end of the line with it; without one, parks.
    fn hear(&mut self) -> bool {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(&self.fleet).expect("a line lives as long as its seats");
        let seat = line.seats.get_mut(&self.ticket).expect("kept until dropped");
        let Some(call) = seat.call.take() else {
            line.parked.insert(self.ticket);
            return false;
        };
        self.heard = Some(call);
        line.parked.remove(&self.ticket);
        let seat = line.seats.remove(&self.ticket).expect("just seen");
        self.ticket = line.sit_down(seat);
        true
    }

    fn look_uncalled(&mut self) -> bool {
        let mut lines = self.lines.lock();
        let line = lines.get_mut(&self.fleet).expect("a line lives as long as its seats");
        let called = line.seats.get(&self.ticket).is_some_and(|seat| seat.call.is_some());
        if called || line.looked.is_some_and(|looked| looked.elapsed() < FRESH) {
            return false;
        }
        line.looked = Some(Instant::now());
        line.parked.remove(&self.ticket);
        self.heard = Some(LOST);
        true
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        let Some(line) = lines.get_mut(&self.fleet) else { return };
        line.parked.remove(&self.ticket);
        let unheard = line.seats.remove(&self.ticket).and_then(|seat| seat.call);
        for call in [self.heard, unheard].into_iter().flatten() {
            line.call(1, call);
        }
        if line.seats.is_empty() {
            lines.remove(&self.fleet);
        }
    }
}

#[cfg(test)]
mod tests;
