//! How many workers a fleet should have, and why.
//!
//! Starts and stops nothing: the scaler applies the answer, and [`crate::drain`] chooses which workers go. What earlier
//! decisions leave behind ([`Memory`]) comes in and goes out as a value; the caller keeps it.

mod explain;
mod memory;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::fleet::Scaling;
use crate::time::Timestamp;

pub use memory::{Memory, Recommendation};

/// What a fleet's queue looks like. Tasks, and milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Tasks that could run now: not scheduled, backing off, or held back by a conversation, a cap or a rate.
    pub runnable: u64,
    /// How long the oldest of them has waited.
    pub oldest_wait_ms: Option<u64>,
    /// Tasks that run now, those on draining workers included: they may be handed over.
    pub running: u64,
    /// The numbers were read just now; false: nothing here may be believed.
    pub fresh: bool,
    /// Nothing can start, however many workers there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<Standstill>,
}

/// Why nothing of a fleet can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standstill {
    /// An operator paused it.
    Paused,
    /// A provider that its agents need cannot be reached.
    Provider,
}

/// A fleet's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crew {
    pub ready: u32,
    pub starting: u32,
    /// On their way out; counted apart, they are no workers for a decision.
    pub draining: u32,
}

/// What each worker of a fleet is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Each {
    /// Tasks that it runs at once.
    pub concurrency: u32,
    /// How long it may take to come up.
    pub startup_ms: u64,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Hold(HoldReason),
    Grow { by: NonZeroU32, reason: GrowReason },
    Shrink { by: NonZeroU32, reason: ShrinkReason },
}

/// Why nothing changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The queue could not be read: it is not taken for empty.
    MetricNotFresh,
    /// Pending tasks per worker lie between the two thresholds.
    InBand,
    /// No workers, none wanted, nothing to do.
    Idle,
    /// Nothing can start, so the queue says nothing about the workers that are needed.
    Standstill(Standstill),
    /// More are wanted than are allowed.
    AtMax { max: u32, wanted: u32 },
    /// Fewer would do, but fewer are not allowed.
    AtMin { min: u32 },
    /// Little is pending, but the running and the runnable tasks need the workers there are.
    Busy { needed: u32 },
    /// Fewer are wanted, but not yet for long enough.
    Settling { wanted: u32, since: Timestamp, left_ms: u64 },
    /// Fewer are wanted, but some are still starting: what they will take over is not seen yet. Those that never come up are
    /// not waited for any longer than that.
    Starting {
        wanted: u32,
        starting: u32,
        #[serde(default)]
        left_ms: u64,
    },
    /// Tasks wait too long, but workers were added a moment ago.
    JustGrew { left_ms: u64 },
    /// The operator's number is reached; `asked` is more than `max` allows when they differ.
    AsOrdered { asked: u32, max: u32 },
    /// The operator wants fewer, but the running and the runnable tasks need the workers there are.
    OrderBelowNeed { asked: u32, needed: u32 },
}

/// Why workers are added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowReason {
    BelowMin {
        min: u32,
    },
    /// More tasks are pending per worker than `scale_up_above`.
    Backlog,
    /// No slot is free and the oldest runnable task has waited for `scale_up_wait`.
    LongWait {
        waited_ms: u64,
    },
    Ordered {
        asked: u32,
        max: u32,
    },
}

/// Why workers are removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShrinkReason {
    AboveMax {
        max: u32,
    },
    /// Fewer tasks have been pending per worker than `scale_down_below` for all of `scale_down_after`.
    Quiet {
        for_ms: u64,
    },
    /// `needed` is what running and runnable tasks need: no order goes below it.
    Ordered {
        asked: u32,
        needed: u32,
    },
}

/// A decision with everything that it was made from. Its `Display` says it in a sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub decision: Decision,
    /// The workers wanted, draining ones apart: within `min..=max`, or `0..=max` under an operator's order.
    pub desired: u32,
    /// Pass this to the next decision.
    pub memory: Memory,
    pub load: Load,
    pub crew: Crew,
    pub policy: Scaling,
    /// Runnable tasks per worker; none without workers.
    pub ratio: Option<f64>,
    /// What running and runnable tasks need, at `concurrency` tasks a worker; may be more than `max` allows.
    pub needed: u32,
}

impl Crew {
    /// The workers that count: ready and starting.
    pub fn workers(&self) -> u32 {
        self.ready.saturating_add(self.starting)
    }
}

