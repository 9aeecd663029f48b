//! Delivers what is in the outbox: events in batches, endings at once.
//!
//! An ending is repeated until it is acknowledged or refused: repeating one that was accepted is accepted again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_api::link::{
    AttemptEnding, AttemptEvents, Complete, Ended, Events, EventsAnswer, Outcome, Release,
};
use longshore_api::link_client::LinkError;
use longshore_core::id::Held;
use longshore_core::task::{Failure, Interruption};
use tracing::{error, info, warn};

use super::Worker;
use crate::attempt::{Stop, Why};

/// Events wait this long for others to go with them.
const GATHER: Duration = Duration::from_millis(75);

/// An ending that the answer does not mention is sent this many times.
const UNMENTIONED: u32 = 3;

pub async fn events(worker: Arc<Worker>) {
    loop {
        worker.outbox.events.notified().await;
        tokio::time::sleep(GATHER).await;
        let attempts = worker.outbox.events();
        if !attempts.is_empty() {
            send_events(&worker, attempts).await;
        }
    }
}

async fn send_events(worker: &Worker, attempts: Vec<AttemptEvents>) {
    let request = Events { worker: worker.id().clone(), nonce: worker.nonce(), attempts };
    match worker.link.client.events(&request).await {
        Ok(EventsAnswer { lost }) => {
            worker.link.answered();
            worker.outbox.sent(&request.attempts);
            for held in lost {
                worker.ledger.stop(held, Stop { why: Why::Lost, grace: worker.setting.kill_grace });
            }
        }
        Err(failed) => {
            if let Some(problem) = worker.link.settle(failed).await {
                error!(code = %problem.code, detail = problem.detail, "events refused and dropped");
                worker.outbox.sent(&request.attempts);
            }
            worker.outbox.events.notify_one();
        }
    }
}

pub async fn endings(worker: Arc<Worker>) {
    loop {
        let batch = worker.outbox.take_endings();
        if batch.is_empty() {
            worker.outbox.endings.notified().await;
            continue;
        }
        let (given_back, ended): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_given_back);
        for (endings, give_back) in [(ended, false), (given_back, true)] {
            deliver(&worker, endings, give_back).await;
        }
    }
}

fn is_given_back(ending: &AttemptEnding) -> bool {
    matches!(ending.outcome, Outcome::Interrupted(Interruption::HandedOver))
}

/// Delivers endings of one kind, all of them, whatever it takes.
async fn deliver(worker: &Worker, mut endings: Vec<AttemptEnding>, give_back: bool) {
    // One refused among many would hold up the rest for ever, so then each goes alone.
    let mut alone = Vec::new();
    let mut sends = 0;
    loop {
        if endings.is_empty() {
            match alone.pop() {
                Some(next) => endings.push(next),
                None => return,
            }
            sends = 0;
        }
        match send(worker, &endings, give_back).await {
            Ok(answer) => {
                worker.link.answered();
                sends += 1;
                endings = settled(worker, endings, &answer, sends);
            }
            Err(failed) => {
                let Some(problem) = worker.link.settle(failed).await else { continue };
                warn!(code = %problem.code, detail = problem.detail, endings = endings.len(), "endings refused");
                if endings.len() > 1 {
                    alone.append(&mut endings);
                } else {
                    endings = endings
                        .pop()
                        .and_then(|ending| replaced(worker, ending, &problem.detail))
                        .into_iter()
                        .collect();
                }
            }
        }
    }
}

async fn send(worker: &Worker, endings: &[AttemptEnding], give_back: bool) -> Result<Ended, LinkError> {
    let (id, nonce) = (worker.id().clone(), worker.nonce());
    if give_back {
        let given =
            |ending: &AttemptEnding| AttemptEvents { held: ending.held, events: ending.events.clone() };
        let attempts = endings.iter().map(given).collect();
        let request = Release { worker: id, nonce, attempts, cause: Interruption::HandedOver };
        worker.link.client.release(&request).await
    } else {
        let request = Complete { worker: id, nonce, endings: endings.to_vec() };
        worker.link.client.complete(&request).await
    }
}

/// Returns what is still to be delivered.
fn settled(worker: &Worker, endings: Vec<AttemptEnding>, answer: &Ended, sends: u32) -> Vec<AttemptEnding> {
    let accepted: BTreeSet<&Held> = answer.accepted.iter().collect();
    let refused: BTreeSet<&Held> = answer.refused.iter().collect();
    let mut left = Vec::new();
    for ending in endings {
        let held = ending.held;
        if accepted.contains(&held) {
            info!(task = %held.task, outcome = word(&ending.outcome), "attempt ended");
        } else if refused.contains(&held) {
            worker.metrics.refused_endings.inc();
            warn!(task = %held.task, fence = %held.fence, "ending refused: the lease is no longer valid");
        } else if sends < UNMENTIONED {
            left.push(ending);
            continue;
        } else {
            warn!(task = %held.task, fence = %held.fence, "ending neither accepted nor refused; given up");
        }
        worker.ledger.forget(held);
    }
    left
}

/// What to send in place of an ending that the control plane will not have.
fn replaced(worker: &Worker, ending: AttemptEnding, why: &str) -> Option<AttemptEnding> {
    let held = ending.held;
    if let Outcome::Succeeded { .. } = ending.outcome {
        error!(task = %held.task, why, "result refused; the attempt fails instead");
        let message = format!("the control plane refused the result: {why}");
        let failure = Failure::lasting("result_refused", message);
        return Some(AttemptEnding { held, events: Vec::new(), outcome: Outcome::Failed(failure) });
    }
    if !ending.events.is_empty() {
        return Some(AttemptEnding { events: Vec::new(), ..ending });
    }
    error!(task = %held.task, why, "ending refused and dropped; the task runs again");
    worker.ledger.forget(held);
    None
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded { .. } => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Interrupted(_) => "interrupted",
        Outcome::Waited(_) => "waited",
    }
}
