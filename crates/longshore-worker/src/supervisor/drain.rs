//! Brings a worker to its end: nothing new, what runs is finished or handed over, everything is told.

use std::sync::Arc;
use std::time::Duration;

use longshore_api::link::{Deregister, DrainOrder};
use longshore_core::fleet::DrainMode;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Worker;
use crate::attempt::{Stop, Why};
use crate::error::WorkerError;
use crate::options::Exit;
use crate::signals::StopSignals;

/// A drain takes this long at least, for agents have to be stopped and endings delivered.
const LEAST: Duration = Duration::from_secs(2);

/// Kept for delivering the last endings.
const DELIVERY: Duration = Duration::from_secs(2);

/// Nothing is begun this close to the end.
const MARGIN: Duration = Duration::from_millis(500);

/// The worker's parts that a drain waits for.
pub struct Parts {
    pub claims: JoinHandle<()>,
    pub heartbeats: AbortHandle,
    pub http: Option<JoinHandle<()>>,
}

pub async fn drain(
    worker: &Arc<Worker>,
    order: DrainOrder,
    signals: &mut StopSignals,
    mut parts: Parts,
) -> Result<Exit, WorkerError> {
    let deadline = Instant::now() + Duration::from_millis(order.timeout_ms).max(LEAST);
    worker.begin_drain();
    info!(mode = ?order.mode, timeout_ms = order.timeout_ms, running = worker.ledger.running(), "worker drains");
    let kept = worker.setting.kill_grace + DELIVERY;
    let hand_over_at = match order.mode {
        DrainMode::Wait => deadline.checked_sub(kept).unwrap_or_else(Instant::now),
        DrainMode::Handover => Instant::now(),
    };
    tokio::select! {
        biased;
        // Even if nothing runs: the last claim may still bring something.
        () = async { _ = (&mut parts.claims).await; worker.ledger.idle().await } => {}
        () = tokio::time::sleep_until(hand_over_at) => {}
        name = told_again(signals, worker.stays.is_some()) => info!(signal = name, "told again; handing over at once"),
        () = worker.told_to_hand_over() => {}
        error = worker.link.failed() => return Err(super::abort(worker, error, parts).await),
    }
    hand_over(worker, deadline, &mut parts).await;
    let delivered = deliver(worker, deadline).await;
    // One that is held is answered by the goodbye itself: not known any more. It would register the worker again.
    parts.heartbeats.abort();
    say_goodbye(worker, deadline).await;
    delivered
}

/// Returns when there is no more time. Where the order to drain goes before the end of the pod, the first signal is that end
/// and no haste: its grace is longer than the drain.
async fn told_again(signals: &mut StopSignals, stays: bool) -> &'static str {
    if stays && !signals.told() {
        let name = signals.next().await;
        info!(signal = name, "told to end; what runs has until the drain's end");
    }
    signals.next().await
}

/// Stops what still runs and the http agent.
async fn hand_over(worker: &Arc<Worker>, deadline: Instant, parts: &mut Parts) {
    let left = deadline.saturating_duration_since(Instant::now());
    let grace = worker.setting.kill_grace.min(left.saturating_sub(DELIVERY.min(left / 2)));
    let count = worker.ledger.stop_all(Stop { why: Why::HandedOver, grace });
    if count > 0 {
        info!(count, "tasks handed over");
    }
    // An agent that cannot even be killed must not hold up the others' endings.
    let patience = grace + MARGIN + Duration::from_secs(1);
    if tokio::time::timeout(patience, worker.ledger.idle()).await.is_err() {
        warn!(running = worker.ledger.running(), "agents did not end");
    }
    if !parts.claims.is_finished() {
        _ = tokio::time::timeout_at(deadline, &mut parts.claims).await;
        // It may have brought something after all that was stopped.
        worker.ledger.stop_all(Stop { why: Why::HandedOver, grace: Duration::ZERO });
    }
    if let (Some(agent), Some(keeper)) = (&worker.http, &mut parts.http) {
        let left = deadline.saturating_duration_since(Instant::now());
        agent.shut_down(worker.setting.kill_grace.min(left.saturating_sub(MARGIN)));
        // Endings go out meanwhile.
        _ = tokio::time::timeout(left, keeper).await;
    }
}

async fn deliver(worker: &Worker, deadline: Instant) -> Result<Exit, WorkerError> {
    let patience =
        (deadline - MARGIN.min(deadline.saturating_duration_since(Instant::now()))).max(Instant::now());
    let all = async {
        while worker.ledger.undelivered() > 0 {
            worker.ledger.freed.notified().await;
        }
    };
    tokio::select! {
        biased;
        () = all => Ok(Exit { code: 0 }),
        error = worker.link.failed() => Err(error),
        () = tokio::time::sleep_until(patience) => {
            Err(WorkerError::Undelivered { count: worker.ledger.undelivered() })
        }
    }
}

async fn say_goodbye(worker: &Worker, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now()).clamp(MARGIN / 5, DELIVERY);
    let request = Deregister { worker: worker.id().clone(), nonce: worker.nonce() };
    match tokio::time::timeout(left, worker.link.client.deregister(&request)).await {
        Ok(Ok(())) => info!("worker ended"),
        // The control plane finds out by itself.
        Ok(Err(error)) => warn!(%error, "could not say goodbye to the control plane"),
        Err(_) => warn!("could not say goodbye to the control plane in time"),
    }
}