/// Decides whether a fleet holds, grows or shrinks.
///
/// In order: a queue that could not be read holds; an operator's `replicas_override` is followed within `0..=max`; below
/// `min` and above `max` are mended at once; a fleet that cannot start anything holds; more pending tasks per worker than `scale_up_above` adds workers, and so
/// does a full fleet whose oldest task has waited for `scale_up_wait`, by `step` or as many as there are at most; fewer
/// than `scale_down_below` for all of `scale_down_after` removes half of them at most, and while some are still starting waits for
/// `startup` on top of that. No shrink goes below what running and runnable tasks need (as far as `max` allows); that need
/// alone adds nothing.
pub fn decide(
    load: &Load,
    crew: &Crew,
    policy: &Scaling,
    each: Each,
    replicas_override: Option<u32>,
    memory: &Memory,
    now: Timestamp,
) -> Answer {
    let scene = Scene::new(load, crew, policy, each, memory.as_of(now, policy, crew.workers()), now);
    let verdict = match replicas_override {
        _ if !load.fresh => scene.not_fresh(replicas_override.is_some()),
        Some(asked) => scene.ordered(asked),
        None => scene.by_policy(),
    };
    let Verdict { decision, desired, wanted } = verdict;
    let memory = scene.memory.clone().after(&decision, wanted, scene.workers, now, load.fresh);
    let (ratio, needed) = (scene.ratio(), scene.needed);
    Answer { decision, desired, memory, load: *load, crew: *crew, policy: *policy, ratio, needed }
}

/// What a decision is made from, with the arithmetic done once.
struct Scene<'a> {
    load: &'a Load,
    crew: &'a Crew,
    policy: &'a Scaling,
    memory: Memory,
    now: Timestamp,
    workers: u32,
    each: Each,
    needed: u32,
}

struct Verdict {
    decision: Decision,
    desired: u32,
    /// What this look at the fleet recommends; the window of [`Memory`] keeps it. None: the window starts anew.
    wanted: Option<u32>,
}

