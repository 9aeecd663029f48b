//! Contents by their hash, each stored once per task.

use longshore_core::id::TaskId;
use tokio_postgres::Row;

use super::{KeyColumns, columns};
use crate::model::{CallKey, Hash, Packed, StoredAnswer};
use crate::shared::column::{bytes, count, get};
use crate::shared::connection::Connection;
use crate::shared::fault::DbError;
use crate::shared::sql::args;

const KEEP: &str = "INSERT INTO @journal_blob (task, hash, deflated, size, data)
     SELECT $1, * FROM unnest($2::bytea[], $3::boolean[], $4::bigint[], $5::bytea[]) ON CONFLICT DO NOTHING";

const LOAD: &str = "SELECT hash, deflated, size, data FROM @journal_blob WHERE task = $1 AND hash = $2";

const ANSWER: &str = "SELECT status, headers, hash, deflated, size, data
     FROM @journal_entry AS e JOIN @journal_blob AS b ON b.task = e.task AND b.hash = e.body
     WHERE e.task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4";

pub(super) async fn keep(connection: &Connection, task: TaskId, contents: &[Packed]) -> Result<(), DbError> {
    if contents.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = contents.iter().map(|it| &it.hash[..]).collect();
    let deflated: Vec<bool> = contents.iter().map(|it| it.deflated).collect();
    let sizes: Vec<i64> = contents.iter().map(|it| it.size as i64).collect();
    let data: Vec<&[u8]> = contents.iter().map(|it| it.data.as_slice()).collect();
    connection.execute(KEEP, args![task.0, hashes, deflated, sizes, data]).await.map(drop)
}

pub(super) async fn load(connection: &Connection, task: TaskId, hash: &Hash) -> Result<Packed, DbError> {
    packed(&connection.query_one(LOAD, args![task.0, &hash[..]]).await?, 0)
}

pub(super) fn packed(row: &Row, at: usize) -> Result<Packed, DbError> {
    Ok(Packed {
        hash: bytes(row, at)?,
        deflated: row.try_get(at + 1)?,
        size: count(row, at + 2)?,
        data: row.try_get(at + 3)?,
    })
}

/// The answer of an entry that has one.
pub(super) async fn answer(connection: &Connection, key: &CallKey) -> Result<StoredAnswer, DbError> {
    let KeyColumns { task, generation, digest, occurrence } = columns(key);
    let row = connection.query_one(ANSWER, args![task, generation, digest.as_slice(), occurrence]).await?;
    Ok(StoredAnswer { status: count(&row, 0)?, headers: get(&row, 1)?, body: packed(&row, 2)? })
}
