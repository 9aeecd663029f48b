//! Webhooks on the public API, `/v1/webhooks`, and what they send.

use longshore_core::id::{FleetName, TaskId};
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::webhook::WebhookName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::task::Task;

/// A webhook: what was declared, and how it stands. Its secrets are never shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Webhook {
    #[schema(value_type = String)]
    pub name: WebhookName,
    /// Without its query.
    pub url: String,
    /// None: all.
    #[schema(value_type = Vec<String>)]
    pub fleets: Vec<FleetName>,
    #[schema(value_type = Vec<String>)]
    pub states: Vec<State>,
    pub allow_private: bool,
    /// False when it is no longer declared.
    pub active: bool,
    /// Why nothing is sent to it, if that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<String>,
    /// Messages that it is owed; counted up to 100,000.
    pub pending: u64,
    /// How long ago the task of the oldest of them ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_pending_ms: Option<u64>,
    /// Messages that were given up, as far as they are still kept.
    pub failed: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookList {
    pub items: Vec<Webhook>,
}

/// One message to one webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The `webhook-id` of the message: the same at every try.
    pub id: String,
    /// Orders deliveries by the end of their tasks.
    pub number: u64,
    #[schema(value_type = String)]
    pub task: TaskId,
    #[schema(value_type = String)]
    pub fleet: FleetName,
    /// `task.succeeded`, `task.failed` or `task.cancelled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `pending`, `delivered`, or `failed` when it was given up.
    pub state: String,
    /// When the task ended.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub tries: u32,
    /// When it is tried next; only while pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub tried_at: Option<Timestamp>,
    /// The receiver's answer to the newest try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What was wrong with the newest try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A page of deliveries, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveryPage {
    pub items: Vec<Delivery>,
    /// Ask again with `before` set to it for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<u64>,
}

/// Which messages to send again.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryDeliveries {
    /// The message with this `webhook-id`, even if it was delivered; absent: all that were given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Retried {
    /// Messages that will be sent again.
    pub count: usize,
}

/// What came of a message of type `webhook.test`, which is sent once.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WebhookTest {
    /// The receiver answered with 2xx.
    pub delivered: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    pub ms: u64,
}

/// The body of a message about the end of a task.
///
/// Only written here: read its `data` as a [`Task`], which keeps the result byte for byte.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Message {
    /// `task.succeeded`, `task.failed` or `task.cancelled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the task ended.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    pub data: EndedTask,
}

/// A task as the API shows it, without its input.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EndedTask {
    #[serde(flatten)]
    pub task: Task,
    /// The size in bytes of a result that is too large for a message: ask for the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_left_out: Option<u64>,
}
