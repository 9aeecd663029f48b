//! The journal as people see it.

use longshore_core::id::{Fence, TaskId};
use longshore_core::journal::Divergence;
use serde::Deserialize;
use tokio_postgres::Row;

use crate::error::StoreError;
use crate::model::{AskRecord, CallCounts, CallRecord, Digest, DivergenceRecord, JournalRecord, Used};
use crate::shared::Shared;
use crate::shared::changes::unpacked;
use crate::shared::column::{bytes, count, count_option, get, get_option, int};
use crate::shared::connection::Connection;
use crate::shared::fault::DbError;
use crate::shared::sql::args;
use crate::shared::step;

const TASK: &str = "SELECT 1 FROM @task WHERE id = $1";
const WHOLE: &str = "SELECT generation, passed, bought_again FROM @journal WHERE task = $1";
const BYTES: &str = "SELECT (coalesce((SELECT sum(length(data) + 16) FROM @journal_blob WHERE task = $1), 0)
        + 48 * (SELECT count(*) FROM @journal_link WHERE task = $1))::bigint";
const CALLS: &str = "SELECT generation, digest, occurrence, begun, provider, path, model, begun_at, answered_at, status,
        owner IS NOT NULL, maybe_billed, inherited, input, cached, output, cost_nano, currency, waited_ms, first_ms,
        total_ms, (SELECT size FROM @journal_blob AS b WHERE b.task = e.task AND hash = body)
     FROM @journal_entry AS e WHERE task = $1 ORDER BY generation, begun";
const ASKS: &str = "SELECT fence, generation, digest, occurrence, begun, state, live, at FROM @journal_ask
     WHERE task = $1 ORDER BY begun";
const BOUGHT: &str =
    "SELECT count(status) FILTER (WHERE NOT inherited), coalesce(sum(maybe_billed), 0)::bigint,
        coalesce(sum(input) FILTER (WHERE NOT inherited), 0)::bigint,
        coalesce(sum(cached) FILTER (WHERE NOT inherited), 0)::bigint,
        coalesce(sum(output) FILTER (WHERE NOT inherited), 0)::bigint,
        coalesce(sum(cost_nano) FILTER (WHERE NOT inherited), 0)::bigint, max(currency)
     FROM @journal_entry WHERE task = $1";
const SAVED: &str =
    "SELECT count(*), coalesce(sum(input + output), 0)::bigint, coalesce(sum(cost_nano), 0)::bigint
     FROM @journal_ask AS ask JOIN @journal_entry AS entry USING (task, generation, digest, occurrence)
     WHERE task = $1 AND NOT ask.live AND ask.state = 'delivered'";
const DIVERGED: &str = "SELECT attempt, fence, kind, data, more FROM @event
     WHERE task = $1 AND kind = 'attempt_ended' AND more LIKE '%diverged%' ORDER BY seq";
const FIRST_LIVE: &str = "SELECT generation, digest FROM @journal_ask
     WHERE task = $1 AND fence = $2 AND live ORDER BY begun LIMIT 1";
const FIRST_UNASKED: &str = "SELECT digest FROM @journal_entry AS entry
     WHERE task = $1 AND generation = $3 AND status IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM @journal_ask AS ask WHERE ask.task = entry.task AND ask.fence = $2
            AND ask.digest = entry.digest AND ask.occurrence = entry.occurrence)
        AND (inherited OR EXISTS (SELECT 1 FROM @journal_ask AS ask WHERE ask.task = entry.task AND ask.fence < $2
            AND ask.generation = entry.generation AND ask.digest = entry.digest
            AND ask.occurrence = entry.occurrence AND ask.state = 'delivered'))
     ORDER BY begun LIMIT 1";

impl Shared {
    /// `None`: the task is not known.
    pub(crate) async fn journal(&self, task: TaskId) -> Result<Option<JournalRecord>, StoreError> {
        let whole = self.core().run(async |it| {
            if it.query_opt(TASK, args![task.0]).await?.is_none() {
                return Ok(None);
            }
            whole(&it, task).await.map(Some)
        });
        Ok(whole.await?)
    }

    /// A task's calls in numbers; all zero for one that made none.
    pub(crate) async fn call_counts(&self, task: TaskId) -> Result<CallCounts, StoreError> {
        Ok(self.core().run(async |it| counts(&it, task).await).await?)
    }

    /// Attempts that went another way than the one before, in order.
    pub(crate) async fn divergences(&self, task: TaskId) -> Result<Vec<DivergenceRecord>, StoreError> {
        Ok(self.core().run(async |it| divergences(&it, task).await).await?)
    }
}

