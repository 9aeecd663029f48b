//! Which tasks somebody looks for, and what a search finds.

use std::collections::BTreeMap;

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::search::{Wanted, is_wide};
use longshore_core::task::State;
use longshore_core::time::Timestamp;

use super::TaskRecord;

/// Which tasks; an empty filter means all. A task has to fulfil every condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TaskFilter {
    pub fleet: Option<FleetName>,
    /// Empty: any.
    pub states: Vec<State>,
    pub tenant: Option<TenantName>,
    pub conversation: Option<ConversationId>,
    /// All of them must be there.
    pub labels: BTreeMap<String, String>,
    pub batch: Option<BatchId>,
    pub parent: Option<TaskId>,
    /// Of its failure: the one that ended it, or while it is not over the last attempt's.
    pub code: Option<String>,
    /// At this time or later.
    pub created_from: Option<Timestamp>,
    /// Earlier than this.
    pub created_before: Option<Timestamp>,
    pub finished_from: Option<Timestamp>,
    pub finished_before: Option<Timestamp>,
    /// Only ids below this one: where the page before ended.
    pub before: Option<TaskId>,
}

impl TaskFilter {
    /// What core needs to know of it.
    pub fn wanted(&self) -> Wanted<'_> {
        Wanted {
            batch: self.batch.is_some(),
            parent: self.parent.is_some(),
            conversation: self.conversation.is_some(),
            states: &self.states,
            tenant: self.tenant.as_ref().is_some_and(|tenant| !tenant.is_default()),
            more: self.fleet.is_some()
                || self.tenant.as_ref().is_some_and(TenantName::is_default)
                || !self.labels.is_empty()
                || self.code.is_some()
                || self.created_from.is_some()
                || self.created_before.is_some()
                || self.finished_from.is_some()
                || self.finished_before.is_some(),
        }
    }

    /// Whether it may have to look at many tasks for each that it finds.
    pub fn is_wide(&self) -> bool {
        is_wide(&self.wanted())
    }

    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        TaskFilter { before: None, ..self.clone() } == TaskFilter::default()
    }
}

/// Tasks that were found, newest id first, without inputs and results.
///
/// There may be fewer than were asked for, even none, and more to come: a page ends when it has looked at
/// [`longshore_core::search::BUDGET`] tasks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SearchPage {
    pub tasks: Vec<TaskRecord>,
    /// Goes into [`TaskFilter::before`]; absent on the last page.
    pub next: Option<TaskId>,
}

/// The same, only what they are and where they stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatchPage {
    pub tasks: Vec<(TaskId, State)>,
    pub next: Option<TaskId>,
}
