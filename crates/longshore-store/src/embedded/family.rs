//! Children of tasks: submitted once by name, their ends told to a parent that waits, cancelled with it.

use longshore_core::child::{self, DEEPEST, Lineage};
use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Hold, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::{self, ChildEnded, ChildSeen, Wait};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::json;

use super::column::{count, get, get_option, id};
use super::journal::begin::valid_lease;
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, conversation, ending, list, submit};
use crate::error::{ChildError, StoreError, SubmitError};
use crate::model::{ChildRecord, NewChild};

impl Embedded {
    pub(crate) async fn submit_children(
        &self,
        held: Held,
        fleet: FleetName,
        children: Vec<NewChild>,
        now: Timestamp,
    ) -> Result<Vec<(ChildRecord, bool)>, ChildError> {
        self.write(move |write| {
            let parent = valid_lease(write, held, &fleet)?.ord;
            submit_children(write, (held.task, parent), &children, now)
        })
        .await
    }

    pub(crate) async fn children(&self, parent: TaskId) -> Result<Vec<ChildRecord>, StoreError> {
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS}, NULL FROM child JOIN task ON task.ord = child.ord
                 WHERE child.parent = (SELECT ord FROM task WHERE id = ?1) ORDER BY seq"
            );
            let mut select = connection.prepare_cached(&select)?;
            let rows = select.query_map([id(&parent)], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn child(
        &self,
        parent: TaskId,
        name: String,
    ) -> Result<Option<ChildRecord>, StoreError> {
        self.read(move |connection| {
            let ord = "SELECT ord FROM task WHERE id = ?1";
            let parent = connection.prepare_cached(ord)?.query_row([id(&parent)], |row| row.get(0));
            match parent.optional()? {
                Some(parent) => Ok(one(connection, parent, &name)?),
                None => Ok(None),
            }
        })
        .await
    }
}

const COLUMNS: &str =
    "child.name, task.id, task.fleet, task.state, child.detach, task.created_at, task.finished_at,
    task.failure";

fn read(row: &Row<'_>) -> rusqlite::Result<ChildRecord> {
    Ok(ChildRecord {
        name: row.get(0)?,
        id: get(row, 1)?,
        fleet: get(row, 2)?,
        state: get(row, 3)?,
        detach: row.get(4)?,
        created_at: get(row, 5)?,
        finished_at: get_option(row, 6)?,
        failure: get_option(row, 7)?,
        result: get_option(row, 8)?,
    })
}

fn one(connection: &Connection, parent: i64, name: &str) -> rusqlite::Result<Option<ChildRecord>> {
    let select = format!(
        "SELECT {COLUMNS}, (SELECT data FROM result WHERE result.ord = task.ord)
         FROM child JOIN task ON task.ord = child.ord WHERE child.parent = ?1 AND child.name = ?2"
    );
    connection.prepare_cached(&select)?.query_row(params![parent, name], read).optional()
}

fn submit_children(
    write: &mut Write<'_>,
    (parent_id, parent): (TaskId, i64),
    children: &[NewChild],
    now: Timestamp,
) -> Result<Vec<(ChildRecord, bool)>, ChildError> {
    let mut new: Vec<&NewChild> = Vec::new();
    for child in children {
        let known = new.iter().any(|other| other.name == child.name)
            || one(write.connection, parent, &child.name)?.is_some();
        if !known {
            new.push(child);
        }
    }
    let conversations: Vec<_> = new.iter().map(|child| child.task.conversation.clone()).collect();
    child::check(&lineage(write.connection, parent)?, &conversations)?;
    for child in &new {
        submit::check_fleet(write, &child.task.fleet).map_err(refused)?;
    }
    for child in &new {
        let ord = submit::insert(write, (&child.task, Some(parent_id)), None, now).map_err(refused)?;
        enter(write, parent, child, ord)?;
    }
    tell(write, parent, &new, now)?;
    let mut records = Vec::with_capacity(children.len());
    for child in children {
        let record =
            one(write.connection, parent, &child.name)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        let created = record.id == child.task.id && new.iter().any(|it| it.task.id == record.id);
        records.push((record, created));
    }
    Ok(records)
}

fn refused(error: SubmitError) -> ChildError {
    match error {
        SubmitError::UnknownFleet(fleet) => ChildError::UnknownFleet(fleet),
        SubmitError::Store(error) => error.into(),
        SubmitError::ConversationBusy(conversation) => ChildError::ConversationBusy(conversation),
        SubmitError::KeyReused | SubmitError::BatchOfSeveral { .. } | SubmitError::BatchClosed(_) => {
            unreachable!("children have names, and neither keys nor batches")
        }
    }
}

fn enter(write: &Write<'_>, parent: i64, child: &NewChild, ord: i64) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO child (parent, name, seq, ord, detach)
             SELECT ?1, ?2, coalesce(max(seq), 0) + 1, ?3, ?4 FROM child WHERE parent = ?1",
        )?
        .execute(params![parent, child.name, ord, child.detach])
        .map(drop)
}

fn tell(write: &mut Write<'_>, parent: i64, new: &[&NewChild], now: Timestamp) -> rusqlite::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let mut row = TaskRow::load(write, parent)?;
    let named: Vec<_> = new.iter().map(|it| json!({ "name": it.name, "task": it.task.id })).collect();
    row.event(write, "children_submitted", &Json::of(&json!({ "children": named })), now)?;
    row.save(write)
}

