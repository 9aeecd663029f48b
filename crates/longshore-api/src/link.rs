//! The worker link, `/worker/v1`: what a worker and the control plane say to each other.
//!
//! Versioned on its own. Fields may be added, never removed or given another meaning: unknown ones are ignored and
//! absent ones have a default, so that a worker of the last twelve months works with any newer control plane.
//!
//! Every request is a POST with a JSON body and `Authorization: Bearer <worker token>`; a token belongs to one
//! fleet. Errors are [`Problem`](crate::problem::Problem)s:
//!
//! | status | code | what the worker does |
//! | --- | --- | --- |
//! | 401 | `bad_worker_token` | exits: nobody will ever let it in |
//! | 404 | `unknown_worker` | registers again with the same nonce, which keeps its leases |
//! | 404 | `unknown_fleet` | exits at start; later waits, as if the control plane were away |
//! | 409 | `stale_nonce` | stops its agents and exits: the same worker was started anew |
//! | 409 | `claim_out_of_order` | takes the `seq` that the detail names as its newest and goes on |
//! | 426 | `link_version` | exits and says which versions go together |
//! | 421 | `role_not_here` | the same: that replica does not serve this part of the link |
//! | 502, 503, 504 | any | asks the next replica at once; after all of them waits with jitter and asks again |
//!
//! A replica that stops says `stopping` with a 503, and ends its long polls with an empty answer: its workers go on at the
//! next one. Every request may therefore arrive twice, and at different replicas; each says below how it is known again.

use std::collections::BTreeMap;

use longshore_core::fleet::{DrainMode, Protocol};
use longshore_core::id::Fence;
use longshore_core::id::{ConversationId, FleetName, Held, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::{Failure, Interruption};
use longshore_core::time::Timestamp;
use longshore_core::wait::{Awaits, QuestionState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of this protocol.
pub const VERSION: u32 = 1;

pub const REGISTER: &str = "/worker/v1/register";
pub const CLAIM: &str = "/worker/v1/claim";
pub const HEARTBEAT: &str = "/worker/v1/heartbeat";
pub const EVENTS: &str = "/worker/v1/events";
pub const COMPLETE: &str = "/worker/v1/complete";
pub const RELEASE: &str = "/worker/v1/release";
pub const DEREGISTER: &str = "/worker/v1/deregister";

/// First word of a worker. Registering again with the same nonce changes nothing and keeps the leases; a new nonce
/// releases the leases of the old one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Register {
    pub link_version: u32,
    pub worker: WorkerId,
    /// Chosen anew at each start of the worker.
    pub nonce: Uuid,
    pub fleet: FleetName,
    /// Of the longshore binary.
    pub version: String,
    #[serde(default)]
    pub pid: Option<u32>,
    #[serde(default)]
    pub host: Option<String>,
    /// Where its probes listen, `127.0.0.1:40213`.
    #[serde(default)]
    pub probe_addr: Option<String>,
    /// Tasks in flight that this worker takes, if it was told otherwise than the fleet declares.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// What the worker has to know to run its fleet's agent. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    pub command: Vec<String>,
    pub protocol: Protocol,
    pub concurrency: u32,
    pub health_path: String,
    pub lease_ms: u64,
    pub heartbeat_ms: u64,
    pub drain_timeout_ms: u64,
    pub drain_mode: DrainMode,
    pub kill_grace_ms: u64,
    pub probe_interval_ms: u64,
    pub probe_timeout_ms: u64,
    pub probe_failures: u32,
    pub startup_ms: u64,
    /// The most that a result may hold.
    pub result_limit: u64,
    /// Newest claim number that the store knows of this nonce; 0 after the first registration.
    pub last_claim: u64,
    /// The LLM APIs that the fleet's agents may call through the gateway, in the order of their declaration.
    #[serde(default)]
    pub providers: Vec<ProviderSeen>,
    /// As in [`HeartbeatAnswer::links`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// As in [`HeartbeatAnswer::gateways`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<Vec<String>>,
}

/// A provider as workers and their agents see it: no address of it and no key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSeen {
    pub name: String,
    /// Whose API it speaks: `openai` or `anthropic`.
    pub kind: String,
}

/// Asks for tasks; answered when there are some or when `wait_ms` has passed (then with none).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub worker: WorkerId,
    pub nonce: Uuid,
    /// 1, 2, 3, …: repeating a number returns the same leases again, lower ones are refused. One claim is out at a
    /// time; a number is used up only when its answer was read.
    pub seq: u64,
    /// Free slots.
    pub max: u32,
    /// Tasks in flight now, so that a suspect is only handed to an idle worker.
    pub in_flight: u32,
    pub wait_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claimed {
    pub seq: u64,
    pub tasks: Vec<ClaimedTask>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimedTask {
    pub id: TaskId,
    pub fence: Fence,
    /// 1 for the first attempt.
    pub attempt: u32,
    pub input: Json,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub conversation: Option<History>,
    /// Questions that its agent asked in earlier attempts, by name.
    #[serde(default)]
    pub questions: BTreeMap<String, Answered>,
    /// Good for this attempt of this task only.
    pub token: String,
    pub timeout_ms: u64,
    /// It is suspected of crashing its worker: the worker runs nothing beside it.
    #[serde(default)]
    pub alone: bool,
}

/// How a question of an agent came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    pub state: QuestionState,
    /// Once it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<Json>,
}

