//! How a fleet's workers are replaced, as its owner declares it.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Workers beyond those that are wanted while others are replaced; 0: an old one goes before a new one comes.
    pub surge: u32,
    /// Workers that are replaced at a time.
    pub batch: u32,
    /// How long a new worker must have been ready before another one goes for it.
    pub hold_ms: u64,
    /// How long it may take to become ready.
    pub ready_ms: u64,
    /// How long the whole of it may take, pauses apart.
    pub deadline_ms: u64,
    /// New workers that may end by themselves.
    pub crashes: u32,
    pub canary: Canary,
    /// Tasks finish on the release that they began on.
    #[serde(default)]
    pub pin_release: bool,
    #[serde(default)]
    pub owner: Owner,
}

/// Who changes what a fleet's workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    #[default]
    Longshore,
    /// Git, or whatever else keeps the cluster's objects: longshore watches, and changes nothing.
    External,
}

/// By how much attempts on the new release may be worse than those on the old one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Attempts on each before they are compared; 0: they never are.
    pub min_samples: u32,
    /// Added to the old release's share of failures.
    pub failure_rate: f64,
    /// A share of the old release's mean: 0.5 lets it cost half as much again.
    pub cost: f64,
    pub latency: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            surge: 1,
            batch: 1,
            hold_ms: 10_000,
            ready_ms: 120_000,
            deadline_ms: 30 * 60_000,
            crashes: 0,
            canary: Canary::default(),
            pin_release: false,
            owner: Owner::Longshore,
        }
    }
}

impl Default for Canary {
    fn default() -> Self {
        Canary { min_samples: 20, failure_rate: 0.1, cost: 0.5, latency: 1.0 }
    }
}

impl Policy {
    /// Errors: the key that holds what cannot be, and why.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let margin = |share: f64| share.is_finite() && share >= 0.0;
        let rules = [
            ((1..=1_000).contains(&self.batch), ("batch", "expected 1 to 1000")),
            (self.surge <= 1_000, ("surge", "expected 0 to 1000")),
            (self.ready_ms >= 1, ("ready", "must be longer than nothing")),
            (self.deadline_ms >= 1, ("deadline", "must be longer than nothing")),
            (
                self.deadline_ms > self.hold_ms,
                ("deadline", "is not longer than `hold`: no rollout could be through in time"),
            ),
            (
                [self.canary.failure_rate, self.canary.cost, self.canary.latency].into_iter().all(margin),
                ("canary", "margins are numbers of at least 0"),
            ),
        ];
        rules.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, rule)| Err(rule))
    }
}
