//! Canonical requests: what a growing history adds is stored, the rest is there already.

use std::collections::HashSet;

use longshore_core::id::TaskId;
use tokio_postgres::Row;

use super::content;
use crate::error::StoreError;
use crate::model::{Digest, Hash, NewRequest, Packed};
use crate::shared::Shared;
use crate::shared::column::{bytes, get_option};
use crate::shared::connection::Connection;
use crate::shared::fault::DbError;
use crate::shared::sql::args;

const KNOWN: &str = "SELECT 1 FROM @journal_request WHERE task = $1 AND digest = $2";
const BLOBS: &str = "SELECT hash FROM @journal_blob WHERE task = $1 AND hash = ANY($2)";
const LINKS: &str = "SELECT hash FROM @journal_link WHERE task = $1 AND hash = ANY($2)";

const ADD_LINKS: &str = "INSERT INTO @journal_link (task, hash, prev, blob)
     SELECT $1, * FROM unnest($2::bytea[], $3::bytea[], $4::bytea[]) ON CONFLICT DO NOTHING";
const ADD: &str = "INSERT INTO @journal_request (task, digest, head, field, link) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT DO NOTHING";

/// The whole chain in one statement, its first item first.
const CHAIN: &str = "WITH RECURSIVE chain (prev, blob, n) AS (
        SELECT prev, blob, 0 FROM @journal_link WHERE task = $1 AND hash = $2
        UNION ALL
        SELECT l.prev, l.blob, n + 1 FROM chain JOIN @journal_link AS l ON l.task = $1 AND l.hash = chain.prev)
     SELECT b.hash, b.deflated, b.size, b.data FROM chain JOIN @journal_blob AS b ON b.task = $1 AND b.hash = chain.blob
     ORDER BY n DESC";
const FIND: &str = "SELECT head, field, link FROM @journal_request WHERE task = $1 AND digest = $2";

pub(super) const STATEMENTS: &[&str] = &[KNOWN, BLOBS, LINKS];

/// What of a request is not stored yet.
pub(super) struct Missing {
    whole: bool,
    blobs: HashSet<Hash>,
    links: HashSet<Hash>,
}

pub(super) async fn missing(
    connection: &Connection,
    task: TaskId,
    request: &NewRequest,
) -> Result<Missing, DbError> {
    let blobs: HashSet<Hash> =
        request.links.iter().map(|(_, blob)| *blob).chain([request.head_hash]).collect();
    let links: HashSet<Hash> = request.links.iter().map(|(link, _)| *link).collect();
    let of = |hashes: &HashSet<Hash>| hashes.iter().map(|hash| hash.to_vec()).collect::<Vec<_>>();
    let (blob_hashes, link_hashes) = (of(&blobs), of(&links));
    let blob_hashes: Vec<&[u8]> = blob_hashes.iter().map(Vec::as_slice).collect();
    let link_hashes: Vec<&[u8]> = link_hashes.iter().map(Vec::as_slice).collect();
    let (known, have_blobs, have_links) = futures_util::try_join!(
        async { connection.query_opt(KNOWN, args![task.0, &request.digest[..]]).await },
        async { connection.query(BLOBS, args![task.0, blob_hashes]).await },
        async { connection.query(LINKS, args![task.0, link_hashes]).await },
    )?;
    let without = |all: HashSet<Hash>, rows: &[Row]| -> Result<HashSet<Hash>, DbError> {
        let have = rows.iter().map(|row| bytes(row, 0)).collect::<Result<HashSet<Hash>, _>>()?;
        Ok(all.difference(&have).copied().collect())
    };
    Ok(Missing {
        whole: known.is_none(),
        blobs: without(blobs, &have_blobs)?,
        links: without(links, &have_links)?,
    })
}

pub(super) async fn store(
    connection: &Connection,
    task: TaskId,
    request: &NewRequest,
    missing: &Missing,
) -> Result<(), DbError> {
    if !missing.whole {
        return Ok(());
    }
    content::keep(connection, task, &new_contents(request, missing)).await?;
    add_links(connection, task, request, missing).await?;
    let link = request.links.last().map(|(link, _)| &link[..]);
    let (digest, head) = (&request.digest[..], &request.head_hash[..]);
    connection.execute(ADD, args![task.0, digest, head, request.field, link]).await.map(drop)
}

fn new_contents(request: &NewRequest, missing: &Missing) -> Vec<Packed> {
    let mut wanted = missing.blobs.clone();
    let mut contents = Vec::new();
    if wanted.remove(&request.head_hash) {
        contents.push(Packed::new(request.head.as_bytes()));
    }
    for (item, (_, blob)) in request.items.iter().zip(&request.links) {
        if wanted.remove(blob) {
            contents.push(Packed::new(item.as_bytes()));
        }
    }
    contents
}

async fn add_links(
    connection: &Connection,
    task: TaskId,
    request: &NewRequest,
    missing: &Missing,
) -> Result<(), DbError> {
    let (mut hashes, mut prevs, mut blobs) = (Vec::new(), Vec::new(), Vec::<&[u8]>::new());
    let mut prev: Option<&[u8]> = None;
    for (link, blob) in &request.links {
        if missing.links.contains(link) {
            hashes.push(&link[..]);
            prevs.push(prev);
            blobs.push(blob);
        }
        prev = Some(link);
    }
    if hashes.is_empty() {
        return Ok(());
    }
    connection.execute(ADD_LINKS, args![task.0, hashes, prevs, blobs]).await.map(drop)
}

type Parts = (String, Option<String>, Vec<String>);

impl Shared {
    /// A request of a task as its head, its list's name and its list.
    pub(crate) async fn call_request(
        &self,
        task: TaskId,
        digest: Digest,
    ) -> Result<Option<Parts>, StoreError> {
        Ok(self.core().run(async |it| load(&it, task, &digest).await).await?)
    }
}

async fn load(connection: &Connection, task: TaskId, digest: &Digest) -> Result<Option<Parts>, DbError> {
    let Some(row) = connection.query_opt(FIND, args![task.0, &digest[..]]).await? else { return Ok(None) };
    let head: Hash = bytes(&row, 0)?;
    let (field, link): (Option<String>, Option<Vec<u8>>) = (get_option(&row, 1)?, row.try_get(2)?);
    let head = text(content::load(connection, task, &head).await?)?;
    let mut items = Vec::new();
    if let Some(link) = link {
        for row in connection.query(CHAIN, args![task.0, link.as_slice()]).await? {
            items.push(text(content::packed(&row, 0)?)?);
        }
    }
    Ok(Some((head, field, items)))
}

fn text(content: Packed) -> Result<String, DbError> {
    let bytes = content.unpack().map_err(|error| DbError::Text(Box::new(error)))?;
    String::from_utf8(bytes).map_err(|error| DbError::Text(Box::new(error)))
}
