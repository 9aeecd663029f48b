//! Children of tasks: their ends told to a parent that waits, their cancellation with it; and how they are listed. They come
//! by `children`.
//!
//! Whoever ends a task holds its parent's row, which was locked together with it, in order. So of two children that end at
//! the same time one sees the other, and the last one finds that it is the last.

use std::collections::{BTreeMap, HashMap};

use longshore_core::id::TaskId;
use longshore_core::task::Hold;
use longshore_core::time::Timestamp;
use longshore_core::wait::{self, ChildEnded, ChildSeen, Wait};
use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::{self, Changes};
use super::column::{get, get_option};
use super::connection::Connection;
use super::fault::DbError;
use super::live::Live;
use super::sql::args;
use super::{Shared, ending, list, lock};
use crate::error::StoreError;
use crate::model::ChildRecord;

const NAMES: &str = "SELECT c.child, c.name FROM unnest($1::uuid[], $2::uuid[]) AS n (parent, id)
     CROSS JOIN LATERAL (SELECT child, name FROM @child WHERE task = n.parent AND child = n.id LIMIT 1) AS c";

/// Whether a child has not ended, nor ends here ($2): any, or one of these names.
const LEFT: &str = "SELECT EXISTS (SELECT 1 FROM @live AS l WHERE l.parent = $1 AND NOT l.id = ANY($2)
        AND ($3 OR EXISTS (SELECT 1 FROM @child AS c WHERE c.task = $1 AND c.child = l.id AND c.name = ANY($4))))";

const SEEN: &str = "SELECT c.task, c.name, d.finished_at FROM @child AS c
        LEFT JOIN LATERAL (SELECT finished_at FROM @done WHERE id = c.child LIMIT 1) AS d ON true
     WHERE c.task = ANY($1)";

/// Those of these names, or all; with their results or without.
const RECORDS: &str =
    "SELECT c.name, t.id, t.fleet, coalesce(l.state, d.state), c.detach, t.created_at, d.finished_at,
        coalesce(l.failure, d.failure), CASE WHEN $4 THEN d.result END
     FROM @child AS c CROSS JOIN LATERAL (SELECT id, fleet, created_at FROM @task WHERE id = c.child LIMIT 1) AS t
        LEFT JOIN LATERAL (SELECT state, failure FROM @live WHERE id = c.child LIMIT 1) AS l ON true
        LEFT JOIN LATERAL (SELECT state, finished_at, failure, result FROM @done WHERE id = c.child LIMIT 1) AS d ON true
     WHERE c.task = $1 AND ($2 OR c.name = ANY($3)) ORDER BY c.seq";

const ORPHANED: &str = "SELECT parent FROM @orphaned ORDER BY parent LIMIT 1";
const ALL_CANCELLED: &str = "DELETE FROM @orphaned WHERE parent = $1";

/// Unfinished children that end with their parent.
const BOUND: &str = "SELECT c.child FROM @child AS c
        CROSS JOIN LATERAL (SELECT 1 FROM @live WHERE id = c.child AND NOT cancel_requested LIMIT 1) AS l
     WHERE c.task = $1 AND NOT c.detach ORDER BY c.seq LIMIT $2";

impl Shared {
    pub(crate) async fn children(&self, parent: TaskId) -> Result<Vec<ChildRecord>, StoreError> {
        Ok(self.core().run(async |it| records(&it, parent, None, false).await).await?)
    }

    pub(crate) async fn child(
        &self,
        parent: TaskId,
        name: String,
    ) -> Result<Option<ChildRecord>, StoreError> {
        let name = &[name.as_str()];
        let found = self.core().run(async |it| records(&it, parent, Some(name), true).await).await?;
        Ok(found.into_iter().next())
    }

    /// Cancels children of cancelled tasks, at most `most`.
    pub(super) async fn cancel_orphaned(&self, most: i64, now: Timestamp) -> Result<(), StoreError> {
        let (core, mut left) = (self.core(), most);
        while left > 0
            && let Some(parent) = core.run(async |it| it.query_opt(ORPHANED, args![]).await).await?
        {
            let parent: Uuid = parent.try_get(0).map_err(DbError::from)?;
            let cancelled = core.run(async |it| {
                it.begin().await?;
                let mut changes = Changes::new(now);
                let cancelled = cancel(&it, &mut changes, parent, left).await?;
                it.ready(changes::STATEMENTS).await?;
                core.commit(&it, changes).await?;
                Ok(cancelled)
            });
            left -= cancelled.await?;
        }
        Ok(())
    }
}

/// Cancels children of one task; returns how many.
async fn cancel(
    connection: &Connection,
    changes: &mut Changes,
    parent: Uuid,
    most: i64,
) -> Result<i64, DbError> {
    let found = connection.query(BOUND, args![parent, most]).await?;
    let ids = found.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
    let mut rows: Vec<Live> = lock::tasks(connection, changes, &ids).await?.into_values().collect();
    rows.sort_by_key(|row| row.id);
    for row in &mut rows {
        list::cancel(changes, row, Some("its parent was cancelled".into()));
    }
    ending::leave_all(connection, changes, rows).await?;
    if (ids.len() as i64) < most {
        connection.execute(ALL_CANCELLED, args![parent]).await?;
    }
    Ok(ids.len() as i64)
}

