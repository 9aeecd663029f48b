//! Tells what an error of SQLite means for the store.

use std::any::Any;
use std::sync::Arc;

use rusqlite::ffi;

use crate::error::{
    AskError, CallError, ChildError, ClaimError, LinkError, RegisterError, StoreError, SubmitError,
};

/// What broke when a commit or a checkpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No room: rolled back, and works again when there is.
    Full,
    /// What the disk holds is unknown: after a failed sync the kernel may have dropped the written pages, and
    /// asking again would answer yes for data that is gone.
    Sync,
    Corrupt,
    Other,
}

pub(super) fn of(error: &rusqlite::Error) -> Fault {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => of_code(failure.extended_code),
        _ => Fault::Other,
    }
}

pub(super) fn of_code(extended: i32) -> Fault {
    match (extended, extended & 0xff) {
        (ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC, _) => Fault::Sync,
        // The shared index of the log could not grow: it lies beside the file, on the same disk.
        (ffi::SQLITE_IOERR_SHMSIZE, _) | (_, ffi::SQLITE_FULL) => Fault::Full,
        (_, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB) => Fault::Corrupt,
        _ => Fault::Other,
    }
}

/// Whether a failed commit leaves the disk in doubt: any trouble with input or output there, but for lack of
/// room.
pub(super) fn leaves_doubt(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) if of(error) != Fault::Full => {
            failure.extended_code & 0xff == ffi::SQLITE_IOERR
        }
        _ => false,
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match of(&error) {
            Fault::Full => StoreError::Full,
            Fault::Corrupt => StoreError::Corrupt { detail: error.to_string() },
            Fault::Sync | Fault::Other => internal("ran a statement", error),
        }
    }
}

macro_rules! through_store_error {
    ($($error:ty),*) => {
        $(impl From<rusqlite::Error> for $error {
            fn from(error: rusqlite::Error) -> Self {
                StoreError::from(error).into()
            }
        })*
    };
}
through_store_error!(SubmitError, RegisterError, ClaimError, LinkError, CallError, ChildError, AskError);

pub(super) fn internal(
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError::Internal { what, source: Arc::from(source.into()) }
}

/// A command panicked: its words, as an error for its caller.
pub(super) fn panicked(payload: Box<dyn Any + Send>) -> StoreError {
    let words = payload
        .downcast_ref::<&str>()
        .map(|words| (*words).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned());
    internal("ran a command that panicked", words)
}
