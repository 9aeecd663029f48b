//! One connection: statements in order, many in one round trip, and whole transactions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::fault::DbError;
use super::sql::{Args, Names};

/// A connection of the pool.
pub(super) struct Connection {
    client: Client,
    names: Arc<Names>,
    /// Keep statements prepared; false behind a pooler.
    named: bool,
    prepared: Mutex<HashMap<&'static str, Statement>>,
    /// In the middle of a transaction that nobody ended: not to be used again.
    dirty: AtomicBool,
    /// It gave no answer in time: whatever it says now is too late.
    silent: AtomicBool,
    /// In a transaction that may take as long as it needs.
    long: AtomicBool,
}

/// What a transaction may not exceed: a replica that hangs must not hold rows that others need. And nothing is compiled:
/// these statements are done before a compiler would be, however much Postgres expects of them.
const LIMITS: [&str; 4] = [
    "statement_timeout = 15000",
    "lock_timeout = 5000",
    "idle_in_transaction_session_timeout = 15000",
    "jit = off",
];

/// How long the database may take to begin a transaction: that waits for nothing, so it is not there.
const TO_BEGIN: Duration = Duration::from_secs(5);

/// How long it may take to answer at all: longer than it allows itself.
const TO_ANSWER: Duration = Duration::from_secs(20);

impl Connection {
    pub(super) fn new(client: Client, names: Arc<Names>, named: bool) -> Connection {
        let [dirty, silent, long] = [false; 3].map(AtomicBool::new);
        Connection { client, names, named, prepared: Mutex::default(), dirty, silent, long }
    }

    /// Sets the limits once for all, where this connection is one and the same from begin to end.
    pub(super) async fn limit(&self) -> Result<(), DbError> {
        if !self.named {
            return Ok(());
        }
        let limits = LIMITS.map(|limit| format!("SET {limit}")).join("; ");
        self.within(TO_BEGIN, self.client.batch_execute(&limits)).await
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.is_lost() && !self.dirty.load(Ordering::Relaxed)
    }

    fn is_lost(&self) -> bool {
        self.client.is_closed() || self.silent.load(Ordering::Relaxed)
    }

    /// Asks, and fails with its connection when no answer comes in time.
    ///
    /// A server that was stopped, or that is behind a cut wire, breaks no connection for a long time. What may take long is
    /// told from it by something that takes no time, sent ahead with it.
    async fn ask<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        if self.long.load(Ordering::Relaxed) {
            return Ok(asked.await?);
        }
        if self.dirty.load(Ordering::Relaxed) {
            return self.within(TO_ANSWER, asked).await;
        }
        let nothing = self.within(TO_BEGIN, self.client.batch_execute(""));
        Ok(futures_util::try_join!(nothing, self.within(TO_ANSWER, asked))?.1)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, DbError> {
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                self.silent.store(true, Ordering::Relaxed);
                Err(DbError::Silent(limit))
            }
        }
    }

    /// Makes statements known, so that those that follow go out in the order in which they are begun.
    pub(super) async fn ready(&self, statements: &[&'static str]) -> Result<(), DbError> {
        if self.named {
            for sql in statements {
                self.statement(sql).await?;
            }
        }
        Ok(())
    }

    async fn statement(&self, sql: &'static str) -> Result<Statement, DbError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let text = self.names.of(sql);
        let statement = self.ask(self.client.prepare(&text)).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&self, sql: &'static str, args: Args<'_>) -> Result<Vec<Row>, DbError> {
        if !self.named {
            return self.query_once(&self.names.of(sql), args).await;
        }
        let statement = self.statement(sql).await?;
        let values: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg.as_sql().0).collect();
        self.ask(self.client.query(&statement, &values)).await
    }

    /// A statement that is not worth keeping, its names expanded already.
    pub(super) async fn query_once(&self, sql: &str, args: Args<'_>) -> Result<Vec<Row>, DbError> {
        let typed: Vec<_> = args.iter().map(|arg| arg.as_sql()).collect();
        self.ask(self.client.query_typed(sql, &typed)).await
    }

    pub(super) async fn query_opt(&self, sql: &'static str, args: Args<'_>) -> Result<Option<Row>, DbError> {
        Ok(self.query(sql, args).await?.into_iter().next())
    }

    pub(super) async fn query_one(&self, sql: &'static str, args: Args<'_>) -> Result<Row, DbError> {
        self.query_opt(sql, args).await?.ok_or(DbError::Missing)
    }

    /// Returns how many rows were changed.
    pub(super) async fn execute(&self, sql: &'static str, args: Args<'_>) -> Result<u64, DbError> {
        if !self.named {
            let typed: Vec<_> = args.iter().map(|arg| arg.as_sql()).collect();
            let sql = self.names.of(sql);
            return self.ask(self.client.execute_typed(&sql, &typed)).await;
        }
        let statement = self.statement(sql).await?;
        let values: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg.as_sql().0).collect();
        self.ask(self.client.execute(&statement, &values)).await
    }

    /// Text with any number of statements, their names expanded already.
    pub(super) async fn script(&self, sql: &str) -> Result<(), DbError> {
        self.ask(self.client.batch_execute(sql)).await
    }

    /// One statement that takes no part in transactions, and as long as it needs.
    pub(super) async fn alone(&self, sql: &str) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        self.long.store(true, Ordering::Relaxed);
        if self.named {
            self.script("SET statement_timeout = 0").await?;
        }
        let done = self.script(sql).await;
        // If this fails, the connection is not used again.
        self.limit().await?;
        self.ended();
        done
    }

    pub(super) async fn begin(&self) -> Result<(), DbError> {
        self.begin_with(&[]).await
    }

    /// Begins a transaction that may take as long as it needs, such as a migration.
    pub(super) async fn begin_long(&self) -> Result<(), DbError> {
        self.begin_with(&["statement_timeout = 0", "lock_timeout = 60000"]).await?;
        self.long.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Begins a transaction that locks what everybody uses: rather than let them queue up behind it, it fails.
    pub(super) async fn begin_impatient(&self) -> Result<(), DbError> {
        self.begin_with(&["statement_timeout = 60000", "lock_timeout = 250"]).await?;
        self.long.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Begins a transaction whose loss with the database's power would cost nothing that matters.
    pub(super) async fn begin_unsynced(&self) -> Result<(), DbError> {
        self.begin_with(&["synchronous_commit = off"]).await
    }

    async fn begin_with(&self, settings: &[&str]) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        let limits: &[&str] = if self.named { &[] } else { &LIMITS };
        let mut begin = "BEGIN".to_owned();
        for setting in limits.iter().chain(settings) {
            begin.push_str("; SET LOCAL ");
            begin.push_str(setting);
        }
        self.within(TO_BEGIN, self.client.batch_execute(&begin)).await
    }

    /// Every statement before it must have been seen to succeed, or be awaited with it: after a failed one this rolls back
    /// without saying so.
    pub(super) async fn commit(&self) -> Result<(), DbError> {
        self.script("COMMIT").await?;
        self.ended();
        Ok(())
    }

    /// Ends a transaction that failed; a connection that cannot is not used again.
    pub(super) async fn roll_back(&self) {
        if self.is_lost() {
            return;
        }
        if self.script("ROLLBACK").await.is_ok() {
            self.ended();
        }
    }

    fn ended(&self) {
        self.dirty.store(false, Ordering::Relaxed);
        self.long.store(false, Ordering::Relaxed);
    }
}
