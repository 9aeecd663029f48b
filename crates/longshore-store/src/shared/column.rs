//! Our words as columns of Postgres, read back with the same checks as at the edge.

use longshore_core::batch::BatchId;
use longshore_core::fleet::DrainMode;
use longshore_core::id::{ConversationId, Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::journal::AskState;
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::task::{Failure, Hold, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::{OnExpiry, Wait};
use longshore_core::webhook::WebhookName;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use super::fault::DbError;
use crate::model::{DeliveryState, Outcome, WorkerState};

/// A value as it is read from a column.
pub(super) trait Column: Sized {
    /// As Postgres gives it.
    type Raw<'a>: FromSql<'a>;

    fn read(raw: Self::Raw<'_>) -> Result<Self, DbError>;
}

pub(super) fn get<T: Column>(row: &Row, at: usize) -> Result<T, DbError> {
    T::read(row.try_get::<_, T::Raw<'_>>(at)?)
}

pub(super) fn get_option<T: Column>(row: &Row, at: usize) -> Result<Option<T>, DbError> {
    row.try_get::<_, Option<T::Raw<'_>>>(at)?.map(T::read).transpose()
}

/// A count: what is written is never negative.
pub(super) fn count<T: TryFrom<i64> + Default>(row: &Row, at: usize) -> Result<T, DbError> {
    Ok(T::try_from(row.try_get::<_, i64>(at)?).unwrap_or_default())
}

/// A count that may be absent.
pub(super) fn count_option<T: TryFrom<i64> + Default>(row: &Row, at: usize) -> Result<Option<T>, DbError> {
    Ok(row.try_get::<_, Option<i64>>(at)?.map(|value| T::try_from(value).unwrap_or_default()))
}

/// A number from outside as a column: Postgres' integers end where signed ones do.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn text(error: impl std::error::Error + Send + Sync + 'static) -> DbError {
    DbError::Text(Box::new(error))
}

fn word<'de, T: Deserialize<'de>>(what: &'static str, value: &'de str) -> Result<T, DbError> {
    let reader: StrDeserializer<'de, WordError> = value.into_deserializer();
    T::deserialize(reader).map_err(|_| DbError::Word { what, value: value.to_owned() })
}

fn known<T>(what: &'static str, value: &str, found: Option<T>) -> Result<T, DbError> {
    found.ok_or_else(|| DbError::Word { what, value: value.to_owned() })
}

macro_rules! columns {
    ($($type:ty: $raw:ty, |$value:ident| $read:expr;)*) => {
        $(impl Column for $type {
            type Raw<'a> = $raw;

            fn read($value: Self::Raw<'_>) -> Result<Self, DbError> {
                $read
            }
        })*
    };
}

columns! {
    TaskId: Uuid, |value| Ok(TaskId(value));
    Uuid: Uuid, |value| Ok(value);
    BatchId: Uuid, |value| Ok(BatchId(value));
    Dropped: i64, |value| u8::try_from(value).map(Dropped).map_err(text);
    Fence: i64, |value| Ok(Fence(value as u64));
    Timestamp: i64, |value| Ok(Timestamp(value));
    bool: bool, |value| Ok(value);
    String: String, |value| Ok(value);
    FleetName: &'a str, |value| FleetName::new(value).map_err(text);
    TenantName: &'a str, |value| TenantName::new(value).map_err(text);
    WorkerId: &'a str, |value| WorkerId::new(value).map_err(text);
    WebhookName: &'a str, |value| WebhookName::new(value).map_err(text);
    ConversationId: &'a str, |value| ConversationId::new(value).map_err(text);
    Json: String, |value| Json::trusted(value).map_err(text);
    Failure: &'a str, |value| serde_json::from_str(value).map_err(text);
    AskState: &'a str, |value| known("state of an ask", value, AskState::parse(value));
    State: &'a str, |value| known("state of a task", value, State::parse(value));
    Outcome: &'a str, |value| known("outcome", value, Outcome::parse(value));
    DeliveryState: &'a str, |value| known("state of a delivery", value, DeliveryState::parse(value));
    WorkerState: &'a str, |value| known("state of a worker", value, WorkerState::parse(value));
    Hold: &'a str, |value| word("reason to be queued", value);
    OnInterrupt: &'a str, |value| word("policy for interruptions", value);
    DrainMode: &'a str, |value| word("mode of drain", value);
    Wait: &'a str, |value| Wait::parse(Some(value)).map_err(text);
    OnExpiry: &'a str, |value| known("way to expire", value, OnExpiry::parse(value));
}

/// A stored document as the type that it was made from.
pub(super) fn document<T: serde::de::DeserializeOwned>(row: &Row, at: usize) -> Result<T, DbError> {
    serde_json::from_str(row.try_get::<_, &str>(at)?).map_err(text)
}

/// A hash of a fixed length.
pub(super) fn bytes<const N: usize>(row: &Row, at: usize) -> Result<[u8; N], DbError> {
    row.try_get::<_, &[u8]>(at)?.try_into().map_err(|_| DbError::Missing)
}
