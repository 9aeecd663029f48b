//! What goes into the store and what comes out: plain records, no behaviour.

mod batch;
mod family;
mod fleet;
mod journal;
mod key;
mod link;
mod replica;
mod retention;
mod schedule;
mod search;
mod task;
mod webhook;
mod worker;

pub use batch::{BatchEventRecord, BatchFilter, BatchRecord, CancelledBatch, NewBatch};
pub use family::{Cached, ChildRecord, NewCached, NewChild};
pub use fleet::{
    DecisionRecord, FleetChange, FleetChangeKind, FleetCounts, FleetRecord, Load, TenantCounts, fleet_changes,
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
pub use replica::{Epoch, Replica};
pub use retention::{Erased, Forgotten};
pub use schedule::{Fire, Fired, ScheduleEvent, ScheduleRecord};
pub(crate) use schedule::{ScheduleChange, schedule_changes};
pub use search::{MatchPage, SearchPage, TaskFilter};
pub use task::{
    AttemptRecord, ConversationRecord, EventRecord, Idempotency, NewTask, Outcome, Submitted, TaskRecord,
};
pub use webhook::{
    DeliveryFilter, DeliveryRecord, DeliveryState, Redeliver, Tried, WebhookBacklog, WebhookRecord,
};
pub(crate) use webhook::{WebhookChange, webhook_changes};
pub use worker::{
    PlannedWorker, RegisterOutcome, Registration, WorkerEnd, WorkerFilter, WorkerRecord, WorkerState,
};