/// A conversation as its newest task finds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    pub id: ConversationId,
    /// The newest messages, oldest first.
    pub messages: Vec<Message>,
    /// Older messages were left out.
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Message {
    /// 1, 2, 3, … within its conversation.
    pub seq: u64,
    #[schema(value_type = Object)]
    pub data: Json,
}

/// Renews leases and carries news both ways. The control plane renews at once, but holds the answer for up to
/// `wait_ms` until there is news that the worker does not have yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub nonce: Uuid,
    /// Every attempt whose ending write is not yet acknowledged. Only these are renewed.
    pub held: Vec<Held>,
    /// The last claim whose answer was read: leases up to it that are not listed are requeued.
    pub last_claim: u64,
    /// Attempts that the worker is already stopping because they were cancelled.
    #[serde(default)]
    pub cancelling: Vec<Held>,
    pub condition: Condition,
    #[serde(default)]
    pub wait_ms: u64,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    pub state: WorkerState,
    /// Why it is not ready, in words; empty when ready.
    #[serde(default)]
    pub reason: String,
    /// Resident memory of the worker process, bytes; 0 if unknown.
    #[serde(default)]
    pub memory: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Registered, but its agent does not answer yet.
    Starting,
    Ready,
    /// Up, but it claims nothing: see the reason.
    NotReady,
    Draining,
    /// Ended; kept for a while to be shown.
    Gone,
}

impl WorkerState {
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Ready => "ready",
            WorkerState::NotReady => "not_ready",
            WorkerState::Draining => "draining",
            WorkerState::Gone => "gone",
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HeartbeatAnswer {
    /// Listed, but no longer this worker's: stop the agent, write nothing.
    #[serde(default)]
    pub lost: Vec<Held>,
    /// Stop the agent and end the attempt as interrupted by `cancelled`.
    #[serde(default)]
    pub cancel: Vec<Held>,
    /// Drain, then exit 0. Repeated until the worker says that it is draining.
    #[serde(default)]
    pub drain: Option<DrainOrder>,
    /// What the control plane cannot do without (`database`, `llm`): empty text for fine, else what is wrong. A worker whose
    /// control plane lacks one of these is not ready.
    #[serde(default)]
    pub checks: BTreeMap<String, String>,
    /// What it goes on without, only slower (`redis`): the same, but no reason to take no tasks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
    /// Addresses of all replicas of the control plane that live now and take workers, `http://10.0.0.7:7118`; none: not
    /// known. The worker tries them before those that it was started with, once the one that it uses fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Addresses that LLM calls go to and nothing else, where the control plane's parts run apart. Absent: they go where
    /// all goes. Empty: none lives now, or it is not known; the worker keeps to those that it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainOrder {
    pub mode: DrainMode,
    pub timeout_ms: u64,
}

/// Something an agent said. `n` counts 1, 2, 3, … within the attempt; a repeated `n` changes nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentEvent {
    pub n: u64,
    pub at: Timestamp,
    pub kind: AgentEventKind,
    pub data: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentEventKind {
    Progress,
    /// Appended to the conversation when the attempt succeeds.
    Message,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    pub worker: WorkerId,
    pub nonce: Uuid,
    pub attempts: Vec<AttemptEvents>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptEvents {
    pub held: Held,
    pub events: Vec<AgentEvent>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventsAnswer {
    /// Attempts whose fence is no longer valid: nothing was written for them.
    #[serde(default)]
    pub lost: Vec<Held>,
}

/// Ends attempts. Repeating an ending that was accepted is accepted again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Complete {
    pub worker: WorkerId,
    pub nonce: Uuid,
    pub endings: Vec<AttemptEnding>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptEnding {
    pub held: Held,
    /// Events that were not sent yet: written before the ending, in the same transaction.
    #[serde(default)]
    pub events: Vec<AgentEvent>,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Succeeded {
        result: Json,
    },
    Failed(Failure),
    Interrupted(Interruption),
    /// Its agent waits for something: the task goes on, with another attempt, when that is there.
    Waited(Awaits),
}

/// Gives attempts back unfinished: each ends as interrupted and its task is queued again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    pub worker: WorkerId,
    pub nonce: Uuid,
    pub attempts: Vec<AttemptEvents>,
    pub cause: Interruption,
}

/// Answer to complete and release: what was written, and what was refused since its fence is no longer valid.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ended {
    #[serde(default)]
    pub accepted: Vec<Held>,
    #[serde(default)]
    pub refused: Vec<Held>,
}

/// Last word of a worker that ends: what it still holds is interrupted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deregister {
    pub worker: WorkerId,
    pub nonce: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_plane_that_knows_no_providers_is_understood() {
        let text = r#"{"command":[],"protocol":"exec","concurrency":1,"health_path":"","lease_ms":1,"heartbeat_ms":1,
            "drain_timeout_ms":1,"drain_mode":"wait","kill_grace_ms":1,"probe_interval_ms":1,"probe_timeout_ms":1,
            "probe_failures":1,"startup_ms":1,"result_limit":1,"last_claim":0}"#;
        let registered: Registered = serde_json::from_str(text).expect("readable");
        assert!(registered.providers.is_empty() && registered.links.is_empty());
        assert_eq!(registered.gateways, None);
        let heartbeat: HeartbeatAnswer = serde_json::from_str("{}").expect("readable");
        assert!(heartbeat.links.is_empty() && heartbeat.gateways.is_none());
        let text = serde_json::to_string(&heartbeat).expect("plain data");
        assert!(!text.contains("links") && !text.contains("gateways"));
    }
}
