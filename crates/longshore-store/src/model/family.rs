//! Children of tasks, and what the agents of a fleet share.

use longshore_core::id::{FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Failure, State};
use longshore_core::time::Timestamp;

use super::NewTask;

/// A task that an agent submits for its own.
#[derive(Clone, Debug)]
pub struct NewChild {
    /// Its own among the children of its parent: a child of this name that is there already is the same child.
    pub name: String,
    /// It goes on when its parent is cancelled.
    pub detach: bool,
    pub task: NewTask,
}

/// A child as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ChildRecord {
    pub name: String,
    pub id: TaskId,
    pub fleet: FleetName,
    pub state: State,
    pub detach: bool,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub failure: Option<Failure>,
    /// Lists leave it out.
    pub result: Option<Json>,
}

/// Something to be kept for the agents of a fleet, checked against the limits of [`longshore_core::cache`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCached {
    pub fleet: FleetName,
    pub key: String,
    pub ttl_ms: u64,
    pub cached: Cached,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// The content type that it was put with.
    pub kind: Option<String>,
    pub value: Vec<u8>,
}
