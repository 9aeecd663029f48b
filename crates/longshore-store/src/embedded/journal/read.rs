//! The journal as people see it.

use longshore_core::id::{Fence, TaskId};
use longshore_core::journal::Divergence;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::digest;
use crate::embedded::Embedded;
use crate::embedded::column::{count, get, get_option, id};
use crate::embedded::step;
use crate::error::StoreError;
use crate::model::{AskRecord, CallCounts, CallRecord, DivergenceRecord, JournalRecord, Used};

impl Embedded {
    /// `None`: the task is not known.
    pub(crate) async fn journal(&self, task: TaskId) -> Result<Option<JournalRecord>, StoreError> {
        self.read(move |connection| {
            let Some(ord) = ord_of(connection, task)? else { return Ok(None) };
            Ok(Some(whole(connection, ord)?))
        })
        .await
    }

    /// A task's calls in numbers; all zero for one that made none.
    pub(crate) async fn call_counts(&self, task: TaskId) -> Result<CallCounts, StoreError> {
        self.read(move |connection| {
            let Some(ord) = ord_of(connection, task)? else { return Ok(CallCounts::default()) };
            Ok(counts(connection, ord)?)
        })
        .await
    }

    /// Attempts that went another way than the one before, in order.
    pub(crate) async fn divergences(&self, task: TaskId) -> Result<Vec<DivergenceRecord>, StoreError> {
        self.read(move |connection| {
            let Some(ord) = ord_of(connection, task)? else { return Ok(Vec::new()) };
            Ok(divergences(connection, ord)?)
        })
        .await
    }
}

fn ord_of(connection: &Connection, task: TaskId) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT ord FROM task WHERE id = ?1")?
        .query_row([id(&task)], |row| row.get(0))
        .optional()
}

fn whole(connection: &Connection, ord: i64) -> rusqlite::Result<JournalRecord> {
    let (generation, passed, bought_again) = connection
        .prepare_cached("SELECT generation, passed, bought_again FROM journal WHERE ord = ?1")?
        .query_row([ord], |row| Ok((count(row, 0)?, count(row, 1)?, count(row, 2)?)))
        .optional()?
        .unwrap_or_default();
    let stored_bytes = connection
        .prepare_cached(
            "SELECT coalesce((SELECT sum(length(data) + 16) FROM journal_blob WHERE ord = ?1), 0)
                + 48 * (SELECT count(*) FROM journal_link WHERE ord = ?1)",
        )?
        .query_row([ord], |row| count(row, 0))?;
    Ok(JournalRecord {
        generation,
        passed,
        bought_again,
        calls: calls(connection, ord)?,
        asks: asks(connection, ord)?,
        steps: step::all(connection, ord)?,
        stored_bytes,
    })
}

fn calls(connection: &Connection, ord: i64) -> rusqlite::Result<Vec<CallRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT generation, digest, occurrence, begun, provider, path, model, begun_at, answered_at, status,
            owner IS NOT NULL, maybe_billed, inherited, input, cached, output, cost_nano, currency, waited_ms, first_ms,
            total_ms, (SELECT size FROM journal_blob WHERE journal_blob.ord = journal_entry.ord AND hash = body)
         FROM journal_entry WHERE ord = ?1 ORDER BY generation, begun",
    )?;
    select.query_map([ord], call)?.collect()
}

fn call(row: &Row<'_>) -> rusqlite::Result<CallRecord> {
    let number = |at: usize| -> rusqlite::Result<Option<u64>> {
        Ok(row.get::<_, Option<i64>>(at)?.map(|value| u64::try_from(value).unwrap_or_default()))
    };
    let used = match (number(13)?, number(14)?, number(15)?) {
        (Some(input), Some(cached), Some(output)) => Some(Used { input, cached, output }),
        _ => None,
    };
    Ok(CallRecord {
        generation: count(row, 0)?,
        digest: digest(row, 1)?,
        occurrence: count(row, 2)?,
        begun: count(row, 3)?,
        provider: row.get(4)?,
        path: row.get(5)?,
        model: row.get(6)?,
        begun_at: get(row, 7)?,
        answered_at: get_option(row, 8)?,
        status: row.get(9)?,
        open: row.get(10)?,
        maybe_billed: count(row, 11)?,
        inherited: row.get(12)?,
        used,
        cost_nano: number(16)?,
        currency: row.get(17)?,
        waited_ms: number(18)?,
        first_ms: number(19)?,
        total_ms: number(20)?,
        size: number(21)?,
    })
}

fn asks(connection: &Connection, ord: i64) -> rusqlite::Result<Vec<AskRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT fence, generation, digest, occurrence, begun, state, live, at FROM journal_ask WHERE ord = ?1
         ORDER BY begun",
    )?;
    let rows = select.query_map([ord], |row| {
        Ok(AskRecord {
            fence: get(row, 0)?,
            generation: count(row, 1)?,
            digest: digest(row, 2)?,
            occurrence: count(row, 3)?,
            begun: count(row, 4)?,
            state: get(row, 5)?,
            live: row.get(6)?,
            at: get::<Timestamp>(row, 7)?,
        })
    })?;
    rows.collect()
}

