//! One `check` for single decisions, properties for the rules, a closed loop for what decisions add up to.

use proptest::prelude::*;

use super::*;

const POLICY: Scaling = Scaling {
    by: crate::fleet::ScaledBy::Direct,
    min: 2,
    max: 20,
    scale_up_above: 8.0,
    scale_down_below: 2.0,
    scale_up_wait_ms: 10_000,
    scale_down_after_ms: 60_000,
    step: 4,
};

const ONE: Each = Each { concurrency: 1, startup_ms: 120_000 };

fn load(runnable: u64, running: u64) -> Load {
    Load { runnable, oldest_wait_ms: (runnable > 0).then_some(100), running, fresh: true, standstill: None }
}

fn crew(ready: u32) -> Crew {
    Crew { ready, starting: 0, draining: 0 }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(1_795_000_000_000 + seconds * 1000)
}

/// A memory in which the fleet has wanted `workers` at every look since `since`, up to a second before `now`.
fn quiet(since: i64, now: i64, workers: u32) -> Memory {
    Memory {
        looked_at: Some(at(now - 1)),
        fewer_since: Some(at(since)),
        recommendations: vec![Recommendation { at: at(since), workers }],
        ..Memory::default()
    }
}

fn plain(load: Load, crew: Crew) -> Answer {
    decide(&load, &crew, &POLICY, ONE, None, &Memory::default(), at(0))
}

fn check(answer: &Answer, sentence: &str) {
    assert_eq!(answer.to_string(), sentence, "{:?}", answer.decision);
}

#[test]
fn a_backlog_above_the_threshold_grows_to_where_it_is_in_band() {
    check(
        &plain(load(48, 4), crew(4)),
        "grows by 2 from 4 to 6 workers: 12 pending per worker is above 8 (48 pending, 4 running, oldest waits 100ms; \
         4 ready, 0 starting, 0 draining)",
    );
}

#[test]
fn one_decision_adds_a_step_or_as_many_as_there_are() {
    assert_eq!(plain(load(9_999, 2), crew(2)).desired, 6);
    assert_eq!(plain(load(9_999, 8), crew(8)).desired, 16);
    assert_eq!(plain(load(9_999, 16), crew(16)).desired, 20);
}

#[test]
fn starting_workers_count_and_draining_ones_do_not() {
    let crew = Crew { ready: 2, starting: 4, draining: 9 };
    check(
        &plain(load(30, 2), crew),
        "holds at 6 workers: 5 pending per worker is within 2 to 8 (30 pending, 2 running, oldest waits 100ms; \
         2 ready, 4 starting, 9 draining)",
    );
}

#[test]
fn what_cannot_start_moves_nothing_but_what_is_out_of_bounds() {
    let stuck = |why| Load { standstill: Some(why), ..load(0, 0) };
    let paused = plain(stuck(Standstill::Paused), crew(9));
    check(
        &paused,
        "holds at 9 workers: the fleet is paused (0 pending, 0 running; 9 ready, 0 starting, 0 draining)",
    );
    let memory = quiet(-600, 0, 2);
    let answer = decide(&stuck(Standstill::Provider), &crew(9), &POLICY, ONE, None, &memory, at(0));
    assert_eq!(answer.decision, Decision::Hold(HoldReason::Standstill(Standstill::Provider)));
    assert_eq!(plain(stuck(Standstill::Paused), crew(1)).desired, 2);
    assert_eq!(plain(stuck(Standstill::Paused), crew(25)).desired, 20);
}

#[test]
fn at_max_it_says_so() {
    let answer = plain(load(9_999, 20), crew(20));
    assert!(matches!(answer.decision, Decision::Hold(HoldReason::AtMax { max: 20, wanted: 40 })), "{answer}");
    assert!(answer.to_string().contains("40 are wanted, but 20 is the most allowed"), "{answer}");
}

#[test]
fn too_few_and_too_many_are_mended_at_once() {
    check(
        &plain(load(0, 0), crew(0)),
        "grows by 2 from 0 to 2 workers: 2 is the least allowed (0 pending, 0 running; 0 ready, 0 starting, 0 draining)",
    );
    check(
        &plain(load(500, 25), crew(25)),
        "shrinks by 5 from 25 to 20 workers: 20 is the most allowed (500 pending, 25 running, oldest waits 100ms; \
         25 ready, 0 starting, 0 draining)",
    );
}

