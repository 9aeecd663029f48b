use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::kubernetes::marks::deletion_cost;
use crate::scale::{GrowReason, HoldReason, ShrinkReason};

fn grow(by: u32) -> Decision {
    Decision::Grow { by: NonZeroU32::new(by).expect("above 0"), reason: GrowReason::Backlog }
}

fn shrink(by: u32) -> Decision {
    let reason = ShrinkReason::Quiet { for_ms: 1 };
    Decision::Shrink { by: NonZeroU32::new(by).expect("above 0"), reason }
}

const HOLD: Decision = Decision::Hold(HoldReason::InBand);

fn number(replicas: u32) -> Number {
    Number { replicas, ..Number::default() }
}

fn refused(replicas: u32) -> Number {
    Number { refused: true, ..number(replicas) }
}

#[test]
fn a_pod_counts_for_what_it_and_its_worker_do() {
    let facts = Facts::default();
    let up = Facts { up: true, ..facts };
    for (facts, standing) in [
        (facts, Standing::Starting),
        (up, Standing::Starting),
        (Facts { ready: true, ..up }, Standing::Ready),
        (Facts { told: true, ..up }, Standing::Draining),
        (Facts { ready: true, told: true, ..up }, Standing::Draining),
        (Facts { told: true, ..facts }, Standing::Drained),
        (Facts { told: true, seen_ready: true, ..facts }, Standing::Draining),
        (Facts { dismissed: true, ..facts }, Standing::Drained),
        (Facts { dismissed: true, ..up }, Standing::Starting),
        (Facts { dismissed: true, ready: true, ..up }, Standing::Ready),
        (Facts { leaves: true, told: true, ..facts }, Standing::Leaving),
    ] {
        assert_eq!(facts.standing(), standing, "{facts:?}");
    }
}

#[test]
fn a_pod_whose_worker_never_came_up_has_drained_once_it_is_told_whoever_remembers_that() {
    let told = Facts { told: true, late: true, ..Facts::default() };
    let ready = Facts { up: true, ready: true, seen_ready: true, ..Facts::default() };
    let pending = Facts { late: true, ..Facts::default() };
    let counts = Counts::of([ready, ready, told, pending].into_iter());
    assert_eq!((counts.drained, counts.exposed), (1, 0));
    assert_eq!(counts.replicas(number(4), &HOLD), 3);
}

#[test]
fn what_comes_up_is_exposed_and_what_does_not_is_no_loss() {
    let starting = Facts::default();
    let ready = Facts { up: true, ready: true, seen_ready: true, ..starting };
    let exposed = |facts: Facts| Counts::of([facts].into_iter()).exposed;
    for (facts, is) in [
        (starting, 1),
        (Facts { late: true, ..starting }, 0),
        (Facts { up: true, ..starting }, 1),
        (Facts { up: true, late: true, ..starting }, 0),
        (ready, 0),
        // Another container of its pod is not ready; it works.
        (Facts { seen_ready: false, late: true, ..ready }, 1),
        (Facts { told: true, ..ready }, 0),
    ] {
        assert_eq!(exposed(facts), is, "{facts:?}");
    }
}

#[test]
fn who_has_nothing_to_lose_is_late_once_it_is_stuck_or_its_time_is_over() {
    let now = Timestamp(1_000_000);
    let late = |stuck, in_flight, since| is_late(stuck, in_flight, Some(Timestamp(since)), 120_000, now);
    assert!(late(true, 0, 999_999));
    assert!(!late(true, 1, 0), "its tasks would be lost");
    assert!(!late(false, 0, 880_000));
    assert!(late(false, 0, 879_999));
    assert!(!late(false, 1, 0));
    assert!(!is_late(false, 0, None, 120_000, now));
}

#[test]
fn a_shrink_waits_until_its_victims_have_drained() {
    let busy = Counts { ready: 4, draining: 2, ..Counts::default() };
    assert_eq!(busy.replicas(number(6), &HOLD), 6);
    assert_eq!(busy.crew(number(6)), Crew { ready: 4, starting: 0, draining: 2 });
    let done = Counts { ready: 4, draining: 1, drained: 1, ..Counts::default() };
    assert_eq!(done.replicas(number(5), &HOLD), 5, "it is being removed");
    assert_eq!(done.replicas(number(7), &HOLD), 7, "one is being made");
    let exposed = Counts { exposed: 1, ..done };
    assert_eq!(exposed.replicas(number(6), &HOLD), 6, "one that works would go");
    assert_eq!(done.replicas(number(6), &HOLD), 5);
    assert_eq!(done.replicas(number(6), &shrink(1)), 5, "more follow");
    assert_eq!(exposed.replicas(number(6), &grow(2)), 8, "who waits for others keeps nothing from growing");
}

