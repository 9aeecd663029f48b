//! The embedded store: one SQLite file, one process.
//!
//! One thread owns the connection that writes and groups commits; a few read. Each operation is a function on
//! one of them, in the file of its name.

mod batch;
mod cache;
mod claim;
mod column;
mod connection;
mod conversation;
mod deadline;
mod delivery;
mod ending;
mod erase;
mod event;
mod family;
mod fault;
mod fleet;
mod forget;
mod heartbeat;
mod image;
mod journal;
mod key;
mod lane;
mod lease;
mod list;
mod lock;
mod meta;
mod migrate;
pub(crate) mod open;
mod pin;
mod reader;
mod register;
mod replica;
mod retention;
mod rollout;
mod schedule;
mod search;
mod step;
mod submit;
mod task_row;
mod tenant;
mod tick;
mod usage;
mod waiting;
mod webhook;
mod worker;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::StoreError;
use crate::signals::Signals;
use lock::Lock;
use reader::Readers;
use rusqlite::Connection;
use writer::{Write, Writer};

pub(crate) use column::{drain_mode_text, hold_text, on_interrupt_text};
pub(crate) use event::queued;
pub(crate) use submit::MOST_KEYS;
pub(crate) use writer::{PLACES, Place};

/// An open embedded store.
#[derive(Clone)]
pub struct Embedded {
    open: Arc<Open>,
}

// Fields are dropped in this order: readers first, so that the writer is the last and can tidy the file up;
// the lock last, when nobody touches the file any more.
struct Open {
    readers: Readers,
    writer: Writer,
    signals: Signals,
    lock: Mutex<Option<Lock>>,
}

impl Embedded {
    pub(crate) fn signals(&self) -> &Signals {
        &self.open.signals
    }

    /// Runs a command on the writer; returns when it is durable.
    async fn write<T, E, F>(&self, command: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        self.open.writer.run(true, command).await
    }

    /// Runs a command whose loss with the machine's power would cost nothing that matters: it does not wait for the
    /// disk. Queued when this is called, not when it is first awaited.
    fn write_soon<T, E, F>(&self, command: F) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        self.open.writer.run(false, command)
    }

    /// Runs a query on a reader; sees everything that was acknowledged before.
    async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        self.open.readers.run(query).await
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.open.readers.close().await;
        self.open.writer.close().await;
        self.open.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenOptions;

    #[tokio::test]
    async fn a_command_that_panics_takes_back_only_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&OpenOptions::new(dir.path())).unwrap();
        let kept = store.meta_put("kept".into(), "1".into());
        let broken = store.write(|write: &mut Write<'_>| -> Result<(), StoreError> {
            write.connection.execute("INSERT INTO meta VALUES ('lost', '1')", [])?;
            panic!("a defect");
        });
        // Both are queued before either is awaited, so they may share a group.
        let (kept, broken) = tokio::join!(kept, broken);
        kept.unwrap();
        let error = broken.expect_err("it panicked");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("a defect"), "{error:?}");
        assert_eq!(store.meta_get("kept".into()).await.unwrap().as_deref(), Some("1"));
        assert_eq!(store.meta_get("lost".into()).await.unwrap(), None);
        store.meta_put("after".into(), "1".into()).await.unwrap();
    }

    fn task() -> crate::NewTask {
        crate::NewTask {
            id: longshore_core::id::TaskId(uuid::Uuid::now_v7()),
            fleet: longshore_core::id::FleetName::new("a").unwrap(),
            tenant: Default::default(),
            input: longshore_core::json::Json::null(),
            conversation: None,
            on_busy: Default::default(),
            publish_input: false,
            priority: 0,
            run_at: None,
            deadline_at: None,
            timeout_ms: 1,
            max_attempts: 1,
            on_interrupt: Default::default(),
            backoff: Default::default(),
            labels: Default::default(),
            retry_of: None,
        }
    }

    #[tokio::test]
    async fn a_command_that_settles_counts_and_fails_takes_none_of_them_away() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&OpenOptions::new(dir.path())).unwrap();
        let now = longshore_core::time::Timestamp(1);
        let fleet = longshore_core::fleet::Fleet::new(task().fleet, vec!["true".into()], "/".into());
        store.put_fleets(vec![fleet], now).await.unwrap();
        for round in 1..=5 {
            let broken = || {
                store.write(|write: &mut Write<'_>| -> Result<(), StoreError> {
                    write.settle_counts()?;
                    panic!("a defect");
                })
            };
            let settles = store.write(|write: &mut Write<'_>| Ok::<_, StoreError>(write.settle_counts()?));
            // Queued before any is awaited, so they may share a group.
            let (one, lost, two, kept, lost_again) = tokio::join!(
                store.submit(vec![task()], None, now),
                broken(),
                store.submit(vec![task()], None, now),
                settles,
                broken()
            );
            assert!(one.is_ok() && two.is_ok() && kept.is_ok() && lost.is_err() && lost_again.is_err());
            assert_eq!(store.counts().await.unwrap()[0].runnable, 2 * round);
        }
    }

    #[tokio::test]
    async fn a_query_that_panics_leaves_the_readers_at_work() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&OpenOptions::new(dir.path())).unwrap();
        for _ in 0..5 {
            let broken = store.read(|_| -> Result<(), StoreError> { panic!("a defect") }).await;
            assert!(matches!(broken, Err(StoreError::Internal { .. })));
        }
        assert_eq!(store.meta_get("any".into()).await.unwrap(), None);
    }
}