#[test]
fn a_backlog_beyond_min_is_met_in_the_same_decision() {
    assert_eq!(plain(load(40, 0), crew(0)).desired, 4);
}

#[test]
fn a_long_wait_without_a_free_slot_grows_to_what_is_needed() {
    let waiting = Load { oldest_wait_ms: Some(12_000), ..load(4, 2) };
    check(
        &plain(waiting, crew(2)),
        "grows by 4 from 2 to 6 workers: no slot is free and the oldest task has waited 12s, 10s or longer \
         (4 pending, 2 running, oldest waits 12s; 2 ready, 0 starting, 0 draining)",
    );
    let slots_free = Load { running: 1, ..waiting };
    assert!(matches!(plain(slots_free, crew(2)).decision, Decision::Hold(HoldReason::InBand)));
}

#[test]
fn a_long_wait_grows_once_per_wait() {
    let waiting = Load { oldest_wait_ms: Some(60_000), ..load(15, 4) };
    let grown = Memory { grew_at: Some(at(0)), looked_at: Some(at(0)), ..Memory::default() };
    let soon = decide(&waiting, &crew(4), &POLICY, ONE, None, &grown, at(9));
    assert!(matches!(soon.decision, Decision::Hold(HoldReason::JustGrew { left_ms: 1000 })), "{soon}");
    let later = decide(&waiting, &crew(4), &POLICY, ONE, None, &grown, at(10));
    assert_eq!((later.desired, later.memory.grew_at), (8, Some(at(0))));
    let full = Load { running: 8, ..waiting };
    let come = decide(&full, &crew(8), &POLICY, ONE, None, &later.memory, at(12));
    assert!(matches!(come.decision, Decision::Hold(HoldReason::JustGrew { left_ms: 10_000 })), "{come}");
}

#[test]
fn a_growth_that_does_not_come_is_asked_for_again_and_again() {
    let waiting = Load { oldest_wait_ms: Some(60_000), ..load(10, 2) };
    let mut memory = Memory::default();
    for second in 0..30 {
        let answer = decide(&waiting, &crew(2), &POLICY, ONE, None, &memory, at(second));
        assert_eq!(answer.desired, 6, "{second}: {answer}");
        memory = answer.memory;
    }
    // Whoever carries it out looks now and then, and may have looked before the tasks were gone.
    memory = decide(&load(0, 2), &crew(2), &POLICY, ONE, None, &memory, at(30)).memory;
    let full = Load { running: 6, ..waiting };
    let come = decide(&full, &crew(6), &POLICY, ONE, None, &memory, at(31));
    assert!(matches!(come.decision, Decision::Hold(HoldReason::JustGrew { .. })), "{come}");
}

#[test]
fn a_quiet_fleet_halves_after_the_whole_window() {
    let early = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &quiet(0, 59, 2), at(59));
    check(
        &early,
        "holds at 16 workers: 2 would do, if that stays so for another 1s (0 pending, 0 running; 16 ready, 0 starting, \
         0 draining)",
    );
    let due = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &quiet(0, 60, 2), at(60));
    check(
        &due,
        "shrinks by 8 from 16 to 8 workers: 0 pending per worker is below 2, and fewer have been enough for 1m \
         (0 pending, 0 running; 16 ready, 0 starting, 0 draining)",
    );
    let done = decide(&load(0, 0), &crew(8), &POLICY, ONE, None, &due.memory, at(61));
    assert_eq!(done.memory.fewer_since, Some(at(61)), "the next shrink waits for a window of its own");
}

#[test]
fn the_highest_recommendation_of_the_window_counts() {
    let answer = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &quiet(0, 60, 13), at(60));
    assert_eq!(answer.desired, 13);
}

#[test]
fn a_busy_fleet_with_nothing_pending_stays() {
    let answer = decide(&load(0, 10), &crew(10), &POLICY, ONE, None, &quiet(0, 100, 2), at(100));
    assert!(matches!(answer.decision, Decision::Hold(HoldReason::Busy { needed: 10 })), "{answer}");
    assert_eq!(answer.memory.fewer_since, None);
}