#[test]
fn what_has_drained_goes_before_others_are_made_and_is_not_called_back() {
    let done = Counts { ready: 4, drained: 2, ..Counts::default() };
    assert_eq!(done.replicas(number(6), &grow(2)), 4);
    let lowered = Number { lowered: true, ..number(4) };
    assert_eq!(done.replicas(lowered, &grow(2)), 4, "6 again would keep both");
    assert_eq!(done.replicas(number(4), &grow(2)), 6, "Kubernetes has had its time");
    let gone = Counts { ready: 4, leaving: 2, ..Counts::default() };
    assert_eq!(gone.replicas(lowered, &grow(2)), 6);
}

#[test]
fn what_was_never_made_goes_before_what_works() {
    let few = Counts { ready: 2, ..Counts::default() };
    assert_eq!(few.victims(number(8), 6), (6, 0));
    assert_eq!(few.replicas(number(8), &shrink(6)), 2);
    assert_eq!(few.victims(number(8), 7), (6, 1));
}

#[test]
fn pods_that_are_refused_are_not_waited_for() {
    let few = Counts { ready: 2, drained: 1, ..Counts::default() };
    assert_eq!(few.crew(refused(8)), Crew { ready: 2, starting: 0, draining: 0 });
    assert_eq!((few.replicas(number(8), &HOLD), few.replicas(refused(8), &HOLD)), (8, 2));
    assert_eq!(few.replicas(refused(3), &grow(4)), 2, "it makes room first");
    // Asked for once: it is Kubernetes that tries again.
    let all = Counts { drained: 0, ..few };
    assert_eq!((all.replicas(refused(2), &grow(4)), all.replicas(refused(6), &grow(4))), (6, 6));
    assert_eq!(few.victims(refused(8), 1), (0, 1));
}

#[test]
fn what_is_not_made_yet_is_on_its_way_and_what_replaces_others_is_not_counted() {
    let none = Counts { ready: 2, ..Counts::default() };
    assert_eq!(none.crew(number(5)), Crew { ready: 2, starting: 3, draining: 0 });
    let going = Counts { ready: 2, drained: 1, ..Counts::default() };
    assert_eq!(
        going.crew(number(2)),
        Crew { ready: 2, starting: 0, draining: 0 },
        "it is removed any moment"
    );
    assert_eq!(going.crew(number(3)), Crew { ready: 2, starting: 0, draining: 0 });
    let surge = Counts { ready: 5, starting: 1, leaving: 1, ..Counts::default() };
    assert_eq!(surge.crew(number(5)), Crew { ready: 5, starting: 0, draining: 1 });
}

proptest! {
    /// However pods come and go meanwhile, holding never takes away one that works.
    #[test]
    fn holding_keeps_all_that_work(ready in 0u32..20, starting in 0u32..20, draining in 0u32..5, drained in 0u32..5) {
        let counts = Counts { ready, starting, draining, drained, ..Counts::default() };
        let replicas = ready + starting + draining + drained;
        let kept = counts.replicas(number(replicas), &HOLD);
        prop_assert_eq!(kept, ready + starting + draining);
        prop_assert_eq!(counts.crew(number(replicas)).workers(), ready + starting);
        // Once they are gone nothing changes any more.
        let after = Counts { drained: 0, ..counts };
        prop_assert_eq!(after.replicas(number(kept), &HOLD), kept);
    }
}

/// A cluster with room for so many pods of a fleet, its controllers some looks behind, and a fleet that is to have a number of
/// workers. It removes pods as a ReplicaSet does: unscheduled ones first, then who is not ready, then by deletion cost if it
/// heeds that, and else whichever.
struct World {
    room: usize,
    heeds_cost: bool,
    behind: u32,
    pods: Vec<Pod>,
    replicas: u32,
    lowered_at: Option<u32>,
    /// Those that came up when they were to go.
    raced: u32,
    look: u32,
    next: u32,
    /// When the number was changed.
    writes: Vec<u32>,
}

struct Pod {
    id: u32,
    facts: Facts,
    scheduled: bool,
    came: u32,
    /// When it has drained.
    drains: Option<u32>,
}

/// In looks.
const START: u32 = 5;
const DRAIN: u32 = 7;
const SETTLES: u32 = 12;

impl World {
    fn step(&mut self, wanted: u32) -> Result<(), TestCaseError> {
        self.look += 1;
        if self.look.is_multiple_of(self.behind) {
            self.reconcile()?;
        }
        for pod in &mut self.pods {
            if pod.scheduled && !pod.facts.up && pod.drains.is_none() && self.look >= pod.came + START {
                // Registering anew it is told nothing any more; one more works than it was counted on.
                self.raced += u32::from(pod.facts.told);
                pod.facts = Facts { up: true, ready: true, seen_ready: true, ..Facts::default() };
            }
            if pod.drains.is_some_and(|at| at <= self.look) {
                pod.facts = Facts { told: true, ..Facts::default() };
            }
        }
        self.act(wanted);
        Ok(())
    }

