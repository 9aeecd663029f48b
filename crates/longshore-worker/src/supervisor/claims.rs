//! Asks for tasks, one claim at a time.
//!
//! A number is used up only when its answer was read; until then it is repeated, at whichever replica of the control plane
//! answers, so that an answer that was lost on its way comes again.

use std::sync::Arc;
use std::time::Duration;

use longshore_api::link::{Claim, Claimed};
use longshore_api::problem::Problem;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::Worker;

/// How long the control plane may hold a claim.
const HELD: Duration = Duration::from_secs(20);

/// How long a drain waits to hear what its last claim brought.
const LAST_CLAIM: Duration = Duration::from_secs(1);

pub async fn run(worker: Arc<Worker>) {
    let mut seq = worker.ledger.last_claim() + 1;
    while let Some((room, in_flight)) = room(&worker).await {
        let asked = Instant::now();
        let claim = Claim {
            worker: worker.id().clone(),
            nonce: worker.nonce(),
            seq,
            max: room,
            in_flight,
            wait_ms: HELD.as_millis() as u64,
        };
        tokio::select! {
            biased;
            answer = answer(&worker, &claim) => match answer {
                Ok(claimed) => {
                    if !claimed.tasks.is_empty() {
                        worker.metrics.claimed(asked.elapsed());
                    }
                    seq = claimed.seq + 1;
                    take(&worker, claimed);
                }
                Err(problem) => seq = after_refusal(&worker, seq, &problem).await,
            },
            () = worker.drained() => return give_up(&worker, claim).await,
            // The control plane has to know: a suspect is only given to a worker that does nothing else. The number is
            // the same, so what the dropped request may have brought comes again.
            () = worker.ledger.idle(), if in_flight > 0 => {}
        }
    }
}

/// Waits until there is room and the worker is ready; `None`: it drains.
async fn room(worker: &Worker) -> Option<(u32, u32)> {
    loop {
        if worker.health.draining() {
            return None;
        }
        let (room, in_flight) = worker.ledger.room(worker.concurrency);
        if room > 0 && worker.health.readiness().ready {
            return Some((room, in_flight));
        }
        tokio::select! {
            () = worker.ledger.freed.notified() => {}
            () = worker.drained() => {}
            // Readiness changes with time as well.
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

async fn answer(worker: &Worker, claim: &Claim) -> Result<Claimed, Box<Problem>> {
    loop {
        match worker.link.client.claim(claim).await {
            Ok(claimed) if claimed.seq == claim.seq => {
                worker.link.answered();
                return Ok(claimed);
            }
            Ok(claimed) => {
                warn!(asked = claim.seq, answered = claimed.seq, "claim answered with another number");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => {
                if let Some(problem) = worker.link.settle(error).await {
                    return Err(problem);
                }
            }
        }
    }
}

fn take(worker: &Arc<Worker>, claimed: Claimed) {
    for attempt in worker.ledger.accept(claimed.seq, claimed.tasks) {
        debug!(task = %attempt.task.id, attempt = attempt.task.attempt, fence = %attempt.task.fence, "attempt starts");
        worker.start(attempt);
    }
}

/// Returns the number to go on with.
async fn after_refusal(worker: &Worker, seq: u64, problem: &Problem) -> u64 {
    warn!(seq, code = %problem.code, detail = problem.detail, "claim refused");
    if problem.code == "claim_out_of_order"
        && let Some(newest) = newest_named(&problem.detail).filter(|newest| *newest >= seq)
    {
        // What it brought never arrived here.
        worker.ledger.abandon_claim(newest);
        return newest + 1;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    seq
}

/// The largest number that stands by itself in a text.
fn newest_named(detail: &str) -> Option<u64> {
    let words = detail.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    words.filter_map(|word| word.parse().ok()).max()
}

/// Asks once more what the last claim brought, without waiting for tasks, and hands all of it over.
async fn give_up(worker: &Arc<Worker>, claim: Claim) {
    let seq = claim.seq;
    let last = Claim { max: 0, wait_ms: 0, ..claim };
    match tokio::time::timeout(LAST_CLAIM, worker.link.client.claim(&last)).await {
        Ok(Ok(claimed)) if claimed.seq == seq => {
            for attempt in worker.ledger.accept(seq, claimed.tasks) {
                info!(task = %attempt.task.id, "task handed over before it started");
                worker.hand_over_unstarted(attempt);
            }
        }
        // The next heartbeat says that nothing of it is held.
        _ => worker.ledger.abandon_claim(seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_number_is_found_in_words() {
        assert_eq!(newest_named("claim 3 of worker w-99 is out of order: the newest is 7."), Some(7));
        assert_eq!(newest_named("out of order"), None);
    }
}