/// What stands above a task, itself included.
fn lineage(connection: &Connection, ord: i64) -> rusqlite::Result<Lineage> {
    let mut select = connection.prepare_cached(
        "SELECT conversation, (SELECT ord FROM task AS above WHERE above.id = task.parent) FROM task WHERE ord = ?1",
    )?;
    let children = "SELECT count(*) FROM child WHERE parent = ?1";
    let children = connection.prepare_cached(children)?.query_row([ord], |row| count(row, 0))?;
    let mut lineage = Lineage { children, ..Lineage::default() };
    let mut next = Some(ord);
    while let Some(ord) = next {
        let (conversation, above): (Option<_>, Option<i64>) =
            select.query_row([ord], |row| Ok((get_option(row, 0)?, row.get(1)?)))?;
        lineage.conversations.extend(conversation);
        lineage.depth += usize::from(above.is_some());
        next = above.filter(|_| lineage.depth <= DEEPEST);
    }
    Ok(lineage)
}

/// A parent's children as its wait sees them.
pub(super) fn seen(connection: &Connection, parent: i64) -> rusqlite::Result<Vec<ChildSeen>> {
    let mut select = connection.prepare_cached(
        "SELECT child.name, task.finished_at FROM child JOIN task ON task.ord = child.ord WHERE child.parent = ?1",
    )?;
    let rows = select
        .query_map([parent], |row| Ok(ChildSeen { name: row.get(0)?, ended_at: get_option(row, 1)? }))?;
    rows.collect()
}

/// After a task's row was saved: if it has ended, its conversation goes on, a parent that waits for it does, and the
/// children of a cancelled one are to be cancelled.
pub(super) fn moved(write: &mut Write<'_>, row: &TaskRow, now: Timestamp) -> rusqlite::Result<()> {
    if !row.state.is_terminal() {
        return Ok(());
    }
    conversation::advance(write, row, now)?;
    if row.parent.is_some() {
        tell_parent(write, row.ord, now)?;
    }
    if row.state == State::Cancelled && has_unfinished(write.connection, row.ord)? {
        let orphaned = "INSERT OR IGNORE INTO orphaned (ord) VALUES (?1)";
        write.connection.prepare_cached(orphaned)?.execute([row.ord])?;
    }
    Ok(())
}

fn tell_parent(write: &mut Write<'_>, child: i64, now: Timestamp) -> rusqlite::Result<()> {
    let found: Option<(i64, String)> = write
        .connection
        .prepare_cached("SELECT parent, name FROM child WHERE ord = ?1")?
        .query_row([child], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((parent, name)) = found else { return Ok(()) };
    let mut row = TaskRow::load(write, parent)?;
    let Some(wait) = &row.wait else { return Ok(()) };
    let resumes = match wait::child_ended(wait, &name) {
        ChildEnded::Nothing => false,
        ChildEnded::Resume => true,
        ChildEnded::ResumeIfLast => !any_left(write.connection, parent, wait)?,
    };
    if resumes {
        ending::requeue(write, &mut row, (Hold::Ready, None), false, now)?;
        row.save(write)?;
    }
    Ok(())
}

/// Whether a child that is waited for has not ended. Newest first: the oldest mostly end first.
fn any_left(connection: &Connection, parent: i64, wait: &Wait) -> rusqlite::Result<bool> {
    let Wait::Children { of, .. } = wait else { return Ok(false) };
    let mut select = connection.prepare_cached(
        "SELECT child.name FROM child JOIN task ON task.ord = child.ord
         WHERE child.parent = ?1 AND task.finished_at IS NULL ORDER BY child.seq DESC",
    )?;
    let mut rows = select.query([parent])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        if of.is_empty() || of.contains(&name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Unfinished children that end with their parent.
const BOUND: &str = "SELECT child.ord FROM child JOIN task ON task.ord = child.ord
    WHERE child.parent = ?1 AND NOT child.detach AND task.finished_at IS NULL AND NOT task.cancel_requested";

fn has_unfinished(connection: &Connection, parent: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached(&format!("{BOUND} LIMIT 1"))?.exists([parent])
}

/// Cancels children of cancelled tasks, at most `most`: a tree of a million tasks must not hold up everybody else.
pub(super) fn cancel_orphaned(write: &mut Write<'_>, most: usize, now: Timestamp) -> rusqlite::Result<()> {
    let mut left = most;
    while left > 0
        && let Some(parent) = write
            .connection
            .prepare_cached("SELECT ord FROM orphaned ORDER BY ord LIMIT 1")?
            .query_row([], |row| row.get::<_, i64>(0))
            .optional()?
    {
        let children: Vec<i64> = write
            .connection
            .prepare_cached(&format!("{BOUND} ORDER BY child.seq LIMIT ?2"))?
            .query_map(params![parent, left as i64], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        if children.len() < left {
            write.connection.prepare_cached("DELETE FROM orphaned WHERE ord = ?1")?.execute([parent])?;
        }
        left -= children.len();
        for child in children {
            let row = TaskRow::load(write, child)?;
            list::cancel_row(write, row, Some("its parent was cancelled".into()), now)?;
        }
    }
    Ok(())
}