async fn whole(connection: &Connection, task: TaskId) -> Result<JournalRecord, DbError> {
    let journal = connection.query_opt(WHOLE, args![task.0]).await?;
    let (generation, passed, bought_again) = match &journal {
        Some(row) => (count(row, 0)?, count(row, 1)?, count(row, 2)?),
        None => (0, 0, 0),
    };
    let calls = connection.query(CALLS, args![task.0]).await?;
    let asks = connection.query(ASKS, args![task.0]).await?;
    Ok(JournalRecord {
        generation,
        passed,
        bought_again,
        calls: calls.iter().map(call).collect::<Result<_, _>>()?,
        asks: asks.iter().map(ask).collect::<Result<_, _>>()?,
        steps: step::all(connection, task).await?,
        stored_bytes: count(&connection.query_one(BYTES, args![task.0]).await?, 0)?,
    })
}

fn call(row: &Row) -> Result<CallRecord, DbError> {
    let used = match (count_option(row, 13)?, count_option(row, 14)?, count_option(row, 15)?) {
        (Some(input), Some(cached), Some(output)) => Some(Used { input, cached, output }),
        _ => None,
    };
    Ok(CallRecord {
        generation: count(row, 0)?,
        digest: bytes(row, 1)?,
        occurrence: count(row, 2)?,
        begun: count(row, 3)?,
        provider: get(row, 4)?,
        path: get(row, 5)?,
        model: get_option(row, 6)?,
        begun_at: get(row, 7)?,
        answered_at: get_option(row, 8)?,
        status: count_option(row, 9)?,
        open: row.try_get(10)?,
        maybe_billed: count(row, 11)?,
        inherited: row.try_get(12)?,
        used,
        cost_nano: count_option(row, 16)?,
        currency: get_option(row, 17)?,
        waited_ms: count_option(row, 18)?,
        first_ms: count_option(row, 19)?,
        total_ms: count_option(row, 20)?,
        size: count_option(row, 21)?,
    })
}

fn ask(row: &Row) -> Result<AskRecord, DbError> {
    Ok(AskRecord {
        fence: get(row, 0)?,
        generation: count(row, 1)?,
        digest: bytes(row, 2)?,
        occurrence: count(row, 3)?,
        begun: count(row, 4)?,
        state: get(row, 5)?,
        live: row.try_get(6)?,
        at: get(row, 7)?,
    })
}

async fn counts(connection: &Connection, task: TaskId) -> Result<CallCounts, DbError> {
    let bought = connection.query_one(BOUGHT, args![task.0]).await?;
    let saved = connection.query_one(SAVED, args![task.0]).await?;
    let journal = connection.query_opt(WHOLE, args![task.0]).await?;
    let (passed, bought_again) = match &journal {
        Some(row) => (count(row, 1)?, count(row, 2)?),
        None => (0, 0),
    };
    Ok(CallCounts {
        live: count(&bought, 0)?,
        maybe_billed: count(&bought, 1)?,
        used: Used { input: count(&bought, 2)?, cached: count(&bought, 3)?, output: count(&bought, 4)? },
        cost_nano: count(&bought, 5)?,
        currency: get_option(&bought, 6)?,
        replayed: count(&saved, 0)?,
        saved_tokens: count(&saved, 1)?,
        saved_nano: count(&saved, 2)?,
        passed,
        bought_again,
    })
}

/// Attempts say in the log that they went another way; the requests that differ are found again here.
async fn divergences(connection: &Connection, task: TaskId) -> Result<Vec<DivergenceRecord>, DbError> {
    let mut found = Vec::new();
    for row in connection.query(DIVERGED, args![task.0]).await? {
        let (attempt, fence): (u32, Fence) = (count(&row, 0)?, get(&row, 1)?);
        let Some(counts) = told(row.try_get(4)?)? else { continue };
        let (was, now) = first_difference(connection, task, fence).await?;
        found.push(DivergenceRecord { attempt, counts, was, now });
    }
    Ok(found)
}

fn told(more: &str) -> Result<Option<Divergence>, DbError> {
    #[derive(Deserialize)]
    struct Told {
        replayed: u32,
        unasked: u32,
        live: u32,
    }
    let Some((_, data)) = unpacked(more)?.into_iter().find(|(kind, _)| kind == "diverged") else {
        return Ok(None);
    };
    let told: Told = serde_json::from_str(data.get()).map_err(|error| DbError::Text(Box::new(error)))?;
    Ok(Some(Divergence { replayed: told.replayed, unasked: told.unasked, live: told.live }))
}

type FirstDifference = (Option<Digest>, Option<Digest>);

async fn first_difference(
    connection: &Connection,
    task: TaskId,
    fence: Fence,
) -> Result<FirstDifference, DbError> {
    let Some(row) = connection.query_opt(FIRST_LIVE, args![task.0, int(fence.0)]).await? else {
        return Ok((None, None));
    };
    let (generation, now): (i64, Digest) = (row.try_get(0)?, bytes(&row, 1)?);
    let was = connection.query_opt(FIRST_UNASKED, args![task.0, int(fence.0), generation]).await?;
    Ok((was.map(|row| bytes(&row, 0)).transpose()?, Some(now)))
}
