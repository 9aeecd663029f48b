//! How many pods a fleet's Deployment is to have, and what each of them counts for.
//!
//! Which pods go is not for a Deployment to be told: it removes those that are not ready first, before them those that do not
//! even run. So whoever is to go drains before, without exiting; and the number goes down once Kubernetes has seen that it is not
//! ready, and that all others are.

use crate::scale::{Crew, Decision};

/// What a pod and its worker are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Ready,
    /// It is on its way to ready, for the first time or again.
    Starting,
    /// It was told to go, and has tasks to finish.
    Draining,
    /// It was told to go, has, is not ready, and waits to be removed.
    Drained,
    /// Kubernetes ends it, and counts it no more.
    Leaving,
}

/// Of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Kubernetes was asked to end it, or it has ended for good.
    pub leaves: bool,
    /// Its worker claims tasks.
    pub ready: bool,
    /// As Kubernetes has seen it last, which is later.
    pub seen_ready: bool,
    /// Its worker was told to drain.
    pub told: bool,
    /// Its worker has ended.
    pub gone: bool,
    /// It was chosen to go, and nothing of its worker can hear that: it never came up, or crashes.
    pub dismissed: bool,
}

impl Facts {
    pub fn standing(self) -> Standing {
        match self {
            Facts { leaves: true, .. } => Standing::Leaving,
            Facts { dismissed: true, ready: false, seen_ready: false, .. } => Standing::Drained,
            // It would be taken for one of those that work.
            Facts { told: true, gone: true, seen_ready: false, .. } => Standing::Drained,
            Facts { told: true, .. } => Standing::Draining,
            // Its container is started again.
            Facts { gone: true, .. } => Standing::Starting,
            Facts { ready: true, .. } => Standing::Ready,
            Facts { .. } => Standing::Starting,
        }
    }
}

/// A fleet's pods by what they count for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub drained: u32,
    pub leaving: u32,
    /// Of those that work: what Kubernetes would remove before one that has drained.
    pub exposed: u32,
}

impl Counts {
    /// Of each pod its standing, and whether Kubernetes sees it ready.
    pub fn of(pods: impl Iterator<Item = (Standing, bool)>) -> Counts {
        let mut counts = Counts::default();
        for (standing, seen_ready) in pods {
            if matches!(standing, Standing::Ready | Standing::Starting) && !seen_ready {
                counts.exposed += 1;
            }
            *match standing {
                Standing::Ready => &mut counts.ready,
                Standing::Starting => &mut counts.starting,
                Standing::Draining => &mut counts.draining,
                Standing::Drained => &mut counts.drained,
                Standing::Leaving => &mut counts.leaving,
            } += 1;
        }
        counts
    }

    /// Pods that Kubernetes counts.
    fn there(&self) -> u32 {
        self.ready + self.starting + self.draining + self.drained
    }

    /// How many of the `replicas` there will be; `refused`: none is made, a quota or the like forbids it.
    fn expected(&self, replicas: u32, refused: bool) -> u32 {
        if refused { replicas.min(self.there()) } else { replicas }
    }

    /// The workers of a decision, where the Deployment is to have `replicas` pods: those that it has not made yet are on
    /// their way; of those beyond, some have drained and are about to go, and the rest are there because it replaces others.
    pub fn crew(&self, replicas: u32, refused: bool) -> Crew {
        let (work, there, replicas) =
            (self.ready + self.starting, self.there(), self.expected(replicas, refused));
        let beyond = there.saturating_sub(replicas).saturating_sub(self.drained);
        let all = work.saturating_sub(beyond) + replicas.saturating_sub(there);
        let ready = self.ready.min(all);
        Crew { ready, starting: all - ready, draining: self.draining + self.leaving }
    }

    /// Of so many that are to go: how many have not even been made, and how many of those that work have to.
    pub fn victims(&self, replicas: u32, by: u32, refused: bool) -> (u32, u32) {
        let not_made = by.min(self.expected(replicas, refused).saturating_sub(self.there()));
        (not_made, by - not_made)
    }

    /// How many pods the Deployment is to have.
    ///
    /// Growing, nothing is taken off for pods that have drained: it would keep them instead of making new ones. Otherwise
    /// those that have drained go, once it has as many as it is to have (else they might be taken off twice), and once no other
    /// would go in their place.
    pub fn replicas(&self, now: u32, decision: &Decision, refused: bool) -> u32 {
        let expected = self.expected(now, refused);
        let not_made = match decision {
            Decision::Grow { by, .. } => return now.max(expected.saturating_add(by.get())),
            Decision::Shrink { by, .. } => self.victims(now, by.get(), refused).0,
            Decision::Hold(_) => 0,
        };
        match not_made {
            0 if self.there() == expected && self.exposed == 0 => expected.saturating_sub(self.drained),
            not_made => expected - not_made,
        }
    }
}

