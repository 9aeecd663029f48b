//! What goes into the store and what comes out: plain records, no behaviour.

mod fleet;
mod journal;
mod key;
mod link;
mod task;
mod worker;

pub use fleet::{
    DecisionRecord, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load, fleet_changes,
};
pub use journal::{
    AnswerOutcome, AskRecord, Begun, BegunCall, CallCounts, CallKey, CallRecord, Digest, DivergenceRecord,
    Hash, JournalRecord, NewAnswer, NewCall, NewRequest, Packed, ReplayRecord, StepBegun, StepRecord,
    StoredAnswer, UsageRecord, Used,
};
pub use key::{KeyHash, KeyRecord, NewKey, Owner};
pub use link::{
    AgentEventKind, ClaimRequest, Condition, DrainOrder, EndAttempt, Ended, Heartbeat, HeartbeatNews,
    History, LeaseRecord, LeasedTask, Message, NewAgentEvent, Tick,
};
pub use task::{
    AttemptRecord, ConversationRecord, EventRecord, Idempotency, NewTask, Outcome, Submitted, TaskFilter,
    TaskRecord,
};
pub use worker::{
    PlannedWorker, RegisterOutcome, Registration, WorkerEnd, WorkerFilter, WorkerRecord, WorkerState,
};
