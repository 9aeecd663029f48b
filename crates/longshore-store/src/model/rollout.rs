//! Releases of a fleet, and rollouts from one to another.

use std::collections::BTreeMap;

use longshore_core::fleet::{Fleet, Platform};
use longshore_core::id::FleetName;
use longshore_core::rollout::{self, Phase, Plan, Release, Sample};
use longshore_core::time::Timestamp;

/// What workers of a fleet are, from one declaration or image to the next.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleaseRecord {
    pub fleet: FleetName,
    /// 1, 2, 3, … within its fleet.
    pub number: Release,
    /// What its workers are told when they start. What is told to none of them is in the fleet's own declaration.
    pub declaration: Fleet,
    /// What its image was built from, if that is known.
    pub commit: Option<String>,
    pub created_at: Timestamp,
    /// What attempts on it have come to.
    pub sample: Sample,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRecord {
    pub fleet: FleetName,
    /// 1, 2, 3, … within its fleet.
    pub number: u64,
    /// Grows with each write: what was decided from an older one is not written.
    pub version: u64,
    pub plan: Plan,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// A release that is wanted.
#[derive(Clone, Debug)]
pub struct NewRelease {
    pub declaration: Fleet,
    pub commit: Option<String>,
    /// Take the place of a rollout that is under way; else it is refused.
    pub supersede: bool,
}

/// What became of a wish for another release.
#[derive(Clone, Debug, PartialEq)]
pub enum Deployed {
    Begun(RolloutRecord),
    /// The rollout under way leads there already, or was told to go back there.
    UnderWay(RolloutRecord),
    /// It is what runs.
    Runs(Release),
    UnknownFleet,
    UnknownRelease(Release),
    /// There is no earlier release.
    NoHistory,
    /// Another rollout is under way.
    Busy(RolloutRecord),
    Refused(RolloutRecord, rollout::Refused),
}

/// What became of an order to a rollout.
#[derive(Clone, Debug, PartialEq)]
pub enum Ordered {
    Obeyed(RolloutRecord),
    /// None is under way.
    None,
    Refused(RolloutRecord, rollout::Refused),
}

/// Rollouts kept of each fleet.
pub(crate) const ROLLOUTS: u64 = 200;

/// Where a fleet stands when another release is wanted for it.
pub(crate) struct Stand {
    /// What its workers run, or go back to.
    pub serving: (Release, Fleet),
    pub open: Option<RolloutRecord>,
    /// What they are to run in the end.
    pub target: (Release, Fleet),
    /// Some run that would have to be replaced.
    pub has_workers: bool,
    pub samples: BTreeMap<Release, Sample>,
}

/// What another release means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    Nothing,
    /// The rollout under way has to go back.
    Back,
    /// Nobody runs who would have to be replaced: workers are started on it from now on.
    Switch,
    Roll,
}

impl Stand {
    pub(crate) fn means(&self, next: &Fleet) -> Means {
        let same = |other: &Fleet| other.same_workers(next);
        let forward = self.open.as_ref().is_some_and(|open| open.plan.phase == Phase::Forward);
        if same(&self.target.1) {
            Means::Nothing
        } else if forward && same(&self.serving.1) {
            Means::Back
        } else if matches!(next.platform, Platform::External | Platform::Compose) || !self.has_workers {
            Means::Switch
        } else {
            Means::Roll
        }
    }

    /// The rollout to a release, as it begins; one for which nobody has to be replaced ends at once.
    pub(crate) fn begin(
        &self,
        fleet: &FleetName,
        (number, to): (u64, Release),
        next: &Fleet,
        means: Means,
        now: Timestamp,
    ) -> RolloutRecord {
        let mut plan = Plan::new(self.serving.0, to, next.rollout, self.samples.clone(), now);
        let ended = means == Means::Switch;
        if ended {
            plan.phase = Phase::Done;
            plan.step = rollout::Step::End;
        }
        let fleet = fleet.clone();
        RolloutRecord { fleet, number, version: 1, plan, started_at: now, ended_at: ended.then_some(now) }
    }
}
