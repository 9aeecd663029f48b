//! The seats of a listener, and who gives one up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use super::place::Place;
use super::{HEAD, IDLE};

/// Connections without a request that are kept, however many files there are: each takes some memory as well.
const MOST_WAITING: usize = 16 << 10;

/// How often the same trouble is said.
const COMPLAINT: Duration = Duration::from_secs(10);

/// Connections of one listener, or of several that share.
pub struct Room {
    name: &'static str,
    seats: Arc<Semaphore>,
    most: usize,
    head: Duration,
    idle: Duration,
    waiting: Mutex<Waiting>,
}

/// Those without a request, by the order in which they came to be so.
#[derive(Default)]
struct Waiting {
    next: u64,
    line: BTreeMap<u64, Arc<Place>>,
    complained: Option<Instant>,
}

impl Room {
    pub fn new(name: &'static str, most: usize) -> Arc<Room> {
        Room::with_patience(name, most, HEAD, IDLE)
    }

    /// The same; how long a request's head and the wait for it may take is said.
    pub fn with_patience(name: &'static str, most: usize, head: Duration, idle: Duration) -> Arc<Room> {
        let most = most.min(Semaphore::MAX_PERMITS);
        let seats = Arc::new(Semaphore::new(most));
        Arc::new(Room { name, seats, most, head, idle, waiting: Mutex::default() })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn patience(&self) -> (Duration, Duration) {
        (self.head, self.idle)
    }

    /// A free seat, or that of the one that has waited for a request the longest. `None`: all are answered.
    pub(super) async fn seat(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() {
            return Some(seat);
        }
        if self.make_room() {
            // It goes as soon as it is told, and holds nothing that could take long to let go of.
            return Arc::clone(&self.seats).acquire_owned().await.ok();
        }
        if self.may_complain() {
            warn!(
                listener = self.name,
                connections = self.most,
                "all connections are busy: new ones are refused"
            );
        }
        None
    }

    /// Tells the one that has waited the longest to go; false: nobody waits.
    pub(super) fn make_room(&self) -> bool {
        let first = self.waiting().line.pop_first();
        first.map(|(_, place)| place.go()).is_some()
    }

    /// Stands in line from now on; returns its number.
    pub(super) fn wait(&self, place: Arc<Place>) -> u64 {
        let mut waiting = self.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.line.insert(number, place);
        if waiting.line.len() > MOST_WAITING
            && let Some((_, first)) = waiting.line.pop_first()
        {
            first.go();
        }
        number
    }

    /// Leaves the line; false: it was told to go.
    pub(super) fn leave(&self, number: u64) -> bool {
        self.waiting().line.remove(&number).is_some()
    }

    /// Whether it was quiet for so long that trouble may be told again.
    pub(super) fn may_complain(&self) -> bool {
        let mut waiting = self.waiting();
        let lately = waiting.complained.is_some_and(|at| at.elapsed() < COMPLAINT);
        if !lately {
            waiting.complained = Some(Instant::now());
        }
        !lately
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.most - self.seats.available_permits()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // The line is whole at every point where the lock can be poisoned.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections each listener of a process may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Probes, and whatever else is asked now and then by few.
    pub few: usize,
    /// Each of up to two listeners that many ask.
    pub many: usize,
}

impl Shares {
    /// Of so many files that the process may have open. As many as one of the two gets, and some, are left to the process:
    /// a call of an agent is one connection in and one out.
    pub fn of(files: u64) -> Shares {
        let files = usize::try_from(files).unwrap_or(usize::MAX).max(64);
        let few = (files / 16).min(64);
        let own = (files / 8).min(64);
        Shares { few, many: (files - 2 * few - own) / 3 }
    }
}
