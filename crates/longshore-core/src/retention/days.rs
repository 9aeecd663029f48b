//! What goes as a whole: a store may keep the tasks that came on one day apart, and drop a day at once.
//!
//! Dropping costs the same for ten tasks and ten million, but a day goes only when the last of it may. So what is kept long
//! is waited for: it is deleted row by row only where its day did not go in time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Dropped, Part, Plan};
use crate::id::FleetName;
use crate::time::Timestamp;

/// What is left of the tasks that came on one day. No more will come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Some have not ended.
    pub unfinished: bool,
    /// Some that ended are still needed; see [`super::Needs`].
    pub needed: bool,
    pub ended: Vec<Alike>,
}

/// Ended tasks of one fleet that have lost the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alike {
    pub fleet: FleetName,
    pub dropped: Dropped,
    /// When the last of them ended.
    pub last: Timestamp,
}

/// What of a day may go as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    Nothing,
    /// All calls and steps.
    Journals,
    /// All tasks with all that is theirs.
    Tasks,
}

/// What of a day may go now. A fleet without a plan keeps what it has.
pub fn goes(day: &Day, plans: &BTreeMap<FleetName, Plan>) -> Goes {
    if day.unfinished {
        return Goes::Nothing;
    }
    let all = |part: Part| {
        day.ended.iter().filter(|alike| alike.dropped.has(part)).all(|alike| {
            let before = plans.get(&alike.fleet).and_then(|plan| plan.before(part));
            before.is_some_and(|before| alike.last < before)
        })
    };
    match (all(Part::Task) && !day.needed, all(Part::Journal)) {
        (true, _) => Goes::Tasks,
        (false, true) => Goes::Journals,
        (false, false) => Goes::Nothing,
    }
}

/// What is kept at least so long is waited for.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

/// A day, and some time for tasks that came at its end, and for whoever drops days.
const WAIT: Duration = Duration::from_secs(26 * 3600);

/// The plan for rows where days go as a whole: what is kept long has until then to go with its day.
pub fn patient(plan: &Plan, now: Timestamp) -> Plan {
    let wait = |before: Option<Timestamp>| {
        before.map(|before| if before <= now.before(LONG) { before.before(WAIT) } else { before })
    };
    Plan {
        journals_before: wait(plan.journals_before),
        results_before: plan.results_before,
        tasks_before: wait(plan.tasks_before),
        excess: plan.excess,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Needs, Policy, plan};
    use super::*;
    use crate::task::State;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    const NOW: Timestamp = Timestamp(1_795_000_000_000);

    fn fleet(name: &str) -> FleetName {
        FleetName::new(name).expect("a valid name")
    }

    fn alike(name: &str, journal: bool, hours_ago: u64) -> Alike {
        let last = NOW.before(Duration::from_millis(hours_ago * HOUR));
        Alike { fleet: fleet(name), dropped: Dropped::at_end(State::Succeeded, journal), last }
    }

    /// Fleets `a` and `b`: journals for 10 and 20 hours, tasks for 30 and 40.
    fn check(day: &Day, expected: Goes) {
        let plan = |journal: u64, tasks: u64| {
            let (journal_ms, tasks_ms) = (Some(journal * HOUR), Some(tasks * HOUR));
            plan(&Policy { journal_ms, results_ms: journal_ms, tasks_ms, max_tasks: None }, 0, NOW)
        };
        let plans = [(fleet("a"), plan(10, 30)), (fleet("b"), plan(20, 40))].into();
        assert_eq!(goes(day, &plans), expected, "{day:?}");
    }

    fn ended(ended: Vec<Alike>) -> Day {
        Day { ended, ..Day::default() }
    }

    #[test]
    fn a_day_goes_when_the_last_of_it_may() {
        check(&ended(vec![alike("a", true, 31), alike("b", true, 41)]), Goes::Tasks);
        check(&ended(vec![alike("a", true, 31), alike("b", true, 39)]), Goes::Journals);
        check(&ended(vec![alike("a", true, 11), alike("b", true, 21)]), Goes::Journals);
        check(&ended(vec![alike("a", true, 11), alike("b", true, 19)]), Goes::Nothing);
        check(&ended(vec![alike("a", true, 11), alike("b", false, 1)]), Goes::Journals);
        check(&ended(Vec::new()), Goes::Tasks);
    }

    #[test]
    fn what_is_unfinished_needed_or_of_a_fleet_without_a_plan_keeps_its_day() {
        let old = vec![alike("a", true, 100)];
        check(&Day { unfinished: true, ..ended(old.clone()) }, Goes::Nothing);
        check(&Day { needed: true, ..ended(old.clone()) }, Goes::Journals);
        check(&ended([old, vec![alike("c", true, 1000)]].concat()), Goes::Nothing);
        assert!(!Needs { batch: true, ..Needs::default() }.keep(Part::Journal), "as for single tasks");
    }

    #[test]
    fn only_what_is_kept_long_is_waited_for() {
        let policy = Policy { journal_ms: Some(HOUR), ..Policy::default() };
        let exact = plan(&policy, 7, NOW);
        let patient = patient(&exact, NOW);
        assert_eq!((patient.journals_before, patient.excess), (exact.journals_before, exact.excess));
        assert_eq!(patient.results_before, exact.results_before, "results do not go with a day of their own");
        assert_eq!(patient.tasks_before, exact.tasks_before.map(|before| before.before(WAIT)));
    }

    proptest! {
        /// A day goes only if each of its tasks would go alone.
        #[test]
        fn nothing_goes_with_its_day_that_would_not_go_alone(
            ended in proptest::collection::vec((0usize..3, 0usize..6, 0u64..60), 0..6), needed: bool, unfinished: bool,
        ) {
            let policy = |hours: u64| Policy {
                journal_ms: Some(hours * HOUR), results_ms: Some(hours * HOUR), tasks_ms: Some(2 * hours * HOUR),
                max_tasks: None,
            };
            let plans: BTreeMap<_, _> = ["a", "b"].into_iter().zip([5, 25])
                .map(|(name, hours)| (fleet(name), plan(&policy(hours), 0, NOW))).collect();
            let ended: Vec<Alike> = ended.into_iter().map(|(name, dropped, hours)| {
                Alike { dropped: Dropped::ALL[dropped], ..alike(["a", "b", "c"][name], true, hours) }
            }).collect();
            let day = Day { unfinished, needed, ended };
            let part = match goes(&day, &plans) {
                Goes::Nothing => return Ok(()),
                Goes::Journals => Part::Journal,
                Goes::Tasks => Part::Task,
            };
            prop_assert!(!unfinished);
            prop_assert!(part != Part::Task || !needed);
            for alike in day.ended.iter().filter(|alike| alike.dropped.has(part)) {
                let before = plans.get(&alike.fleet).and_then(|plan| plan.before(part));
                prop_assert!(before.is_some_and(|before| alike.last < before));
            }
        }
    }
}
