//! Erases what belongs to a tenant, a few tasks at a time, and rewrites the file so that no byte of it is left.

use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::id::{TaskId, TenantName};
use longshore_core::time::Timestamp;
use rusqlite::Connection;

use super::column::get;
use super::forget::{delete_batch, delete_conversation};
use super::retention::delete_task;
use super::writer::Write;
use super::{Embedded, delivery, list};
use crate::error::{CancelOutcome, StoreError};
use crate::model::Erased;

/// Tables whose rows have a tenant, all of which are erased here; `runnable` by cancelling. A test finds one that is missing.
#[cfg(test)]
pub(super) const TABLES: [&str; 6] = ["api_key", "batch", "conversation", "lane", "runnable", "task"];

/// Tasks of one step.
const STEP: usize = 100;

impl Embedded {
    pub(crate) async fn erase_tenant(
        &self,
        tenant: TenantName,
        reason: String,
        now: Timestamp,
    ) -> Result<Erased, StoreError> {
        // A reader looks for them: those of the default tenant have no index of their own.
        let of = tenant.clone();
        // Those that run are counted first: one that ends in between is found among the others then.
        let found = self
            .read(move |connection| Ok((running(connection, &of)?, some_tasks(connection, &of)?)))
            .await?;
        self.write(move |write| Ok(erase(write, &tenant, found, &reason, now)?)).await
    }

    pub(crate) async fn compact(&self) -> Result<(), StoreError> {
        self.open.writer.alone(vacuum).await?;
        // A reader that is at work keeps the log; it is done in a moment.
        for _ in 0..200 {
            if self.open.writer.alone(empty_log).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Err(super::fault::internal("emptied its log", "readers kept it in use: ask again"))
    }
}

/// Rewrites the file from what is in it. Needs as much room again, in the folder for temporary files.
fn vacuum(connection: &Connection) -> rusqlite::Result<()> {
    // The copy must not be held in memory.
    connection.execute_batch("PRAGMA temp_store = FILE")?;
    let done = connection.execute_batch("VACUUM");
    connection.execute_batch("PRAGMA temp_store = MEMORY")?;
    done
}

/// Moves the log into the file and cuts it to nothing; false: it is in use.
fn empty_log(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(row.get::<_, i64>(0)? == 0))
}

/// A task as it was found: its row, its id, and whether it had ended.
type Seen = (i64, TaskId, bool);

fn erase(
    write: &mut Write<'_>,
    tenant: &TenantName,
    (running, tasks): (u64, Vec<Seen>),
    reason: &str,
    now: Timestamp,
) -> rusqlite::Result<Erased> {
    let mut done = Erased { running, ..Erased::default() };
    for (ord, task, ended) in &tasks {
        if *ended {
            done.tasks += u64::from(erase_task(write, *ord)?);
            delivery::erase(write, task)?;
            continue;
        }
        match list::cancel(write, *task, &[], Some(reason.to_owned()), now)? {
            CancelOutcome::Cancelled | CancelOutcome::Requested => done.cancelled += 1,
            CancelOutcome::NotFound | CancelOutcome::AlreadyTerminal(_) | CancelOutcome::Elsewhere(_) => {}
        }
    }
    if tasks.is_empty() {
        erase_the_rest(write, tenant, &mut done)?;
    }
    done.more = !tasks.is_empty() || done.conversations == STEP as u64 || done.batches == STEP as u64;
    Ok(done)
}

/// SQLite uses the index of tenants only when it is told that this is not the default one.
fn of_tenant(tenant: &TenantName) -> &'static str {
    if tenant.is_default() { "tenant = ?1" } else { "tenant = ?1 AND tenant != 'default'" }
}