/// What removing a pod costs beside others, as Kubernetes counts it: pods that nobody told to go are not marked and cost 0.
pub fn deletion_cost(standing: Standing, invested_ms: u64) -> Option<i32> {
    match standing {
        Standing::Drained => Some(-2_000_000_000),
        Standing::Draining => {
            let seconds = i32::try_from(invested_ms / 1000).unwrap_or(i32::MAX).min(999_999_999);
            Some(-1_000_000_000 + seconds)
        }
        Standing::Ready | Standing::Starting | Standing::Leaving => None,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::scale::{GrowReason, HoldReason, ShrinkReason};

    fn grow(by: u32) -> Decision {
        Decision::Grow { by: NonZeroU32::new(by).expect("above 0"), reason: GrowReason::Backlog }
    }

    fn shrink(by: u32) -> Decision {
        let reason = ShrinkReason::Quiet { for_ms: 1 };
        Decision::Shrink { by: NonZeroU32::new(by).expect("above 0"), reason }
    }

    const HOLD: Decision = Decision::Hold(HoldReason::InBand);

    #[test]
    fn a_pod_counts_for_what_it_and_its_worker_do() {
        let facts = Facts::default();
        for (facts, standing) in [
            (facts, Standing::Starting),
            (Facts { ready: true, ..facts }, Standing::Ready),
            (Facts { ready: true, told: true, ..facts }, Standing::Draining),
            (Facts { told: true, gone: true, ..facts }, Standing::Drained),
            (Facts { told: true, gone: true, seen_ready: true, ..facts }, Standing::Draining),
            (Facts { gone: true, ..facts }, Standing::Starting),
            (Facts { gone: true, dismissed: true, ..facts }, Standing::Drained),
            (Facts { ready: true, dismissed: true, ..facts }, Standing::Ready),
            (Facts { leaves: true, told: true, gone: true, ..facts }, Standing::Leaving),
        ] {
            assert_eq!(facts.standing(), standing, "{facts:?}");
        }
    }

    #[test]
    fn a_shrink_waits_until_its_victims_have_drained() {
        let busy = Counts { ready: 4, draining: 2, ..Counts::default() };
        assert_eq!(busy.replicas(6, &HOLD, false), 6);
        assert_eq!(busy.crew(6, false), Crew { ready: 4, starting: 0, draining: 2 });
        let done = Counts { ready: 4, draining: 1, drained: 1, ..Counts::default() };
        assert_eq!(done.replicas(5, &HOLD, false), 5, "it is being removed");
        assert_eq!(done.replicas(7, &HOLD, false), 7, "one is being made");
        let exposed = Counts { exposed: 1, ..done };
        assert_eq!(exposed.replicas(6, &HOLD, false), 6, "one that works would go");
        assert_eq!(done.replicas(6, &HOLD, false), 5);
        assert_eq!(done.replicas(6, &shrink(1), false), 5, "more follow");
        assert_eq!(done.replicas(6, &grow(2), false), 8, "what has drained is taken off later");
    }

    #[test]
    fn what_was_never_made_goes_before_what_works() {
        let few = Counts { ready: 2, ..Counts::default() };
        assert_eq!(few.victims(8, 6, false), (6, 0));
        assert_eq!(few.replicas(8, &shrink(6), false), 2);
        assert_eq!(few.victims(8, 7, false), (6, 1));
    }

    #[test]
    fn pods_that_are_refused_are_not_waited_for() {
        let few = Counts { ready: 2, drained: 1, ..Counts::default() };
        assert_eq!(few.crew(8, true), Crew { ready: 2, starting: 0, draining: 0 });
        assert_eq!((few.replicas(8, &HOLD, false), few.replicas(8, &HOLD, true)), (8, 2));
        // Asked for once: it is Kubernetes that tries again.
        assert_eq!((few.replicas(3, &grow(4), true), few.replicas(7, &grow(4), true)), (7, 7));
        assert_eq!(few.victims(8, 1, true), (0, 1));
    }

    #[test]
    fn what_is_not_made_yet_is_on_its_way_and_what_replaces_others_is_not_counted() {
        let none = Counts { ready: 2, ..Counts::default() };
        assert_eq!(none.crew(5, false), Crew { ready: 2, starting: 3, draining: 0 });
        let going = Counts { ready: 2, drained: 1, ..Counts::default() };
        assert_eq!(
            going.crew(2, false),
            Crew { ready: 2, starting: 0, draining: 0 },
            "it is removed any moment"
        );
        assert_eq!(going.crew(3, false), Crew { ready: 2, starting: 0, draining: 0 });
        let surge = Counts { ready: 5, starting: 1, leaving: 1, ..Counts::default() };
        assert_eq!(surge.crew(5, false), Crew { ready: 5, starting: 0, draining: 1 });
    }

    #[test]
    fn who_has_drained_costs_least_then_who_has_least_to_lose() {
        let cost = |standing, ms| deletion_cost(standing, ms);
        assert!(cost(Standing::Drained, 0) < cost(Standing::Draining, 0));
        assert!(cost(Standing::Draining, 1_000) < cost(Standing::Draining, 900_000));
        assert!(cost(Standing::Draining, u64::MAX) < Some(0));
        assert_eq!(cost(Standing::Ready, 5), None);
    }

    proptest! {
        /// However pods come and go meanwhile, holding never takes away one that works.
        #[test]
        fn holding_keeps_all_that_work(ready in 0u32..20, starting in 0u32..20, draining in 0u32..5, drained in 0u32..5) {
            let counts = Counts { ready, starting, draining, drained, ..Counts::default() };
            let replicas = ready + starting + draining + drained;
            let kept = counts.replicas(replicas, &HOLD, false);
            prop_assert_eq!(kept, ready + starting + draining);
            prop_assert_eq!(counts.crew(replicas, false).workers(), ready + starting);
            // Once they are gone nothing changes any more.
            let after = Counts { drained: 0, ..counts };
            prop_assert_eq!(after.replicas(kept, &HOLD, false), kept);
        }
    }
}
