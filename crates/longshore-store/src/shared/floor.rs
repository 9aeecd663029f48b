//! Where a search for runnable tasks may begin.
//!
//! Claimed tasks leave dead entries at the front of the index, and while a long transaction is open anywhere in the database
//! nobody may remove them. A replica that remembers how far it came does not step over them each time. It is a hint that is
//! kept for a moment only: another replica may have put something in front.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use longshore_core::id::FleetName;
use uuid::Uuid;

/// How long what others put in front may be overlooked, should their word not arrive.
const KEEP: Duration = Duration::from_millis(500);

/// A place in the order of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(pub i64, pub Uuid);

impl Position {
    pub(super) const FIRST: Position = Position(i64::MIN, Uuid::nil());
}

#[derive(Debug, Default)]
pub(super) struct Floors(Mutex<HashMap<FleetName, Floor>>);

#[derive(Debug)]
struct Floor {
    at: Position,
    since: Instant,
    /// Grows with each position that was put in front.
    version: u64,
}

impl Floor {
    fn lowest() -> Floor {
        Floor { at: Position::FIRST, since: Instant::now(), version: 0 }
    }
}

impl Floors {
    /// Where to begin, and the version to give back with what was found.
    pub(super) fn begin(&self, fleet: &FleetName) -> (Position, u64) {
        let mut floors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(floor) = floors.get_mut(fleet) else {
            floors.insert(fleet.clone(), Floor::lowest());
            return (Position::FIRST, 0);
        };
        if floor.since.elapsed() > KEEP {
            floor.at = Position::FIRST;
            floor.since = Instant::now();
        }
        (floor.at, floor.version)
    }

    /// Everything before this position was taken, as seen by a search that began with this version.
    pub(super) fn raise(&self, fleet: &FleetName, at: Position, version: u64) {
        let mut floors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(floor) = floors.get_mut(fleet).filter(|floor| floor.version == version) {
            floor.at = floor.at.max(at);
        }
    }

    /// A task became runnable here.
    pub(super) fn lower(&self, fleet: &FleetName, rank: i64, id: Uuid) {
        let mut floors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(floor) = floors.get_mut(fleet) else { return };
        floor.version += 1;
        floor.at = floor.at.min(Position(rank, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> FleetName {
        FleetName::new("a").unwrap()
    }

    fn position(rank: i64) -> Position {
        Position(rank, Uuid::nil())
    }

    #[test]
    fn a_floor_rises_with_what_was_taken_and_falls_with_what_was_put_in_front() {
        let floors = Floors::default();
        let (begin, version) = floors.begin(&fleet());
        assert_eq!(begin, Position::FIRST);
        floors.raise(&fleet(), position(5), version);
        assert_eq!(floors.begin(&fleet()).0, position(5));
        floors.lower(&fleet(), 3, Uuid::nil());
        assert_eq!(floors.begin(&fleet()).0, position(3));
    }

    #[test]
    fn a_search_that_was_overtaken_raises_nothing() {
        let floors = Floors::default();
        let (_, version) = floors.begin(&fleet());
        floors.raise(&fleet(), position(5), version);
        let (_, version) = floors.begin(&fleet());
        floors.lower(&fleet(), 2, Uuid::nil());
        floors.raise(&fleet(), position(9), version);
        assert_eq!(floors.begin(&fleet()).0, position(2));
    }

    #[test]
    fn the_first_search_can_be_overtaken_as_well() {
        let floors = Floors::default();
        let (_, version) = floors.begin(&fleet());
        floors.lower(&fleet(), 2, Uuid::nil());
        floors.raise(&fleet(), position(9), version);
        assert_eq!(floors.begin(&fleet()).0, Position::FIRST);
    }
}
