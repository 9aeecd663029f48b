//! One `check` for single steps; a small world of workers for what steps add up to.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    owner: Owner::Longshore,
    surge: 1,
    batch: 1,
    hold_ms: 2_000,
    ready_ms: 20_000,
    deadline_ms: 300_000,
    crashes: 0,
    canary: Canary { min_samples: 10, failure_rate: 0.1, cost: 0.5, latency: 1.0 },
    pin_release: false,
};

fn at(ms: i64) -> Timestamp {
    Timestamp(1_795_000_000_000 + ms)
}

fn plan(policy: Policy) -> Plan {
    Plan::new(1, 2, policy, BTreeMap::new(), at(0))
}

fn worker(name: &str, release: Release, standing: Standing) -> Seen {
    let cost = Candidate {
        worker: WorkerId::new(name).expect("valid"),
        in_flight: 0,
        invested_ms: 0,
        ready: standing == Standing::Ready,
        generation_current: false,
        started_at: at(0),
    };
    Seen { release, standing, cost }
}

/// Workers such as `a1 b1? c2! d2x e1-`: a name, a release; `?` starting, `!` not ready, `x` crashed, `-` draining.
fn crew(text: &str) -> Vec<Seen> {
    let one = |word: &str| {
        let standing = match word.get(2..) {
            Some("?") => Standing::Starting,
            Some("!") => Standing::NotReady { why: "it coughs".into() },
            Some("x") => Standing::Crashed { why: "exited with status 1".into() },
            Some("-") => Standing::Draining,
            _ => Standing::Ready,
        };
        let release = word[1..2].parse().expect("a number");
        worker(&word[..1], release, standing)
    };
    text.split_whitespace().map(one).collect()
}

fn seen(text: &str, desired: u32) -> Observed {
    Observed { workers: crew(text), desired, ..Observed::default() }
}

/// Looks twice, `ms` apart in looks of a second, and says where it stands then.
fn after(plan: &Plan, text: &str, desired: u32, ms: i64) -> Plan {
    let mut plan = decide(plan, &seen(text, desired), at(0));
    let mut passed = 0;
    while passed < ms {
        passed = (passed + 1_000).min(ms);
        let base = at(0);
        plan = decide(&plan, &seen(text, desired), Timestamp(base.0 + passed));
    }
    plan
}

fn check(text: &str, desired: u32, ms: i64, says: &str) {
    assert_eq!(after(&plan(POLICY), text, desired, ms).to_string(), says, "{text}");
}

#[test]
fn one_new_worker_comes_before_an_old_one_goes() {
    check("a1 b1", 2, 0, "release 1 is replaced by 2: starts 1 worker of release 2");
    check("a1 b1 c2?", 2, 0, "release 1 is replaced by 2: 1 worker is not ready yet");
    check("a1 b1 c2", 2, 1_000, "release 1 is replaced by 2: 1 worker is ready, and watched for another 1s");
    check("a1 b1 c2", 2, 2_000, "release 1 is replaced by 2: drains `a`");
    check("a1- b1 c2", 2, 2_000, "release 1 is replaced by 2: starts 1 worker of release 2");
    check("a1- b1- c2 d2", 2, 2_000, "release 2 has replaced 1: 2 workers are still draining");
    check("c2 d2", 2, 2_000, "release 2 has replaced 1");
}

#[test]
fn a_batch_goes_together_and_without_surge_the_old_go_first() {
    let of = |policy: Policy, text, desired| after(&plan(policy), text, desired, 2_000).step;
    let many = Policy { batch: 3, surge: 3, ..POLICY };
    assert_eq!(of(many, "a1 b1 c1 d1", 4), Step::Start { release: 2, by: 3 });
    assert!(matches!(of(many, "a1 b1 c1 d1 e2 f2 g2", 4), Step::Drain { workers } if workers.len() == 3));
    let none = Policy { surge: 0, ..POLICY };
    assert!(matches!(of(none, "a1 b1", 2), Step::Drain { workers } if workers.len() == 1));
    assert_eq!(of(none, "a1- b1", 2), Step::Start { release: 2, by: 1 });
}

