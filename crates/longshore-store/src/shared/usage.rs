//! What was bought and what was saved, added up where it happens.

use longshore_core::id::FleetName;
use longshore_core::journal::Divergence;
use tokio_postgres::Row;

use super::Shared;
use super::column::{count, get, int};
use super::connection::Connection;
use super::core::Core;
use super::counts::SLOTS;
use super::fault::DbError;
use super::sql::args;
use crate::error::StoreError;
use crate::model::{CallKey, NewAnswer, NewCall, ReplayRecord, UsageRecord, Used};

const ADD: &str = "INSERT INTO @llm_usage AS u (fleet, provider, model, currency, slot, live, replayed, maybe_billed, input,
        cached, output, cost_nano, saved_tokens, saved_nano)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
     ON CONFLICT (fleet, provider, model, currency, slot) DO UPDATE SET live = u.live + excluded.live,
        replayed = u.replayed + excluded.replayed, maybe_billed = u.maybe_billed + excluded.maybe_billed,
        input = u.input + excluded.input, cached = u.cached + excluded.cached, output = u.output + excluded.output,
        cost_nano = u.cost_nano + excluded.cost_nano, saved_tokens = u.saved_tokens + excluded.saved_tokens,
        saved_nano = u.saved_nano + excluded.saved_nano";

const ENTRY: &str = "SELECT t.fleet, e.provider, coalesce(e.model, ''), coalesce(e.currency, ''),
        coalesce(e.input + e.output, 0), coalesce(e.cost_nano, 0), e.status IS NOT NULL
     FROM @journal_entry AS e JOIN @task AS t ON t.id = e.task
     WHERE e.task = $1 AND generation = $2 AND digest = $3 AND occurrence = $4";

const FOLLOWED: &str = "INSERT INTO @llm_replay AS r (fleet, slot, replayed, bought_again, diverged)
     VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (fleet, slot) DO UPDATE SET replayed = r.replayed + excluded.replayed,
        bought_again = r.bought_again + excluded.bought_again, diverged = r.diverged + excluded.diverged";

const USAGE: &str = "SELECT fleet, provider, model, currency, sum(live)::bigint, sum(replayed)::bigint,
        sum(maybe_billed)::bigint, sum(input)::bigint, sum(cached)::bigint, sum(output)::bigint, sum(cost_nano)::bigint,
        sum(saved_tokens)::bigint, sum(saved_nano)::bigint
     FROM @llm_usage WHERE $1::text IS NULL OR fleet = $1
     GROUP BY fleet, provider, model, currency ORDER BY fleet, provider, model, currency";

const REPLAYS: &str = "SELECT fleet, sum(replayed)::bigint, sum(bought_again)::bigint, sum(diverged)::bigint
     FROM @llm_replay GROUP BY fleet ORDER BY fleet";

impl Shared {
    /// Of one fleet, or of all.
    pub(crate) async fn usage(&self, fleet: Option<FleetName>) -> Result<Vec<UsageRecord>, StoreError> {
        let fleet = fleet.as_ref().map(FleetName::as_str);
        let rows = self.core().run(async |it| it.query(USAGE, args![fleet]).await).await?;
        Ok(rows.iter().map(usage).collect::<Result<_, _>>()?)
    }

    /// How attempts after the first used what was there, per fleet.
    pub(crate) async fn replays(&self) -> Result<Vec<ReplayRecord>, StoreError> {
        let rows = self.core().run(async |it| it.query(REPLAYS, args![]).await).await?;
        let replay = |row: &Row| {
            Ok::<_, DbError>(ReplayRecord {
                fleet: get(row, 0)?,
                replayed: count(row, 1)?,
                bought_again: count(row, 2)?,
                diverged: count(row, 3)?,
            })
        };
        Ok(rows.iter().map(replay).collect::<Result<_, _>>()?)
    }
}

