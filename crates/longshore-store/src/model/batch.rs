//! Tasks that were submitted together.

use std::collections::BTreeMap;

use longshore_core::batch::{BatchId, Counts};
use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;

/// The batch that a submission belongs to. Made by its first submission; name and labels of later ones do not count.
#[derive(Clone, Debug)]
pub struct NewBatch {
    pub id: BatchId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// More submissions follow; else this is the last one.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BatchRecord {
    pub id: BatchId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub open: bool,
    pub cancel_requested: bool,
    pub counts: Counts,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    /// Number of its newest event.
    pub last_event: u64,
}

#[derive(Clone, Debug, Default)]
pub struct BatchFilter {
    pub unfinished: bool,
    /// Only ids below this one.
    pub before: Option<BatchId>,
}

/// One entry of a batch's log.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchEventRecord {
    /// 1, 2, 3, … within its batch.
    pub seq: u64,
    pub at: Timestamp,
    /// `created`, `closed`, `cancel_requested`, `finished`.
    pub kind: String,
    pub data: Json,
}

/// One step of a batch's cancellation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CancelledBatch {
    /// Ended by this step.
    pub cancelled: u64,
    /// Their workers were told.
    pub requested: u64,
    /// Goes into the next step; absent after the last one.
    pub next: Option<TaskId>,
}
