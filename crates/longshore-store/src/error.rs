//! What an operation can answer besides doing it.

use std::sync::Arc;

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TenantName, WorkerId};
use longshore_core::task::State;
use longshore_core::wait::InputRefused;

/// The store itself could not do it. Nothing of the command was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk that holds the store is full: make room, and it goes on by itself")]
    Full,
    #[error("the store is closed")]
    Closed,
    #[error("agents of a shared store keep their cache in Redis, and there is none: set `[store] redis`")]
    NoRedis,
    #[error("the agents' cache cannot be used now: {why}")]
    RedisUnavailable { why: String },
    /// Of a shared store. What was asked for may have been done or not, unless it says otherwise.
    #[error("the database cannot be reached ({why}): nothing is lost, try again")]
    Unavailable { why: String },
    #[error("the store's file is damaged ({detail}): stop longshore and restore a copy")]
    Corrupt { detail: String },
    #[error("the store failed while it {what}")]
    Internal {
        what: &'static str,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("fleet `{0}` is not declared")]
    UnknownFleet(FleetName),
    #[error("this idempotency key was used before with another request")]
    KeyReused,
    #[error("batch {batch} is of tenant `{tenant}`, and all of its tasks are")]
    BatchOfSeveral { batch: BatchId, tenant: TenantName },
    #[error("batch {0} takes no more tasks")]
    BatchClosed(BatchId),
    #[error("conversation `{0}` has a task that is not finished")]
    ConversationBusy(ConversationId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("fleet `{0}` is not declared")]
    UnknownFleet(FleetName),
    #[error("worker `{worker}` belongs to fleet `{fleet}`")]
    OtherFleet { worker: WorkerId, fleet: FleetName },
    #[error("worker `{0}` was started anew since")]
    StaleNonce(WorkerId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("worker `{0}` is not registered")]
    UnknownWorker(WorkerId),
    #[error("worker `{0}` was started anew since")]
    StaleNonce(WorkerId),
    #[error("the newest claim of this worker is number {newest}")]
    OutOfOrder { newest: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an agent's call, or its step, was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    #[error("this attempt's lease has ended")]
    StaleFence,
    #[error("the task is of another fleet than the worker")]
    OtherFleet,
    #[error("this call's number was used for another request")]
    CallReused,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an agent's children were refused; none of them was submitted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChildError {
    #[error("fleet `{0}` is not declared")]
    UnknownFleet(FleetName),
    #[error("conversation `{0}` has a task that is not finished")]
    ConversationBusy(ConversationId),
    #[error(transparent)]
    Refused(#[from] longshore_core::child::Refused),
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<StoreError> for ChildError {
    fn from(error: StoreError) -> Self {
        ChildError::Call(error.into())
    }
}

/// Why an agent's question was refused.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AskError {
    #[error("a task asks at most {most} questions", most = longshore_core::wait::QUESTIONS)]
    TooMany,
    #[error(transparent)]
    Call(#[from] CallError),
}

impl From<StoreError> for AskError {
    fn from(error: StoreError) -> Self {
        AskError::Call(error.into())
    }
}

/// What a person's word on a task came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputOutcome {
    NotFound,
    /// The task is in this state.
    Refused(State, InputRefused),
    Taken,
}

/// Why a registered worker's word was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    #[error("worker `{0}` is not registered")]
    UnknownWorker(WorkerId),
    #[error("worker `{0}` was started anew since")]
    StaleNonce(WorkerId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LinkError> for ClaimError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::UnknownWorker(worker) => ClaimError::UnknownWorker(worker),
            LinkError::StaleNonce(worker) => ClaimError::StaleNonce(worker),
            LinkError::Store(error) => ClaimError::Store(error),
        }
    }
}

/// What a wish to cancel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    NotFound,
    /// It did not run: it has ended.
    Cancelled,
    /// It runs: its worker is told, and it ends with its attempt.
    Requested,
    AlreadyTerminal(State),
    /// It is in another state than those in which it was to be cancelled; nothing was done.
    Elsewhere(State),
}