pub(super) async fn records(
    connection: &Connection,
    parent: TaskId,
    names: Option<&[&str]>,
    results: bool,
) -> Result<Vec<ChildRecord>, DbError> {
    let wanted = names.unwrap_or_default().to_vec();
    let rows = connection.query(RECORDS, args![parent.0, names.is_none(), wanted, results]).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<ChildRecord, DbError> {
    Ok(ChildRecord {
        name: get(row, 0)?,
        id: get(row, 1)?,
        fleet: get(row, 2)?,
        state: get(row, 3)?,
        detach: row.try_get(4)?,
        created_at: get(row, 5)?,
        finished_at: get_option(row, 6)?,
        failure: get_option(row, 7)?,
        result: get_option(row, 8)?,
    })
}

/// The children of these tasks as their waits see them.
pub(super) async fn seen(
    connection: &Connection,
    parents: Vec<Uuid>,
) -> Result<HashMap<TaskId, Vec<ChildSeen>>, DbError> {
    let mut seen: HashMap<TaskId, Vec<ChildSeen>> = HashMap::new();
    if parents.is_empty() {
        return Ok(seen);
    }
    for row in &connection.query(SEEN, args![parents]).await? {
        let child = ChildSeen { name: get(row, 1)?, ended_at: get_option(row, 2)? };
        seen.entry(get(row, 0)?).or_default().push(child);
    }
    Ok(seen)
}

/// A parent that waits, and those of its children that end now.
struct Waiting {
    wait: Wait,
    ended: Vec<TaskId>,
}

/// Lets parents go on that waited for what has ended among these rows, which are not saved yet. A parent may be one of them.
pub(super) async fn tell_parents(
    connection: &Connection,
    changes: &mut Changes,
    mut rows: Vec<&mut Live>,
) -> Result<(), DbError> {
    if !rows.iter().any(|row| row.parent.is_some() && row.state.is_terminal()) {
        return Ok(());
    }
    let here: HashMap<TaskId, usize> = rows.iter().enumerate().map(|(at, row)| (row.id, at)).collect();
    let mut parents = std::mem::take(&mut changes.parents);
    let mut waiting: BTreeMap<TaskId, Waiting> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.state.is_terminal()) {
        let Some(id) = row.parent else { continue };
        let parent = here.get(&id).map(|at| &*rows[*at]).or_else(|| parents.get(&id));
        if let Some(wait @ Wait::Children { .. }) = parent.and_then(|parent| parent.wait.as_ref()) {
            let begin = || Waiting { wait: wait.clone(), ended: Vec::new() };
            waiting.entry(id).or_insert_with(begin).ended.push(row.id);
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let gone: Vec<Uuid> = rows.iter().filter(|row| row.state.is_terminal()).map(|row| row.uuid()).collect();
    for id in woken(connection, &waiting, &gone).await? {
        match here.get(&id) {
            Some(at) => ending::requeue(changes, rows[*at], (Hold::Ready, None), false),
            None => {
                let Some(mut row) = parents.remove(&id) else { continue };
                ending::requeue(changes, &mut row, (Hold::Ready, None), false);
                changes.save(row, None);
            }
        }
    }
    Ok(())
}

/// Which of them go on.
async fn woken(
    connection: &Connection,
    waiting: &BTreeMap<TaskId, Waiting>,
    gone: &[Uuid],
) -> Result<Vec<TaskId>, DbError> {
    connection.ready(&[NAMES, LEFT]).await?;
    let names = names(connection, waiting).await?;
    let mut woken = Vec::with_capacity(waiting.len());
    let mut asked = Vec::new();
    for (id, Waiting { wait, ended }) in waiting {
        let means = |child: &TaskId| wait::child_ended(wait, names.get(child).map_or("", String::as_str));
        if ended.iter().any(|child| means(child) == ChildEnded::Resume) {
            woken.push(*id);
        } else if ended.iter().any(|child| means(child) == ChildEnded::ResumeIfLast) {
            asked.push(async move { Ok::<_, DbError>((*id, any_left(connection, *id, wait, gone).await?)) });
        }
    }
    let asked = futures_util::future::try_join_all(asked).await?;
    woken.extend(asked.into_iter().filter(|(_, left)| !left).map(|(id, _)| id));
    Ok(woken)
}

async fn names(
    connection: &Connection,
    waiting: &BTreeMap<TaskId, Waiting>,
) -> Result<HashMap<TaskId, String>, DbError> {
    let pairs = || waiting.iter().flat_map(|(id, it)| it.ended.iter().map(move |child| (id.0, child.0)));
    let (parents, children): (Vec<Uuid>, Vec<Uuid>) = pairs().unzip();
    let rows = connection.query(NAMES, args![parents, children]).await?;
    rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect()
}

/// Whether a child that is waited for has not ended.
async fn any_left(
    connection: &Connection,
    parent: TaskId,
    wait: &Wait,
    gone: &[Uuid],
) -> Result<bool, DbError> {
    let Wait::Children { of, .. } = wait else { return Ok(false) };
    let (gone, of): (Vec<Uuid>, Vec<&str>) = (gone.to_vec(), of.iter().map(String::as_str).collect());
    let row = connection.query_one(LEFT, args![parent.0, gone, of.is_empty(), of]).await?;
    Ok(row.try_get(0)?)
}
