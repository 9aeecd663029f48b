//! Which workers to stop when a fleet shrinks, and how long a draining worker waits for its tasks.
//!
//! Stops nothing: the controller orders the drain, the worker carries it out.

use std::cmp::Reverse;
use std::time::Duration;

use crate::fleet::DrainMode;
use crate::id::WorkerId;
use crate::time::Timestamp;

/// A worker that could be stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub worker: WorkerId,
    /// Tasks that it runs now.
    pub in_flight: u32,
    /// What would be at risk: how long its tasks have run so far, summed, in milliseconds.
    pub invested_ms: u64,
    pub ready: bool,
    /// It runs what is declared now; false: an older declaration.
    pub generation_current: bool,
    pub started_at: Timestamp,
}

/// Kept free at the end of a drain for what follows the agents' end: last results and the goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// Chooses `by` workers to drain, the cheapest loss first; all of them when there are fewer.
///
/// Order: not ready with nothing in flight; then fewest tasks in flight; then least time invested in them; then an
/// outdated declaration before a current one; then the youngest (its caches are the coldest). The id decides what is
/// left, so the same observation always gives the same plan.
pub fn choose(candidates: &[Candidate], by: u32) -> Vec<WorkerId> {
    let mut ranked: Vec<&Candidate> = candidates.iter().collect();
    ranked.sort_by(|a, b| loss(a).cmp(&loss(b)));
    ranked.into_iter().take(by as usize).map(|candidate| candidate.worker.clone()).collect()
}

fn loss(c: &Candidate) -> (bool, u32, u64, bool, Reverse<Timestamp>, &WorkerId) {
    let useful = c.ready || c.in_flight > 0;
    (useful, c.in_flight, c.invested_ms, c.generation_current, Reverse(c.started_at), &c.worker)
}

/// Returns how long a draining worker lets its tasks run before it hands over what is left.
///
/// Shape: `timeout - kill_grace - 2 s`, never negative, for mode `wait`; zero for `handover`.
/// Units: milliseconds in. An agent that ignores SIGTERM for its whole grace still ends within `timeout` when that
/// is longer than `kill_grace` + 2 s.
pub fn handover_after(timeout_ms: u64, kill_grace_ms: u64, mode: DrainMode) -> Duration {
    match mode {
        DrainMode::Handover => Duration::ZERO,
        DrainMode::Wait => {
            Duration::from_millis(timeout_ms.saturating_sub(kill_grace_ms)).saturating_sub(FAREWELL)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn worker(name: &str) -> Candidate {
        Candidate {
            worker: WorkerId::new(name).expect("test names are valid"),
            in_flight: 0,
            invested_ms: 0,
            ready: true,
            generation_current: true,
            started_at: Timestamp(0),
        }
    }

    fn check(candidates: &[Candidate], expected: &[&str]) {
        let chosen = choose(candidates, candidates.len() as u32);
        let names: Vec<&str> = chosen.iter().map(WorkerId::as_str).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_worker_that_is_not_ready_goes_before_an_idle_one() {
        check(&[worker("idle"), Candidate { ready: false, ..worker("starting") }], &["starting", "idle"]);
    }

    #[test]
    fn not_ready_with_work_in_flight_is_judged_by_its_work() {
        let sick = Candidate { ready: false, in_flight: 2, ..worker("sick") };
        check(&[sick, worker("idle")], &["idle", "sick"]);
    }

    #[test]
    fn fewer_tasks_go_first_then_less_time_invested() {
        let many = Candidate { in_flight: 3, invested_ms: 1, ..worker("many") };
        let long = Candidate { in_flight: 1, invested_ms: 90_000, ..worker("a-long") };
        let fresh = Candidate { in_flight: 1, invested_ms: 2_000, ..worker("fresh") };
        check(&[many, long, fresh], &["fresh", "a-long", "many"]);
    }

    #[test]
    fn among_equals_the_outdated_go_first_then_the_youngest_then_by_name() {
        let young = Candidate { started_at: Timestamp(9), ..worker("young") };
        let outdated = Candidate { generation_current: false, ..worker("outdated") };
        check(&[worker("b"), worker("a"), young, outdated], &["outdated", "young", "a", "b"]);
    }

    #[test]
    fn a_default_drain_hands_over_twelve_seconds_before_its_end() {
        assert_eq!(handover_after(120_000, 10_000, DrainMode::Wait), Duration::from_secs(108));
        assert_eq!(handover_after(120_000, 10_000, DrainMode::Handover), Duration::ZERO);
        assert_eq!(handover_after(5_000, 10_000, DrainMode::Wait), Duration::ZERO);
    }

    prop_compose! {
        fn any_candidates()(
            rows in proptest::collection::vec((0u32..4, 0u64..1000, any::<bool>(), any::<bool>(), 0i64..50), 0..12)
        ) -> Vec<Candidate> {
            rows.into_iter().enumerate().map(|(n, (in_flight, invested_ms, ready, generation_current, at))| Candidate {
                in_flight, invested_ms, ready, generation_current, started_at: Timestamp(at), ..worker(&format!("w-{n:02}"))
            }).collect()
        }
    }

    proptest! {
        #[test]
        fn no_worker_left_has_less_at_risk_than_one_that_goes(candidates in any_candidates(), by in 0u32..15) {
            let chosen = choose(&candidates, by);
            prop_assert_eq!(chosen.len(), candidates.len().min(by as usize));
            let (gone, left): (Vec<_>, Vec<_>) = candidates.iter().partition(|c| chosen.contains(&c.worker));
            for goes in &gone {
                for stays in &left {
                    prop_assert!(goes.in_flight <= stays.in_flight);
                }
            }
        }

        #[test]
        fn the_order_of_observation_does_not_matter(candidates in any_candidates(), by in 0u32..15) {
            let mut turned = candidates.clone();
            turned.reverse();
            prop_assert_eq!(choose(&candidates, by), choose(&turned, by));
        }

        #[test]
        fn a_larger_shrink_only_adds_victims(candidates in any_candidates(), by in 0u32..15) {
            prop_assert!(choose(&candidates, by + 1).starts_with(&choose(&candidates, by)));
        }

        #[test]
        fn the_grace_and_the_farewell_fit_into_the_timeout(timeout: u64, grace: u64) {
            let wait = handover_after(timeout, grace, DrainMode::Wait);
            let rest = Duration::from_millis(timeout).saturating_sub(wait);
            prop_assert!(wait <= Duration::from_millis(timeout));
            prop_assert!(wait.is_zero() || rest == Duration::from_millis(grace) + FAREWELL);
        }
    }
}