#[test]
fn a_shrink_leaves_enough_not_to_grow_again_at_once() {
    let narrow = Scaling { scale_up_above: 3.0, ..POLICY };
    let answer = decide(
        &load(19, 0),
        &crew(10),
        &narrow,
        Each { concurrency: 16, ..ONE },
        None,
        &quiet(0, 60, 2),
        at(60),
    );
    assert_eq!((answer.needed, answer.desired), (2, 7), "19 pending on 6 workers would be above 3 again");
}

#[test]
fn a_starting_worker_postpones_the_shrink_for_as_long_as_it_may_take_to_come_up() {
    let crew = Crew { ready: 9, starting: 1, draining: 0 };
    let look = |second| decide(&load(0, 0), &crew, &POLICY, ONE, None, &quiet(0, second, 2), at(second));
    check(
        &look(60),
        "holds at 10 workers: 2 would do, but 1 are still starting, and have another 2m for that (0 pending, 0 running; \
         9 ready, 1 starting, 0 draining)",
    );
    assert!(matches!(look(179).decision, Decision::Hold(HoldReason::Starting { left_ms: 1000, .. })));
    let due = look(180);
    assert!(matches!(due.decision, Decision::Shrink { reason: ShrinkReason::Quiet { for_ms: 180_000 }, .. }));
    assert_eq!(due.desired, 5, "it never came up, and holds nobody up for ever");
}

#[test]
fn a_burst_is_kept_while_what_it_asked_for_starts() {
    let mut memory = Memory::default();
    let mut look = |load: Load, crew: Crew, second: i64| {
        let answer = decide(&load, &crew, &POLICY, ONE, None, &memory, at(second));
        memory = answer.memory.clone();
        answer
    };
    let grown = look(load(60, 4), crew(4), 0);
    assert_eq!(grown.desired, 8);
    // Those that were there have done it all before the others came up; one takes as long as it may.
    for second in 1..=120 {
        let starting = if second < 60 { 4 } else { 1 };
        let answer = look(load(0, 0), Crew { ready: 8 - starting, starting, draining: 0 }, second);
        assert!(matches!(answer.decision, Decision::Hold(_)), "{answer}");
    }
    let answer = look(load(0, 0), crew(8), 121);
    assert!(matches!(answer.decision, Decision::Shrink { .. }), "all are up, and it was quiet: {answer}");
}

#[test]
fn an_unreadable_queue_is_not_an_empty_one() {
    let unknown = Load { fresh: false, ..load(0, 0) };
    let answer = decide(&unknown, &crew(16), &POLICY, ONE, None, &quiet(0, 61, 2), at(61));
    let before = quiet(0, 61, 2);
    assert_eq!(
        (answer.memory.looked_at, answer.memory.fewer_since),
        (before.looked_at, before.fewer_since),
        "a look that saw nothing neither breaks the quiet nor carries it on"
    );
    check(
        &answer,
        "holds at 16 workers: the queue could not be read, and that is not taken for an empty one (queue unknown; \
         16 ready, 0 starting, 0 draining)",
    );
}

#[test]
fn nobody_saw_the_fleet_quiet_during_an_outage() {
    let before = quiet(0, 30, 2);
    let answer = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &before, at(3_600));
    assert!(
        matches!(answer.decision, Decision::Hold(HoldReason::Settling { left_ms: 60_000, .. })),
        "{answer}"
    );
}

#[test]
fn a_clock_that_goes_back_starts_the_window_anew() {
    let mut memory = quiet(0, 59, 2);
    memory = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &memory, at(-5_000)).memory;
    assert_eq!(memory.fewer_since, Some(at(-5_000)));
    let back = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &memory, at(60));
    assert!(matches!(back.decision, Decision::Hold(HoldReason::Settling { .. })), "{back}");
}

#[test]
fn an_operator_may_go_below_min_but_not_below_the_need() {
    let ordered = |asked, load: Load, workers| {
        decide(&load, &crew(workers), &POLICY, ONE, Some(asked), &Memory::default(), at(0))
    };
    assert_eq!(ordered(0, load(0, 0), 5).desired, 0);
    assert_eq!(ordered(9, load(0, 0), 5).desired, 9);
    assert_eq!(ordered(1, load(1, 2), 5).desired, 3);
    check(
        &ordered(1, load(7, 2), 5),
        "holds at 5 workers: the operator asked for 1, but running and pending tasks need 9 (7 pending, 2 running, \
         oldest waits 100ms; 5 ready, 0 starting, 0 draining)",
    );
    let beyond = ordered(50, load(0, 0), 5);
    assert!(beyond.to_string().contains("the operator asked for 50, but 20 is the most allowed"), "{beyond}");
}

