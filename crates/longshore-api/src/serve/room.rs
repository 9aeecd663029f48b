//! The seats of a listener, and who gives one up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use super::place::Place;
use super::{HEAD, IDLE, TAKE};

/// Connections without a request that are kept, however many files there are: each takes some memory as well.
const MOST_WAITING: usize = 16 << 10;

/// Of those, the ones that have begun to say a request and have not ended. It comes in one piece or in a few, so they are
/// hardly any; and each may hold as much memory as a head may be large.
pub(super) const MOST_SPEAKING: usize = 1 << 10;

/// How long somebody may take nothing of an answer before somebody new may have the seat.
const STALL: Duration = Duration::from_secs(10);

/// How often the same trouble is said.
const COMPLAINT: Duration = Duration::from_secs(10);

/// How long a room waits for the other side.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request, from its first byte on, and for a handshake.
    pub head: Duration,
    /// For the next request.
    pub idle: Duration,
    /// For some more of an answer to be taken.
    pub take: Duration,
    /// The same, where somebody else needs the seat.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { head: HEAD, idle: IDLE, take: TAKE, stall: STALL }
    }
}

/// Connections of one listener, or of several that share.
pub struct Room {
    name: &'static str,
    seats: Arc<Semaphore>,
    most: usize,
    patience: Patience,
    /// All answers are short, and there at once or of no use.
    short: bool,
    /// Each answer is its connection's last.
    ends: AtomicBool,
    line: Mutex<Line>,
}

/// Those who may have to go, each by the order in which they came to be so.
#[derive(Default)]
struct Line {
    next: u64,
    /// Without a request.
    waiting: BTreeMap<u64, Arc<Place>>,
    /// Those of them whose next request has begun.
    speaking: BTreeSet<u64>,
    /// With a request: those who take nothing of their answer, since when; where answers are short all of them.
    owed: BTreeMap<u64, (Instant, Arc<Place>)>,
    complained: Option<Instant>,
}

impl Room {
    pub fn new(name: &'static str, most: usize) -> Arc<Room> {
        Room::with_patience(name, most, Patience::default())
    }

    /// The same; how long it waits is said.
    pub fn with_patience(name: &'static str, most: usize, patience: Patience) -> Arc<Room> {
        Arc::new(Room::of(name, most, patience, false))
    }

    /// For probes and the like: whoever comes gets a seat. If all are answered, the one goes whose request is the oldest: so
    /// nobody can keep others out by asking, whether what is answered is taken or not.
    pub fn of_short_answers(name: &'static str, most: usize) -> Arc<Room> {
        Arc::new(Room::of(name, most, Patience::default(), true))
    }

    fn of(name: &'static str, most: usize, patience: Patience, short: bool) -> Room {
        let most = most.min(Semaphore::MAX_PERMITS);
        let seats = Arc::new(Semaphore::new(most));
        Room { name, seats, most, patience, short, ends: AtomicBool::new(false), line: Mutex::default() }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn seats(&self) -> usize {
        self.most
    }

    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    pub(super) fn has_short_answers(&self) -> bool {
        self.short
    }

    /// From now on each connection ends with its answer, so that whoever is on it looks for another place before this one is
    /// gone. New ones are taken still.
    pub fn end_connections(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    pub(super) fn ends_connections(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// A free seat, or that of somebody who has to go. `None`: all are answered, and take it.
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

    /// Tells somebody to go: who has waited for a request the longest, else who has taken nothing of an answer the longest.
    /// False: there is nobody.
    pub(super) fn make_room(&self) -> bool {
        let mut line = self.line();
        if let Some((_, place)) = line.first_waiting() {
            place.go();
            return true;
        }
        let may_go = |since: Instant| self.short || since.elapsed() >= self.patience.stall;
        match line.owed.first_entry() {
            Some(first) if may_go(first.get().0) => first.remove().1.go(),
            _ => return false,
        }
        true
    }

    /// Waits for a request from now on; returns its number in line.
    pub(super) fn wait(&self, place: Arc<Place>) -> u64 {
        let mut line = self.line();
        let number = line.number();
        line.waiting.insert(number, place);
        if line.waiting.len() > MOST_WAITING
            && let Some((_, first)) = line.first_waiting()
        {
            first.go();
        }
        number
    }

    /// Of the one that waits with this number: its next request has begun.
    pub(super) fn speaks(&self, number: u64) {
        let mut line = self.line();
        if !line.waiting.contains_key(&number) {
            return;
        }
        line.speaking.insert(number);
        if line.speaking.len() > MOST_SPEAKING
            && let Some(first) = line.speaking.pop_first()
            && let Some(place) = line.waiting.remove(&first)
        {
            place.go();
        }
    }

    /// Is owed an answer, and may have to go all the same; returns its number in line.
    pub(super) fn owe(&self, place: Arc<Place>) -> u64 {
        let mut line = self.line();
        let number = line.number();
        line.owed.insert(number, (Instant::now(), place));
        number
    }

    /// Leaves the line; false: it was told to go.
    pub(super) fn leave(&self, number: u64) -> bool {
        let mut line = self.line();
        line.speaking.remove(&number);
        line.waiting.remove(&number).is_some() || line.owed.remove(&number).is_some()
    }

    /// Whether it was quiet for so long that trouble may be told again.
    pub fn may_complain(&self) -> bool {
        let mut line = self.line();
        let lately = line.complained.is_some_and(|at| at.elapsed() < COMPLAINT);
        if !lately {
            line.complained = Some(Instant::now());
        }
        !lately
    }

    #[cfg(test)]
    pub fn taken(&self) -> usize {
        self.most - self.seats.available_permits()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // It is whole at every point where the lock can be poisoned.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes the one out that has waited the longest.
    fn first_waiting(&mut self) -> Option<(u64, Arc<Place>)> {
        let first = self.waiting.pop_first()?;
        self.speaking.remove(&first.0);
        Some(first)
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
