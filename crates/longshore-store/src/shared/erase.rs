//! Erases what belongs to a tenant, some tasks at a time, copies in Redis included; and lets Postgres clean up at once.

use std::collections::BTreeSet;

use longshore_core::id::{TaskId, TenantName};
use longshore_core::time::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::{self, Changes};
use super::column::{count, get};
use super::connection::Connection;
use super::core::Core;
use super::fault::{DbError, words};
use super::forget::{delete_batches, delete_conversations};
use super::retention::delete_tasks;
use super::sql::args;
use super::{Shared, delivery, ending, list, lock};
use crate::error::{CancelOutcome, StoreError};
use crate::model::Erased;

/// Tables whose rows have a tenant, all of which are erased here. A test finds one that is missing.
#[cfg(test)]
const TABLES: [&str; 8] = ["api_key", "batch", "conversation", "delivery", "done", "lane", "live", "task"];

/// Tasks of one step.
const STEP: usize = 200;

/// A statement twice: the index of tenants is used only where it is said that this is not the default one.
macro_rules! of_tenant {
    ($name:ident: $before:literal, $tenant:literal, $after:literal) => {
        const $name: [&str; 2] = [
            concat!($before, $tenant, " = $1", $after),
            concat!($before, $tenant, " = $1 AND ", $tenant, " <> 'default'", $after),
        ];
    };
}

// Tasks that can be deleted or cancelled now; not those that run and were told to stop.
of_tenant! {
    SOME_TASKS: "SELECT t.id, l.id IS NULL, t.conversation FROM @task AS t LEFT JOIN @live AS l ON l.id = t.id WHERE ",
    "t.tenant", " AND (l.id IS NULL OR NOT l.cancel_requested) ORDER BY t.id LIMIT $2"
}
of_tenant! {
    SOME_CONVERSATIONS: "SELECT id FROM @conversation AS c WHERE ", "c.tenant",
    " AND (SELECT true FROM @live AS l WHERE l.conversation = c.id LIMIT 1) IS NULL ORDER BY id LIMIT $2 FOR UPDATE"
}
of_tenant! {
    SOME_BATCHES: "SELECT id FROM @batch AS b WHERE ", "b.tenant",
    " AND (SELECT true FROM @task AS t WHERE t.batch = b.id LIMIT 1) IS NULL ORDER BY id LIMIT $2 FOR UPDATE"
}

const LOCK_CONVERSATIONS: &str =
    "SELECT id FROM @conversation WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// Those of ended tasks in which nothing was ever said and nobody waits.
const DELETE_EMPTY: &str = "DELETE FROM @conversation AS c WHERE id = ANY($1) AND messages = 0
        AND (SELECT true FROM @live AS l WHERE l.conversation = c.id LIMIT 1) IS NULL";

/// Its name among the counts, where it has nothing that is counted any more.
const LANES: &str =
    "DELETE FROM @lane WHERE tenant = $1 AND (runnable, delayed, held, running, waiting, succeeded, failed,
        cancelled) = (0, 0, 0, 0, 0, 0, 0, 0)";

/// Fleets in which it had tasks; the default tenant has no lanes.
const FLEETS: [&str; 2] = [
    "SELECT DISTINCT fleet FROM @fleet_count WHERE $1 = 'default'",
    "SELECT fleet FROM @lane WHERE tenant = $1",
];

/// Keys that are good for this tenant alone: they name it, and who holds one could fill it again.
const DELETE_TENANT_KEYS: &str = "DELETE FROM @api_key WHERE tenant = $1";

const RUNNING: &str = "SELECT count(*) FROM @live WHERE worker IS NOT NULL AND tenant = $1";

/// What rows are deleted from, or overwritten in.
const CLEAN: &str =
    "VACUUM @task, @done, @event, @journal, @journal_blob, @journal_link, @journal_request, @journal_entry,
    @journal_ask, @step, @child, @question, @live, @conversation, @message, @staged_message, @lane, @batch, @batch_event, @idempotency,
    @api_key, @delivery";