#[test]
fn it_goes_back_by_itself() {
    check(
        "a1 b1 c2x",
        2,
        0,
        "release 2 was rolled back to 1: worker `c` of the new release ended by itself: exited with status 1",
    );
    check(
        "a1 b1 c2!",
        2,
        20_000,
        "release 2 goes back to 1, since worker `c` of the new release was not ready within 20s: it coughs: drains `c`",
    );
    let late = Policy { deadline_ms: 5_000, hold_ms: 4_000, ..POLICY };
    let late = after(&plan(late), "a1 b1", 2, 5_000);
    assert_eq!(late.phase, Phase::RolledBack { reason: "it was not through within 5s".into() });
}

#[test]
fn a_crash_that_is_allowed_is_made_up_for() {
    let patient = Policy { crashes: 1, ..POLICY };
    assert_eq!(after(&plan(patient), "a1 b1 c2x", 2, 1_000).step, Step::Start { release: 2, by: 1 });
    let twice = after(&plan(patient), "a1 b1 c2x d2x", 2, 1_000);
    assert!(matches!(twice.phase, Phase::RolledBack { .. }), "{twice}");
}

#[test]
fn a_release_that_does_worse_goes_back() {
    let sample = |succeeded, failed, ms, nano| Sample {
        succeeded,
        failed,
        succeeded_ms: succeeded * ms,
        cost_nano: (succeeded + failed) * nano,
    };
    let goes = |old: Sample, new: Sample| {
        let observed = Observed { samples: BTreeMap::from([(1, old), (2, new)]), ..seen("a1 b1 c2", 2) };
        match decide(&plan(POLICY), &observed, at(0)).phase {
            Phase::Back { reason } => reason,
            phase => phase.as_str().into(),
        }
    };
    let good = sample(100, 0, 1_000, 1_000_000_000);
    assert_eq!(goes(good, sample(9, 0, 9_000, 0)), "forward", "too few");
    assert_eq!(goes(good, sample(9, 1, 1_000, 1_000_000_000)), "forward", "a tenth more is allowed");
    assert_eq!(
        goes(good, sample(8, 2, 1_000, 1_000_000_000)),
        "20.0% of 10 attempts on the new release failed, 0.0% on the old one"
    );
    assert_eq!(
        goes(good, sample(10, 0, 2_001, 1_000_000_000)),
        "an attempt on the new release takes 2s1ms, 1s on the old one"
    );
    let dear = goes(good, sample(10, 0, 1_000, 1_600_000_000));
    assert!(dear.contains("costs 1.6"), "{dear}");
}

#[test]
fn going_back_drains_what_is_not_ready_and_waits_for_the_rest() {
    let mut undone = plan(POLICY);
    undone.order(Order::Undo { reason: "it was asked for".into() }).expect("it goes forward");
    let of = |text, desired| after(&undone, text, desired, 0);
    assert!(matches!(of("a1 b2 c2!", 2).step, Step::Drain { workers } if workers.len() == 1));
    assert_eq!(of("a1 b2", 2).step, Step::Start { release: 1, by: 1 });
    assert_eq!(of("a1 b2 d1?", 2).step, Step::Wait(Wait::Starting { workers: 1 }));
    assert!(matches!(of("a1 b2 d1", 2).step, Step::Drain { workers } if workers.len() == 1));
    assert_eq!(of("a1 b2- d1", 2).step, Step::Wait(Wait::Draining { workers: 1 }));
    assert!(matches!(of("a1 d1", 2).phase, Phase::RolledBack { .. }));
}

