//! Tells what an error of Postgres means for the store.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::error::{
    AskError, CallError, ChildError, ClaimError, LinkError, RegisterError, StoreError, SubmitError,
};

/// An error of the database or of the way to it.
#[derive(Debug, thiserror::Error)]
pub(super) enum DbError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no connection to the database: {0}")]
    Pool(String),
    #[error("the database gave no answer for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the database has no row where there must be one")]
    Missing,
    #[error("a column holds `{value}`, which is no {what}")]
    Word { what: &'static str, value: String },
    #[error("a stored text could not be read")]
    Text(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the operation panicked; its words are in the log")]
    Panic,
    #[error("another transaction was faster")]
    Raced,
    #[error("redis could not forget what it has a copy of: {0}")]
    Companion(String),
    #[error("the store is closed")]
    Closed,
}

impl DbError {
    fn state(&self) -> Option<&SqlState> {
        match self {
            DbError::Postgres(error) => error.code(),
            _ => None,
        }
    }

    /// Two transactions got in each other's way: run again, it works.
    pub(super) fn is_conflict(&self) -> bool {
        let conflicts = [
            &SqlState::T_R_DEADLOCK_DETECTED,
            &SqlState::T_R_SERIALIZATION_FAILURE,
            &SqlState::LOCK_NOT_AVAILABLE,
            &SqlState::UNIQUE_VIOLATION,
        ];
        matches!(self, DbError::Raced) || self.state().is_some_and(|state| conflicts.contains(&state))
    }

    /// No further connection is to be had; those that there are work.
    pub(super) fn is_crowded(&self) -> bool {
        self.state() == Some(&SqlState::TOO_MANY_CONNECTIONS)
    }

    /// The database is away, or on its way down or up: it may work again later.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            DbError::Pool(_) | DbError::Silent(_) | DbError::Companion(_) => true,
            DbError::Postgres(error) => match error.code() {
                // Class 57: an operator intervened (shutdown, crash, starting up); 53: out of resources; 08: connection.
                // 28: a password that is being changed.
                Some(state) => {
                    *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                        || ["57", "53", "08", "28"].contains(&&state.code()[..2])
                            && *state != SqlState::DISK_FULL
                }
                None => !is_ours(error),
            },
            _ => false,
        }
    }
}

/// A statement and its arguments do not fit: no other connection would help.
fn is_ours(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["error serializing", "error deserializing", "invalid column", "query returned"]
        .iter()
        .any(|begin| text.starts_with(begin))
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        if error.state() == Some(&SqlState::DISK_FULL) {
            return StoreError::Full;
        }
        if matches!(error, DbError::Closed) {
            return StoreError::Closed;
        }
        if error.is_outage() {
            return StoreError::Unavailable { why: words(&error) };
        }
        StoreError::Internal { what: "spoke to the database", source: Arc::new(error) }
    }
}

/// The error with its sources, in one line.
pub(super) fn words(error: &(dyn std::error::Error + 'static)) -> String {
    longshore_core::errors::chain(error)
}

macro_rules! through_store_error {
    ($($error:ty),*) => {
        $(impl From<DbError> for $error {
            fn from(error: DbError) -> Self {
                StoreError::from(error).into()
            }
        })*
    };
}
through_store_error!(SubmitError, RegisterError, ClaimError, LinkError, CallError, ChildError, AskError);
