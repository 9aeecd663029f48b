//! What is forgotten of a task after its end, and when: first its journal and its result, later the task itself.
//!
//! Deletes nothing: a store applies it, in small transactions. Unfinished tasks are not even asked about.

mod days;

use std::time::Duration;

pub use days::{Alike, Day, Goes, goes, patient};

use serde::{Deserialize, Serialize};

use crate::task::State;
use crate::time::Timestamp;

/// How long what belongs to a task is kept after its end. Milliseconds; `None`: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Calls, answers and steps.
    pub journal_ms: Option<u64>,
    pub results_ms: Option<u64>,
    /// The task with its input, its events and its attempts, and what is still there of the others.
    pub tasks_ms: Option<u64>,
    /// Ended tasks that are kept at most, the newest ones.
    pub max_tasks: Option<u64>,
}

const DAY_MS: u64 = 24 * 3_600_000;

impl Default for Policy {
    fn default() -> Self {
        Policy {
            journal_ms: Some(7 * DAY_MS),
            results_ms: Some(30 * DAY_MS),
            tasks_ms: Some(90 * DAY_MS),
            max_tasks: None,
        }
    }
}

impl Policy {
    /// Errors: what would outlive its task, in words.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(tasks) = self.tasks_ms else { return Ok(()) };
        for (key, kept) in [("journal", self.journal_ms), ("results", self.results_ms)] {
            if kept.is_none_or(|ms| ms > tasks) {
                return Err((key, "is kept longer than `tasks`, which it is deleted with".to_owned()));
            }
        }
        Ok(())
    }
}

/// What of a task is not there (any more), as a store keeps it in one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub u8);

impl Dropped {
    const NO_JOURNAL: u8 = 1;
    const NO_RESULT: u8 = 2;
    const JOURNAL_EXPIRED: u8 = 4;

    /// All values that there are.
    pub const ALL: [Dropped; 6] = [Dropped(0), Dropped(1), Dropped(2), Dropped(3), Dropped(5), Dropped(7)];

    /// A task that just ended: only a success has a result, and only some have a journal.
    pub fn at_end(state: State, journal: bool) -> Dropped {
        let no_result = if state == State::Succeeded { 0 } else { Dropped::NO_RESULT };
        let no_journal = if journal { 0 } else { Dropped::NO_JOURNAL };
        Dropped(no_result | no_journal)
    }

    pub fn has(self, part: Part) -> bool {
        match part {
            Part::Journal => self.0 & Dropped::NO_JOURNAL == 0,
            Part::Result => self.0 & Dropped::NO_RESULT == 0,
            Part::Task => true,
        }
    }

    /// The same task without this part.
    pub fn without(self, part: Part) -> Dropped {
        match part {
            Part::Journal if self.has(part) => {
                Dropped(self.0 | Dropped::NO_JOURNAL | Dropped::JOURNAL_EXPIRED)
            }
            Part::Result => Dropped(self.0 | Dropped::NO_RESULT),
            Part::Journal | Part::Task => self,
        }
    }

    pub fn journal_expired(self) -> bool {
        self.0 & Dropped::JOURNAL_EXPIRED != 0
    }

    /// It succeeded, so it had a result; it has none any more.
    pub fn result_expired(self, state: State) -> bool {
        state == State::Succeeded && !self.has(Part::Result)
    }
}

/// What is deleted at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Journal,
    Result,
    Task,
}

impl Part {
    /// In the order in which they go.
    pub const ALL: [Part; 3] = [Part::Journal, Part::Result, Part::Task];
}

/// What a fleet's policy asks for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Parts of tasks that ended before these times go.
    pub journals_before: Option<Timestamp>,
    pub results_before: Option<Timestamp>,
    pub tasks_before: Option<Timestamp>,
    /// So many of the tasks that ended first go, whatever their age.
    pub excess: u64,
}

impl Plan {
    pub fn before(&self, part: Part) -> Option<Timestamp> {
        match part {
            Part::Journal => self.journals_before,
            Part::Result => self.results_before,
            Part::Task => self.tasks_before,
        }
    }
}

