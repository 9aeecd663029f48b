//! Batches on the public API, `/v1/batches`.

use std::collections::BTreeMap;

use longshore_core::batch::BatchId;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What a submission says about its batch. A batch of one request needs none of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct BatchQuery {
    /// Id that the caller chose, a UUID of version 7; needed to send one batch in several requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// More requests of this batch follow: it does not end before one without this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<bool>,
    /// At most 128 characters. The first request of a batch counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Comma-separated `name=value`, of the batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// How many tasks of a batch are in which state; those that retention deleted as they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchCounts {
    pub total: u64,
    pub queued: u64,
    pub running: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// Tasks that were submitted together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Batch {
    #[schema(value_type = String)]
    pub id: BatchId,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub counts: BatchCounts,
    /// More tasks may come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancel_requested: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its last task ended; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchPage {
    pub items: Vec<Batch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Something that happened to a batch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchEvent {
    #[schema(value_type = String)]
    pub batch: BatchId,
    /// 1, 2, 3, … within its batch; `progress` has none, since it is not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// `created`, `closed`, `cancel_requested`, `finished` (the last one, once), and on streams `progress`.
    pub kind: String,
    /// Of `progress` and `finished`: the counts.
    #[schema(value_type = Value)]
    pub data: Json,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchEventPage {
    pub items: Vec<BatchEvent>,
}

/// What the cancellation of a batch came to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchCancelled {
    pub batch: Batch,
    /// Tasks that ended at once.
    pub cancelled: u64,
    /// Running tasks, whose workers were told.
    pub requested: u64,
}
