//! Canonical requests: what a growing history adds is stored, the rest is there already.

use rusqlite::{Connection, OptionalExtension, params};

use super::content;
use crate::embedded::Embedded;
use crate::embedded::column::id;
use crate::embedded::fault;
use crate::embedded::writer::Write;
use crate::error::StoreError;
use crate::model::{Digest, Hash, NewRequest, Packed};
use longshore_core::id::TaskId;

/// A request's parts as they were given to [`store`].
pub struct RequestParts {
    pub head: String,
    pub field: Option<String>,
    pub items: Vec<String>,
}

impl Embedded {
    /// A request of a task as its head, its list's name and its list.
    pub(crate) async fn call_request(
        &self,
        task: TaskId,
        digest: Digest,
    ) -> Result<Option<(String, Option<String>, Vec<String>)>, StoreError> {
        self.read(move |connection| {
            let ord: Option<i64> = connection
                .prepare_cached("SELECT ord FROM task WHERE id = ?1")?
                .query_row([id(&task)], |row| row.get(0))
                .optional()?;
            let Some(ord) = ord else { return Ok(None) };
            let parts = load(connection, ord, &digest)?;
            Ok(parts.map(|parts| (parts.head, parts.field, parts.items)))
        })
        .await
    }
}

pub(super) fn store(write: &Write<'_>, ord: i64, request: &NewRequest) -> rusqlite::Result<()> {
    let known = write
        .connection
        .prepare_cached("SELECT 1 FROM journal_request WHERE ord = ?1 AND digest = ?2")?
        .exists(params![ord, request.digest])?;
    if known {
        return Ok(());
    }
    // Mostly the same from call to call, and it may hold large tools: not packed anew to find that out.
    if !content::has(write, ord, &request.head_hash)? {
        content::keep(write, ord, &Packed::new(request.head.as_bytes()))?;
    }
    add_links(write, ord, request)?;
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal_request (ord, digest, head, field, link) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            ord,
            request.digest,
            request.head_hash,
            request.field,
            request.links.last().map(|(link, _)| link)
        ])
        .map(drop)
}

/// From the end backwards until something is known: all before it is known as well.
fn add_links(write: &Write<'_>, ord: i64, request: &NewRequest) -> rusqlite::Result<()> {
    let mut first_new = request.links.len();
    while first_new > 0 && !has_link(write, ord, &request.links[first_new - 1].0)? {
        first_new -= 1;
    }
    let mut prev: Option<Hash> = first_new.checked_sub(1).map(|before| request.links[before].0);
    for (item, (link, blob)) in request.items.iter().zip(&request.links).skip(first_new) {
        if !content::has(write, ord, blob)? {
            content::keep(write, ord, &Packed::new(item.as_bytes()))?;
        }
        write
            .connection
            .prepare_cached("INSERT INTO journal_link (ord, hash, prev, blob) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![ord, link, prev, blob])?;
        prev = Some(*link);
    }
    Ok(())
}

fn has_link(write: &Write<'_>, ord: i64, hash: &Hash) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached("SELECT 1 FROM journal_link WHERE ord = ?1 AND hash = ?2")?
        .exists(params![ord, hash])
}

fn load(connection: &Connection, ord: i64, digest: &Digest) -> Result<Option<RequestParts>, StoreError> {
    let found: Option<(Hash, Option<String>, Option<Hash>)> = connection
        .prepare_cached("SELECT head, field, link FROM journal_request WHERE ord = ?1 AND digest = ?2")?
        .query_row(params![ord, digest], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((head, field, mut link)) = found else { return Ok(None) };
    let mut items = Vec::new();
    while let Some(at) = link {
        let (prev, blob): (Option<Hash>, Hash) = connection
            .prepare_cached("SELECT prev, blob FROM journal_link WHERE ord = ?1 AND hash = ?2")?
            .query_row(params![ord, at], |row| Ok((row.get(0)?, row.get(1)?)))?;
        items.push(text(content::load(connection, ord, &blob)?)?);
        link = prev;
    }
    items.reverse();
    Ok(Some(RequestParts { head: text(content::load(connection, ord, &head)?)?, field, items }))
}

fn text(content: Packed) -> Result<String, StoreError> {
    let broken = |error: String| fault::internal("unpacked a request", error);
    let bytes = content.unpack().map_err(|error| broken(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| broken(error.to_string()))
}
