//! Which step replaces a fleet's workers by those of another release, and when to go back.
//!
//! Starts and stops nothing: the controller saves the [`Plan`], then applies the [`Step`]. What to do follows from the plan and
//! the workers that are there, never from what was asked for before: so a controller that dies at any point is followed by one
//! that looks again and goes on. Time is counted from look to look: what passes while nobody looks makes no worker late.

mod canary;
mod explain;
mod policy;
mod scene;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::drain::Candidate;
use crate::id::WorkerId;
use crate::time::Timestamp;

use self::scene::Scene;
pub use canary::Sample;
pub use policy::{Canary, Owner, Policy};

/// The most that one look adds to what has passed: nobody was late while the control plane was away.
const LONGEST_LOOK_MS: u64 = 2_000;

/// A number of a fleet's release; it grows with each new one.
pub type Release = u64;

/// Where a rollout stands; saved before each step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What the fleet goes back to.
    pub from: Release,
    pub to: Release,
    pub policy: Policy,
    pub phase: Phase,
    #[serde(default)]
    pub paused: bool,
    pub started_at: Timestamp,
    /// Of the deadline; nothing sets it back.
    pub spent_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<Timestamp>,
    /// Workers beyond those that the scaler wants, started to take the place of others; below 0: so many have made room for
    /// some that are to be started.
    pub surge: i32,
    /// How workers of the release that comes have done so far.
    #[serde(default)]
    pub trials: BTreeMap<WorkerId, Trial>,
    /// Those that ended by themselves.
    #[serde(default)]
    pub crashed: BTreeSet<WorkerId>,
    /// How long workers of the release that it heads for could not even be started, by no fault of theirs.
    #[serde(default)]
    pub held_ms: u64,
    /// What each release's attempts had come to when it began.
    #[serde(default)]
    pub before: BTreeMap<Release, Sample>,
    /// Workers are started and stopped by a cluster as it sees fit: the step is what longshore would do, and is not applied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watched: bool,
    /// The step that is being applied, or why there is none.
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Workers of the new release take the place of the others.
    Forward,
    /// All workers that remain are new; the others finish.
    Finishing,
    /// Those of the old release come back.
    Back {
        reason: String,
    },
    Done,
    RolledBack {
        reason: String,
    },
    /// Another rollout took its place.
    Superseded {
        by: String,
    },
}

/// A worker of the release that comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// How long it was not ready at first.
    pub waited_ms: u64,
    /// How long it has been ready without a break.
    pub ready_ms: u64,
    pub was_ready: bool,
}

/// What is done now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Wait(Wait),
    Start { release: Release, by: u32 },
    Drain { workers: Vec<WorkerId> },
    End,
}

/// Why nothing is started or drained now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    Begins,
    Paused,
    /// Workers that were started are not ready.
    Starting {
        workers: u32,
    },
    /// They are ready, but not yet for long enough.
    Holding {
        workers: u32,
        left_ms: u64,
    },
    /// The last of the other releases finish.
    Draining {
        workers: u32,
    },
    /// Tasks finish on the release that they began on, and these are left.
    Pinned {
        tasks: u64,
    },
    /// A worker of the old release has to be there before one of the new can go.
    Room,
}

/// A worker as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub release: Release,
    pub standing: Standing,
    /// What draining it would cost.
    pub cost: Candidate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Starting,
    Ready,
    NotReady {
        why: String,
    },
    Draining,
    /// It ended though nobody told it to.
    Crashed {
        why: String,
    },
}

/// What is seen of a fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    pub workers: Vec<Seen>,
    /// Workers that the scaler wants.
    pub desired: u32,
    /// Why no worker of the release that it heads for can be started now: its image is missing, the host is full.
    pub held: Option<String>,
    /// What attempts on each release have come to, ever.
    pub samples: BTreeMap<Release, Sample>,
    /// Unfinished tasks that must finish on the release they began on, if they must.
    pub pinned: BTreeMap<Release, u64>,
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Pause,
    Resume,
    Undo { reason: String },
    Supersede { by: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the rollout has ended")]
    Ended,
    #[error("the rollout goes back already")]
    GoesBack,
    #[error("all workers run the new release already")]
    Finishing,
}

impl Plan {
    pub fn new(
        from: Release,
        to: Release,
        policy: Policy,
        before: BTreeMap<Release, Sample>,
        now: Timestamp,
    ) -> Plan {
        Plan {
            from,
            to,
            policy,
            phase: Phase::Forward,
            paused: false,
            started_at: now,
            spent_ms: 0,
            looked_at: None,
            surge: 0,
            trials: BTreeMap::new(),
            crashed: BTreeSet::new(),
            held_ms: 0,
            before,
            watched: false,
            step: Step::Wait(Wait::Begins),
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Done | Phase::RolledBack { .. } | Phase::Superseded { .. })
    }

