//! The next step, from the workers that are there.

use super::{Observed, Phase, Plan, Policy, Seen, Standing, Step, Wait};
use crate::drain::{self, Candidate};
use crate::id::WorkerId;

/// The workers in groups, with the arithmetic done once.
pub(super) struct Scene<'a> {
    plan: &'a Plan,
    desired: u32,
    /// Of the release that stays; neither draining nor gone.
    coming: Vec<&'a Seen>,
    /// Of all others.
    going: Vec<&'a Seen>,
    /// Of all others, on their way out.
    leaving: u32,
    pinned: u64,
}

impl<'a> Scene<'a> {
    pub(super) fn new(plan: &'a Plan, seen: &'a Observed) -> Scene<'a> {
        let stays = plan.heads_for();
        let mut scene = Scene {
            plan,
            desired: seen.desired,
            coming: Vec::new(),
            going: Vec::new(),
            leaving: 0,
            pinned: match plan.policy.pin_release {
                true => seen.pinned.iter().filter(|(at, _)| **at != stays).map(|(_, tasks)| tasks).sum(),
                false => 0,
            },
        };
        for it in &seen.workers {
            match (&it.standing, it.release == stays) {
                (Standing::Crashed { .. }, _) | (Standing::Draining, true) => {}
                (Standing::Draining, false) => scene.leaving += 1,
                (_, true) => scene.coming.push(it),
                (_, false) => scene.going.push(it),
            }
        }
        scene
    }

    pub(super) fn forward(&self) -> (Option<Phase>, Step) {
        let useless = self.useless();
        if !useless.is_empty() {
            return (None, Step::Drain { workers: useless });
        }
        if let Some(wait) = self.unproven() {
            return (None, Step::Wait(wait));
        }
        if self.going.is_empty() && self.pinned > 0 {
            // Whoever they began on has gone, or goes.
            return match self.leaving {
                0 => (None, Step::Start { release: self.plan.from, by: 1 }),
                _ => (None, Step::Wait(Wait::Pinned { tasks: self.pinned })),
            };
        }
        if self.going.is_empty() && (!self.coming.is_empty() || self.desired == 0) {
            return match self.leaving {
                0 => (Some(Phase::Done), Step::End),
                _ => (Some(Phase::Finishing), self.draining()),
            };
        }
        (None, self.exchange())
    }

    /// Workers that came and have not shown yet that they stay.
    fn unproven(&self) -> Option<Wait> {
        let trial = |it: &&Seen| self.plan.trials.get(&it.cost.worker).copied().unwrap_or_default();
        let starting = self.coming.iter().filter(|it| !is_ready(it)).count() as u32;
        if starting > 0 {
            return Some(Wait::Starting { workers: starting });
        }
        let hold = self.plan.policy.hold_ms;
        let held: Vec<u64> =
            self.coming.iter().map(|it| trial(it).ready_ms).filter(|held| *held < hold).collect();
        let shortest = held.iter().min()?;
        Some(Wait::Holding { workers: held.len() as u32, left_ms: hold - shortest })
    }

    fn exchange(&self) -> Step {
        let (coming, total) = (self.coming.len() as u32, self.total());
        let Policy { batch, surge, .. } = self.plan.policy;
        if total > self.desired {
            return self.drain(batch.max(1).min(total - self.desired));
        }
        let room = self.desired.saturating_add(surge).saturating_sub(total);
        let by = batch.max(1).min(self.desired.saturating_sub(coming)).min(room);
        match by {
            0 => self.drain(batch.max(1)),
            by => Step::Start { release: self.plan.to, by },
        }
    }

    fn total(&self) -> u32 {
        (self.coming.len() + self.going.len()) as u32
    }

    /// Drains the cheapest of the others; one stays while tasks need it.
    fn drain(&self, by: u32) -> Step {
        let going = self.going.len() as u32;
        let by = if self.pinned > 0 { by.min(going.saturating_sub(1)) } else { by.min(going) };
        if by == 0 {
            return Step::Wait(match self.pinned {
                0 => Wait::Room,
                tasks => Wait::Pinned { tasks },
            });
        }
        let candidates: Vec<Candidate> = self.going.iter().map(|it| it.cost.clone()).collect();
        // Those that are not ready first: nothing is lost with them.
        let (ready, idle): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|it| it.ready);
        let mut workers = drain::choose(&idle, by);
        workers.extend(drain::choose(&ready, by - workers.len() as u32));
        Step::Drain { workers }
    }

    fn draining(&self) -> Step {
        Step::Wait(Wait::Draining { workers: self.leaving })
    }

    pub(super) fn finish(&self) -> (Option<Phase>, Step) {
        if !self.going.is_empty() {
            // One that came up late, or was found again.
            return (None, Step::Drain { workers: self.names(|_| true) });
        }
        match self.leaving {
            0 => (Some(Phase::Done), Step::End),
            _ => (None, self.draining()),
        }
    }

    pub(super) fn back(&self, reason: &str) -> (Option<Phase>, Step) {
        let useless = self.names(|it| !is_ready(it));
        if !useless.is_empty() {
            return (None, Step::Drain { workers: useless });
        }
        if self.going.is_empty() {
            return match self.leaving {
                0 => (Some(Phase::RolledBack { reason: reason.to_owned() }), Step::End),
                _ => (None, self.draining()),
            };
        }
        let ready = self.coming.iter().filter(|it| is_ready(it)).count() as u32 + self.going.len() as u32;
        if ready > self.desired {
            return (None, self.drain_plainly(ready - self.desired));
        }
        let (coming, total) = (self.coming.len() as u32, self.total());
        let room = self.desired.saturating_add(self.plan.policy.surge.max(1)).saturating_sub(total);
        let by = self.plan.policy.batch.max(1).min(self.desired.saturating_sub(coming)).min(room);
        let starting = coming - self.coming.iter().filter(|it| is_ready(it)).count() as u32;
        (
            None,
            match (by, starting) {
                (0, 0) => Step::Wait(Wait::Room),
                (0, workers) => Step::Wait(Wait::Starting { workers }),
                (by, _) => Step::Start { release: self.plan.from, by },
            },
        )
    }

    fn drain_plainly(&self, by: u32) -> Step {
        let candidates: Vec<Candidate> = self.going.iter().map(|it| it.cost.clone()).collect();
        Step::Drain { workers: drain::choose(&candidates, by) }
    }

    fn names(&self, which: impl Fn(&Seen) -> bool) -> Vec<WorkerId> {
        self.going.iter().filter(|it| which(it)).map(|it| it.cost.worker.clone()).collect()
    }

    /// How many workers the scaler must not count, once this step is done.
    pub(super) fn surge(&self, step: &Step) -> i32 {
        let total = self.total();
        match step {
            Step::Start { by, .. } => signed((total + by).saturating_sub(self.desired)),
            // An old one goes first: its place is kept for the new one.
            Step::Drain { workers } if self.plan.policy.surge == 0 && self.makes_room() => {
                -signed(workers.len() as u32)
            }
            Step::Drain { workers } => signed((total - workers.len() as u32).saturating_sub(self.desired)),
            // As long as none is drained for it, what came stays apart.
            Step::Wait(_) => self.plan.surge.min(signed(self.coming.len() as u32)),
            Step::End => 0,
        }
    }

    fn makes_room(&self) -> bool {
        self.plan.phase == Phase::Forward && self.total() <= self.desired && self.useless().is_empty()
    }

    /// What is left of yet another release and does not work is in nobody's place.
    fn useless(&self) -> Vec<WorkerId> {
        self.names(|it| it.release != self.plan.from && !is_ready(it))
    }
}

fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn is_ready(it: &Seen) -> bool {
    it.standing == Standing::Ready
}
