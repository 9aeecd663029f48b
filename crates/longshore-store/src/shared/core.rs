//! What every operation works with: connections, signals, and the rule for what is tried again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI16, Ordering};
use std::time::Duration;

use deadpool::managed::Object;
use longshore_core::id::ConversationId;
use rand::Rng;
use tracing::debug;

use super::changes::{self, Changes, NewMessage};
use super::companion::{Companion, RedisOptions};
use super::connection::Connection;
use super::counts::SLOTS;
use super::fault::{DbError, words};
use super::floor::Floors;
use super::pool::{self, Manager, Pool};
use super::sql::Names;
use crate::model::Message;
use crate::redis::options::OptionsError;
use crate::signals::{Signals, Wakes};

/// How often transactions that got in each other's way are run again.
const TRIES: u32 = 8;

/// A connection that an operation has for itself.
pub(super) type Taken = Arc<Object<Manager>>;

pub(super) struct Core {
    pool: Pool,
    pub names: Arc<Names>,
    signals: Signals,
    pub companion: Option<Arc<Companion>>,
    pub floors: Floors,
    slot: AtomicI16,
    closed: AtomicBool,
}

impl Core {
    pub(super) fn new(
        pool: Pool,
        names: Arc<Names>,
        redis: Option<&RedisOptions>,
    ) -> Result<Core, OptionsError> {
        let slot = AtomicI16::new(rand::rng().random_range(0..SLOTS));
        let (signals, floors) = (Signals::default(), Floors::default());
        let companion =
            redis.map(|redis| Companion::start(redis, signals.clone())).transpose()?.map(Arc::new);
        Ok(Core { pool, names, signals, companion, floors, slot, closed: AtomicBool::new(false) })
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
            // On the heap: operations are large, and many are awaited one within another.
            match Box::pin(operation(Arc::clone(&connection))).await {
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
        // One that had to be made known first would be sent after the commit, and outside of its transaction.
        connection.ready(changes::STATEMENTS).await?;
        futures_util::try_join!(changes.write(connection, self.slot()), connection.commit())?;
        self.committed(changes);
        Ok(())
    }

    /// The same where all else is written already.
    pub(super) async fn commit_batches(
        &self,
        connection: &Connection,
        changes: Changes,
    ) -> Result<(), DbError> {
        futures_util::try_join!(changes.batches.save(connection, changes.now), connection.commit())?;
        self.committed(changes);
        Ok(())
    }

    fn committed(&self, mut changes: Changes) {
        let wakes = changes.wakes();
        for (fleet, rank, id) in changes.positions {
            self.floors.lower(&fleet, rank, id);
        }
        self.append_histories(changes.messages);
        self.fire(wakes);
    }

    pub(super) fn signals(&self) -> &Signals {
        &self.signals
    }

    /// Wakes who waits, here and at the other replicas.
    pub(super) fn fire(&self, wakes: Wakes) {
        if let Some(companion) = &self.companion {
            companion.publish(wakes.clone());
        }
        self.signals.fire(wakes);
    }

    /// Serving copies follow the database, a moment later; one that misses something is made anew when it is asked for.
    fn append_histories(&self, messages: Vec<NewMessage>) {
        let Some(companion) = &self.companion else { return };
        let mut by_conversation: BTreeMap<String, Vec<NewMessage>> = BTreeMap::new();
        for message in messages {
            by_conversation.entry(message.conversation.clone()).or_default().push(message);
        }
        for (conversation, messages) in by_conversation {
            let companion = Arc::clone(companion);
            tokio::spawn(async move { append(&companion, conversation, messages).await });
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.pool.close();
    }
}

async fn append(companion: &Companion, conversation: String, messages: Vec<NewMessage>) {
    let Ok(conversation) = ConversationId::new(conversation) else { return };
    let messages: Vec<Message> = messages.into_iter().filter_map(NewMessage::published).collect();
    if let Some(first) = messages.first() {
        companion.append(&conversation, first.seq, &messages).await;
    }
}

fn jitter(tries: u32) -> Duration {
    let most = 5u64 << tries.min(6);
    Duration::from_millis(rand::rng().random_range(1..=most))
}
