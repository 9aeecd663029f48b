//! Conversations on the public API.

use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::OnBusy;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::link::Message;

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    #[schema(value_type = String)]
    pub id: ConversationId,
    /// The only one of its tasks that may run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub head: Option<TaskId>,
    /// Unfinished tasks in order, the head first.
    #[schema(value_type = Vec<String>)]
    pub queue: Vec<TaskId>,
    /// How many messages it has.
    pub messages: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MessagePage {
    pub items: Vec<Message>,
    /// Ask again with `after` set to it; absent when there are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_after: Option<u64>,
}

/// A message to a conversation: becomes the input of a new task of `fleet`, and part of the history, as
/// `{"role":"user","content":…}`, when that task succeeds.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostMessage {
    #[schema(value_type = String)]
    pub fleet: FleetName,
    #[schema(value_type = Value)]
    pub content: Json,
    /// As of a task that is submitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub tenant: Option<TenantName>,
    /// As of a task that is submitted: `interrupt` lets a newer message take the place of those before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub on_busy: Option<OnBusy>,
}

impl PostMessage {
    pub fn new(fleet: FleetName, content: Json) -> PostMessage {
        PostMessage { fleet, content, tenant: None, on_busy: None }
    }
}
