//! A task's LLM calls and steps on the public API, and the answer to a task that waits for a person.

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A task's LLM calls in numbers. Money is in `currency`, as decimal strings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Calls {
    /// Answers that were bought.
    pub live: u64,
    /// Answers that were given again, at no cost.
    pub replayed: u64,
    /// Tries without an answer that the provider may have billed all the same.
    pub maybe_billed: u64,
    /// Calls that were passed through and are not journaled, such as lists of models.
    pub passed: u64,
    /// Answers that were bought though an earlier attempt had one at the same place: it went another way.
    pub bought_again: u64,
    pub input_tokens: u64,
    /// Of the input tokens: those that the provider had cached.
    pub cached_tokens: u64,
    pub output_tokens: u64,
    pub cost: String,
    pub saved_tokens: u64,
    pub saved: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

impl Calls {
    /// Whether the gateway saw any call at all.
    pub fn none(&self) -> bool {
        self.live + self.replayed + self.maybe_billed + self.passed == 0
    }
}

/// Everything that is kept of a task's calls and steps.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Journal {
    #[schema(value_type = String)]
    pub task: TaskId,
    /// Grows by one with each failed attempt; answers are given again within one.
    pub generation: u32,
    pub totals: Calls,
    /// In order.
    pub calls: Vec<Call>,
    pub steps: Vec<Step>,
    /// Attempts that went another way than the one before.
    pub divergences: Vec<Divergence>,
    /// What requests and answers take in the store.
    pub stored_bytes: u64,
}

/// One call: bought once, however often it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Call {
    pub generation: u32,
    /// Names the request: equal requests have equal ones.
    pub request: String,
    /// 0 for the first of equal requests, 1 for the second, …
    pub occurrence: u32,
    pub provider: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `open`: under way; `answered`; `given_up`: without an answer, though it may have been billed.
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[schema(value_type = String, format = DateTime)]
    pub begun_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered_at: Option<Timestamp>,
    /// Taken from the generation before.
    #[serde(default)]
    pub inherited: bool,
    pub maybe_billed: u32,
    /// Absent: the provider did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// For the provider's limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// Until the first byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// Bytes of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Who asked for it, in order.
    pub asks: Vec<Ask>,
}

/// One request of an agent for a call.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ask {
    pub attempt: u32,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// It made the call; else the answer was there, or under way.
    pub live: bool,
    /// `open`, `delivered`, `undelivered` or `failed`.
    pub state: String,
}

/// A piece of an agent's work that ran once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Step {
    pub name: String,
    /// How often it was begun; above 1: an attempt ended in the middle of it.
    pub begun: u32,
    #[schema(value_type = String, format = DateTime)]
    pub begun_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Json>,
}

/// An attempt that did not ask for what the one before it was given.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Divergence {
    pub attempt: u32,
    pub replayed: u32,
    /// Answers that were there and were not asked for.
    pub unasked: u32,
    /// Calls that it made itself.
    pub live: u32,
    pub bought_again: u32,
    /// Where its first request differs from the one that was expected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub difference: Option<Difference>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    /// Such as `messages[3].content`.
    pub path: String,
    pub was: String,
    pub now: String,
}

/// What a step's begin is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepAnswer {
    /// It ran: do not run it again.
    Done { result: Json },
    /// Run it, then tell its result. `begun` above 1: an earlier attempt began it and did not tell its end.
    Run { begun: u32 },
}

/// A step's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepResult {
    #[serde(default = "Json::null")]
    pub result: Json,
}
