//! The controllers: a clock for leases, and one that keeps each fleet as declared.
//!
//! Each has one form: observe, decide (in core), save the plan, apply.

mod cluster;
mod crew;
mod fleet;
mod housekeeping;
mod leader;
mod liveness;
mod providers;
mod retention;
mod rollout;
mod schedules;
mod secret;
mod told;
mod webhooks;

use std::time::{Duration, Instant};

use longshore_core::errors::chain;
use tracing::{info, warn};

use crate::app::{App, now, roll};

pub use cluster::{Pods, run as cluster};
pub use crew::{Crew, compose_services, containers, processes};
pub use fleet::fleets;
pub use housekeeping::run as housekeeping;
pub use leader::lead;
pub use providers::run as providers;
pub use retention::run as retention;
pub use schedules::{new_task as new_scheduled_task, run as schedules};
pub use secret::{name as name_secret, read as read_secret};
pub use told::{Told, of as told_of};
pub use webhooks::{run as webhooks, secrets as webhook_secrets, send as send_message};

/// How often service time advances.
const TICK: Duration = Duration::from_secs(1);

/// Advances service time, expires leases, promotes tasks whose time has come.
pub async fn clock(app: App) -> &'static str {
    let mut last: Option<Instant> = None;
    let mut wait = Duration::ZERO;
    while !sleep_or_stop(&app, wait).await {
        let Some(epoch) = app.epoch() else {
            // The first tick of a leader adds nothing to service time.
            (last, wait) = (None, TICK);
            continue;
        };
        let elapsed = last.replace(Instant::now()).map(|last| last.elapsed());
        wait = match app.store.tick(epoch, elapsed, app.link_seen(), now(), roll()).await {
            Ok(tick) => {
                app.metrics.expired(tick.expired.len());
                for held in &tick.expired {
                    warn!(task = %held.task, fence = %held.fence, "lease expires");
                }
                for task in &tick.overdue {
                    info!(%task, "task fails: its deadline has passed");
                }
                if tick.promoted > 0 {
                    info!(tasks = tick.promoted, "delayed tasks become runnable");
                }
                until(tick.next_due).min(TICK)
            }
            Err(error) => {
                warn!(error = %chain(&error), "clock tick fails");
                TICK
            }
        };
    }
    "clock"
}

/// How long until `due`, at least a moment, so that a due time in the past does not spin.
fn until(due: Option<longshore_core::time::Timestamp>) -> Duration {
    due.map_or(TICK, |due| due.since(now()).max(Duration::from_millis(5)))
}

/// True when it is time to stop.
pub async fn sleep_or_stop(app: &App, wait: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => app.is_stopping(),
        () = app.stopped() => true,
    }
}
