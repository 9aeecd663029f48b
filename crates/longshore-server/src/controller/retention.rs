//! Forgets what nobody keeps any more: journals, results and tasks as their fleets say, batches, conversations.

use std::time::{Duration, Instant};

use longshore_core::batch::BatchId;
use longshore_core::errors::chain;
use longshore_core::retention;
use longshore_store::{FleetRecord, Forgotten, StoreError};
use tracing::{info, warn};

use super::sleep_or_stop;
use crate::app::{App, now};

const EVERY: Duration = Duration::from_secs(5);

/// How often days are looked at that may go as a whole.
const DAYS: Duration = Duration::from_secs(60);

/// Conversations that one round forgets at most: each is one transaction.
const CONVERSATIONS: usize = 1_000;

/// What one round leaves for the next; lost with this process, it begins anew.
#[derive(Default)]
struct Rounds {
    /// Where to go on looking for batches that are empty.
    batches: Option<BatchId>,
    days: Option<Instant>,
    /// Whether days go as a whole in this store.
    whole: bool,
}

pub async fn run(app: App) -> &'static str {
    let mut rounds = Rounds::default();
    loop {
        // One replica does it for all.
        if app.epoch().is_some()
            && let Err(error) = forget(&app, &mut rounds).await
        {
            warn!(error = %chain(&error), "retention fails; it is tried again");
        }
        if sleep_or_stop(&app, EVERY).await {
            return "retention";
        }
    }
}

async fn forget(app: &App, rounds: &mut Rounds) -> Result<(), StoreError> {
    let fleets = app.store.fleets().await?;
    if rounds.days.is_none_or(|last| last.elapsed() >= DAYS) {
        rounds.whole = forget_days(app, &fleets).await?;
        rounds.days = Some(Instant::now());
    }
    for fleet in &fleets {
        forget_of(app, fleet, rounds.whole).await?;
    }
    rounds.batches = app.store.forget_batches(rounds.batches).await?;
    forget_conversations(app).await
}

/// Days of which nothing must be kept; false: the store has none.
async fn forget_days(app: &App, fleets: &[FleetRecord]) -> Result<bool, StoreError> {
    let plan = |fleet: &FleetRecord| retention::plan(&fleet.declaration.retention, 0, now());
    let plans = fleets.iter().map(|fleet| (fleet.name.clone(), plan(fleet))).collect();
    let Some(Forgotten { journals, tasks, .. }) = app.store.forget_days(plans, now()).await? else {
        return Ok(false);
    };
    if journals + tasks > 0 {
        info!(journals, tasks, "days of ended tasks are forgotten as a whole");
    }
    Ok(true)
}

/// A few at a time, until nothing is left that its policy lets go.
async fn forget_of(app: &App, fleet: &FleetRecord, whole: bool) -> Result<(), StoreError> {
    let mut sum = Forgotten::default();
    while !app.is_stopping() {
        let mut plan = retention::plan(&fleet.declaration.retention, ended(app, fleet).await?, now());
        if whole {
            plan = retention::patient(&plan, now());
        }
        let step = app.store.retain(fleet.name.clone(), plan).await?;
        sum.journals += step.journals;
        sum.results += step.results;
        sum.tasks += step.tasks;
        if !step.more {
            break;
        }
    }
    if sum.journals + sum.results + sum.tasks > 0 {
        let Forgotten { journals, results, tasks, .. } = sum;
        info!(fleet = %fleet.name, journals, results, tasks, "ended tasks are forgotten");
    }
    Ok(())
}

/// How many ended tasks the fleet has; asked only where that matters.
async fn ended(app: &App, fleet: &FleetRecord) -> Result<u64, StoreError> {
    if fleet.declaration.retention.max_tasks.is_none() {
        return Ok(0);
    }
    let counts = app.store.counts().await?;
    let counts = counts.into_iter().find(|counts| counts.fleet == fleet.name);
    Ok(counts.map_or(0, |counts| counts.succeeded + counts.failed + counts.cancelled))
}

async fn forget_conversations(app: &App) -> Result<(), StoreError> {
    let Some(kept) = app.keep_conversations else { return Ok(()) };
    let before = now().before(kept);
    let mut forgotten = 0;
    while forgotten < CONVERSATIONS && app.store.forget_conversation(before).await? {
        forgotten += 1;
    }
    if forgotten > 0 {
        info!(conversations = forgotten, "conversations are forgotten");
    }
    Ok(())
}