fn usage(row: &Row) -> Result<UsageRecord, DbError> {
    Ok(UsageRecord {
        fleet: get(row, 0)?,
        provider: get(row, 1)?,
        model: get(row, 2)?,
        currency: get(row, 3)?,
        live: count(row, 4)?,
        replayed: count(row, 5)?,
        maybe_billed: count(row, 6)?,
        used: Used { input: count(row, 7)?, cached: count(row, 8)?, output: count(row, 9)? },
        cost_nano: count(row, 10)?,
        saved_tokens: count(row, 11)?,
        saved_nano: count(row, 12)?,
    })
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

/// Whose sums they are.
struct Of<'a> {
    fleet: &'a str,
    provider: &'a str,
    model: &'a str,
    currency: &'a str,
}

async fn add(core: &Core, connection: &Connection, of: Of<'_>, change: &Change) -> Result<(), DbError> {
    let args = args![
        of.fleet,
        of.provider,
        of.model,
        of.currency,
        core.slot(),
        i64::from(change.live),
        i64::from(change.replayed),
        i64::from(change.maybe_billed),
        int(change.used.input),
        int(change.used.cached),
        int(change.used.output),
        int(change.cost_nano),
        int(change.saved_tokens),
        int(change.saved_nano),
    ];
    connection.execute(ADD, args).await.map(drop)
}

pub(super) async fn bought(
    core: &Core,
    connection: &Connection,
    call: &NewCall,
    answer: &NewAnswer,
) -> Result<(), DbError> {
    let change = Change {
        live: 1,
        maybe_billed: answer.maybe_billed,
        used: answer.used.unwrap_or_default(),
        cost_nano: answer.cost_nano,
        ..Change::default()
    };
    let model = call.model.as_deref().unwrap_or("");
    let of = Of { fleet: call.fleet.as_str(), provider: &call.provider, model, currency: &call.currency };
    add(core, connection, of, &change).await
}

async fn entry(connection: &Connection, key: &CallKey) -> Result<Option<Row>, DbError> {
    let (generation, occurrence) = (i64::from(key.generation), i64::from(key.occurrence));
    connection.query_opt(ENTRY, args![key.task.0, generation, &key.digest[..], occurrence]).await
}

fn of(row: &Row) -> Result<Of<'_>, DbError> {
    Ok(Of {
        fleet: row.try_get(0)?,
        provider: row.try_get(1)?,
        model: row.try_get(2)?,
        currency: row.try_get(3)?,
    })
}

/// An answer was given again.
pub(super) async fn replayed(core: &Core, connection: &Connection, key: &CallKey) -> Result<(), DbError> {
    let Some(row) = entry(connection, key).await? else { return Ok(()) };
    if !row.try_get::<_, bool>(6)? {
        return Ok(());
    }
    let change = Change {
        replayed: 1,
        saved_tokens: count(&row, 4)?,
        saved_nano: count(&row, 5)?,
        ..Change::default()
    };
    add(core, connection, of(&row)?, &change).await
}

/// Tries of a call may have been billed though they brought no answer.
pub(super) async fn may_have_been_billed(
    core: &Core,
    connection: &Connection,
    key: &CallKey,
    times: u32,
) -> Result<(), DbError> {
    let Some(row) = entry(connection, key).await? else { return Ok(()) };
    let change = Change { maybe_billed: times, ..Change::default() };
    add(core, connection, of(&row)?, &change).await
}

/// An attempt after the first has ended.
pub(super) async fn followed(
    connection: &Connection,
    fleet: &FleetName,
    counts: Divergence,
) -> Result<(), DbError> {
    if counts.replayed + counts.bought_again() == 0 {
        return Ok(());
    }
    let slot = rand::random_range(0..SLOTS);
    let (replayed, again) = (i64::from(counts.replayed), i64::from(counts.bought_again()));
    let args = args![fleet.as_str(), slot, replayed, again, i64::from(counts.diverged())];
    connection.execute(FOLLOWED, args).await.map(drop)
}