#[test]
fn a_paused_one_moves_nothing_and_its_time_stands_still() {
    let mut paused = after(&plan(POLICY), "a1 b1 c2?", 2, 10_000);
    paused.order(Order::Pause).expect("it goes forward");
    let spent = paused.spent_ms;
    for ms in [20_000, 30_000, 40_000] {
        paused = decide(&paused, &seen("a1 b1 c2?", 2), at(ms));
        assert_eq!((paused.step.clone(), paused.spent_ms), (Step::Wait(Wait::Paused), spent));
    }
    paused.order(Order::Resume).expect("it goes forward");
    let on = decide(&paused, &seen("a1 b1 c2?", 2), at(41_000));
    assert_eq!((on.step.clone(), on.spent_ms), (Step::Wait(Wait::Starting { workers: 1 }), spent + 1_000));
}

#[test]
fn an_outage_of_the_control_plane_makes_nobody_late() {
    let before = after(&plan(POLICY), "a1 b1 c2?", 2, 3_000);
    let later = decide(&before, &seen("a1 b1 c2!", 2), at(3_600_000));
    assert_eq!((later.phase.clone(), later.spent_ms), (Phase::Forward, before.spent_ms + LONGEST_LOOK_MS));
}

#[test]
fn old_workers_that_do_not_work_are_no_obstacle() {
    check("a1! b1! c2", 2, 2_000, "release 1 is replaced by 2: drains `a`");
    check("b1! c2 d2", 2, 2_000, "release 1 is replaced by 2: drains `b`");
    // What a rollout that was overtaken has left behind.
    check("a1 b1 c3!", 2, 0, "release 1 is replaced by 2: drains `c`");
}

#[test]
fn a_worker_stays_for_tasks_that_began_on_it() {
    let pinned = Policy { pin_release: true, ..POLICY };
    let observed = Observed { pinned: BTreeMap::from([(1, 3)]), ..seen("b1 c2 d2", 2) };
    let mut plan = plan(pinned);
    for ms in 0..4 {
        plan = decide(&plan, &observed, at(ms * 1_000));
    }
    assert_eq!(plan.step, Step::Wait(Wait::Pinned { tasks: 3 }));
    let spent = plan.spent_ms;
    assert_eq!(decide(&plan, &observed, at(5_000)).spent_ms, spent, "nobody is late for that");
    assert_eq!((plan.serving(), plan.retiring()), (2, Some(1)), "what is new begins on the new one");
    let gone = Observed { workers: crew("c2 d2"), ..observed };
    assert_eq!(decide(&plan, &gone, at(5_000)).step, Step::Start { release: 1, by: 1 });
    let free = seen("b1 c2 d2", 2);
    assert!(matches!(decide(&plan, &free, at(6_000)).step, Step::Drain { .. }));
}

#[test]
fn what_kubernetes_does_is_not_said_to_be_done_by_longshore() {
    let watched =
        |crew: &str| decide(&Plan { watched: true, ..plan(POLICY) }, &seen(crew, 2), at(0)).to_string();
    assert_eq!(watched("a1 b1"), "release 1 is replaced by 2: Kubernetes replaces the pods");
    assert_eq!(watched("a1! b1! c3!"), "release 1 is replaced by 2: Kubernetes replaces the pods");
    assert_eq!(watched("a1 b1 c2?"), "release 1 is replaced by 2: 1 worker is not ready yet");
}