    /// It takes back its release, or has.
    pub fn goes_back(&self) -> bool {
        matches!(self.phase, Phase::Back { .. } | Phase::RolledBack { .. })
    }

    /// The release that workers are started on when the fleet grows.
    pub fn serving(&self) -> Release {
        match self.phase {
            Phase::Finishing | Phase::Done => self.to,
            // Nothing but what began on it holds the old release.
            Phase::Forward if self.retiring().is_some() => self.to,
            _ => self.from,
        }
    }

    /// The release whose last worker is there for nothing but the tasks that began on it.
    pub fn retiring(&self) -> Option<Release> {
        let waits = matches!(self.step, Step::Wait(Wait::Pinned { .. }));
        (self.phase == Phase::Forward && waits).then_some(self.from)
    }

    /// Tasks that began on any other release than this one may run on it as well; none: they may not.
    pub fn unpins(&self) -> Option<Release> {
        match self.phase {
            Phase::Done => Some(self.to),
            Phase::Back { .. } | Phase::RolledBack { .. } => Some(self.from),
            Phase::Forward | Phase::Finishing | Phase::Superseded { .. } => None,
        }
    }

    /// How many workers the fleet still lacks once the step is done, of those that the scaler wants: `there` are neither
    /// draining nor gone.
    pub fn lacks(&self, there: u32, desired: u32) -> u32 {
        let after = match &self.step {
            Step::Start { by, .. } => there.saturating_add(*by),
            Step::Drain { workers } => there.saturating_sub(workers.len() as u32),
            Step::Wait(_) | Step::End => there,
        };
        desired.saturating_sub(self.counted(after))
    }

    /// Of so many workers, those that the scaler counts.
    pub fn counted(&self, there: u32) -> u32 {
        there.saturating_add_signed(self.surge.saturating_neg())
    }

    /// The release that all workers are to run in the end, as it looks now.
    pub fn heads_for(&self) -> Release {
        if matches!(self.phase, Phase::Forward | Phase::Finishing | Phase::Done) {
            self.to
        } else {
            self.from
        }
    }

    /// Does what an operator, or another rollout, asks for.
    ///
    /// Errors: why it cannot be done now; the plan stays as it was.
    pub fn order(&mut self, order: Order) -> Result<(), Refused> {
        match (order, &self.phase) {
            (_, Phase::Done | Phase::RolledBack { .. } | Phase::Superseded { .. }) => Err(Refused::Ended),
            (Order::Supersede { by }, _) => {
                (self.phase, self.surge, self.step) = (Phase::Superseded { by }, 0, Step::End);
                Ok(())
            }
            (_, Phase::Back { .. }) => Err(Refused::GoesBack),
            (_, Phase::Finishing) => Err(Refused::Finishing),
            (Order::Undo { reason }, Phase::Forward) => {
                self.go_back(reason);
                Ok(())
            }
            (Order::Pause, Phase::Forward) => {
                self.paused = true;
                Ok(())
            }
            (Order::Resume, Phase::Forward) => {
                self.paused = false;
                Ok(())
            }
        }
    }

    fn go_back(&mut self, reason: String) {
        self.phase = Phase::Back { reason };
        self.paused = false;
        self.surge = 0;
        self.held_ms = 0;
    }

    /// It goes back, and has not been able to for as long as a worker may take to become ready: what it goes back to cannot be
    /// started. It goes on as soon as that can be, and waits for it as long as nobody overtakes it.
    pub fn is_stuck(&self) -> bool {
        let patience = self.policy.ready_ms.min(Policy::default().ready_ms);
        matches!(self.phase, Phase::Back { .. }) && self.held_ms >= patience
    }
}

/// Decides the next step, and what the plan becomes with it.
///
/// Forward: while workers that came are not ready, or not for `hold`, nothing moves. Then, if there are more workers than
/// wanted, others are drained, the cheapest first, `batch` at most; else new ones are started, as many as `batch`, what is
/// missing, and `surge` beyond what is wanted allow. Without `surge` others are drained before. Back: whatever is not ready
/// and not of the old release is drained at once, the rest as workers of the old release become ready.
pub fn decide(plan: &Plan, seen: &Observed, now: Timestamp) -> Plan {
    let mut plan = plan.clone();
    if plan.has_ended() {
        return plan;
    }
    plan.pass(seen, now);
    if plan.phase == Phase::Forward
        && let Some(reason) = plan.trouble(seen)
    {
        plan.go_back(reason);
    }
    let scene = Scene::new(&plan, seen);
    let (phase, step) = match &plan.phase {
        Phase::Forward if plan.paused => (None, Step::Wait(Wait::Paused)),
        Phase::Forward => scene.forward(),
        Phase::Finishing => scene.finish(),
        Phase::Back { reason } => scene.back(reason),
        Phase::Done | Phase::RolledBack { .. } | Phase::Superseded { .. } => (None, Step::End),
    };
    plan.surge = scene.surge(&step);
    plan.phase = phase.unwrap_or(plan.phase);
    plan.step = step;
    plan
}

