//! One connection: statements in order, many in one round trip, and whole transactions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

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
}

/// What a transaction may not exceed: a replica that hangs must not hold rows that others need.
const BEGIN: &str = "BEGIN; SET LOCAL statement_timeout = 15000; SET LOCAL lock_timeout = 5000; \
    SET LOCAL idle_in_transaction_session_timeout = 15000";

impl Connection {
    pub(super) fn new(client: Client, names: Arc<Names>, named: bool) -> Connection {
        Connection { client, names, named, prepared: Mutex::default(), dirty: AtomicBool::new(false) }
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.dirty.load(Ordering::Relaxed)
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
        let statement = self.client.prepare(&self.names.of(sql)).await?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&self, sql: &'static str, args: Args<'_>) -> Result<Vec<Row>, DbError> {
        if !self.named {
            return self.query_once(&self.names.of(sql), args).await;
        }
        let statement = self.statement(sql).await?;
        let values: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg.as_sql().0).collect();
        Ok(self.client.query(&statement, &values).await?)
    }

    /// A statement that is not worth keeping, its names expanded already.
    pub(super) async fn query_once(&self, sql: &str, args: Args<'_>) -> Result<Vec<Row>, DbError> {
        let typed: Vec<_> = args.iter().map(|arg| arg.as_sql()).collect();
        Ok(self.client.query_typed(sql, &typed).await?)
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
            return Ok(self.client.execute_typed(&self.names.of(sql), &typed).await?);
        }
        let statement = self.statement(sql).await?;
        let values: Vec<&(dyn ToSql + Sync)> = args.iter().map(|arg| arg.as_sql().0).collect();
        Ok(self.client.execute(&statement, &values).await?)
    }

    /// Text with any number of statements, their names expanded already.
    pub(super) async fn script(&self, sql: &str) -> Result<(), DbError> {
        Ok(self.client.batch_execute(sql).await?)
    }

    pub(super) async fn begin(&self) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        self.script(BEGIN).await
    }

    /// Begins a transaction that may take as long as it needs, such as a migration.
    pub(super) async fn begin_long(&self) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        self.script("BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 60000").await
    }

    /// Begins a transaction that locks what everybody uses: rather than let them queue up behind it, it fails.
    pub(super) async fn begin_impatient(&self) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        let limits = "SET LOCAL statement_timeout = 60000; SET LOCAL lock_timeout = 250; \
            SET LOCAL idle_in_transaction_session_timeout = 15000";
        self.script(&format!("BEGIN; {limits}")).await
    }

    /// Begins a transaction whose loss with the database's power would cost nothing that matters.
    pub(super) async fn begin_unsynced(&self) -> Result<(), DbError> {
        self.dirty.store(true, Ordering::Relaxed);
        self.script(&format!("{BEGIN}; SET LOCAL synchronous_commit = off")).await
    }

    /// Every statement before it must have been seen to succeed, or be awaited with it: after a failed one this rolls back
    /// without saying so.
    pub(super) async fn commit(&self) -> Result<(), DbError> {
        self.script("COMMIT").await?;
        self.dirty.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Ends a transaction that failed; a connection that cannot is not used again.
    pub(super) async fn roll_back(&self) {
        if self.client.is_closed() {
            return;
        }
        if self.script("ROLLBACK").await.is_ok() {
            self.dirty.store(false, Ordering::Relaxed);
        }
    }
}