#[test]
fn a_way_back_whose_workers_cannot_be_started_is_stuck_until_they_can() {
    let mut back = plan(POLICY);
    back.order(Order::Undo { reason: "worse".into() }).expect("it goes forward");
    let held = Observed { held: Some("ImagePullBackOff".into()), ..seen("a1? b2 c2", 2) };
    let look = |back: &mut Plan, held: &Observed, from: i64, to: i64| {
        for s in from..to {
            *back = decide(back, held, at(s * 1_000));
        }
    };
    let ready_s = POLICY.ready_ms as i64 / 1_000;
    look(&mut back, &held, 0, ready_s);
    assert!(!back.is_stuck() && matches!(back.phase, Phase::Back { .. }));
    look(&mut back, &held, ready_s, ready_s + 2);
    assert!(back.is_stuck() && !back.has_ended(), "whoever can has to do something");
    let free = Observed { held: None, ..held.clone() };
    look(&mut back, &free, ready_s + 2, ready_s + 3);
    assert!(!back.is_stuck(), "the image is there again");
    back.order(Order::Supersede { by: "another".into() }).expect("another one may take its place");
    assert!(!back.is_stuck());
    // What kept the new release back before is not counted.
    let mut late = plan(POLICY);
    look(&mut late, &held, 0, ready_s + 3);
    assert!(matches!(late.phase, Phase::Back { .. }) && !late.is_stuck(), "{late}");
}

#[test]
fn what_cannot_even_be_started_is_given_up_after_as_long_as_one_may_take_to_become_ready() {
    let held = Observed { held: Some("image `x` is missing".into()), ..seen("a1 b1", 2) };
    let look = |plan: &Plan, seen: &Observed, s: i64| decide(plan, seen, at(s * 1_000));
    let until = |last: i64| (0..=last).fold(plan(POLICY), |plan, s| look(&plan, &held, s));
    assert_eq!(until(19).phase, Phase::Forward);
    let reason = "no worker of the new release could be started within 20s: image `x` is missing";
    assert_eq!(until(20).phase, Phase::RolledBack { reason: reason.into() });
    let let_go = look(&until(19), &seen("a1 b1", 2), 20);
    assert_eq!((let_go.phase, let_go.held_ms), (Phase::Forward, 0));
}

#[test]
fn orders_that_come_too_late_are_refused() {
    let refused = |text, order: Order| after(&plan(POLICY), text, 2, 2_000).order(order);
    assert_eq!(refused("c2 d2", Order::Pause), Err(Refused::Ended));
    assert_eq!(refused("a1- c2 d2", Order::Pause), Err(Refused::Finishing));
    let mut back = plan(POLICY);
    back.order(Order::Undo { reason: "x".into() }).expect("it goes forward");
    assert_eq!(back.order(Order::Pause), Err(Refused::GoesBack));
    assert_eq!(back.order(Order::Supersede { by: "3".into() }), Ok(()));
    assert_eq!(back.serving(), 1);
}

/// A fleet whose workers come up, break and end as chance has it.
struct World {
    workers: Vec<Seen>,
    /// How many looks each takes to become ready, and to end once it drains.
    slow: Vec<u8>,
    born: usize,
    /// New workers: how many of the first become ready; all, or fewer.
    good: usize,
    desired: u32,
}

impl World {
    fn new(desired: u32, slow: Vec<u8>, good: usize) -> World {
        let mut world = World { workers: Vec::new(), slow, born: 0, good, desired };
        (0..desired).for_each(|_| world.start(1));
        world.workers.iter_mut().for_each(|it| it.standing = Standing::Ready);
        world.workers.iter_mut().for_each(|it| it.cost.ready = true);
        world
    }

    fn start(&mut self, release: Release) {
        self.born += 1;
        self.workers.push(worker(&format!("w-{:03}", self.born), release, Standing::Starting));
    }

    fn observe(&self) -> Observed {
        Observed { workers: self.workers.clone(), desired: self.desired, ..Observed::default() }
    }

    /// Does a part of a step, as a controller does that is killed in the middle; only after all of it what is missing is started.
    fn apply(&mut self, plan: &Plan, part: usize) {
        let lacks = plan.lacks(self.active(), self.desired);
        match &plan.step {
            Step::Start { release, by } => {
                (0..(*by as usize).min(part)).for_each(|_| self.start(*release));
                if part < *by as usize {
                    return;
                }
            }
            Step::Drain { workers } => {
                let told = &workers[..workers.len().min(part)];
                let tell = |it: &mut Seen| it.standing = Standing::Draining;
                self.workers.iter_mut().filter(|it| told.contains(&it.cost.worker)).for_each(tell);
                if told.len() < workers.len() {
                    return;
                }
            }
            Step::Wait(_) | Step::End => {}
        }
        (0..lacks).for_each(|_| self.start(plan.serving()));
    }

