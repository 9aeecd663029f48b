//! What was bought and what was saved, added up where it happens.

use longshore_core::id::FleetName;
use longshore_core::journal::Divergence;
use rusqlite::{OptionalExtension, params};

use super::Embedded;
use super::column::{count, get, int};
use super::journal::key_params;
use super::writer::Write;
use crate::error::StoreError;
use crate::model::{CallKey, NewAnswer, NewCall, ReplayRecord, UsageRecord, Used};

impl Embedded {
    /// Of one fleet, or of all.
    pub(crate) async fn usage(&self, fleet: Option<FleetName>) -> Result<Vec<UsageRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT fleet, provider, model, currency, live, replayed, maybe_billed, input, cached, output, cost_nano,
                    saved_tokens, saved_nano
                 FROM llm_usage WHERE ?1 IS NULL OR fleet = ?1 ORDER BY fleet, provider, model",
            )?;
            let rows = select.query_map([fleet.as_ref().map(|fleet| fleet.as_str())], |row| {
                Ok(UsageRecord {
                    fleet: get(row, 0)?,
                    provider: row.get(1)?,
                    model: row.get(2)?,
                    currency: row.get(3)?,
                    live: count(row, 4)?,
                    replayed: count(row, 5)?,
                    maybe_billed: count(row, 6)?,
                    used: Used { input: count(row, 7)?, cached: count(row, 8)?, output: count(row, 9)? },
                    cost_nano: count(row, 10)?,
                    saved_tokens: count(row, 11)?,
                    saved_nano: count(row, 12)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// How attempts after the first used what was there, per fleet.
    pub(crate) async fn replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        self.read(move |connection| {
            let mut select = connection.prepare_cached(
                "SELECT fleet, replayed, bought_again, diverged FROM llm_replay ORDER BY fleet",
            )?;
            let rows = select.query_map([], |row| {
                Ok(ReplayRecord {
                    fleet: get(row, 0)?,
                    replayed: count(row, 1)?,
                    bought_again: count(row, 2)?,
                    diverged: count(row, 3)?,
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }
}

/// By how much the sums of one model change.
#[derive(Default)]
struct Change {
    live: u32,
    replayed: u32,
    maybe_billed: u32,
    used: Used,
    cost_nano: u64,
    saved_tokens: u64,
    saved_nano: u64,
}

fn add(
    write: &Write<'_>,
    ord: i64,
    (provider, model, currency): (&str, &str, &str),
    change: &Change,
) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO llm_usage (fleet, provider, model, currency, live, replayed, maybe_billed, input, cached, output,
                cost_nano, saved_tokens, saved_nano)
             SELECT fleet, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13 FROM task WHERE ord = ?1
             ON CONFLICT DO UPDATE SET live = live + excluded.live, replayed = replayed + excluded.replayed,
                maybe_billed = maybe_billed + excluded.maybe_billed, input = input + excluded.input,
                cached = cached + excluded.cached, output = output + excluded.output,
                cost_nano = cost_nano + excluded.cost_nano, saved_tokens = saved_tokens + excluded.saved_tokens,
                saved_nano = saved_nano + excluded.saved_nano",
        )?
        .execute(params![
            ord,
            provider,
            model,
            currency,
            change.live,
            change.replayed,
            change.maybe_billed,
            int(change.used.input),
            int(change.used.cached),
            int(change.used.output),
            int(change.cost_nano),
            int(change.saved_tokens),
            int(change.saved_nano),
        ])
        .map(drop)
}

pub(super) fn bought(
    write: &Write<'_>,
    ord: i64,
    call: &NewCall,
    answer: &NewAnswer,
) -> rusqlite::Result<()> {
    let change = Change {
        live: 1,
        maybe_billed: answer.maybe_billed,
        used: answer.used.unwrap_or_default(),
        cost_nano: answer.cost_nano,
        ..Change::default()
    };
    let model = call.model.as_deref().unwrap_or("");
    add(write, ord, (&call.provider, model, &call.currency), &change)
}

/// An answer was given again.
pub(super) fn replayed(write: &Write<'_>, key: &CallKey) -> rusqlite::Result<()> {
    let saved = write
        .connection
        .prepare_cached(
            "SELECT provider, coalesce(model, ''), coalesce(currency, ''), coalesce(input + output, 0),
                coalesce(cost_nano, 0)
             FROM journal_entry
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4 AND status IS NOT NULL",
        )?
        .query_row(key_params!(key), |row| {
            let names: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let change = Change {
                replayed: 1,
                saved_tokens: count(row, 3)?,
                saved_nano: count(row, 4)?,
                ..Change::default()
            };
            Ok((names, change))
        })
        .optional()?;
    let Some(((provider, model, currency), change)) = saved else { return Ok(()) };
    add(write, key.ord, (&provider, &model, &currency), &change)
}

/// Tries of a call may have been billed though they brought no answer.
pub(super) fn may_have_been_billed(write: &Write<'_>, key: &CallKey, times: u32) -> rusqlite::Result<()> {
    let (provider, model, currency): (String, String, String) = write
        .connection
        .prepare_cached(
            "SELECT provider, coalesce(model, ''), coalesce(currency, '') FROM journal_entry
             WHERE ord = ?1 AND generation = ?2 AND digest = ?3 AND occurrence = ?4",
        )?
        .query_row(key_params!(key), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let change = Change { maybe_billed: times, ..Change::default() };
    add(write, key.ord, (&provider, &model, &currency), &change)
}

/// An attempt after the first has ended.
pub(super) fn followed(write: &Write<'_>, fleet: &FleetName, counts: Divergence) -> rusqlite::Result<()> {
    if counts.replayed + counts.bought_again() == 0 {
        return Ok(());
    }
    write
        .connection
        .prepare_cached(
            "INSERT INTO llm_replay (fleet, replayed, bought_again, diverged) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET replayed = replayed + excluded.replayed,
                bought_again = bought_again + excluded.bought_again, diverged = diverged + excluded.diverged",
        )?
        .execute(params![fleet.as_str(), counts.replayed, counts.bought_again(), counts.diverged()])
        .map(drop)
}
