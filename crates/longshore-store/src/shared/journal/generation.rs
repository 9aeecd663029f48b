//! What the end of an attempt means for its journal: how it followed those before it, and the next generation.

use std::collections::BTreeSet;

use longshore_core::id::{Fence, TaskId};
use longshore_core::journal::{AskState, Divergence, Span, inherits, tainted};
use longshore_core::json::Json;
use longshore_core::task::Ending;
use serde_json::json;
use tokio_postgres::Row;

use crate::model::Digest;
use crate::shared::column::{bytes, count, get, int};
use crate::shared::connection::Connection;
use crate::shared::fault::DbError;
use crate::shared::live::{Lease, Live};
use crate::shared::sql::args;
use crate::shared::usage;

/// What the journal says of an attempt that ends.
#[derive(Default)]
pub(in crate::shared) struct Followed {
    /// It got an answer that was not there before: progress, as an event is.
    pub progressed: bool,
    /// It went another way than those before it: an entry for the log.
    pub diverged: Option<Json>,
    /// What it has paid for, in billionths.
    pub cost_nano: u64,
}

const LOCK: &str = "SELECT generation FROM @journal WHERE task = $1 FOR UPDATE";
const PROGRESSED: &str =
    "SELECT count(*) FILTER (WHERE live AND state = 'delivered') > 0, count(*) FILTER (WHERE live),
        coalesce(sum((SELECT e.cost_nano FROM @journal_entry AS e WHERE e.task = a.task AND e.generation = a.generation
            AND e.digest = a.digest AND e.occurrence = a.occurrence)) FILTER (WHERE live), 0)::bigint
     FROM @journal_ask AS a WHERE task = $1 AND fence = $2";
const THERE: &str = "SELECT digest, occurrence FROM @journal_ask
        WHERE task = $1 AND generation = $2 AND fence < $3 AND state = 'delivered'
     UNION SELECT digest, occurrence FROM @journal_entry WHERE task = $1 AND generation = $2 AND inherited";
const ASKED: &str = "SELECT digest, occurrence FROM @journal_ask WHERE task = $1 AND fence = $2";
const BOUGHT_AGAIN: &str = "UPDATE @journal SET bought_again = bought_again + $2 WHERE task = $1";
const NEXT: &str = "UPDATE @journal SET generation = generation + 1 WHERE task = $1";
const INHERIT: &str =
    "INSERT INTO @journal_entry (task, generation, digest, occurrence, begun, fence, inherited, provider, path, model,
        begun_at, answered_at, status, headers, body, input, cached, output, cost_nano, currency, waited_ms, first_ms,
        total_ms)
     SELECT task, generation + 1, digest, occurrence, begun, fence, true, provider, path, model, begun_at, answered_at,
        status, headers, body, input, cached, output, cost_nano, currency, waited_ms, first_ms, total_ms
     FROM @journal_entry WHERE task = $1 AND generation = $2 AND status IS NOT NULL
        AND (digest, occurrence) NOT IN (SELECT * FROM unnest($3::bytea[], $4::bigint[]))";
const SPANS: &str = "SELECT begun, ended, state, digest, occurrence FROM @journal_ask
     WHERE task = $1 AND fence = $2 ORDER BY begun";

type Call = (Digest, u32);

/// An attempt of a task with a journal ends: it is compared with those before it, and a failure begins a new generation.
pub(in crate::shared) async fn attempt_ends(
    connection: &Connection,
    row: &Live,
    lease: &Lease,
    ending: &Ending,
) -> Result<Followed, DbError> {
    let (task, fence) = (row.id, lease.fence);
    let generation: i64 = connection.query_one(LOCK, args![task.0]).await?.try_get(0)?;
    let asked = connection.query_one(PROGRESSED, args![task.0, int(fence.0)]).await?;
    let (progressed, live): (bool, u32) = (asked.try_get(0)?, count(&asked, 1)?);
    let mut followed = Followed { progressed, diverged: None, cost_nano: count(&asked, 2)? };
    if row.attempt() > 1 {
        let counts = divergence(connection, task, (generation, fence), live).await?;
        usage::followed(connection, &row.fleet, counts).await?;
        if counts.diverged() {
            connection.execute(BOUGHT_AGAIN, args![task.0, i64::from(counts.bought_again())]).await?;
            followed.diverged = Some(told(row.attempt(), counts));
        }
    }
    if let Ending::Failed(_) = ending {
        next_generation(connection, task, generation, fence).await?;
    }
    Ok(followed)
}

fn told(attempt: u32, counts: Divergence) -> Json {
    Json::of(&json!({
        "attempt": attempt, "replayed": counts.replayed, "unasked": counts.unasked, "live": counts.live,
        "bought_again": counts.bought_again(),
    }))
}

async fn divergence(
    connection: &Connection,
    task: TaskId,
    (generation, fence): (i64, Fence),
    live: u32,
) -> Result<Divergence, DbError> {
    let there = calls(&connection.query(THERE, args![task.0, generation, int(fence.0)]).await?)?;
    let asked = calls(&connection.query(ASKED, args![task.0, int(fence.0)]).await?)?;
    let replayed = there.intersection(&asked).count() as u32;
    Ok(Divergence { replayed, unasked: there.len() as u32 - replayed, live })
}

fn calls(rows: &[Row]) -> Result<BTreeSet<Call>, DbError> {
    rows.iter().map(|row| Ok((bytes(row, 0)?, count(row, 1)?))).collect()
}

/// A failed attempt begins a new generation, with what it may inherit.
async fn next_generation(
    connection: &Connection,
    task: TaskId,
    generation: i64,
    fence: Fence,
) -> Result<(), DbError> {
    connection.execute(NEXT, args![task.0]).await?;
    if !inherits(u32::try_from(generation + 1).unwrap_or_default()) {
        return Ok(());
    }
    let bad = bad(connection, task, fence).await?;
    let digests: Vec<&[u8]> = bad.iter().map(|(digest, _)| &digest[..]).collect();
    let occurrences: Vec<i64> = bad.iter().map(|(_, occurrence)| i64::from(*occurrence)).collect();
    connection.execute(INHERIT, args![task.0, generation, digests, occurrences]).await.map(drop)
}

const NEXT_OF_ALL: &str = "UPDATE @journal SET generation = generation + 1
     WHERE task IN (SELECT task FROM @journal WHERE task = ANY($1) ORDER BY task FOR UPDATE)";

/// Tasks go back to an older release, which asks in its own way: they begin a new generation that inherits nothing.
pub(in crate::shared) async fn next_generations(
    connection: &Connection,
    tasks: Vec<uuid::Uuid>,
) -> Result<(), DbError> {
    connection.execute(NEXT_OF_ALL, args![tasks]).await.map(drop)
}

/// What the attempt may have failed on.
async fn bad(connection: &Connection, task: TaskId, fence: Fence) -> Result<BTreeSet<Call>, DbError> {
    let rows = connection.query(SPANS, args![task.0, int(fence.0)]).await?;
    let (mut spans, mut asked): (Vec<Span>, Vec<Call>) = Default::default();
    for row in &rows {
        let delivered = get::<AskState>(row, 2)? == AskState::Delivered;
        spans.push(Span { begun: count(row, 0)?, ended: count(row, 1)?, delivered });
        asked.push((bytes(row, 3)?, count(row, 4)?));
    }
    let bad = asked.into_iter().zip(tainted(&spans)).filter(|(_, bad)| *bad).map(|(call, _)| call);
    Ok(bad.collect())
}
