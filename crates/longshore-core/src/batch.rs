//! Batches: tasks that were submitted together, and when they have ended together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{IdError, shorten};
use crate::task::State;

/// Identifies a batch. A UUIDv7, so that ids sort by time of submission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub Uuid);

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for BatchId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong =
            || IdError { what: "batch id", given: shorten(text), rule: "a UUID such as 0197a2c4-…" };
        Uuid::try_parse(text).map(BatchId).map_err(|_| wrong())
    }
}

/// How many tasks of a batch are in which state. Tasks that retention deleted are counted as they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub queued: u64,
    pub running: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Counts {
    pub fn total(&self) -> u64 {
        self.unfinished() + self.ended()
    }

    pub fn unfinished(&self) -> u64 {
        self.queued + self.running + self.waiting
    }

    pub fn ended(&self) -> u64 {
        self.succeeded + self.failed + self.cancelled
    }

    /// Where the number of a state is kept.
    pub fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Queued => &mut self.queued,
            State::Running => &mut self.running,
            State::Waiting => &mut self.waiting,
            State::Succeeded => &mut self.succeeded,
            State::Failed => &mut self.failed,
            State::Cancelled => &mut self.cancelled,
        }
    }
}

/// Whether a batch has ended: no more tasks may come, and all that came have ended.
///
/// True for ever after, since no task leaves a terminal state: the store records it in the very transaction that makes it
/// true.
pub fn has_ended(counts: &Counts, open: bool) -> bool {
    !open && counts.unfinished() == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_its_last_task_and_not_while_more_may_come() {
        let mut counts = Counts { running: 1, failed: 2, ..Counts::default() };
        assert!(!has_ended(&counts, false));
        *counts.of(State::Running) -= 1;
        *counts.of(State::Succeeded) += 1;
        assert!(has_ended(&counts, false) && !has_ended(&counts, true));
        assert_eq!((counts.total(), counts.ended()), (3, 3));
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = BatchId(Uuid::from_u128(7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("x".parse::<BatchId>().expect_err("no UUID").to_string().contains("batch id"));
    }
}