impl Plan {
    /// Counts what has passed since the last look.
    fn pass(&mut self, seen: &Observed, now: Timestamp) {
        let passed = self.looked_at.map_or(0, |at| now.since(at).as_millis() as u64).min(LONGEST_LOOK_MS);
        self.looked_at = Some(now);
        self.held_ms = match seen.held {
            Some(_) if self.paused => self.held_ms,
            Some(_) => self.held_ms.saturating_add(passed),
            None => 0,
        };
        if self.phase != Phase::Forward {
            return;
        }
        // What waits for nothing but tasks that began on another release is not late.
        let pinned = matches!(self.step, Step::Wait(Wait::Pinned { .. }));
        if !self.paused && !pinned {
            self.spent_ms = self.spent_ms.saturating_add(passed);
        }
        let coming = seen.workers.iter().filter(|it| it.release == self.to);
        let mut trials = BTreeMap::new();
        for it in coming {
            let mut trial = self.trials.get(&it.cost.worker).copied().unwrap_or_default();
            match &it.standing {
                Standing::Ready => {
                    trial.ready_ms = if trial.was_ready { trial.ready_ms.saturating_add(passed) } else { 0 };
                    trial.was_ready = true;
                }
                Standing::Starting | Standing::NotReady { .. } => {
                    trial.ready_ms = 0;
                    trial.waited_ms = trial.waited_ms.saturating_add(if self.paused { 0 } else { passed });
                }
                Standing::Crashed { .. } => {
                    self.crashed.insert(it.cost.worker.clone());
                    continue;
                }
                Standing::Draining => continue,
            }
            trials.insert(it.cost.worker.clone(), trial);
        }
        self.trials = trials;
    }

    /// Why the new release is not to be trusted; none: nothing speaks against it.
    fn trouble(&self, seen: &Observed) -> Option<String> {
        if self.crashed.len() > self.policy.crashes as usize {
            let why = seen.workers.iter().rev().find_map(|it| match &it.standing {
                Standing::Crashed { why } if it.release == self.to => Some((&it.cost.worker, why)),
                _ => None,
            });
            return Some(match why {
                Some((worker, why)) => format!("worker `{worker}` of the new release ended by itself: {why}"),
                None => "workers of the new release ended by themselves".into(),
            });
        }
        if let Some(late) = self.late(seen).or_else(|| self.held(seen)) {
            return Some(late);
        }
        if self.paused {
            return None;
        }
        let since = |release| Sample::since(seen.samples.get(&release), self.before.get(&release));
        let (old, new) = (since(self.from), since(self.to));
        // A release that has few tasks now is known by those of before.
        let old = match old.tasks() < u64::from(self.policy.canary.min_samples) {
            true => seen.samples.get(&self.from).copied().unwrap_or_default(),
            false => old,
        };
        if let Some(worse) = canary::worse(&old, &new, &self.policy.canary) {
            return Some(worse);
        }
        (self.spent_ms >= self.policy.deadline_ms).then(|| {
            format!("it was not through within {}", crate::units::show_duration(self.policy.deadline_ms))
        })
    }

    fn held(&self, seen: &Observed) -> Option<String> {
        let why = seen.held.as_ref().filter(|_| self.held_ms >= self.policy.ready_ms)?;
        let limit = crate::units::show_duration(self.policy.ready_ms);
        Some(format!("no worker of the new release could be started within {limit}: {why}"))
    }

    fn late(&self, seen: &Observed) -> Option<String> {
        let limit = self.policy.ready_ms;
        let (worker, _) = self.trials.iter().find(|(_, it)| !it.was_ready && it.waited_ms >= limit)?;
        let why = seen.workers.iter().find_map(|it| match &it.standing {
            Standing::NotReady { why } if it.cost.worker == *worker && !why.is_empty() => Some(why.as_str()),
            _ => None,
        });
        let limit = crate::units::show_duration(limit);
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        Some(format!("worker `{worker}` of the new release was not ready within {limit}{why}"))
    }
}