fn counts(connection: &Connection, ord: i64) -> rusqlite::Result<CallCounts> {
    let mut counts = connection
        .prepare_cached(
            "SELECT count(status) FILTER (WHERE NOT inherited), coalesce(sum(maybe_billed), 0),
                coalesce(sum(input) FILTER (WHERE NOT inherited), 0),
                coalesce(sum(cached) FILTER (WHERE NOT inherited), 0),
                coalesce(sum(output) FILTER (WHERE NOT inherited), 0),
                coalesce(sum(cost_nano) FILTER (WHERE NOT inherited), 0), max(currency)
             FROM journal_entry WHERE ord = ?1",
        )?
        .query_row([ord], |row| {
            Ok(CallCounts {
                live: count(row, 0)?,
                maybe_billed: count(row, 1)?,
                used: Used { input: count(row, 2)?, cached: count(row, 3)?, output: count(row, 4)? },
                cost_nano: count(row, 5)?,
                currency: row.get(6)?,
                ..CallCounts::default()
            })
        })?;
    (counts.replayed, counts.saved_tokens, counts.saved_nano) = connection
        .prepare_cached(
            "SELECT count(*), coalesce(sum(input + output), 0), coalesce(sum(cost_nano), 0)
             FROM journal_ask AS ask JOIN journal_entry AS entry
                ON entry.ord = ask.ord AND entry.generation = ask.generation AND entry.digest = ask.digest
                    AND entry.occurrence = ask.occurrence
             WHERE ask.ord = ?1 AND NOT ask.live AND ask.state = 'delivered'",
        )?
        .query_row([ord], |row| Ok((count(row, 0)?, count(row, 1)?, count(row, 2)?)))?;
    (counts.passed, counts.bought_again) = connection
        .prepare_cached("SELECT passed, bought_again FROM journal WHERE ord = ?1")?
        .query_row([ord], |row| Ok((count(row, 0)?, count(row, 1)?)))
        .optional()?
        .unwrap_or_default();
    Ok(counts)
}

/// Attempts say in the log that they went another way; the requests that differ are found again here.
fn divergences(connection: &Connection, ord: i64) -> rusqlite::Result<Vec<DivergenceRecord>> {
    let mut select = connection.prepare_cached(
        "SELECT attempt.number, attempt.fence, event.data ->> 'replayed', event.data ->> 'unasked', event.data ->> 'live'
         FROM event JOIN attempt ON attempt.ord = event.ord AND attempt.number = event.data ->> 'attempt'
         WHERE event.ord = ?1 AND event.kind = 'diverged' ORDER BY event.seq",
    )?;
    let rows = select.query_map([ord], |row| {
        let counts = Divergence { replayed: count(row, 2)?, unasked: count(row, 3)?, live: count(row, 4)? };
        Ok((count::<u32>(row, 0)?, get::<Fence>(row, 1)?, counts))
    })?;
    rows.map(|row| {
        let (attempt, fence, counts) = row?;
        let (was, now) = first_difference(connection, ord, fence)?;
        Ok(DivergenceRecord { attempt, counts, was, now })
    })
    .collect()
}

type FirstDifference = (Option<[u8; 32]>, Option<[u8; 32]>);

fn first_difference(connection: &Connection, ord: i64, fence: Fence) -> rusqlite::Result<FirstDifference> {
    let fence = i64::try_from(fence.0).unwrap_or(i64::MAX);
    let now: Option<(u32, [u8; 32])> = connection
        .prepare_cached(
            "SELECT generation, digest FROM journal_ask WHERE ord = ?1 AND fence = ?2 AND live ORDER BY begun LIMIT 1",
        )?
        .query_row(params![ord, fence], |row| Ok((count(row, 0)?, digest(row, 1)?)))
        .optional()?;
    let Some((generation, now)) = now else { return Ok((None, None)) };
    let was = connection
        .prepare_cached(
            "SELECT digest FROM journal_entry AS entry
             WHERE ord = ?1 AND generation = ?3 AND status IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM journal_ask AS ask WHERE ask.ord = entry.ord AND ask.fence = ?2
                    AND ask.digest = entry.digest AND ask.occurrence = entry.occurrence)
                AND (inherited OR EXISTS (SELECT 1 FROM journal_ask AS ask WHERE ask.ord = entry.ord AND ask.fence < ?2
                    AND ask.generation = entry.generation AND ask.digest = entry.digest
                    AND ask.occurrence = entry.occurrence AND ask.state = 'delivered'))
             ORDER BY begun LIMIT 1",
        )?
        .query_row(params![ord, fence, generation], |row| digest(row, 0))
        .optional()?;
    Ok((was, Some(now)))
}