    fn turn(&mut self, look: usize) {
        let good = self.good;
        let mut new = 0;
        for (n, it) in self.workers.iter_mut().enumerate() {
            new += usize::from(it.release == 2);
            let due = look.is_multiple_of(usize::from(self.slow[n % self.slow.len()]).max(1));
            let comes_up = it.release == 1 || new <= good;
            if it.standing == Standing::Starting && due && comes_up {
                (it.standing, it.cost.ready) = (Standing::Ready, true);
            }
        }
        let slow = self.slow.clone();
        let mut n = 0;
        self.workers.retain(|it| {
            n += 1;
            let due = look.is_multiple_of(usize::from(slow[n % slow.len()]).max(1));
            !(it.standing == Standing::Draining && due)
        });
    }

    fn active(&self) -> u32 {
        self.workers.iter().filter(|it| it.standing != Standing::Draining).count() as u32
    }

    fn ready(&self) -> u32 {
        self.workers.iter().filter(|it| it.standing == Standing::Ready).count() as u32
    }
}

prop_compose! {
    fn any_policy()(surge in 0u32..4, batch in 1u32..4, hold in 0u64..3) -> Policy {
        Policy { surge, batch, hold_ms: hold * 1_000, ready_ms: 30_000, deadline_ms: 2_000_000, ..POLICY }
    }
}

proptest! {
    #[test]
    fn a_rollout_ends_within_its_bounds_whatever_is_killed(
        policy in any_policy(), desired in 1u32..9, slow in proptest::collection::vec(1u8..6, 1..5),
        good in prop_oneof![Just(usize::MAX), 0usize..6], parts in proptest::collection::vec(0usize..5, 1..9),
        undo in proptest::option::of(0usize..40), rescale in proptest::option::of((0usize..40, 1u32..9)),
    ) {
        let parts = [parts, vec![3]].concat();
        let mut world = World::new(desired, slow, good);
        let mut plan = plan(policy);
        let mut looks = 0;
        while !plan.has_ended() {
            prop_assert!(looks < 9_000, "it never ends: {plan}");
            if undo == Some(looks) {
                let _ = plan.order(Order::Undo { reason: "asked".into() });
            }
            if let Some((when, to)) = rescale && when == looks {
                world.desired = to;
            }
            let (ready, active) = (world.ready(), world.active());
            plan = decide(&plan, &world.observe(), at(looks as i64 * 1_000));
            // What is saved is all that there is.
            plan = serde_json::from_str(&serde_json::to_string(&plan).expect("it is written")).expect("and read");
            world.apply(&plan, parts[looks % parts.len()]);
            let surge = if plan.serving() == 1 { policy.surge.max(1) } else { policy.surge };
            prop_assert!(world.active() <= active.max(world.desired + surge), "too many: {plan}");
            let spared = if policy.surge == 0 { policy.batch } else { 0 };
            let floor = ready.min(world.desired.saturating_sub(spared));
            prop_assert!(world.ready() >= floor, "too few: {plan}");
            world.turn(looks);
            looks += 1;
        }
        let left = |release| world.workers.iter().filter(|it| it.release == release).count();
        match &plan.phase {
            Phase::Done => prop_assert_eq!(left(1), 0),
            Phase::RolledBack { .. } => prop_assert_eq!(left(2), 0),
            phase => prop_assert!(false, "{:?}", phase),
        }
        prop_assert!(plan.phase == Phase::Done || good != usize::MAX || undo.is_some(), "{}", plan);
    }
}
