//! Renews leases and hears the news: cancellations, lost leases, the order to drain.
//!
//! The control plane holds each heartbeat until it has news, and the next follows at once, so a cancellation takes
//! milliseconds. What this worker has to tell at once goes in a heartbeat that is not held.

use std::sync::Arc;
use std::time::Duration;

use longshore_api::link::{Condition, Heartbeat, HeartbeatAnswer};
use longshore_api::link_client::LinkError;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Worker;
use crate::attempt::{Stop, Why};
use crate::error::WorkerError;

/// How long the control plane may hold a heartbeat; well within a lease.
const HELD: Duration = Duration::from_secs(4);

/// Heartbeats are at least this far apart.
const SPACING: Duration = Duration::from_millis(50);

/// What was taken is told this much later: until then a cancellation of it cannot arrive.
const GATHER: Duration = Duration::from_millis(150);

pub async fn run(worker: Arc<Worker>) {
    let mut failing_since: Option<Instant> = None;
    let mut urgent = true;
    loop {
        let sent = Instant::now();
        let held = if urgent { Duration::ZERO } else { worker.heartbeat.min(HELD) };
        let request = request(&worker, held);
        let told = request.condition.clone();
        tokio::select! {
            biased;
            answer = worker.link.client.heartbeat(&request) => match answer {
                Ok(answer) => {
                    failing_since = None;
                    urgent = changed(&worker, &told);
                    hear(&worker, answer);
                }
                Err(error) => {
                    // Not `sent`: a pause of this process in between is not the control plane's silence.
                    let since = *failing_since.get_or_insert(Instant::now());
                    failed(&worker, error, since).await;
                    urgent = true;
                }
            },
            // Not an urgent one: it must be answered once, or a busy worker would never hear anything.
            () = news(&worker, &told), if !urgent => urgent = true,
        }
        tokio::time::sleep_until(sent + SPACING).await;
    }
}

fn request(worker: &Worker, held: Duration) -> Heartbeat {
    let report = worker.ledger.report();
    Heartbeat {
        worker: worker.id().clone(),
        nonce: worker.nonce(),
        held: report.held,
        last_claim: report.last_claim,
        cancelling: report.cancelling,
        condition: worker.health.condition(),
        wait_ms: held.as_millis() as u64,
    }
}

/// Returns when there is something to tell.
async fn news(worker: &Worker, told: &Condition) {
    loop {
        tokio::select! {
            () = worker.ledger.news.notified() => {
                // A busy worker takes tasks all the time: one heartbeat tells of several.
                if !changed(worker, told) {
                    tokio::time::sleep(GATHER).await;
                }
                return;
            }
            // Some of the condition changes with time alone.
            () = tokio::time::sleep(Duration::from_millis(500)) => {
                if changed(worker, told) {
                    return;
                }
            }
        }
    }
}

fn changed(worker: &Worker, told: &Condition) -> bool {
    let now = worker.health.condition();
    now.state != told.state || now.reason != told.reason
}

fn hear(worker: &Worker, answer: HeartbeatAnswer) {
    worker.link.answered();
    let was_ready = worker.health.readiness().ready;
    worker.health.told(answer.checks, answer.notes);
    if !was_ready {
        worker.ledger.freed.notify_one();
    }
    let grace = worker.setting.kill_grace;
    for held in answer.lost {
        if worker.ledger.stop(held, Stop { why: Why::Lost, grace }) {
            warn!(task = %held.task, fence = %held.fence, "lease lost; agent stopped");
        }
    }
    for held in answer.cancel {
        if worker.ledger.stop(held, Stop { why: Why::Cancelled, grace }) {
            info!(task = %held.task, "task cancelled; agent stopped");
        }
    }
    if let Some(order) = answer.drain {
        worker.order_drain(order);
    }
}

async fn failed(worker: &Worker, error: LinkError, since: Instant) {
    // Counted from the first failure: after a pause of this whole process nothing has failed yet.
    let left = worker.cut_off.saturating_sub(since.elapsed());
    let settled = tokio::time::timeout(left, worker.link.settle(error)).await;
    if let Ok(Some(problem)) = &settled {
        warn!(code = %problem.code, detail = problem.detail, "heartbeat refused");
        tokio::time::sleep(Duration::from_secs(1).min(left)).await;
    }
    if since.elapsed() >= worker.cut_off {
        worker.link.fail(WorkerError::CutOff { after: worker.cut_off });
        std::future::pending::<()>().await;
    }
}
