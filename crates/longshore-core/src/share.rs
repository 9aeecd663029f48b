//! Whose task of a fleet is started next: tenants take turns by weight.
//!
//! Each tenant has a lane in a fleet's queue, and a pass: how far it has come in virtual time. The lane that has come least
//! far is next, and each start takes it forward by a stride, the shorter the more it weighs. Virtual time is where the lane
//! stood that was next last; a lane that had nothing to start, or was not allowed to, begins there again, so that nobody
//! saves turns up. Priorities order tasks within a lane and never between lanes: no tenant can get ahead of another by
//! calling its own tasks urgent.
//!
//! Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How far one start takes a lane of weight 1.
pub const STRIDE: u64 = 1 << 20;

/// A tenant's lane as a claim finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    pub weight: u32,
    pub pass: u64,
    /// Tasks that may be started: ready ones, as far as the tenant's caps allow.
    pub may_start: u64,
}

impl Lane {
    fn stride(&self) -> u64 {
        STRIDE / u64::from(self.weight.max(1))
    }
}

/// Where lanes and virtual time stand after some starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// One for each lane.
    pub passes: Vec<u64>,
    pub virtual_time: u64,
}

/// Returns whose tasks are started, in order: numbers of lanes, at most `n`.
///
/// Of lanes that have come equally far, the first in `lanes` goes first. It is enough to bring the `n` lanes that have come
/// least far, of those that may start any.
pub fn plan(lanes: &[Lane], virtual_time: u64, n: usize) -> Vec<usize> {
    let mut left: Vec<u64> = lanes.iter().map(|lane| lane.may_start).collect();
    let start = |(at, lane): (usize, &Lane)| Reverse((lane.pass.max(virtual_time), at));
    let able = lanes.iter().enumerate().filter(|(_, lane)| lane.may_start > 0);
    let mut next: BinaryHeap<_> = able.map(start).collect();
    let mut picks = Vec::new();
    while picks.len() < n {
        let Some(Reverse((pass, at))) = next.pop() else { break };
        picks.push(at);
        left[at] -= 1;
        if left[at] > 0 {
            next.push(Reverse((pass.saturating_add(lanes[at].stride()), at)));
        }
    }
    picks
}

/// Takes lanes and virtual time forward by what was really started.
pub fn advance(lanes: &[Lane], virtual_time: u64, started: &[usize]) -> Advanced {
    let mut passes: Vec<u64> = lanes.iter().map(|lane| lane.pass).collect();
    let mut now = virtual_time;
    for at in started {
        let begins = passes[*at].max(virtual_time);
        now = now.max(begins);
        passes[*at] = begins.saturating_add(lanes[*at].stride());
    }
    Advanced { passes, virtual_time: now }
}

/// Jain's index of fairness: 1 when all got the same, 1/n when one got all.
///
/// Shape: `(Σx)² / (n Σx²)` of what each got divided by its weight.
/// Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness", DEC TR-301, 1984.
pub fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = (shares.iter().sum::<f64>(), shares.iter().map(|x| x * x).sum::<f64>());
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lane(weight: u32, pass: u64, may_start: u64) -> Lane {
        Lane { weight, pass, may_start }
    }

    fn check(lanes: &[Lane], virtual_time: u64, n: usize, picks: &[usize]) {
        assert_eq!(plan(lanes, virtual_time, n), picks);
    }

    #[test]
    fn equal_tenants_take_turns_however_much_each_has() {
        check(&[lane(1, 0, 1000), lane(1, 0, 2)], 0, 6, &[0, 1, 0, 1, 0, 0]);
    }

    #[test]
    fn a_tenant_of_weight_three_gets_three_turns_of_four() {
        let picks = plan(&[lane(3, 0, 1000), lane(1, 0, 1000)], 0, 400);
        assert!((298..=302).contains(&picks.iter().filter(|at| **at == 0).count()));
    }

    #[test]
    fn nobody_saves_turns_up() {
        // The second was away while the first came far: it is next, but only once in a row.
        check(&[lane(1, 9 * STRIDE, 9), lane(1, 0, 9)], 9 * STRIDE, 4, &[0, 1, 0, 1]);
        check(&[lane(1, 10 * STRIDE, 9), lane(1, 0, 9)], 9 * STRIDE, 4, &[1, 0, 1, 0]);
    }

    #[test]
    fn what_was_not_started_is_not_charged() {
        let lanes = [lane(1, 5, 9), lane(2, 0, 9)];
        let advanced = advance(&lanes, 7, &[0]);
        assert_eq!(advanced, Advanced { passes: vec![7 + STRIDE, 0], virtual_time: 7 });
        assert_eq!(advance(&lanes, 7, &[]), Advanced { passes: vec![5, 0], virtual_time: 7 });
    }

    #[test]
    fn the_index_of_fairness_is_known_at_its_ends() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), 1.0);
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), 0.25);
    }

    fn any_lanes() -> impl Strategy<Value = Vec<Lane>> {
        let one = (1..20u32, 0..10 * STRIDE, 0..50u64);
        proptest::collection::vec(one.prop_map(|(weight, pass, may)| lane(weight, pass, may)), 1..8)
    }

    proptest! {
        #[test]
        fn as_many_are_started_as_may_be(lanes in any_lanes(), time in 0..10 * STRIDE, n in 0..200usize) {
            let picks = plan(&lanes, time, n);
            let may: u64 = lanes.iter().map(|lane| lane.may_start).sum();
            prop_assert_eq!(picks.len() as u64, may.min(n as u64));
            for (at, lane) in lanes.iter().enumerate() {
                prop_assert!(picks.iter().filter(|pick| **pick == at).count() as u64 <= lane.may_start);
            }
        }

        /// However it is cut into claims, each lane that always has tasks gets its share, within two strides.
        #[test]
        fn shares_follow_weights_over_any_claims(
            weights in proptest::collection::vec(1..20u32, 2..6),
            claims in proptest::collection::vec(1..30usize, 1..60),
        ) {
            let mut lanes: Vec<Lane> = weights.iter().map(|weight| lane(*weight, 0, u64::MAX)).collect();
            let (mut time, mut got) = (0, vec![0u64; lanes.len()]);
            for n in claims {
                let picks = plan(&lanes, time, n);
                let advanced = advance(&lanes, time, &picks);
                time = advanced.virtual_time;
                lanes.iter_mut().zip(advanced.passes).for_each(|(lane, pass)| lane.pass = pass);
                picks.iter().for_each(|at| got[*at] += 1);
            }
            for (a, b) in (0..lanes.len()).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let share = |at: usize| got[at] as f64 / f64::from(weights[at]);
                let slack = 1.1 / f64::from(weights[a]) + 1.1 / f64::from(weights[b]);
                prop_assert!((share(a) - share(b)).abs() <= slack, "{:?} of {:?}", got, weights);
            }
        }

        #[test]
        fn virtual_time_never_goes_back(lanes in any_lanes(), time in 0..10 * STRIDE, n in 0..50usize) {
            let advanced = advance(&lanes, time, &plan(&lanes, time, n));
            prop_assert!(advanced.virtual_time >= time);
            prop_assert!(lanes.iter().zip(&advanced.passes).all(|(lane, pass)| *pass >= lane.pass));
        }
    }
}