    /// As Kubernetes does, on what is there by then.
    fn reconcile(&mut self) -> Result<(), TestCaseError> {
        while self.pods.len() < self.replicas as usize {
            self.next += 1;
            let facts = Facts { late: true, ..Facts::default() };
            self.pods.push(Pod { id: self.next, facts, scheduled: false, came: self.look, drains: None });
        }
        let heeds = self.heeds_cost;
        let cost = |pod: &Pod| if heeds { deletion_cost(pod.facts.standing(), 0).unwrap_or(0) } else { 0 };
        self.pods.sort_by_key(|pod| (pod.scheduled, pod.facts.seen_ready, cost(pod), pod.id % 3));
        let beyond = self.pods.len().saturating_sub(self.replicas as usize);
        for gone in self.pods.drain(..beyond) {
            let works = gone.facts.ready && !gone.facts.told;
            prop_assert!(!works || self.raced > 0, "one that works is removed");
            self.raced -= u32::from(works);
        }
        let mut free = self.room.saturating_sub(self.pods.iter().filter(|pod| pod.scheduled).count());
        for pod in self.pods.iter_mut().filter(|pod| !pod.scheduled) {
            if free > 0 {
                (pod.scheduled, pod.facts.late, pod.came, free) = (true, false, self.look, free - 1);
            }
        }
        Ok(())
    }

    /// As longshore does.
    fn act(&mut self, wanted: u32) {
        let lowered = self.lowered_at.is_some_and(|at| self.look - at < SETTLES);
        let number = Number { replicas: self.replicas, refused: false, lowered };
        let counts = Counts::of(self.pods.iter().map(|pod| pod.facts));
        let workers = counts.crew(number).workers();
        let decision = match wanted {
            _ if wanted > workers => grow(wanted - workers),
            _ if wanted < workers => shrink(workers - wanted),
            _ => HOLD,
        };
        if let Decision::Shrink { by, .. } = &decision {
            let by = counts.victims(number, by.get()).1 as usize;
            let mut work: Vec<_> = self
                .pods
                .iter_mut()
                .filter(|pod| matches!(pod.facts.standing(), Standing::Ready | Standing::Starting))
                .collect();
            work.sort_by_key(|pod| pod.facts.ready);
            for pod in work.into_iter().take(by) {
                pod.facts.told = true;
                pod.drains = pod.facts.up.then_some(self.look + DRAIN);
            }
        }
        let replicas = counts.replicas(number, &decision);
        if replicas != self.replicas {
            match replicas < self.replicas {
                true => self.lowered_at = Some(self.look),
                // They are counted on again.
                false => self.raced = 0,
            }
            self.replicas = replicas;
            self.writes.push(self.look);
        }
    }
}

proptest! {
    /// Whatever a fleet is to be, and whatever room there is, it comes to that and stays so, and loses none that works.
    #[test]
    fn a_fleet_comes_to_its_number_whether_or_not_there_is_room(
        wishes in proptest::collection::vec((0u32..12, 1u32..40, 0usize..12), 1..6), heeds_cost: bool, behind in 1u32..6,
    ) {
        let mut world = World {
            room: 8, heeds_cost, behind, pods: Vec::new(), replicas: 0, lowered_at: None, raced: 0, look: 0, next: 0, writes: Vec::new(),
        };
        for (wanted, looks, room) in &wishes {
            // Nodes go, and pods that there is no room for any more with them.
            world.room = *room;
            let mut kept = *room;
            world.pods.retain(|pod| !pod.scheduled || { let keep = kept > 0; kept = kept.saturating_sub(1); keep });
            for _ in 0..*looks {
                world.step(*wanted)?;
            }
        }
        let (wanted, _, room) = wishes[wishes.len() - 1];
        let patience = 40 * (SETTLES + DRAIN + START + behind);
        for _ in 0..patience {
            world.step(wanted)?;
        }
        let settled = world.look;
        for _ in 0..100 {
            world.step(wanted)?;
        }
        let counts = Counts::of(world.pods.iter().map(|pod| pod.facts));
        let up = wanted.min(room as u32);
        prop_assert_eq!(counts, Counts { ready: up, starting: wanted - up, ..Counts::default() });
        prop_assert_eq!(world.replicas, wanted);
        prop_assert!(world.writes.iter().all(|at| *at <= settled), "{:?}", world.writes);
        prop_assert!(world.writes.len() <= 30 + 12 * wishes.len(), "{:?}", world.writes);
    }
}
