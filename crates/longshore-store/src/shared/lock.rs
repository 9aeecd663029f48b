//! Locks tasks that are going to move: their conversations first, and with them the parents that may wait for them.

use std::collections::{HashMap, HashSet};

use longshore_core::id::TaskId;
use uuid::Uuid;

use super::changes::Changes;
use super::connection::Connection;
use super::fault::DbError;
use super::live::{Live, live_columns};
use super::sql::args;

/// Conversations before tasks, and each in order: no two transactions wait crosswise.
pub(super) const CONVERSATIONS: &str = "SELECT 1 FROM @conversation WHERE id IN
        (SELECT conversation FROM @live WHERE id = ANY($1) AND conversation IS NOT NULL)
     ORDER BY id FOR NO KEY UPDATE";

/// With the parents of tasks that have one, which may wait for them. The condition is that of the index, word for word.
pub(super) const TASKS: &str = concat!(
    "SELECT ",
    live_columns!(),
    " FROM @live AS live WHERE id = ANY($1 || ARRAY(
        SELECT child.parent FROM @live AS child WHERE child.id = ANY($1) AND (child.parent IS NULL) IS FALSE))
     ORDER BY id FOR UPDATE"
);

const ONLY: &str =
    concat!("SELECT ", live_columns!(), " FROM @live AS live WHERE id = ANY($1) ORDER BY id FOR UPDATE");

/// Tasks by their ids, locked, with the conversations that they belong to; their parents are kept for when they end.
pub(super) async fn tasks(
    connection: &Connection,
    changes: &mut Changes,
    ids: &[Uuid],
) -> Result<HashMap<TaskId, Live>, DbError> {
    let mut rows = by(connection, TASKS, ids).await?;
    if rows.values().any(|row| row.parent.is_some()) {
        let asked: HashSet<&Uuid> = ids.iter().collect();
        changes.parents.extend(rows.extract_if(|_, row| !asked.contains(&row.id.0)));
    }
    Ok(rows)
}

/// The same for tasks that do not end here: their parents are left alone.
pub(super) async fn tasks_only(
    connection: &Connection,
    ids: &[Uuid],
) -> Result<HashMap<TaskId, Live>, DbError> {
    by(connection, ONLY, ids).await
}

async fn by(
    connection: &Connection,
    lock: &'static str,
    ids: &[Uuid],
) -> Result<HashMap<TaskId, Live>, DbError> {
    let ids = ids.to_vec();
    let (_, rows) =
        futures_util::try_join!(async { connection.query(CONVERSATIONS, args![ids]).await }, async {
            connection.query(lock, args![ids]).await
        },)?;
    rows.iter().map(|row| Live::read(row).map(|row| (row.id, row))).collect()
}
