//! Forgets what is left over: batches whose tasks are gone, conversations that nobody uses, keys that lead nowhere.

use longshore_core::batch::BatchId;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::Embedded;
use super::column::{batch_id, get};
use super::writer::Write;
use crate::error::StoreError;

impl Embedded {
    pub(crate) async fn forget_batches(&self, after: Option<BatchId>) -> Result<Option<BatchId>, StoreError> {
        let looked_at = self.read(move |connection| Ok(some_batches(connection, after)?)).await?;
        let next = looked_at.last().map(|(batch, _)| *batch).filter(|_| looked_at.len() == BATCHES);
        let empty: Vec<BatchId> =
            looked_at.into_iter().filter(|(_, empty)| *empty).map(|(batch, _)| batch).collect();
        if !empty.is_empty() {
            self.write_soon(move |write| {
                empty.iter().try_for_each(|batch| delete_batch(write, batch)).map_err(StoreError::from)
            })
            .await?;
        }
        Ok(next)
    }

    pub(crate) async fn forget_conversation(&self, used_before: Timestamp) -> Result<bool, StoreError> {
        self.write_soon(move |write| {
            let found: Option<String> = write
                .connection
                .prepare_cached(
                    "SELECT id FROM conversation WHERE used_at < ?1 AND NOT EXISTS
                        (SELECT 1 FROM conversation_queue WHERE conversation_queue.conversation = conversation.id)
                     ORDER BY used_at LIMIT 1",
                )?
                .query_row([used_before.0], |row| row.get(0))
                .optional()?;
            match found {
                Some(name) => delete_conversation(write, &name).map(|()| true).map_err(StoreError::from),
                None => Ok(false),
            }
        })
        .await
    }

    pub(crate) async fn forget_orphaned_keys(
        &self,
        after: Option<(String, String)>,
    ) -> Result<Option<(String, String)>, StoreError> {
        self.write_soon(move |write| Ok(forget_keys(write, after.unwrap_or_default())?)).await
    }
}

/// Batches that one step looks at.
const BATCHES: usize = 500;

/// Batches that have ended, oldest first, and whether none of their tasks is stored any more.
fn some_batches(connection: &Connection, after: Option<BatchId>) -> rusqlite::Result<Vec<(BatchId, bool)>> {
    let mut select = connection.prepare_cached(
        "SELECT id, NOT EXISTS (SELECT 1 FROM task WHERE task.batch = batch.id) FROM batch
         WHERE finished_at IS NOT NULL AND (?1 IS NULL OR id > ?1) ORDER BY id LIMIT ?2",
    )?;
    let after = after.as_ref().map(batch_id);
    let rows = select.query_map(params![after, BATCHES as i64], |row| Ok((get(row, 0)?, row.get(1)?)))?;
    rows.collect()
}

pub(super) fn delete_batch(write: &Write<'_>, batch: &BatchId) -> rusqlite::Result<()> {
    for delete in ["DELETE FROM batch WHERE id = ?1", "DELETE FROM batch_event WHERE batch = ?1"] {
        write.connection.prepare_cached(delete)?.execute([batch_id(batch)])?;
    }
    Ok(())
}

/// Deletes a conversation with its messages; none of its tasks is unfinished.
pub(super) fn delete_conversation(write: &Write<'_>, name: &str) -> rusqlite::Result<()> {
    for delete in ["DELETE FROM message WHERE conversation = ?1", "DELETE FROM conversation WHERE id = ?1"] {
        write.connection.prepare_cached(delete)?.execute([name])?;
    }
    Ok(())
}

/// Keys that one step looks at.
const KEYS: i64 = 1000;

fn forget_keys(write: &Write<'_>, after: (String, String)) -> rusqlite::Result<Option<(String, String)>> {
    let mut select = write.connection.prepare_cached(
        "SELECT scope, key, substr(task_ids, 1, 16) FROM idempotency WHERE (scope, key) > (?1, ?2)
         ORDER BY scope, key LIMIT ?3",
    )?;
    let rows = select.query_map(params![after.0, after.1, KEYS], |row| {
        let first: Vec<u8> = row.get(2)?;
        Ok((row.get(0)?, row.get(1)?, (!first.is_empty()).then_some(first)))
    })?;
    let keys: Vec<(String, String, Option<Vec<u8>>)> = rows.collect::<Result<_, _>>()?;
    for (scope, key, first) in &keys {
        write
            .connection
            .prepare_cached(
                "DELETE FROM idempotency WHERE scope = ?1 AND key = ?2 AND ?3 IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM task WHERE id = ?3)",
            )?
            .execute(params![scope, key, first])?;
    }
    let full = keys.len() == KEYS as usize;
    Ok(keys.into_iter().next_back().filter(|_| full).map(|(scope, key, _)| (scope, key)))
}
