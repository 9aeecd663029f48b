//! Tasks and what belongs to them.

use std::collections::BTreeMap;

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::{Failure, Hold, OnBusy, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::Wait;

/// A task to be submitted, the fleet's defaults filled in.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub id: TaskId,
    pub fleet: FleetName,
    pub tenant: TenantName,
    pub input: Json,
    pub conversation: Option<ConversationId>,
    /// When another task of its conversation is not finished.
    pub on_busy: OnBusy,
    /// When it succeeds its input becomes a message of the conversation, as
    /// `{"role":"user","content":<input>}`.
    pub publish_input: bool,
    /// Higher runs first.
    pub priority: i32,
    pub run_at: Option<Timestamp>,
    /// When it fails, wherever it stands then.
    pub deadline_at: Option<Timestamp>,
    /// Per attempt.
    pub timeout_ms: u64,
    pub max_attempts: u32,
    pub on_interrupt: OnInterrupt,
    pub backoff: Backoff,
    pub labels: BTreeMap<String, String>,
    pub retry_of: Option<TaskId>,
}

/// Makes a repeated submission the same submission.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// What the key is unique within, such as a route and a caller.
    pub scope: String,
    pub key: String,
    /// Of the request: the same key with another one is refused.
    pub fingerprint: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// In the order of the tasks.
    pub ids: Vec<TaskId>,
    /// These are the ids of an earlier submission with the same key; nothing was written.
    pub replayed: bool,
}

/// A task as it stands. Lists leave `input` and `result` out.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskRecord {
    pub id: TaskId,
    pub fleet: FleetName,
    pub tenant: TenantName,
    pub state: State,
    /// Only while queued.
    pub hold: Option<Hold>,
    /// Only while it waits, and until when.
    pub wait: Option<Wait>,
    pub wait_until: Option<Timestamp>,
    /// The task whose agent submitted it.
    pub parent: Option<TaskId>,
    pub input: Option<Json>,
    pub result: Option<Json>,
    /// It succeeded, and its result was deleted since.
    pub result_expired: bool,
    /// Its calls and steps were deleted since.
    pub journal_expired: bool,
    /// Why it failed, or why its last attempt did.
    pub failure: Option<Failure>,
    pub conversation: Option<ConversationId>,
    pub publish_input: bool,
    pub priority: i32,
    pub run_at: Option<Timestamp>,
    /// When it becomes runnable, while scheduled or backing off.
    pub due_at: Option<Timestamp>,
    /// When it fails, wherever it stands then.
    pub deadline_at: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    pub timeout_ms: u64,
    pub max_attempts: u32,
    pub on_interrupt: OnInterrupt,
    pub backoff: Backoff,
    pub failed_attempts: u32,
    /// Attempts begun so far.
    pub attempts: u32,
    pub interrupted: u32,
    /// Poison strikes.
    pub strikes: u32,
    pub cancel_requested: bool,
    pub retry_of: Option<TaskId>,
    pub batch: Option<BatchId>,
    pub created_at: Timestamp,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Number of its newest event.
    pub last_event: u64,
}

/// One try at running a task.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRecord {
    /// 1, 2, 3, … within its task.
    pub number: u32,
    pub fence: Fence,
    pub worker: WorkerId,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Absent while it runs.
    pub outcome: Option<Outcome>,
    /// Why it failed or was interrupted: a code and a colon and words, or the interruption's name.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Succeeded,
    Failed,
    Interrupted,
    /// Its agent waits for something: the task goes on when that is there.
    Waited,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Succeeded => "succeeded",
            Outcome::Failed => "failed",
            Outcome::Interrupted => "interrupted",
            Outcome::Waited => "waited",
        }
    }

    pub fn parse(text: &str) -> Option<Outcome> {
        [Outcome::Succeeded, Outcome::Failed, Outcome::Interrupted, Outcome::Waited]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// One entry of a task's log.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRecord {
    pub task: TaskId,
    /// 1, 2, 3, … within its task.
    pub seq: u64,
    pub at: Timestamp,
    pub kind: String,
    pub data: Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationRecord {
    pub id: ConversationId,
    /// The only one of its tasks that may run now.
    pub head: Option<TaskId>,
    /// Unfinished tasks in order, the head first.
    pub queue: Vec<TaskId>,
    /// How many messages it has.
    pub messages: u64,
}