#[test]
fn a_fleet_may_sleep_at_zero_and_wakes_for_one_task() {
    let policy = Scaling { min: 0, ..POLICY };
    let decide_at =
        |load, workers, memory| decide(&load, &crew(workers), &policy, ONE, None, &memory, at(100));
    assert_eq!(decide_at(load(0, 0), 1, quiet(0, 100, 0)).desired, 0);
    let asleep = decide_at(load(0, 0), 0, Memory::default());
    assert!(matches!(asleep.decision, Decision::Hold(HoldReason::Idle)), "{asleep}");
    assert_eq!(decide_at(load(1, 0), 0, Memory::default()).desired, 1);
}

#[test]
fn an_answer_survives_being_stored() {
    let answer = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &quiet(0, 60, 2), at(60));
    let text = serde_json::to_string(&answer).expect("serialises");
    assert_eq!(serde_json::from_str::<Answer>(&text).expect("reads back"), answer);
}

prop_compose! {
    fn any_load()(
        runnable in prop_oneof![0u64..200, 0u64..=u64::MAX], running in prop_oneof![0u64..100, 0u64..=u64::MAX],
        oldest_wait_ms in proptest::option::of(0u64..40_000), fresh in prop::bool::weighted(0.9),
    ) -> Load {
        Load { runnable, oldest_wait_ms, running, fresh, standstill: None }
    }
}

prop_compose! {
    fn any_crew()(ready in 0u32..40, starting in 0u32..6, draining in 0u32..6) -> Crew {
        Crew { ready, starting, draining }
    }
}

prop_compose! {
    fn any_policy()(
        min in 0u32..10, over in 0u32..30, up in 0.5f64..20.0, part in 0.0f64..0.99, step in 0u32..10,
    ) -> Scaling {
        Scaling { min, max: (min + over).max(1), scale_up_above: up, scale_down_below: up * part, step, ..POLICY }
    }
}

prop_compose! {
    fn any_memory()(
        looked in proptest::option::of(-100i64..5), fewer in proptest::option::of(-200i64..5),
        recommendations in proptest::collection::vec((-100i64..5, 0u32..40), 0..4),
        grew in proptest::option::of(-30i64..5),
        (grows_from, shrinks_from) in (proptest::option::of(0u32..40), proptest::option::of(0u32..40)),
    ) -> Memory {
        let seen = recommendations.into_iter().map(|(s, workers)| Recommendation { at: at(s), workers });
        Memory {
            looked_at: looked.map(at), fewer_since: fewer.map(at), grew_at: grew.map(at), recommendations: seen.collect(),
            grows_from, shrinks_from,
        }
    }
}

