//! Reads `[fleet.NAME.rollout]`, and `pin_release` beside it.

use crate::fleet::Platform;
use crate::rollout::{Canary, Owner, Policy};
use crate::settings::section::Section;

const OWNERS: [(&str, Owner); 2] = [("longshore", Owner::Longshore), ("external", Owner::External)];

pub(super) fn read(fleet: &mut Section<'_>, platform: Platform) -> Policy {
    let pin_release = fleet.boolean("pin_release").unwrap_or_default();
    if pin_release && platform == Platform::Kubernetes {
        let problem = "Kubernetes replaces all pods of a release, whatever tasks began on it: take the key out, and give a drain \
                       that is long enough, or `drain = { mode = \"handover\" }`";
        fleet.error("pin_release", problem.into());
    }
    let default = Policy { pin_release, ..Policy::default() };
    let Some(mut section) = fleet.section("rollout") else { return default };
    let batch = section.whole("batch", 1..=1_000).unwrap_or(default.batch);
    let policy = Policy {
        // Who replaces several at a time lets them start at a time.
        surge: section.whole("surge", 0..=1_000).unwrap_or(default.surge.max(batch)),
        batch,
        hold_ms: section.duration_or_zero("hold").unwrap_or(default.hold_ms),
        ready_ms: section.duration("ready").unwrap_or(default.ready_ms),
        deadline_ms: section.duration("deadline").unwrap_or(default.deadline_ms),
        crashes: section.whole("crashes", 0..=1_000).unwrap_or(default.crashes),
        canary: read_canary(&mut section),
        owner: section.choice("owner", &OWNERS, &[]).unwrap_or_default(),
        ..default
    };
    if let Err((key, problem)) = policy.check() {
        section.error(key, problem.into());
    }
    if policy.owner == Owner::External && platform != Platform::Kubernetes {
        let problem = "only workers of platform `kubernetes` are replaced by somebody else";
        section.error("owner", problem.into());
    }
    section.finish();
    policy
}

fn read_canary(section: &mut Section<'_>) -> Canary {
    let default = Canary::default();
    let Some(mut section) = section.section("canary") else { return default };
    let mut margin =
        |key, default| section.number(key, "a number, 0 or above", |number| number >= 0.0).unwrap_or(default);
    let (failure_rate, cost) = (margin("failure_rate", default.failure_rate), margin("cost", default.cost));
    let latency = margin("latency", default.latency);
    let min_samples = section.whole("min_samples", 0..=1_000_000).unwrap_or(default.min_samples);
    section.finish();
    Canary { min_samples, failure_rate, cost, latency }
}
