//! Changes of many tasks by a filter: `/v1/tasks:cancel` and `/v1/tasks:retry`.

use longshore_core::id::TaskId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::search::Filter;

/// Which tasks to cancel, or to run again as new tasks, and how carefully.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bulk {
    #[serde(default)]
    pub filter: Filter,
    /// Needed when the filter leaves nothing out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Only count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Tasks that this request changes at most, 1 to 10,000; 1,000 if absent. Go on with `next_cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub limit: Option<u64>,
    /// Refuse with `more_than_expected` if more tasks match, such as what a dry run counted. Asked without a cursor only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// Why; kept with each task that is cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `next_cursor` of the previous answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What a change of many tasks came to so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BulkDone {
    pub dry_run: bool,
    /// Tasks that matched.
    pub matched: u64,
    /// Of these: cancelled, told to stop, or run again. 0 in a dry run.
    pub changed: u64,
    /// Of these: left alone, since they changed meanwhile, their fleet is gone, or an earlier request with the same key
    /// changed them.
    pub skipped: u64,
    /// The new tasks of a retry, in the order in which the old ones were met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub created: Vec<TaskId>,
    /// Ask again with it for the rest; absent when all were met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