/// Tasks that can be deleted or cancelled now; not those that run and were told to stop.
fn some_tasks(connection: &Connection, tenant: &TenantName) -> rusqlite::Result<Vec<Seen>> {
    let select = format!(
        "SELECT ord, id, finished_at IS NOT NULL FROM task
         WHERE {} AND (finished_at IS NOT NULL OR NOT cancel_requested) ORDER BY id LIMIT {STEP}",
        of_tenant(tenant)
    );
    let mut select = connection.prepare_cached(&select)?;
    let rows = select.query_map([tenant.as_str()], |row| Ok((row.get(0)?, get(row, 1)?, row.get(2)?)))?;
    rows.collect()
}

/// Deletes a task, and its conversation if nothing was ever said in it and no other task waits there.
fn erase_task(write: &mut Write<'_>, ord: i64) -> rusqlite::Result<bool> {
    let Some(conversation) = delete_task(write, ord)? else { return Ok(false) };
    if let Some(name) = conversation {
        write
            .connection
            .prepare_cached(
                "DELETE FROM conversation WHERE id = ?1 AND messages = 0
                    AND NOT EXISTS (SELECT 1 FROM conversation_queue WHERE conversation = ?1)",
            )?
            .execute([name])?;
    }
    Ok(true)
}

/// Conversations that nobody waits in, and batches, once their tasks are gone.
fn erase_the_rest(write: &mut Write<'_>, tenant: &TenantName, done: &mut Erased) -> rusqlite::Result<()> {
    let conversations: Vec<String> = {
        let select = format!(
            "SELECT id FROM conversation WHERE {} AND NOT EXISTS
                (SELECT 1 FROM conversation_queue WHERE conversation_queue.conversation = conversation.id) LIMIT {STEP}",
            of_tenant(tenant)
        );
        let mut select = write.connection.prepare_cached(&select)?;
        select.query_map([tenant.as_str()], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for name in &conversations {
        delete_conversation(write, name)?;
    }
    let batches: Vec<BatchId> = {
        let select = format!(
            "SELECT id FROM batch WHERE {} AND NOT EXISTS (SELECT 1 FROM task WHERE task.batch = batch.id) LIMIT {STEP}",
            of_tenant(tenant)
        );
        let mut select = write.connection.prepare_cached(&select)?;
        select.query_map([tenant.as_str()], |row| get(row, 0))?.collect::<Result<_, _>>()?
    };
    for batch in &batches {
        delete_batch(write, batch)?;
    }
    erase_caches(write, tenant)?;
    erase_lanes(write, tenant)?;
    erase_keys(write, tenant)?;
    done.conversations += conversations.len() as u64;
    done.batches += batches.len() as u64;
    Ok(())
}

/// The agents' caches of the fleets in which it had tasks: nobody knows whose an entry is, and none is needed.
fn erase_caches(write: &Write<'_>, tenant: &TenantName) -> rusqlite::Result<()> {
    for table in ["cache", "cache_total"] {
        let delete = format!("DELETE FROM {table} WHERE fleet IN (SELECT fleet FROM lane WHERE tenant = ?1)");
        write.connection.prepare_cached(&delete)?.execute([tenant.as_str()])?;
    }
    Ok(())
}

/// Keys that are good for this tenant alone: they name it, and who holds one could fill it again.
fn erase_keys(write: &mut Write<'_>, tenant: &TenantName) -> rusqlite::Result<()> {
    let delete = "DELETE FROM api_key WHERE tenant = ?1";
    write.connection.prepare_cached(delete)?.execute([tenant.as_str()]).map(drop)
}

/// Its name in the counts, where it has nothing that is counted any more.
fn erase_lanes(write: &mut Write<'_>, tenant: &TenantName) -> rusqlite::Result<()> {
    write.settle_counts()?;
    write
        .connection
        .prepare_cached(
            "DELETE FROM lane WHERE tenant = ?1
                AND runnable + delayed + held + running + waiting + succeeded + failed + cancelled = 0",
        )?
        .execute([tenant.as_str()])
        .map(drop)
}

fn running(connection: &Connection, tenant: &TenantName) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT count(*) FROM lease JOIN task ON task.ord = lease.ord WHERE tenant = ?1")?
        .query_row([tenant.as_str()], |row| super::column::count(row, 0))
}
