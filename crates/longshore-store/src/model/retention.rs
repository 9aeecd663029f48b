//! What was forgotten.

use serde::{Deserialize, Serialize};

/// What one step of retention deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub journals: u64,
    pub results: u64,
    pub tasks: u64,
    /// There may be more that its plan asks for.
    pub more: bool,
}

/// What one step of a tenant's erasure did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erased {
    /// Tasks that had not ended and were cancelled.
    pub cancelled: u64,
    /// Tasks that ran when it began; their workers are told to stop them. None, and no `more`: nothing is left.
    pub running: u64,
    /// Tasks that were deleted, with all that belonged to them.
    pub tasks: u64,
    pub conversations: u64,
    pub batches: u64,
    /// There is more to delete that need not be waited for.
    pub more: bool,
}
