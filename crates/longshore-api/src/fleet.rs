//! Fleets and workers on the public API.

use std::collections::BTreeMap;

use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TenantName};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::journal::Calls;
use crate::link::WorkerState;

/// A fleet: what was declared, and how it stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FleetStatus {
    #[schema(value_type = String)]
    pub name: FleetName,
    /// That its workers are started on. Another one begins with a rollout when a change means new workers.
    pub release: u64,
    /// False when it is no longer declared: its tasks stay, new ones are refused.
    pub active: bool,
    #[schema(value_type = Object)]
    pub declaration: Fleet,
    /// An operator paused it: nothing of it is started.
    #[serde(default)]
    pub paused: bool,
    pub tasks: TaskCounts,
    pub workers: WorkerCounts,
    /// Tasks that could run now.
    pub runnable: u64,
    #[serde(default)]
    pub depth: Depth,
    /// How long the oldest of them has waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_wait_ms: Option<u64>,
    /// Replicas that an operator asked for; absent: the scaler decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Why workers do not come up, if they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What else there is to know of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What its tasks bought from LLM providers, and what was given again; since the store began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<Usage>,
}

/// A fleet's calls of one model. Money is in `currency`, as decimal strings.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    pub provider: String,
    pub model: String,
    #[serde(flatten)]
    pub calls: Calls,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskCounts {
    pub queued: u64,
    pub running: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// What a fleet's unfinished tasks wait for. Each is counted in exactly one number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Depth {
    /// Nothing but a free slot: what workers are added for.
    pub runnable: u64,
    /// A time: `run_at`, or that of the next attempt.
    pub scheduled: u64,
    /// An earlier task of their conversation.
    pub held_by_conversation: u64,
    /// `max_running` of the fleet or of their tenant, or the fleet's rate.
    pub held_by_cap: u64,
    /// A provider of the fleet that cannot be reached.
    pub held_by_provider: u64,
    /// The end of the fleet's pause.
    pub held_by_pause: u64,
    pub running: u64,
    /// An answer, such as a person's.
    pub waiting: u64,
}

/// A tenant's tasks in one fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TenantStatus {
    #[schema(value_type = String)]
    pub tenant: TenantName,
    /// Its share beside others that have tasks to run.
    pub weight: u32,
    /// Tasks of it that may run at once, over all fleets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// Waiting for a slot, a cap or the rate.
    pub ready: u64,
    pub tasks: TaskCounts,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TenantList {
    pub items: Vec<TenantStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkerCounts {
    pub starting: u32,
    pub ready: u32,
    pub not_ready: u32,
    pub draining: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FleetList {
    pub items: Vec<FleetStatus>,
}

/// Sets the number of workers by hand, or gives it back to the scaler (`replicas: null`).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetScale {
    /// Has to be said: an empty body must not release what an operator holds.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(maximum = 10000, required)]
    pub replicas: Option<u32>,
}

/// What the scaler decided last, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScaleStatus {
    #[schema(value_type = String)]
    pub fleet: FleetName,
    pub replicas: Option<u32>,
    /// The workers that it should have, for autoscalers: only of platform `kubernetes` and scaled by `hpa` or `keda`, and only while
    /// a control plane decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Newest first; the first one tells why things are as they are.
    pub decisions: Vec<Decision>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `grow`, `shrink`, `hold`, `replace`.
    pub kind: String,
    pub from: u32,
    pub to: u32,
    /// One sentence.
    pub reason: String,
    /// The numbers that the decision was made from.
    #[schema(value_type = Object)]
    pub inputs: Json,
}

/// Fleets that replace what is declared now (`[server] fleets = "api"` only).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    #[schema(value_type = Vec<Object>)]
    pub fleets: Vec<Fleet>,
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    pub changes: Vec<Change>,
    pub dry_run: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    pub fleet: String,
    /// `added`, `changed`, `removed`, `unchanged`.
    pub kind: String,
    /// Key and its old and new value, one per difference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
    /// Its workers will be replaced.
    pub restarts: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    pub id: String,
    #[schema(value_type = String)]
    pub fleet: FleetName,
    pub state: WorkerState,
    /// Why it is not ready, or how it ended.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Of its fleet.
    pub release: u64,
    pub platform: String,
    pub concurrency: u32,
    /// Tasks that it holds now.
    pub in_flight: u32,
    /// Resident memory of the supervisor, bytes.
    pub memory: u64,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_addr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub registered_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// Tasks in flight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    pub items: Vec<Worker>,
}

/// Drains a worker; it is replaced if its fleet needs it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainWorker {
    /// `wait` or `handover`; absent: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mode: Option<longshore_core::fleet::DrainMode>,
    /// Such as `120s`; absent: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// What answers at `/v1/about`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct About {
    pub version: String,
    /// `file` or `api`: who declares the fleets.
    pub fleets: String,
    /// Seconds since this replica started.
    pub uptime_s: u64,
    /// Where workers reach it.
    pub link: String,
    /// Dependencies: empty text for fine.
    pub checks: BTreeMap<String, String>,
}
