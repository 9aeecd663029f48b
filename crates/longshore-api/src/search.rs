//! Which tasks somebody means: the same words as a query of a list and in the body of a change by filter.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Filters of a task list, and its page. All of them have to fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TaskQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// Comma-separated states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Comma-separated `name=value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// Children of this task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Code of the failure, such as `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// At this time or later, such as `2026-11-23T21:00:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<String>,
    /// Earlier than this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<String>,
    /// At this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_after: Option<String>,
    /// Earlier than this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_before: Option<String>,
    /// 1 to 500; 50 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// `next_cursor` of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Which tasks to change. All of these have to fit; the words are those of the list's query.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// Comma-separated states. Absent: all that are not over for a cancellation, `failed` for a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "failed")]
    pub state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<String>,
    /// Comma-separated `name=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_before: Option<String>,
}

impl From<TaskQuery> for Filter {
    fn from(query: TaskQuery) -> Filter {
        Filter {
            fleet: query.fleet,
            state: query.state,
            tenant: query.tenant,
            conversation: query.conversation,
            label: query.label,
            batch: query.batch,
            parent: query.parent,
            code: query.code,
            created_after: query.created_after,
            created_before: query.created_before,
            finished_after: query.finished_after,
            finished_before: query.finished_before,
        }
    }
}

impl Filter {
    /// A page of the list of the same tasks.
    pub fn page(self, limit: Option<i64>, cursor: Option<String>) -> TaskQuery {
        TaskQuery {
            fleet: self.fleet,
            state: self.state,
            tenant: self.tenant,
            conversation: self.conversation,
            label: self.label,
            batch: self.batch,
            parent: self.parent,
            code: self.code,
            created_after: self.created_after,
            created_before: self.created_before,
            finished_after: self.finished_after,
            finished_before: self.finished_before,
            limit,
            cursor,
        }
    }
}
