//! What every operation works with: connections, signals, and the rule for what is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI16, Ordering};
use std::time::Duration;

use deadpool::managed::Object;
use rand::Rng;
use tracing::debug;

use super::changes::Changes;
use super::connection::Connection;
use super::counts::SLOTS;
use super::fault::{DbError, words};
use super::floor::Floors;
use super::pool::{self, Manager, Pool};
use super::sql::Names;
use crate::signals::Signals;

/// How often transactions that got in each other's way are run again.
const TRIES: u32 = 8;

/// A connection that an operation has for itself.
pub(super) type Taken = Arc<Object<Manager>>;

pub(super) struct Core {
    pool: Pool,
    pub names: Arc<Names>,
    pub signals: Signals,
    pub floors: Floors,
    slot: AtomicI16,
    closed: AtomicBool,
}

impl Core {
    pub(super) fn new(pool: Pool, names: Arc<Names>) -> Core {
        let slot = AtomicI16::new(rand::rng().random_range(0..SLOTS));
        let (signals, floors) = (Signals::default(), Floors::default());
        Core { pool, names, signals, floors, slot, closed: AtomicBool::new(false) }
    }

    pub(super) async fn connection(&self) -> Result<Object<Manager>, DbError> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(DbError::Closed);
        }
        pool::take(&self.pool).await
    }

    /// Runs an operation on a connection; one that got in another's way is run again from its beginning.
    pub(super) async fn run<T, F>(&self, operation: impl Fn(Taken) -> F) -> Result<T, DbError>
    where
        F: Future<Output = Result<T, DbError>>,
    {
        let mut tries = 0;
        loop {
            let connection = Arc::new(self.connection().await?);
            match operation(Arc::clone(&connection)).await {
                Err(error) => {
                    connection.roll_back().await;
                    tries += 1;
                    if !error.is_conflict() || tries == TRIES {
                        return Err(error);
                    }
                    debug!(error = words(&error), tries, "transactions got in each other's way");
                }
                done => return done,
            }
            drop(connection);
            tokio::time::sleep(jitter(tries)).await;
        }
    }

    /// Which of several rows of a sum to add to.
    pub(super) fn slot(&self) -> i16 {
        self.slot.fetch_add(1, Ordering::Relaxed).rem_euclid(SLOTS)
    }

    /// Writes the changes and commits, in one round trip; then wakes who waits for them.
    pub(super) async fn commit(&self, connection: &Connection, changes: Changes) -> Result<(), DbError> {
        futures_util::try_join!(changes.write(connection, self.slot()), connection.commit())?;
        self.committed(changes);
        Ok(())
    }

    fn committed(&self, changes: Changes) {
        for (fleet, rank, id) in changes.positions {
            self.floors.lower(&fleet, rank, id);
        }
        self.signals.fire(changes.topics);
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.pool.close();
    }
}

fn jitter(tries: u32) -> Duration {
    let most = 5u64 << tries.min(6);
    Duration::from_millis(rand::rng().random_range(1..=most))
}
