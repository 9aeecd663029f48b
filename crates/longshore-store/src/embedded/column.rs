//! Our words as columns of SQLite, read back with the same checks as at the edge.

use longshore_core::batch::BatchId;
use longshore_core::fleet::DrainMode;
use longshore_core::id::{ConversationId, Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::journal::AskState;
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::task::{Failure, Hold, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::OnExpiry;
use longshore_core::webhook::WebhookName;
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use uuid::Uuid;

use crate::model::{DeliveryState, Outcome, WorkerState};

/// A value as it is read from a column.
pub(super) trait Column: Sized {
    fn read(value: ValueRef<'_>) -> FromSqlResult<Self>;
}

struct Read<T>(T);

impl<T: Column> FromSql for Read<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        T::read(value).map(Read)
    }
}

pub(super) fn get<T: Column>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    row.get::<_, Read<T>>(at).map(|read| read.0)
}

pub(super) fn get_option<T: Column>(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<Read<T>>>(at).map(|read| read.map(|read| read.0))
}

/// A count: what is written is never negative.
pub(super) fn count<T: TryFrom<i64> + Default>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    row.get::<_, i64>(at).map(|value| T::try_from(value).unwrap_or_default())
}

/// A number from outside as a column: SQLite's integers end where signed ones do.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> FromSqlError {
    FromSqlError::other(error)
}

fn known<T>(value: Option<T>) -> FromSqlResult<T> {
    value.ok_or(FromSqlError::InvalidType)
}

macro_rules! column {
    ($($type:ty: |$value:ident| $read:expr;)*) => {
        $(impl Column for $type {
            fn read($value: ValueRef<'_>) -> FromSqlResult<Self> {
                $read
            }
        })*
    };
}

column! {
    TaskId: |value| Uuid::from_slice(value.as_blob()?).map(TaskId).map_err(other);
    Uuid: |value| Uuid::from_slice(value.as_blob()?).map_err(other);
    BatchId: |value| Uuid::from_slice(value.as_blob()?).map(BatchId).map_err(other);
    Dropped: |value| Ok(Dropped(u8::try_from(value.as_i64()?).map_err(other)?));
    Fence: |value| Ok(Fence(value.as_i64()? as u64));
    Timestamp: |value| Ok(Timestamp(value.as_i64()?));
    FleetName: |value| FleetName::new(value.as_str()?).map_err(other);
    TenantName: |value| TenantName::new(value.as_str()?).map_err(other);
    WorkerId: |value| WorkerId::new(value.as_str()?).map_err(other);
    WebhookName: |value| WebhookName::new(value.as_str()?).map_err(other);
    DeliveryState: |value| known(DeliveryState::parse(value.as_str()?));
    ConversationId: |value| ConversationId::new(value.as_str()?).map_err(other);
    Json: |value| Json::trusted(value.as_str()?.to_owned()).map_err(other);
    Failure: |value| serde_json::from_str(value.as_str()?).map_err(other);
    AskState: |value| known(AskState::parse(value.as_str()?));
    State: |value| known(State::parse(value.as_str()?));
    Outcome: |value| known(Outcome::parse(value.as_str()?));
    WorkerState: |value| known(WorkerState::parse(value.as_str()?));
    Hold: |value| known(match value.as_str()? {
        "ready" => Some(Hold::Ready),
        "scheduled" => Some(Hold::Scheduled),
        "backoff" => Some(Hold::Backoff),
        "conversation" => Some(Hold::Conversation),
        _ => None,
    });
    OnInterrupt: |value| known(match value.as_str()? {
        "resume" => Some(OnInterrupt::Resume),
        "fail" => Some(OnInterrupt::Fail),
        "ask" => Some(OnInterrupt::Ask),
        _ => None,
    });
    OnExpiry: |value| known(OnExpiry::parse(value.as_str()?));
    DrainMode: |value| known(match value.as_str()? {
        "wait" => Some(DrainMode::Wait),
        "handover" => Some(DrainMode::Handover),
        _ => None,
    });
}

pub(crate) fn hold_text(hold: Hold) -> &'static str {
    match hold {
        Hold::Ready => "ready",
        Hold::Scheduled => "scheduled",
        Hold::Backoff => "backoff",
        Hold::Conversation => "conversation",
    }
}

pub(crate) fn on_interrupt_text(on_interrupt: OnInterrupt) -> &'static str {
    match on_interrupt {
        OnInterrupt::Resume => "resume",
        OnInterrupt::Fail => "fail",
        OnInterrupt::Ask => "ask",
    }
}

pub(crate) fn drain_mode_text(mode: DrainMode) -> &'static str {
    match mode {
        DrainMode::Wait => "wait",
        DrainMode::Handover => "handover",
    }
}

/// A batch's id as a parameter.
pub(super) fn batch_id(batch: &BatchId) -> &[u8] {
    batch.0.as_bytes()
}

/// A task's id as a parameter.
pub(super) fn id(task: &TaskId) -> &[u8] {
    task.0.as_bytes()
}