impl<'a> Scene<'a> {
    fn new(
        load: &'a Load,
        crew: &'a Crew,
        policy: &'a Scaling,
        each: Each,
        memory: Memory,
        now: Timestamp,
    ) -> Scene<'a> {
        let each = Each { concurrency: each.concurrency.max(1), ..each };
        let tasks = load.running.saturating_add(load.runnable);
        let needed = saturate(tasks.div_ceil(u64::from(each.concurrency)));
        Scene { load, crew, policy, memory, now, workers: crew.workers(), each, needed }
    }

    fn ratio(&self) -> Option<f64> {
        (self.workers > 0).then(|| self.load.runnable as f64 / f64::from(self.workers))
    }

    fn not_fresh(&self, ordered: bool) -> Verdict {
        let min = if ordered { 0 } else { self.policy.min };
        let desired = self.workers.max(min).min(self.policy.max);
        Verdict { decision: Decision::Hold(HoldReason::MetricNotFresh), desired, wanted: Some(self.workers) }
    }

    fn ordered(&self, asked: u32) -> Verdict {
        let max = self.policy.max;
        // The need keeps workers that are there; it never adds any.
        let desired = asked.min(max).max(self.needed.min(self.workers).min(max));
        let held = HoldReason::OrderBelowNeed { asked, needed: self.needed };
        let reached = HoldReason::AsOrdered { asked, max };
        let decision = match signed(self.workers, desired) {
            Change::None if asked < self.workers => Decision::Hold(held),
            Change::None => Decision::Hold(reached),
            Change::Up(by) => Decision::Grow { by, reason: GrowReason::Ordered { asked, max } },
            Change::Down(by) => {
                Decision::Shrink { by, reason: ShrinkReason::Ordered { asked, needed: self.needed } }
            }
        };
        Verdict { decision, desired, wanted: None }
    }

    fn by_policy(&self) -> Verdict {
        let Scaling { min, max, .. } = *self.policy;
        if self.workers > max {
            return self.move_to(max, None, || HoldReason::InBand, ShrinkReason::AboveMax { max });
        }
        if let Some(why) = self.load.standstill {
            return match self.workers < min {
                true => self.grow_to(min, GrowReason::BelowMin { min }),
                false => self.hold(HoldReason::Standstill(why), self.workers),
            };
        }
        let (wanted, reason) = self.wanted_growth();
        match wanted {
            wanted if self.workers < min && wanted.is_none_or(|wanted| wanted <= min) => {
                self.grow_to(min, GrowReason::BelowMin { min })
            }
            Some(wanted) => self.grow_to(wanted, reason),
            None => self.shrink_or_hold(),
        }
    }

    /// The most that any rule for growth asks for, before `max`; none when no rule asks.
    fn wanted_growth(&self) -> (Option<u32>, GrowReason) {
        let waited_ms = self.load.oldest_wait_ms.unwrap_or(0);
        let may = self.waited_too_long() && self.memory.wait_left_ms(self.policy, self.now) == 0;
        let by_wait = may.then_some(self.needed);
        match self.wanted_by_backlog() {
            // The larger of both, so that one task more never makes the answer smaller.
            backlog if by_wait > backlog => {
                (by_wait.map(|n| self.limit(n)), GrowReason::LongWait { waited_ms })
            }
            backlog => (backlog.map(|n| self.limit(n)), GrowReason::Backlog),
        }
    }

    fn wanted_by_backlog(&self) -> Option<u32> {
        let above = match self.ratio() {
            Some(ratio) => ratio > self.policy.scale_up_above,
            None => self.load.runnable > 0,
        };
        // One more at least, however the division was rounded.
        above.then(|| self.in_band_from().max(self.workers.saturating_add(1)))
    }

    /// The fewest workers at which the backlog is not above the upper threshold.
    fn in_band_from(&self) -> u32 {
        let above = self.policy.scale_up_above.max(f64::MIN_POSITIVE);
        saturate((self.load.runnable as f64 / above).ceil() as u64)
    }

    /// No slot is free, the oldest has waited, and the workers on their way are not enough.
    fn waited_too_long(&self) -> bool {
        let slots = u64::from(self.crew.ready) * u64::from(self.each.concurrency);
        let waited = self.load.oldest_wait_ms.is_some_and(|ms| ms >= self.policy.scale_up_wait_ms);
        let short = self.needed > self.workers;
        self.load.runnable > 0 && self.load.running >= slots && waited && short
    }

    /// No decision adds more than `step`, or than there are: a backlog that is misread must not start a thousand.
    fn limit(&self, wanted: u32) -> u32 {
        wanted.min(self.workers.saturating_add(self.policy.step.max(self.workers).max(1)))
    }

    fn shrink_or_hold(&self) -> Verdict {
        let Scaling { min, scale_down_below, .. } = *self.policy;
        let left_ms = self.memory.wait_left_ms(self.policy, self.now);
        if left_ms > 0 && self.waited_too_long() {
            return self.hold(HoldReason::JustGrew { left_ms }, self.workers);
        }
        let below = self.ratio().is_some_and(|ratio| ratio < scale_down_below);
        if !below {
            let reason = if self.workers == 0 { HoldReason::Idle } else { HoldReason::InBand };
            return self.hold(reason, self.workers);
        }
        // Not so few that the backlog would be above the upper threshold again at once.
        let wanted = self.needed.max(self.in_band_from()).max(min).min(self.workers);
        if wanted == self.workers {
            let needed = self.needed;
            let reason = if wanted == min { HoldReason::AtMin { min } } else { HoldReason::Busy { needed } };
            return self.hold(reason, wanted);
        }
        self.shrink_when_settled(wanted)
    }

    fn shrink_when_settled(&self, wanted: u32) -> Verdict {
        let since = self.memory.fewer_since.unwrap_or(self.now);
        let for_ms = millis(self.now, since);
        let left_ms = self.policy.scale_down_after_ms.saturating_sub(for_ms);
        let starting = self.crew.starting;
        if left_ms > 0 || self.memory.fewer_since.is_none() {
            return self.hold(HoldReason::Settling { wanted, since, left_ms }, wanted);
        }
        // Quiet for so long, the fleet was not held up by those that still start: each had its time to come up.
        let patience = self.policy.scale_down_after_ms.saturating_add(self.each.startup_ms);
        let left_ms = patience.saturating_sub(for_ms);
        if starting > 0 && left_ms > 0 {
            return self.hold(HoldReason::Starting { wanted, starting, left_ms }, wanted);
        }
        let half = if self.workers == 1 { 0 } else { self.workers.div_ceil(2) };
        let desired = self.memory.highest(wanted).max(half).min(self.workers);
        let settling = || HoldReason::Settling { wanted, since, left_ms: 0 };
        self.move_to(desired, Some(wanted), settling, ShrinkReason::Quiet { for_ms })
    }

    fn hold(&self, reason: HoldReason, wanted: u32) -> Verdict {
        Verdict { decision: Decision::Hold(reason), desired: self.workers, wanted: Some(wanted) }
    }

    fn grow_to(&self, wanted: u32, reason: GrowReason) -> Verdict {
        let max = self.policy.max;
        let desired = wanted.min(max);
        match signed(self.workers, desired) {
            Change::Up(by) => {
                Verdict { decision: Decision::Grow { by, reason }, desired, wanted: Some(desired) }
            }
            _ => self.hold(HoldReason::AtMax { max, wanted }, self.workers),
        }
    }

    fn move_to(
        &self,
        desired: u32,
        wanted: Option<u32>,
        otherwise: impl FnOnce() -> HoldReason,
        reason: ShrinkReason,
    ) -> Verdict {
        match signed(self.workers, desired) {
            Change::Down(by) => Verdict { decision: Decision::Shrink { by, reason }, desired, wanted },
            _ => self.hold(otherwise(), wanted.unwrap_or(self.workers)),
        }
    }
}

enum Change {
    None,
    Up(NonZeroU32),
    Down(NonZeroU32),
}

fn signed(from: u32, to: u32) -> Change {
    match (NonZeroU32::new(to.saturating_sub(from)), NonZeroU32::new(from.saturating_sub(to))) {
        (Some(by), _) => Change::Up(by),
        (_, Some(by)) => Change::Down(by),
        _ => Change::None,
    }
}

fn saturate(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(now: Timestamp, earlier: Timestamp) -> u64 {
    u64::try_from(now.since(earlier).as_millis()).unwrap_or(u64::MAX)
}
