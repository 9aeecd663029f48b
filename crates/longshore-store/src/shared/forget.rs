//! Forgets what is left over: batches whose tasks are gone, conversations that nobody uses, keys that lead nowhere.

use std::collections::HashSet;

use longshore_core::batch::BatchId;
use longshore_core::id::ConversationId;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::Shared;
use super::connection::Connection;
use super::core::Core;
use super::fault::{DbError, words};
use super::sql::args;
use crate::error::StoreError;

/// Batches, and keys, that one step looks at.
const BATCHES: i64 = 100;
const KEYS: i64 = 1000;

const ENDED_BATCHES: &str =
    "SELECT id FROM @batch WHERE finished_at IS NOT NULL AND ($1::uuid IS NULL OR id > $1)
     ORDER BY id LIMIT $2";
/// Asked one by one: a batch may have very many tasks.
const WITHOUT_TASKS: &str = "SELECT b FROM unnest($1::uuid[]) AS b
     WHERE (SELECT true FROM @task AS t WHERE t.batch = b LIMIT 1) IS NULL";
const DELETE_BATCHES: &str = "DELETE FROM @batch WHERE id = ANY($1)";
const DELETE_BATCH_EVENTS: &str = "DELETE FROM @batch_event WHERE batch = ANY($1)";

const UNUSED: &str = "SELECT id FROM @conversation AS c WHERE used_at < $1
        AND (SELECT true FROM @live AS l WHERE l.conversation = c.id LIMIT 1) IS NULL
     ORDER BY used_at LIMIT 1 FOR UPDATE SKIP LOCKED";
const BUSY: &str = "SELECT DISTINCT conversation FROM @live WHERE conversation = ANY($1)";
const DELETE_CONVERSATIONS: &str = "DELETE FROM @conversation WHERE id = ANY($1)";
const DELETE_MESSAGES: &str = "DELETE FROM @message WHERE conversation = ANY($1)";

const SOME_KEYS: &str = "SELECT scope, key, task_ids FROM @idempotency WHERE (scope, key) > ($1, $2)
     ORDER BY scope, key LIMIT $3";
const STORED: &str = "SELECT id FROM @task WHERE id = ANY($1)";
/// As it was seen: one that is used anew leads somewhere again.
const DELETE_KEYS: &str =
    "DELETE FROM @idempotency AS i USING unnest($1::text[], $2::text[], $3::bytea[]) AS n (s, k, ids)
     WHERE i.scope = n.s AND i.key = n.k AND i.task_ids = n.ids";

impl Shared {
    pub(crate) async fn forget_batches(&self, after: Option<BatchId>) -> Result<Option<BatchId>, StoreError> {
        let after = after.map(|batch| batch.0);
        let next = self.core().run(async |it| {
            let rows = it.query(ENDED_BATCHES, args![after, BATCHES]).await?;
            let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            let empty = it.query(WITHOUT_TASKS, args![ids]).await?;
            let empty = empty.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            if !empty.is_empty() {
                it.begin_unsynced().await?;
                delete_batches(&it, empty).await?;
                it.commit().await?;
            }
            Ok(ids.last().filter(|_| ids.len() as i64 == BATCHES).copied().map(BatchId))
        });
        Ok(next.await?)
    }

    pub(crate) async fn forget_conversation(&self, used_before: Timestamp) -> Result<bool, StoreError> {
        let core = self.core();
        let forgotten = core.run(async |it| {
            it.begin_unsynced().await?;
            let Some(row) = it.query_opt(UNUSED, args![used_before.0]).await? else {
                it.roll_back().await;
                return Ok(false);
            };
            delete_conversations(core, &it, vec![row.try_get(0)?]).await?;
            it.commit().await?;
            Ok(true)
        });
        Ok(forgotten.await?)
    }

    pub(crate) async fn forget_orphaned_keys(
        &self,
        after: Option<(String, String)>,
    ) -> Result<Option<(String, String)>, StoreError> {
        let after = after.unwrap_or_default();
        Ok(self.core().run(async |it| forget_keys(&it, &after).await).await?)
    }
}

pub(super) async fn delete_batches(connection: &Connection, batches: Vec<Uuid>) -> Result<(), DbError> {
    connection.execute(DELETE_BATCHES, args![batches]).await?;
    connection.execute(DELETE_BATCH_EVENTS, args![batches]).await.map(drop)
}

/// Deletes conversations, whose rows are locked, with their messages; those that a task has come to meanwhile stay. Returns
/// how many.
///
/// Errors: Redis could not forget its copy; then nothing is to be committed, and the same is found again.
pub(super) async fn delete_conversations(
    core: &Core,
    connection: &Connection,
    mut names: Vec<String>,
) -> Result<u64, DbError> {
    let busy = connection.query(BUSY, args![names]).await?;
    let busy = busy.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<String>, _>>()?;
    names.retain(|name| !busy.contains(name));
    if names.is_empty() {
        return Ok(0);
    }
    if let Some(companion) = &core.companion {
        let ids = names.iter().filter_map(|name| ConversationId::new(name.clone()).ok());
        let copies = ids.map(async |id| companion.forget(&id).await);
        futures_util::future::try_join_all(copies)
            .await
            .map_err(|error| DbError::Companion(words(&error)))?;
    }
    connection.execute(DELETE_MESSAGES, args![names]).await?;
    connection.execute(DELETE_CONVERSATIONS, args![names]).await
}

async fn forget_keys(
    connection: &Connection,
    after: &(String, String),
) -> Result<Option<(String, String)>, DbError> {
    let rows = connection.query(SOME_KEYS, args![after.0, after.1, KEYS]).await?;
    let mut keys = Vec::with_capacity(rows.len());
    for row in &rows {
        let (scope, key): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let ids: &[u8] = row.try_get(2)?;
        keys.push((scope, key, ids, ids.get(..16).and_then(|first| Uuid::from_slice(first).ok())));
    }
    let first: Vec<Uuid> = keys.iter().filter_map(|(.., first)| *first).collect();
    let stored = connection.query(STORED, args![first]).await?;
    let stored = stored.iter().map(|row| row.try_get(0)).collect::<Result<HashSet<Uuid>, _>>()?;
    let gone = || keys.iter().filter(|(.., first)| first.is_some_and(|first| !stored.contains(&first)));
    let scopes: Vec<&str> = gone().map(|(scope, ..)| scope.as_str()).collect();
    if !scopes.is_empty() {
        let names: Vec<&str> = gone().map(|(_, key, ..)| key.as_str()).collect();
        let ids: Vec<&[u8]> = gone().map(|(_, _, ids, _)| *ids).collect();
        connection.execute(DELETE_KEYS, args![scopes, names, ids]).await?;
    }
    let full = keys.len() as i64 == KEYS;
    Ok(keys.into_iter().next_back().filter(|_| full).map(|(scope, key, ..)| (scope, key)))
}
