//! The journal of LLM calls: what is asked, who makes the call, what was answered.
//!
//! The rules are `longshore_core::journal`'s; here are the rows that they are applied to.

mod answer;
mod ask;
pub(super) mod begin;
mod content;
mod generation;
mod read;
mod request;

pub(super) use generation::{attempt_ends, attempt_failed, bought_by, next_generation, progressed};

use rusqlite::{Row, params};

use super::Embedded;
use super::column::count;
use super::writer::Write;
use crate::error::StoreError;
use uuid::Uuid;

impl Embedded {
    /// A gateway starts: intents of its earlier start have lost their owner.
    pub(crate) async fn gateway_starts(&self, replica: String, nonce: Uuid) -> Result<(), StoreError> {
        self.write(move |write| {
            let insert = "INSERT OR REPLACE INTO gateway (replica, nonce) VALUES (?1, ?2)";
            write.connection.prepare_cached(insert)?.execute(params![replica, nonce.as_bytes()])?;
            Ok(())
        })
        .await
    }

    /// Its gateway lives as long as this process, which is the only one.
    pub(crate) async fn gateway_seen(&self, replica: String, nonce: Uuid) -> Result<bool, StoreError> {
        self.read(move |connection| {
            let select = "SELECT 1 FROM gateway WHERE replica = ?1 AND nonce = ?2";
            Ok(connection.prepare_cached(select)?.exists(params![replica, nonce.as_bytes()])?)
        })
        .await
    }
}

/// The parameters that name an entry: `ord`, `generation`, `digest`, `occurrence` as 1 to 4.
macro_rules! key_params {
    ($key:expr $(, $more:expr)* $(,)?) => {
        rusqlite::params![$key.ord, $key.generation, $key.digest, $key.occurrence $(, $more)*]
    };
}
pub(in crate::embedded) use key_params;

/// Counts up and returns the generation and the new count; the journal begins with its first call.
fn tick(write: &Write<'_>, ord: i64) -> rusqlite::Result<(u32, u64)> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal (ord, counter) VALUES (?1, 1)
             ON CONFLICT (ord) DO UPDATE SET counter = counter + 1 RETURNING generation, counter",
        )?
        .query_row([ord], |row| Ok((count(row, 0)?, count(row, 1)?)))
}

/// Whether the task made a call or began a step.
pub(super) fn exists(write: &Write<'_>, ord: i64) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM journal WHERE ord = ?1) OR EXISTS (SELECT 1 FROM step WHERE ord = ?1)",
        )?
        .query_row([ord], |row| row.get(0))
}

fn digest(row: &Row<'_>, at: usize) -> rusqlite::Result<[u8; 32]> {
    row.get(at)
}
