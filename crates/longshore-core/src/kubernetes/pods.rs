//! How many pods a fleet's Deployment is to have, and what each of them counts for.
//!
//! Which pods go is not for a Deployment to be told: it removes those that are not ready first, before them those that do not
//! even run. So whoever is to go drains before, without exiting; and the number goes down once Kubernetes has seen that it is not
//! ready, and that all others are: but for those that have nothing to lose, since nothing runs in them and they do not come up.

use crate::scale::{Crew, Decision};
use crate::time::Timestamp;

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
    /// Its worker has come up, and has not ended since.
    pub up: bool,
    /// Its worker claims tasks.
    pub ready: bool,
    /// As Kubernetes has seen it last, which is later.
    pub seen_ready: bool,
    /// Its worker was told to drain.
    pub told: bool,
    /// It was chosen to go, and nothing of its worker can be told that: it has ended, and may come back.
    pub dismissed: bool,
    /// It does not come up, as [`is_late`] says.
    pub late: bool,
}

impl Facts {
    pub fn standing(self) -> Standing {
        match self {
            Facts { leaves: true, .. } => Standing::Leaving,
            // Nobody is there who would drain first. One that Kubernetes sees ready would be taken for one of those that work.
            Facts { told: true, up: false, seen_ready: false, .. } => Standing::Drained,
            Facts { dismissed: true, up: false, seen_ready: false, .. } => Standing::Drained,
            Facts { told: true, .. } => Standing::Draining,
            Facts { up: true, ready: true, .. } => Standing::Ready,
            // For the first time, or its container is started again.
            Facts { .. } => Standing::Starting,
        }
    }

    /// Whether it would be a loss, and Kubernetes would remove it before one that has drained.
    fn is_exposed(self) -> bool {
        match self.standing() {
            Standing::Ready => !self.seen_ready,
            Standing::Starting => !self.seen_ready && !self.late,
            Standing::Draining | Standing::Drained | Standing::Leaving => false,
        }
    }
}

/// Whether a worker that is not ready is no loss: nothing runs in it, and it does not come up.
///
/// `stuck`: Kubernetes says so. `since`: when its pod came, or it registered, or ended last; longer ago than `startup_ms` it is
/// not expected any more.
pub fn is_late(
    stuck: bool,
    in_flight: u32,
    since: Option<Timestamp>,
    startup_ms: u64,
    now: Timestamp,
) -> bool {
    let waits = |since: Timestamp| now.since(since).as_millis() > u128::from(startup_ms);
    in_flight == 0 && (stuck || since.is_some_and(waits))
}

/// How many pods a Deployment is to have, and what is known of its making them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number {
    pub replicas: u32,
    /// None is made: a quota or the like forbids it.
    pub refused: bool,
    /// It was lowered a moment ago: those beyond it are about to go.
    pub lowered: bool,
}

/// A fleet's pods by what they count for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub ready: u32,
    pub starting: u32,
    pub draining: u32,
    pub drained: u32,
    pub leaving: u32,
    /// Of those that work, or will: what Kubernetes would remove before one that has drained.
    pub exposed: u32,
}

impl Counts {
    pub fn of(pods: impl Iterator<Item = Facts>) -> Counts {
        let mut counts = Counts::default();
        for facts in pods {
            counts.exposed += u32::from(facts.is_exposed());
            *match facts.standing() {
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

    /// How many there will be.
    fn expected(&self, number: Number) -> u32 {
        if number.refused { number.replicas.min(self.there()) } else { number.replicas }
    }

    /// The workers of a decision: pods that the Deployment has not made yet are on their way; of those beyond its number, some
    /// have drained and are about to go, and the rest are there because it replaces others.
    pub fn crew(&self, number: Number) -> Crew {
        let (work, there, expected) = (self.ready + self.starting, self.there(), self.expected(number));
        let beyond = there.saturating_sub(expected).saturating_sub(self.drained);
        let all = work.saturating_sub(beyond) + expected.saturating_sub(there);
        let ready = self.ready.min(all);
        Crew { ready, starting: all - ready, draining: self.draining + self.leaving }
    }

    /// Of so many that are to go: how many have not even been made, and how many of those that work have to.
    pub fn victims(&self, number: Number, by: u32) -> (u32, u32) {
        let not_made = by.min(self.expected(number).saturating_sub(self.there()));
        (not_made, by - not_made)
    }

    /// How many pods the Deployment is to have.
    ///
    /// Those that have drained go once it has as many as it is to have (else they might be taken off twice), and once no other
    /// would be lost in their place. Growing does not wait for that; but a number that is lowered and raised again before
    /// Kubernetes has acted would keep them instead of making new ones, so what can go goes first.
    pub fn replicas(&self, number: Number, decision: &Decision) -> u32 {
        let (expected, there) = (self.expected(number), self.there());
        let may_go = there == expected && self.exposed == 0;
        let without_drained = expected.saturating_sub(self.drained);
        match decision {
            Decision::Grow { .. } if self.drained > 0 && may_go => without_drained,
            Decision::Grow { .. } if number.lowered && there > expected => number.replicas,
            Decision::Grow { by, .. } => number.replicas.max(expected.saturating_add(by.get())),
            Decision::Shrink { .. } | Decision::Hold(_) => match self.not_made(number, decision) {
                0 if may_go => without_drained,
                not_made => expected - not_made,
            },
        }
    }

    fn not_made(&self, number: Number, decision: &Decision) -> u32 {
        match decision {
            Decision::Shrink { by, .. } => self.victims(number, by.get()).0,
            Decision::Grow { .. } | Decision::Hold(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests;