/// Plans for a fleet that has `ended` tasks which ended.
pub fn plan(policy: &Policy, ended: u64, now: Timestamp) -> Plan {
    let before = |kept: Option<u64>| kept.map(|ms| now.before(Duration::from_millis(ms)));
    Plan {
        journals_before: before(policy.journal_ms),
        results_before: before(policy.results_ms),
        tasks_before: before(policy.tasks_ms),
        excess: policy.max_tasks.map_or(0, |most| ended.saturating_sub(most)),
    }
}

/// What still needs a task that ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Its parent has not ended: it may ask for this result.
    pub parent: bool,
    /// One of its children has not ended.
    pub child: bool,
    /// Its batch has not ended: whoever waits for it reads all results then.
    pub batch: bool,
}

impl Needs {
    /// Journals are read by their own task alone; what is left is needed by any of them.
    pub fn keep(&self, part: Part) -> bool {
        part != Part::Journal && (self.parent || self.child || self.batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    #[test]
    fn nothing_outlives_its_task_by_default_or_by_wish() {
        assert_eq!(Policy::default().check(), Ok(()));
        let short = Policy { tasks_ms: Some(DAY_MS), ..Policy::default() };
        assert_eq!(short.check().map_err(|(key, _)| key), Err("journal"));
        let for_ever = Policy { tasks_ms: Some(90 * DAY_MS), results_ms: None, ..Policy::default() };
        assert_eq!(for_ever.check().map_err(|(key, _)| key), Err("results"));
        assert_eq!(Policy { tasks_ms: None, results_ms: None, ..Policy::default() }.check(), Ok(()));
    }

    #[test]
    fn a_policy_that_keeps_everything_plans_nothing() {
        let policy = Policy { journal_ms: None, results_ms: None, tasks_ms: None, max_tasks: None };
        let plan = plan(&policy, u64::MAX, NOW);
        assert_eq!(Part::ALL.map(|part| plan.before(part)), [None; 3]);
        assert_eq!(plan.excess, 0);
    }

    #[test]
    fn too_many_are_counted_from_the_oldest() {
        let policy = Policy { max_tasks: Some(100), ..Policy::default() };
        assert_eq!(plan(&policy, 100, NOW).excess, 0);
        assert_eq!(plan(&policy, 130, NOW).excess, 30);
        let before = plan(&policy, 0, NOW).before(Part::Journal);
        assert_eq!(before, Some(NOW.before(Duration::from_millis(7 * DAY_MS))));
    }

    #[test]
    fn only_what_was_there_counts_as_expired() {
        let quiet = Dropped::at_end(State::Succeeded, false).without(Part::Journal);
        assert!(!quiet.journal_expired() && !quiet.result_expired(State::Succeeded));
        let gone = Dropped::at_end(State::Succeeded, true).without(Part::Journal).without(Part::Result);
        assert!(gone.journal_expired() && gone.result_expired(State::Succeeded));
        let failed = Dropped::at_end(State::Failed, true);
        assert!(!failed.has(Part::Result) && !failed.result_expired(State::Failed));
    }

    #[test]
    fn who_is_unfinished_keeps_results_and_tasks_but_no_journals() {
        for needs in [
            Needs { parent: true, ..Needs::default() },
            Needs { child: true, ..Needs::default() },
            Needs { batch: true, ..Needs::default() },
        ] {
            assert_eq!(Part::ALL.map(|part| needs.keep(part)), [false, true, true]);
        }
        assert!(!Needs::default().keep(Part::Task));
    }

    proptest! {
        #[test]
        fn every_value_is_in_the_list(state in 3usize..6, journal: bool, parts in proptest::collection::vec(0usize..3, 0..4)) {
            let start = Dropped::at_end(State::ALL[state], journal);
            let end = parts.iter().fold(start, |dropped, part| dropped.without(Part::ALL[*part]));
            prop_assert!(Dropped::ALL.contains(&start) && Dropped::ALL.contains(&end));
        }
    }
}
