//! Children, questions, and what tasks wait for.

use std::collections::BTreeMap;

use longshore_core::id::{ConversationId, FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Failure, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::{OnExpiry, QuestionState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a task that is `waiting` waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Waiting {
    /// `interruption`: a person says whether it may run again; `question`: a person answers its agent; `children`.
    #[serde(rename = "for")]
    #[schema(example = "question")]
    pub what: String,
    /// Of children: `all` or `any`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub children: Option<String>,
    /// Which children, by name; absent: all of the task's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<String>,
    /// The question's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    /// Then it runs again, or fails if its agent wanted an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

/// A question of an agent to a person.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Question {
    /// Its own among the questions of its task.
    pub name: String,
    /// A text, or whatever whoever shows it understands.
    #[schema(value_type = Value)]
    pub question: Json,
    /// What an answer should look like, for whoever shows the question; answers are not checked against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub schema: Option<Json>,
    #[schema(value_type = String, example = "open")]
    pub state: QuestionState,
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// `fail` or `resume`.
    #[schema(value_type = String, example = "fail")]
    pub on_expiry: OnExpiry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub answered_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub answer: Option<Json>,
}

/// A person's word on a task.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The answer to a question, any JSON; of a task that was interrupted `"resume"` or `"fail"`.
    #[schema(value_type = Value, example = "resume")]
    pub answer: Json,
    /// Which question. Absent: what the task waits for, else its only open question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// A task that an agent submits for its own. All may be left out; a list of them needs names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewChild {
    #[serde(default)]
    pub name: Option<String>,
    /// Absent: the parent's.
    #[serde(default)]
    pub fleet: Option<FleetName>,
    #[serde(default = "Json::null")]
    pub input: Json,
    #[serde(default)]
    pub conversation: Option<ConversationId>,
    /// Absent: the parent's.
    #[serde(default)]
    pub priority: Option<i32>,
    #[serde(default)]
    pub run_at: Option<Timestamp>,
    #[serde(default)]
    pub timeout: Option<String>,
    #[serde(default)]
    pub max_attempts: Option<u32>,
    #[serde(default)]
    pub on_interrupt: Option<OnInterrupt>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It goes on when its parent is cancelled.
    #[serde(default)]
    pub detach: bool,
}

/// A child as its parent's agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Child {
    pub name: String,
    pub id: TaskId,
    pub fleet: FleetName,
    pub state: State,
    /// It has ended, one way or another.
    pub ended: bool,
    pub detach: bool,
    /// This request submitted it; false: it was there already.
    #[serde(default)]
    pub created: bool,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Lists leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
}
