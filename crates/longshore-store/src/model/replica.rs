//! Control planes that share a store.

use uuid::Uuid;

/// One running control plane, as it shows itself every second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Of this start.
    pub id: Uuid,
    /// For people: host and port.
    pub name: String,
    /// What it serves, such as `api`, `link`, `gateway`, `controllers`.
    pub roles: Vec<String>,
    /// Where workers reach it, if it has the role `link` or `gateway`.
    pub link: Option<String>,
    pub version: String,
    /// Milliseconds since it showed itself last, by the store's clock.
    pub seen_ago_ms: u64,
}

/// Which leader a plan is from; each new leader has a higher one, and a plan with an older one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub u64);
