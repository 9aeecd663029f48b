//! Tasks on the public API, `/v1/tasks`.

use std::collections::BTreeMap;

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::{Failure, Hold, OnBusy, OnInterrupt, State};
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::waiting::{Question, Waiting};

/// A task to be submitted. Only `fleet` is needed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    #[schema(value_type = String, example = "research")]
    pub fleet: FleetName,
    /// Any JSON; reaches the agent byte for byte. Absent: `null`.
    #[serde(default = "Json::null")]
    #[schema(value_type = Value)]
    pub input: Json,
    /// Whose task it is: tenants take turns, whatever each has queued. Absent: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "acme")]
    pub tenant: Option<TenantName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub conversation: Option<ConversationId>,
    /// When an earlier task of the conversation is not finished: `enqueue`, `reject` (409 `conversation_busy`) or
    /// `interrupt`, which cancels all of them. Absent: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "interrupt")]
    pub on_busy: Option<OnBusy>,
    /// -1000 to 1000; higher runs first, among the tasks of its tenant.
    #[serde(default)]
    #[schema(minimum = -1000, maximum = 1000)]
    pub priority: i32,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Timestamp>,
    /// Given up at this time: then it fails as `deadline_exceeded`, wherever it stands. Absent: the fleet's
    /// `total_timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// The same, such as `10m` from now; of both, the earlier counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<String>,
    /// Per attempt, such as `90s` or `15m`. Absent: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// How long it waits after a failed attempt. Absent: the fleet's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 100)]
    pub max_attempts: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_interrupt: Option<OnInterrupt>,
    /// At most 32 labels; names and values of at most 128 characters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Exponential with full jitter: at most `base`, twice `base`, … up to `cap`. What is absent is the fleet's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "1s")]
    pub base: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "5m")]
    pub cap: Option<String>,
}

impl Submit {
    pub fn new(fleet: FleetName, input: Json) -> Submit {
        Submit {
            fleet,
            input,
            tenant: None,
            conversation: None,
            on_busy: None,
            priority: 0,
            run_at: None,
            deadline: None,
            expires_in: None,
            timeout: None,
            backoff: None,
            max_attempts: None,
            on_interrupt: None,
            labels: BTreeMap::new(),
        }
    }
}

/// A task as it stands. Lists leave `input`, `result` and `attempts` out.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Task {
    #[schema(value_type = String)]
    pub id: TaskId,
    #[schema(value_type = String)]
    pub fleet: FleetName,
    #[serde(default)]
    #[schema(value_type = String)]
    pub tenant: TenantName,
    #[schema(value_type = String, example = "queued")]
    pub state: State,
    /// Only while queued: what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "ready")]
    pub hold: Option<Hold>,
    /// Only while waiting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub input: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Json>,
    /// It succeeded, and its result was deleted since (`retention.results` of its fleet).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub result_expired: bool,
    /// Its calls and steps were deleted since (`retention.journal` of its fleet).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub journal_expired: bool,
    /// Why it failed, or why its last attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub conversation: Option<ConversationId>,
    pub priority: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Timestamp>,
    /// When it fails as `deadline_exceeded`, wherever it stands then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub timeout_ms: u64,
    pub max_attempts: u32,
    pub failed_attempts: u32,
    /// Attempts begun so far.
    pub attempts_begun: u32,
    pub interrupted: u32,
    pub cancel_requested: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub retry_of: Option<TaskId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    /// The task whose agent submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<TaskId>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Number of its newest event.
    pub last_event: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// What its agent asked people, oldest first; lists leave it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub questions: Vec<Question>,
    /// Its LLM calls; lists leave it out, and so do fleets without providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<crate::journal::Calls>,
    /// True when it ended without any call through the gateway, although its fleet has providers: a base URL may be
    /// wired into the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_gateway_calls: bool,
}

/// One try at running a task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    pub number: u32,
    pub fence: u64,
    pub worker: String,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// `succeeded`, `failed`, `interrupted` or `waited`; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Why it failed or was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to a batch: one id per line, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchAccepted {
    /// The batch that they belong to; absent in the repetition of a request whose tasks are forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<TaskId>,
}

/// Why somebody cancels a task.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One entry of a task's log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    #[schema(value_type = String)]
    pub task: TaskId,
    /// 1, 2, 3, … within its task.
    pub seq: u64,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `submitted`, `queued`, `started`, `progress`, `message`, `attempt_ended`, `cancel_requested`, `deadline_passed`,
    /// `succeeded`, `failed`, `cancelled`, `children_submitted`, `asked`, `waiting`, `input`, `wait_timed_out`, …; more may
    /// come.
    pub kind: String,
    #[schema(value_type = Value)]
    pub data: Json,
}

/// A page of a list, newest first. It may hold fewer tasks than were asked for, even none, and still not be the last: a
/// page looks at a bounded number of tasks.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskPage {
    pub items: Vec<Task>,
    /// Ask again with it for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EventPage {
    pub items: Vec<Event>,
}