pub(super) fn pick(statements: [&'static str; 2], tenant: &str) -> &'static str {
    statements[usize::from(tenant != TenantName::DEFAULT)]
}

impl Shared {
    pub(crate) async fn erase_tenant(
        &self,
        tenant: TenantName,
        reason: String,
        now: Timestamp,
    ) -> Result<Erased, StoreError> {
        let core = self.core();
        Ok(core.run(async |it| erase(core, &it, tenant.as_str(), &reason, now).await).await?)
    }

    /// Lets Postgres remove rows that were deleted, now rather than when it would by itself. Holds nobody up.
    pub(crate) async fn compact(&self) -> Result<(), StoreError> {
        let core = self.core();
        let clean = core.names.expand(CLEAN);
        Ok(core.run(async |it| it.alone(&clean).await).await?)
    }
}

/// A task as it was found: its id, whether it had ended, and where it spoke.
type Seen = (TaskId, bool, Option<String>);

async fn erase(
    core: &Core,
    connection: &Connection,
    tenant: &str,
    reason: &str,
    now: Timestamp,
) -> Result<Erased, DbError> {
    // Those that run are counted first: one that ends in between is found among the others then.
    let running = count(&connection.query_one(RUNNING, args![tenant]).await?, 0)?;
    let mut done = Erased { running, ..Erased::default() };
    let tasks = connection.query(pick(SOME_TASKS, tenant), args![tenant, STEP as i64]).await?;
    let read = |row: &Row| Ok::<Seen, DbError>((get(row, 0)?, row.try_get(1)?, row.try_get(2)?));
    let tasks = tasks.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    connection.begin().await?;
    let mut changes = Changes::new(now);
    erase_tasks(connection, &mut changes, &tasks, reason, &mut done).await?;
    let mut more = !tasks.is_empty();
    if tasks.is_empty() {
        erase_the_rest(core, connection, tenant, &mut done).await?;
        more = delivery::erase(connection, tenant).await?;
    }
    connection.ready(changes::STATEMENTS).await?;
    core.commit(connection, changes).await?;
    done.more = more || done.conversations == STEP as u64 || done.batches == STEP as u64;
    Ok(done)
}

async fn erase_tasks(
    connection: &Connection,
    changes: &mut Changes,
    tasks: &[Seen],
    reason: &str,
    done: &mut Erased,
) -> Result<(), DbError> {
    if tasks.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = tasks.iter().filter_map(|(.., name)| name.as_deref()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    connection.query(LOCK_CONVERSATIONS, args![names]).await?;
    let unfinished: Vec<Uuid> =
        tasks.iter().filter(|(_, ended, _)| !ended).map(|(task, ..)| task.0).collect();
    let mut left = Vec::with_capacity(unfinished.len());
    let mut rows: Vec<_> = lock::tasks(connection, changes, &unfinished).await?.into_values().collect();
    rows.sort_by_key(|row| row.id);
    for mut row in rows {
        let outcome = list::cancel(changes, &mut row, Some(reason.to_owned()));
        done.cancelled += u64::from(matches!(outcome, CancelOutcome::Cancelled | CancelOutcome::Requested));
        left.push(row);
    }
    ending::leave_all(connection, changes, left).await?;
    let ended = || tasks.iter().filter(|(_, ended, _)| *ended);
    done.tasks += delete_tasks(connection, changes, ended().map(|(task, ..)| task.0).collect()).await?;
    let silent: Vec<&str> = ended().filter_map(|(.., name)| name.as_deref()).collect();
    connection.execute(DELETE_EMPTY, args![silent]).await.map(drop)
}

/// Conversations that nobody waits in, and batches, once their tasks are gone.
async fn erase_the_rest(
    core: &Core,
    connection: &Connection,
    tenant: &str,
    done: &mut Erased,
) -> Result<(), DbError> {
    let args = args![tenant, STEP as i64];
    let names = connection.query(pick(SOME_CONVERSATIONS, tenant), args).await?;
    let names = names.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    clear_caches(core, connection, tenant).await?;
    done.conversations = delete_conversations(core, connection, names).await?;
    connection.execute(LANES, args![tenant]).await?;
    let batches = connection.query(pick(SOME_BATCHES, tenant), args).await?;
    let batches = batches.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    done.batches = batches.len() as u64;
    connection.execute(DELETE_TENANT_KEYS, args![tenant]).await?;
    delete_batches(connection, batches).await
}

/// The agents' caches of the fleets in which it had tasks: nobody knows whose an entry is, and none is needed.
///
/// Errors: Redis could not empty one; then nothing is to be committed, and the same is found again.
async fn clear_caches(core: &Core, connection: &Connection, tenant: &str) -> Result<(), DbError> {
    let Some(companion) = &core.companion else { return Ok(()) };
    for row in &connection.query(pick(FLEETS, tenant), args![tenant]).await? {
        let cleared = companion.cache().clear(&get(row, 0)?).await;
        cleared.map_err(|error| DbError::Companion(words(&error)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::migrate::MIGRATIONS;

    #[test]
    fn every_table_that_names_a_tenant_is_erased_with_it() {
        for statement in MIGRATIONS.iter().flat_map(|script| script.split(';')) {
            let Some((_, table)) = statement.split_once("CREATE TABLE @") else { continue };
            let name = table.split_whitespace().next().unwrap_or_default();
            if table.lines().skip(1).any(|line| line.trim_start().starts_with("tenant ")) {
                assert!(TABLES.contains(&name), "`{name}` has rows of tenants: let the erasure delete them");
            }
        }
    }
}
