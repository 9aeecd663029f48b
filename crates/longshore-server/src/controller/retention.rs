//! Forgets what nobody keeps any more: journals, results and tasks as their fleets say, batches, conversations.

use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::errors::chain;
use longshore_core::retention;
use longshore_store::{FleetRecord, Forgotten, StoreError};
use tracing::{info, warn};

use super::sleep_or_stop;
use crate::app::{App, now};

const EVERY: Duration = Duration::from_secs(5);

/// Conversations that one round forgets at most: each is one transaction.
const CONVERSATIONS: usize = 1_000;

pub async fn run(app: App) -> &'static str {
    // Where the next round goes on to look for batches that are empty; lost with this process, it begins anew.
    let mut batches = None;
    loop {
        // One replica does it for all.
        if app.epoch().is_some() {
            match forget(&app, &mut batches).await {
                Ok(()) | Err(StoreError::NotShared { .. }) => {}
                Err(error) => warn!(error = %chain(&error), "retention fails; it is tried again"),
            }
        }
        if sleep_or_stop(&app, EVERY).await {
            return "retention";
        }
    }
}

async fn forget(app: &App, batches: &mut Option<BatchId>) -> Result<(), StoreError> {
    for fleet in app.store.fleets().await? {
        forget_of(app, &fleet).await?;
    }
    *batches = app.store.forget_batches(*batches).await?;
    forget_conversations(app).await
}

/// A few at a time, until nothing is left that its policy lets go.
async fn forget_of(app: &App, fleet: &FleetRecord) -> Result<(), StoreError> {
    let mut sum = Forgotten::default();
    while !app.is_stopping() {
        let plan = retention::plan(&fleet.declaration.retention, ended(app, fleet).await?, now());
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
