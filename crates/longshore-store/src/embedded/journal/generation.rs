//! What the end of an attempt means for its journal: how it followed those before it, and the next generation.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::id::Fence;
use longshore_core::journal::{AskState, Divergence, Span, inherits, tainted};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde_json::json;

use super::{digest, key_params};
use crate::embedded::column::{count, get, int};
use crate::embedded::lease::Lease;
use crate::embedded::task_row::TaskRow;
use crate::embedded::usage;
use crate::embedded::writer::Write;
use crate::model::{CallKey, Digest};

/// Whether the attempt got an answer that was not there before: progress, as an event is.
pub(in crate::embedded) fn progressed(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<bool> {
    write
        .connection
        .prepare_cached(
            "SELECT 1 FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND live AND state = 'delivered'",
        )?
        .exists(params![ord, int(fence.0)])
}

/// What an attempt has paid for, in billionths.
pub(in crate::embedded) fn bought_by(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<u64> {
    if generation(write, ord)?.is_none() {
        return Ok(0);
    }
    write
        .connection
        .prepare_cached(
            "SELECT coalesce(sum(cost_nano), 0) FROM journal_ask AS a JOIN journal_entry AS e ON e.ord = a.ord
                AND e.generation = a.generation AND e.digest = a.digest AND e.occurrence = a.occurrence
             WHERE a.ord = ?1 AND a.fence = ?2 AND a.live",
        )?
        .query_row(params![ord, int(fence.0)], |row| count(row, 0))
}

/// An attempt ends, however: an attempt after the first is compared with those before it.
pub(in crate::embedded) fn attempt_ends(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    lease: &Lease,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let Some(generation) = generation(write, lease.ord)?.filter(|_| lease.attempt > 1) else {
        return Ok(());
    };
    let counts = divergence(write, lease.ord, generation, lease.fence)?;
    usage::followed(write, &row.fleet, counts)?;
    if !counts.diverged() {
        return Ok(());
    }
    write
        .connection
        .prepare_cached("UPDATE journal SET bought_again = bought_again + ?2 WHERE ord = ?1")?
        .execute(params![lease.ord, counts.bought_again()])?;
    let data = json!({
        "attempt": lease.attempt, "replayed": counts.replayed, "unasked": counts.unasked, "live": counts.live,
        "bought_again": counts.bought_again(),
    });
    row.event(write, "diverged", &Json::of(&data), now)
}

fn generation(write: &Write<'_>, ord: i64) -> rusqlite::Result<Option<u32>> {
    write
        .connection
        .prepare_cached("SELECT generation FROM journal WHERE ord = ?1")?
        .query_row([ord], |row| count(row, 0))
        .optional()
}

type Call = (Digest, u32);

fn divergence(write: &Write<'_>, ord: i64, generation: u32, fence: Fence) -> rusqlite::Result<Divergence> {
    let there = calls(
        write,
        "SELECT digest, occurrence FROM journal_ask
         WHERE ord = ?1 AND generation = ?2 AND fence < ?3 AND state = 'delivered'
         UNION SELECT digest, occurrence FROM journal_entry WHERE ord = ?1 AND generation = ?2 AND inherited",
        params![ord, generation, int(fence.0)],
    )?;
    let asked = calls(
        write,
        "SELECT digest, occurrence FROM journal_ask WHERE ord = ?1 AND fence = ?2",
        params![ord, int(fence.0)],
    )?;
    let live: u32 = write
        .connection
        .prepare_cached("SELECT count(*) FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND live")?
        .query_row(params![ord, int(fence.0)], |row| count(row, 0))?;
    let replayed = there.intersection(&asked).count() as u32;
    Ok(Divergence { replayed, unasked: there.len() as u32 - replayed, live })
}

fn calls(
    write: &Write<'_>,
    select: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> rusqlite::Result<BTreeSet<Call>> {
    let mut select = write.connection.prepare_cached(select)?;
    select.query_map(parameters, |row| Ok((digest(row, 0)?, count(row, 1)?)))?.collect()
}

/// A failed attempt begins a new generation, with what it may inherit.
pub(in crate::embedded) fn attempt_failed(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<()> {
    let next: Option<u32> = write
        .connection
        .prepare_cached("UPDATE journal SET generation = generation + 1 WHERE ord = ?1 RETURNING generation")?
        .query_row([ord], |row| count(row, 0))
        .optional()?;
    let Some(next) = next.filter(|next| inherits(*next)) else { return Ok(()) };
    inherit(write, ord, next)?;
    for (digest, occurrence) in bad(write, ord, fence)? {
        let key = CallKey {
            task: longshore_core::id::TaskId(uuid::Uuid::nil()),
            ord,
            generation: next,
            digest,
            occurrence,
        };
        write
            .connection
            .prepare_cached(
                "DELETE FROM journal_entry WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
            )?
            .execute(key_params!(key))?;
    }
    Ok(())
}

/// A task goes back to an older release, which asks in its own way: it begins a new generation that inherits nothing.
pub(in crate::embedded) fn next_generation(write: &Write<'_>, ord: i64) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached("UPDATE journal SET generation = generation + 1 WHERE ord = ?1")?
        .execute([ord])
        .map(drop)
}

fn inherit(write: &Write<'_>, ord: i64, next: u32) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO journal_entry (ord, generation, digest, occurrence, begun, fence, inherited, provider, path, model,
                begun_at, answered_at, status, headers, body, input, cached, output, cost_nano, currency, waited_ms,
                first_ms, total_ms)
             SELECT ord, ?2, digest, occurrence, begun, fence, 1, provider, path, model, begun_at, answered_at, status,
                headers, body, input, cached, output, cost_nano, currency, waited_ms, first_ms, total_ms
             FROM journal_entry WHERE ord = ?1 AND generation = ?2 - 1 AND status IS NOT NULL",
        )?
        .execute(params![ord, next])
        .map(drop)
}

/// What the attempt may have failed on.
fn bad(write: &Write<'_>, ord: i64, fence: Fence) -> rusqlite::Result<Vec<Call>> {
    let mut select = write.connection.prepare_cached(
        "SELECT begun, ended, state, digest, occurrence FROM journal_ask WHERE ord = ?1 AND fence = ?2 ORDER BY begun",
    )?;
    let rows = select.query_map(params![ord, int(fence.0)], |row| {
        let state: AskState = get(row, 2)?;
        let delivered = state == AskState::Delivered;
        let span = Span { begun: count(row, 0)?, ended: count(row, 1)?, delivered };
        Ok((span, (digest(row, 3)?, count(row, 4)?)))
    })?;
    let asks: Vec<(Span, Call)> = rows.collect::<Result<_, _>>()?;
    let spans: Vec<Span> = asks.iter().map(|(span, _)| *span).collect();
    let bad = asks.iter().zip(tainted(&spans)).filter(|(_, bad)| *bad).map(|((_, call), _)| (*call, ()));
    Ok(bad.collect::<BTreeMap<_, _>>().into_keys().collect())
}
