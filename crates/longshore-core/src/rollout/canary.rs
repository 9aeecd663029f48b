//! Whether attempts on a new release are worse than those on the old one.

use serde::{Deserialize, Serialize};

use super::Canary;

/// What attempts on a release have come to. Interrupted ones are not counted: they say nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub succeeded: u64,
    pub failed: u64,
    /// How long those that succeeded have run, summed, in milliseconds.
    pub succeeded_ms: u64,
    /// What all of them bought, in billionths.
    pub cost_nano: u64,
}

impl Sample {
    pub fn tasks(&self) -> u64 {
        self.succeeded.saturating_add(self.failed)
    }

    pub fn failure_rate(&self) -> f64 {
        self.failed as f64 / self.tasks().max(1) as f64
    }

    /// Of one attempt, in milliseconds; none: none has succeeded.
    pub fn latency_ms(&self) -> Option<f64> {
        (self.succeeded > 0).then(|| self.succeeded_ms as f64 / self.succeeded as f64)
    }

    /// Of one attempt, in billionths.
    pub fn cost(&self) -> f64 {
        self.cost_nano as f64 / self.tasks().max(1) as f64
    }

    /// What was added to it since it stood at `before`.
    pub fn since(now: Option<&Sample>, before: Option<&Sample>) -> Sample {
        let (now, before) = (now.copied().unwrap_or_default(), before.copied().unwrap_or_default());
        Sample {
            succeeded: now.succeeded.saturating_sub(before.succeeded),
            failed: now.failed.saturating_sub(before.failed),
            succeeded_ms: now.succeeded_ms.saturating_sub(before.succeeded_ms),
            cost_nano: now.cost_nano.saturating_sub(before.cost_nano),
        }
    }
}

/// In words, by what the new release is worse by more than its margin; none: by nothing, or too little is known.
pub(super) fn worse(old: &Sample, new: &Sample, margins: &Canary) -> Option<String> {
    let enough = u64::from(margins.min_samples);
    if enough == 0 || new.tasks() < enough || old.tasks() < enough {
        return None;
    }
    let percent = |share: f64| share * 100.0;
    let (before, after) = (old.failure_rate(), new.failure_rate());
    if after > before + margins.failure_rate {
        return Some(format!(
            "{:.1}% of {} attempts on the new release failed, {:.1}% on the old one",
            percent(after),
            new.tasks(),
            percent(before)
        ));
    }
    let more = |before: f64, after: f64, margin: f64| before > 0.0 && after > before * (1.0 + margin);
    let (before, after) = (old.cost(), new.cost());
    if more(before, after, margins.cost) {
        let (after, before) = (money(after), money(before));
        return Some(format!("an attempt on the new release costs {after}, {before} on the old one"));
    }
    match (old.latency_ms(), new.latency_ms()) {
        (Some(before), Some(after)) if more(before, after, margins.latency) => Some(format!(
            "an attempt on the new release takes {}, {} on the old one",
            crate::units::show_duration(after as u64),
            crate::units::show_duration(before as u64)
        )),
        _ => None,
    }
}

fn money(nano: f64) -> String {
    crate::provider::show_money(nano as u64)
}
