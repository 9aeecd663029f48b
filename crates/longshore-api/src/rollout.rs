//! Releases of a fleet, and rollouts from one to another, on the public API.

use std::collections::BTreeMap;

use longshore_core::id::FleetName;
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fleet::WorkerCounts;

/// A rollout: where it stands, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Rollout {
    #[schema(value_type = String)]
    pub fleet: FleetName,
    /// 1, 2, 3, … within its fleet.
    pub number: u64,
    /// The release that it goes back to.
    pub from: u64,
    pub to: u64,
    /// `forward`, `finishing`, `rolling_back`, and at its end `done`, `rolled_back` or `superseded`.
    pub phase: String,
    pub paused: bool,
    /// What it does now, or what came of it, in a sentence.
    pub says: String,
    /// Why it went back, or what took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How much of its deadline is used up.
    pub spent_ms: u64,
    /// Absent where somebody else decides when it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// The fleet's workers by release; only where one rollout is asked for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub workers: BTreeMap<u64, WorkerCounts>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RolloutList {
    pub items: Vec<Rollout>,
}

/// Wants a fleet to run another image.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    pub fleet: String,
    /// Such as `registry.internal/research:1.4.2`.
    pub image: String,
    /// What it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Where pods are to be made from it: name it by its tag there, whatever that stands for when one is started. Else its
    /// registry is asked for its digest. Not said, it is understood by older control planes, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_tag: bool,
    /// Take the place of a rollout that is under way; else that is answered with 409 `rollout_under_way`.
    #[serde(default)]
    pub supersede: bool,
}

/// Goes back.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// A release of the fleet; absent: the one that it ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// What became of a wish for another release.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Deployed {
    /// `begun`, `under_way` when the rollout there is leads to it already, `runs` when there is nothing to do.
    pub outcome: String,
    /// What the fleet is to run.
    pub release: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// What workers of a fleet are, from one declaration or image to the next.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Release {
    pub number: u64,
    /// Workers are started on it.
    pub serving: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Which image that name stood for when the release began, as the engine names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Attempts on it that succeeded, and that failed; interrupted ones are not counted.
    pub succeeded: u64,
    pub failed: u64,
    /// The mean of those that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// The mean of all, a decimal string.
    pub cost: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReleaseList {
    pub items: Vec<Release>,
}