fn desired_in(answer: &Answer) -> i64 {
    let workers = i64::from(answer.crew.workers());
    match &answer.decision {
        Decision::Hold(_) => workers,
        Decision::Grow { by, .. } => workers + i64::from(by.get()),
        Decision::Shrink { by, .. } => workers - i64::from(by.get()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn desired_stays_within_min_and_max(
        load in any_load(), crew in any_crew(), policy in any_policy(), concurrency in 0u32..20,
        ordered in proptest::option::of(0u32..60), memory in any_memory(),
    ) {
        let answer = decide(&load, &crew, &policy, Each { concurrency, ..ONE }, ordered, &memory, at(0));
        let min = if ordered.is_some() { 0 } else { policy.min };
        prop_assert!((min..=policy.max).contains(&answer.desired), "{answer}");
        if load.fresh {
            prop_assert_eq!(desired_in(&answer), i64::from(answer.desired));
        } else {
            prop_assert_eq!(&answer.decision, &Decision::Hold(HoldReason::MetricNotFresh));
        }
        prop_assert!(answer.to_string().len() > 40);
    }

    #[test]
    fn no_shrink_goes_below_what_tasks_need(
        load in any_load(), crew in any_crew(), policy in any_policy(), concurrency in 1u32..20,
        ordered in proptest::option::of(0u32..60), memory in any_memory(),
    ) {
        let answer = decide(&load, &crew, &policy, Each { concurrency, ..ONE }, ordered, &memory, at(0));
        if let Decision::Shrink { .. } = answer.decision {
            let tasks = u128::from(load.running) + u128::from(load.runnable);
            let slots = u128::from(answer.desired) * u128::from(concurrency);
            prop_assert!(slots >= tasks || answer.desired == policy.max, "{answer}");
            let late = matches!(&answer.decision, Decision::Shrink { reason: ShrinkReason::Quiet { for_ms }, .. }
                if *for_ms >= policy.scale_down_after_ms + ONE.startup_ms);
            let early = ordered.is_none() && crew.workers() <= policy.max && !late;
            prop_assert!(!early || crew.starting == 0, "{answer}");
        }
    }

    #[test]
    fn the_need_alone_never_causes_growth(
        running in 0u64..10_000, crew in any_crew(), policy in any_policy(), memory in any_memory(),
    ) {
        let answer = decide(&load(0, running), &crew, &policy, ONE, None, &memory, at(0));
        if let Decision::Grow { reason, .. } = &answer.decision {
            prop_assert_eq!(reason, &GrowReason::BelowMin { min: policy.min });
        }
    }

    #[test]
    fn growth_is_bounded_by_the_step(
        load in any_load(), crew in any_crew(), policy in any_policy(), concurrency in 1u32..20, memory in any_memory(),
    ) {
        let answer = decide(&load, &crew, &policy, Each { concurrency, ..ONE }, None, &memory, at(0));
        if let Decision::Grow { by, .. } = answer.decision {
            let most = policy.step.max(crew.workers()).max(1).max(policy.min.saturating_sub(crew.workers()));
            prop_assert!(by.get() <= most, "{answer}");
        }
    }

    #[test]
    fn one_more_runnable_task_never_means_fewer_workers(
        load in any_load(), more in 1u64..500, crew in any_crew(), policy in any_policy(), concurrency in 1u32..20,
        memory in any_memory(), ordered in proptest::option::weighted(0.2, 0u32..60),
    ) {
        let larger = Load { runnable: load.runnable.saturating_add(more), ..load };
        let desired = |load| decide(load, &crew, &policy, Each { concurrency, ..ONE }, ordered, &memory, at(0)).desired;
        prop_assert!(desired(&larger) >= desired(&load));
    }

    #[test]
    fn no_jump_of_the_clock_panics_or_shrinks_on_the_first_look_after_it(
        now in prop_oneof![any::<i64>(), Just(i64::MIN), Just(i64::MAX)], memory in any_memory(),
    ) {
        let answer = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &memory, Timestamp(now));
        let seen_lately = memory.looked_at.is_some_and(|at| at.0 <= now && now.saturating_sub(at.0) <= 60_000);
        prop_assert!(seen_lately || matches!(answer.decision, Decision::Hold(_)), "{answer}");
    }
}

/// A fleet whose workers take a while to start and whose tasks take a while to run, one look a second.
struct Simulation {
    /// No more than these come up, however many are asked for.
    room: u32,
    policy: Scaling,
    concurrency: u32,
    start_s: u64,
    task_s: u64,
    now: u64,
    queue: std::collections::VecDeque<u64>,
    running: Vec<u64>,
    starting: Vec<u64>,
    ready: u32,
    memory: Memory,
    /// When it grew and shrank by policy.
    moves: Vec<(u64, bool)>,
}

impl Simulation {
    fn second(&mut self, arrivals: u64) -> Result<(), TestCaseError> {
        self.now += 1;
        let now = self.now;
        self.queue.extend((0..arrivals).map(|_| now));
        self.running.retain(|ends| *ends > now);
        let room = self.room.saturating_sub(self.ready) as usize;
        self.ready += self.starting.extract_if(.., |ready| *ready <= now).take(room).count() as u32;
        let slots = self.ready as usize * self.concurrency as usize;
        while self.running.len() < slots && self.queue.pop_front().is_some() {
            self.running.push(now + self.task_s);
        }
        self.apply(self.look())
    }

    fn look(&self) -> Answer {
        let oldest_wait_ms = self.queue.front().map(|since| (self.now - since) * 1000);
        let load = Load {
            standstill: None,
            runnable: self.queue.len() as u64,
            oldest_wait_ms,
            running: self.running.len() as u64,
            fresh: true,
        };
        let crew = Crew { ready: self.ready, starting: self.starting.len() as u32, draining: 0 };
        let each = Each { concurrency: self.concurrency, ..ONE };
        decide(&load, &crew, &self.policy, each, None, &self.memory, at(self.now as i64))
    }

    fn apply(&mut self, answer: Answer) -> Result<(), TestCaseError> {
        match &answer.decision {
            Decision::Hold(_) => {}
            Decision::Grow { by, .. } => {
                self.starting.extend((0..by.get()).map(|_| self.now + self.start_s));
                self.moves.push((self.now, true));
            }
            Decision::Shrink { by, .. } => {
                // As it is chosen: who is not ready first.
                let never_up = self.starting.len().min(by.get() as usize);
                self.starting.truncate(self.starting.len() - never_up);
                let by = by.get() - never_up as u32;
                prop_assert!(self.ready >= by, "{answer}");
                self.ready -= by;
                self.moves.push((self.now, false));
            }
        }
        self.memory = answer.memory;
        Ok(())
    }

    fn workers(&self) -> u32 {
        self.ready + self.starting.len() as u32
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_fleet_in_a_loop_settles_and_drains_its_queue(
        arrivals in proptest::collection::vec(prop_oneof![4 => Just(0u64), 1 => 0u64..60], 1..200),
        policy in any_policy(), concurrency in 1u32..10, start_s in 0u64..30, task_s in 1u64..20,
        room in prop_oneof![1u32..12, Just(u32::MAX)],
    ) {
        let after_s = policy.scale_down_after_ms / 1000;
        let mut fleet = Simulation {
            room, policy, concurrency, start_s, task_s, now: 0, queue: Default::default(), running: vec![], starting: vec![],
            ready: 0, memory: Memory::default(), moves: vec![],
        };
        for count in &arrivals {
            fleet.second(*count)?;
        }
        let last_arrival = fleet.now;
        // The slowest way: one worker, one slot; then a window for each halving.
        let tasks: u64 = arrivals.iter().sum();
        let patience = (tasks + 2) * (task_s + 1) + start_s + 12 * (after_s + ONE.startup_ms / 1000 + start_s + 2);
        for _ in 0..patience {
            fleet.second(0)?;
        }
        prop_assert!(fleet.queue.is_empty() && fleet.running.is_empty());
        prop_assert_eq!(fleet.workers(), policy.min);
        for pair in fleet.moves.windows(2) {
            let [(first, _), (second, grew)] = pair else { unreachable!("windows of two") };
            prop_assert!(*grew || second - first >= after_s, "{:?}", fleet.moves);
        }
        let quiet: Vec<bool> = fleet.moves.iter().filter(|(at, _)| *at > last_arrival).map(|(_, grew)| *grew).collect();
        prop_assert!(quiet.is_sorted_by(|earlier, later| earlier >= later), "grew again after a shrink: {:?}", fleet.moves);
    }
}

#[test]
fn a_wish_to_shrink_stands_until_somebody_has_carried_it_out() {
    let mut memory = quiet(0, 60, 2);
    for second in 60..90 {
        let answer = decide(&load(0, 0), &crew(16), &POLICY, ONE, None, &memory, at(second));
        assert!(matches!(answer.decision, Decision::Shrink { .. }), "{answer}");
        memory = answer.memory;
    }
    let answer = decide(&load(0, 0), &crew(8), &POLICY, ONE, None, &memory, at(90));
    assert!(matches!(answer.decision, Decision::Hold(HoldReason::Settling { .. })), "{answer}");
}

#[test]
fn a_wish_that_is_never_carried_out_does_not_open_the_window_for_a_deeper_one() {
    // 19 of 20 are busy; an autoscaler ignores such a difference.
    let mut memory = quiet(0, 60, 19);
    for second in 60..400 {
        let answer = decide(&load(0, 19), &crew(20), &POLICY, ONE, None, &memory, at(second));
        assert_eq!(answer.desired, 19, "{answer}");
        memory = answer.memory;
    }
    let gap = decide(&load(0, 3), &crew(20), &POLICY, ONE, None, &memory, at(400));
    assert_eq!(gap.desired, 19, "a second between two batches is no quiet minute: {gap}");
}
