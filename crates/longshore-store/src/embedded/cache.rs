//! The cache that the agents of a fleet share. Nothing in it is needed: it is neither synced nor kept beyond its limits.

use std::time::Duration;

use longshore_core::cache::{excess, weight};
use longshore_core::id::FleetName;
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};

use super::Embedded;
use super::column::{count, get, int};
use super::writer::Write;
use crate::error::StoreError;
use crate::model::{Cached, NewCached};

impl Embedded {
    pub(crate) async fn cache_get(
        &self,
        fleet: FleetName,
        key: String,
        now: Timestamp,
    ) -> Result<Option<Cached>, StoreError> {
        self.read(move |connection| {
            let select = "SELECT kind, value FROM cache WHERE fleet = ?1 AND key = ?2 AND expires_at > ?3";
            let found =
                connection.prepare_cached(select)?.query_row(params![fleet.as_str(), key, now.0], |row| {
                    Ok(Cached { kind: row.get(0)?, value: row.get(1)? })
                });
            Ok(found.optional()?)
        })
        .await
    }

    pub(crate) async fn cache_put(&self, entry: NewCached, now: Timestamp) -> Result<(), StoreError> {
        self.write_soon(move |write| Ok(put(write, &entry, now)?)).await
    }

    pub(crate) async fn cache_delete(
        &self,
        fleet: FleetName,
        key: String,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.write_soon(move |write| Ok(delete(write, &fleet, &key)?.is_some_and(|until| until > now))).await
    }
}

fn put(write: &mut Write<'_>, it: &NewCached, now: Timestamp) -> rusqlite::Result<()> {
    delete(write, &it.fleet, &it.key)?;
    let weight = int(weight(&it.key, it.cached.value.len()));
    let until = now.after(Duration::from_millis(it.ttl_ms));
    write
        .connection
        .prepare_cached(
            "INSERT INTO cache (fleet, key, kind, value, weight, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![it.fleet.as_str(), it.key, it.cached.kind, it.cached.value, weight, until.0])?;
    add(write, it.fleet.as_str(), weight)?;
    make_room(write, &it.fleet, &it.key)
}

/// Returns until when the entry was good.
fn delete(write: &Write<'_>, fleet: &FleetName, key: &str) -> rusqlite::Result<Option<Timestamp>> {
    let gone: Option<(i64, Timestamp)> = write
        .connection
        .prepare_cached("DELETE FROM cache WHERE fleet = ?1 AND key = ?2 RETURNING weight, expires_at")?
        .query_row([fleet.as_str(), key], |row| Ok((row.get(0)?, get(row, 1)?)))
        .optional()?;
    let Some((weight, until)) = gone else { return Ok(None) };
    add(write, fleet.as_str(), -weight)?;
    Ok(Some(until))
}

fn add(write: &Write<'_>, fleet: &str, weight: i64) -> rusqlite::Result<()> {
    // An upsert would check the new row's constraint before it looks for the old one.
    let row = "INSERT OR IGNORE INTO cache_total (fleet, weight) VALUES (?1, 0)";
    write.connection.prepare_cached(row)?.execute([fleet])?;
    let add = "UPDATE cache_total SET weight = weight + ?2 WHERE fleet = ?1";
    write.connection.prepare_cached(add)?.execute(params![fleet, weight]).map(drop)
}

/// What expires soonest goes first, the expired before all, and what was just put not at all.
fn make_room(write: &Write<'_>, fleet: &FleetName, kept: &str) -> rusqlite::Result<()> {
    let total: u64 = write
        .connection
        .prepare_cached("SELECT weight FROM cache_total WHERE fleet = ?1")?
        .query_row([fleet.as_str()], |row| count(row, 0))?;
    let mut excess = int(excess(total));
    while excess > 0 {
        let gone: Option<i64> = write
            .connection
            .prepare_cached(
                "DELETE FROM cache WHERE rowid = (SELECT rowid FROM cache WHERE fleet = ?1 AND key != ?2
                    ORDER BY expires_at LIMIT 1)
                 RETURNING weight",
            )?
            .query_row([fleet.as_str(), kept], |row| row.get(0))
            .optional()?;
        let Some(gone) = gone else { break };
        add(write, fleet.as_str(), -gone)?;
        excess -= gone;
    }
    Ok(())
}

/// Forgets what has expired, at most `most` entries.
pub(super) fn expire(write: &mut Write<'_>, most: usize, now: Timestamp) -> rusqlite::Result<()> {
    let gone: Vec<(String, i64)> = write
        .connection
        .prepare_cached(
            "DELETE FROM cache WHERE rowid IN (SELECT rowid FROM cache WHERE expires_at <= ?1 LIMIT ?2)
             RETURNING fleet, weight",
        )?
        .query_map(params![now.0, most as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    gone.iter().try_for_each(|(fleet, weight)| add(write, fleet, -weight))
}
