//! Contents by their hash, each stored once per task.

use rusqlite::{Connection, Row, params};

use super::key_params;
use crate::embedded::column::{count, get};
use crate::embedded::writer::Write;
use crate::model::{CallKey, Hash, Packed, StoredAnswer};

pub(super) fn keep(write: &Write<'_>, ord: i64, content: &Packed) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT OR IGNORE INTO journal_blob (ord, hash, codec, size, data) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![ord, content.hash, content.deflated, content.size as i64, content.data])
        .map(drop)
}

pub(super) fn has(write: &Write<'_>, ord: i64, hash: &Hash) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached("SELECT 1 FROM journal_blob WHERE ord = ?1 AND hash = ?2")?
        .exists(params![ord, hash])
}

pub(super) fn load(connection: &Connection, ord: i64, hash: &Hash) -> rusqlite::Result<Packed> {
    connection
        .prepare_cached("SELECT hash, codec, size, data FROM journal_blob WHERE ord = ?1 AND hash = ?2")?
        .query_row(params![ord, hash], |row| packed(row, 0))
}

fn packed(row: &Row<'_>, at: usize) -> rusqlite::Result<Packed> {
    Ok(Packed {
        hash: row.get(at)?,
        deflated: row.get(at + 1)?,
        size: count(row, at + 2)?,
        data: row.get(at + 3)?,
    })
}

/// The answer of an entry that has one.
pub(super) fn answer(connection: &Connection, key: &CallKey) -> rusqlite::Result<StoredAnswer> {
    connection
        .prepare_cached(
            "SELECT status, headers, hash, codec, size, data
             FROM journal_entry JOIN journal_blob ON journal_blob.ord = journal_entry.ord AND hash = body
             WHERE journal_entry.ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
        )?
        .query_row(key_params!(key), |row| {
            Ok(StoredAnswer { status: row.get(0)?, headers: get(row, 1)?, body: packed(row, 2)? })
        })
}
