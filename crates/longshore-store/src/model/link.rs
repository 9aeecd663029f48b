//! What workers claim, hold and report.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::fleet::DrainMode;
use longshore_core::id::{ConversationId, Fence, FleetName, Held, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::Ending;
use longshore_core::time::{ServiceTime, Timestamp};
use longshore_core::wait::Question;
use uuid::Uuid;

use super::WorkerState;

#[derive(Clone, Debug)]
pub struct ClaimRequest {
    pub worker: WorkerId,
    pub nonce: Uuid,
    /// Above the newest recorded: new leases. Equal: the same leases again. Below: refused.
    pub seq: u64,
    pub max: u32,
    /// Tasks in flight at the worker now.
    pub in_flight: u32,
    /// How long the leases last, in service time.
    pub lease: Duration,
}

/// A task with the lease to run it once.
#[derive(Clone, Debug, PartialEq)]
pub struct LeasedTask {
    pub id: TaskId,
    pub fence: Fence,
    pub fleet: FleetName,
    /// 1 for the first attempt.
    pub attempt: u32,
    pub input: Json,
    pub labels: BTreeMap<String, String>,
    pub conversation: Option<History>,
    /// Those that its agent asked in earlier attempts.
    pub questions: Vec<Question>,
    pub timeout_ms: u64,
    /// It is suspected of crashing its worker: nothing may run beside it.
    pub alone: bool,
}

impl LeasedTask {
    pub fn held(&self) -> Held {
        Held { task: self.id, fence: self.fence }
    }
}

/// A conversation as its head finds it: the newest messages (at most 200 and 256 KiB), oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub id: ConversationId,
    pub messages: Vec<Message>,
    /// Older ones were left out.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// 1, 2, 3, … within its conversation.
    pub seq: u64,
    /// The task that published it, and when.
    pub task: TaskId,
    pub at: Timestamp,
    pub data: Json,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub nonce: Uuid,
    /// Every attempt whose ending is not yet acknowledged.
    pub held: Vec<Held>,
    /// Leases claimed up to here that are not held are requeued.
    pub last_claim: u64,
    pub condition: Condition,
    pub lease: Duration,
}

/// What a worker says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub state: WorkerState,
    pub reason: String,
    /// Bytes.
    pub memory: u64,
}

/// What a worker has to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatNews {
    /// Listed without a valid lease.
    pub lost: Vec<Held>,
    pub cancel: Vec<Held>,
    /// Until the worker says that it is draining.
    pub drain: Option<DrainOrder>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    pub mode: DrainMode,
    pub timeout_ms: u64,
}

/// Something an agent said; `n` counts up within its attempt, a repeated `n` changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAgentEvent {
    pub n: u64,
    pub at: Timestamp,
    pub kind: AgentEventKind,
    pub data: Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentEventKind {
    Progress,
    /// Becomes part of the conversation if the attempt succeeds.
    Message,
}

/// The end of an attempt, with what its agent said last.
#[derive(Clone, Debug)]
pub struct EndAttempt {
    pub held: Held,
    pub events: Vec<NewAgentEvent>,
    pub ending: Ending,
    /// Only of a success.
    pub result: Option<Json>,
    /// In `[0, 1)`: spreads retries out.
    pub roll: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub accepted: Vec<Held>,
    /// Their fence is no longer valid: nothing was written.
    pub refused: Vec<Held>,
}

/// A lease as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct LeaseRecord {
    pub held: Held,
    pub worker: WorkerId,
    pub fleet: FleetName,
    pub attempt: u32,
    pub started_at: Timestamp,
    pub expires: ServiceTime,
    pub alone: bool,
    pub cancel_requested: bool,
}

/// What one tick did.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    pub service: ServiceTime,
    /// Leases that expired: their tasks were requeued.
    pub expired: Vec<Held>,
    /// Tasks that did not run when their deadline passed: they have failed.
    pub overdue: Vec<TaskId>,
    /// Scheduled and backing-off tasks that became runnable.
    pub promoted: usize,
    /// When the next becomes runnable, the next deadline passes or a rate lets the next start; in the past if this tick
    /// could not do all.
    pub next_due: Option<Timestamp>,
}
