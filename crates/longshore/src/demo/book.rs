//! What was seen of the tour so far: the newest look at the fleet, its peak, the scaler's decisions, and what happened.
//!
//! Asks only the public API, as any other observer would.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_api::client::{Client, ClientError};
use longshore_api::fleet::{Decision, FleetStatus, Worker};
use longshore_api::link::WorkerState;
use longshore_api::rollout::Rollout;
use longshore_core::time::Timestamp;
use tokio::time::Instant;

use super::deploy;
use super::stage::FLEET;
use crate::output;

/// One look at the fleet.
pub struct Look {
    pub fleet: FleetStatus,
    /// In order of their start; those that are gone as well.
    pub workers: Vec<Worker>,
}

impl Look {
    pub fn count(&self, state: WorkerState) -> usize {
        self.workers.iter().filter(|worker| worker.state == state).count()
    }

    /// Workers that are there to stay: not draining, not gone.
    pub fn active(&self) -> usize {
        self.workers.len() - self.count(WorkerState::Draining) - self.count(WorkerState::Gone)
    }

    pub fn ended(&self) -> u64 {
        let tasks = &self.fleet.tasks;
        tasks.succeeded + tasks.failed + tasks.cancelled
    }

    pub fn unfinished(&self) -> u64 {
        let tasks = &self.fleet.tasks;
        tasks.queued + tasks.running + tasks.waiting
    }
}

pub struct Book {
    pub start: Instant,
    started_at: Timestamp,
    /// While no rollout was under way: one may have more for a moment.
    pub peak: usize,
    /// While one was.
    pub peak_of_rollout: usize,
    /// As it was seen last, once there is one.
    pub rollout: Option<Rollout>,
    /// Oldest first.
    pub decisions: Vec<Decision>,
    /// What happened, with the time since the start.
    pub events: Vec<(Duration, String)>,
    gone: BTreeSet<String>,
}

impl Book {
    pub fn open() -> Book {
        Book {
            start: Instant::now(),
            started_at: output::now(),
            peak: 0,
            peak_of_rollout: 0,
            rollout: None,
            decisions: Vec::new(),
            events: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    pub async fn look(&mut self, client: &Client) -> Result<Look, ClientError> {
        // Before the workers: if it has ended by now, what it started beyond the fleet's wish is gone.
        if self.rolls() {
            self.note_rollout(client.rollout(FLEET, None).await?);
        }
        let fleet = client.fleet(FLEET).await?;
        let mut workers = client.workers(Some(FLEET), true).await?.items;
        workers.sort_by_key(|worker| ordinal(&worker.id));
        let decisions = client.scale(FLEET).await?.decisions;
        let look = Look { fleet, workers };
        let peak = if self.rolls() { &mut self.peak_of_rollout } else { &mut self.peak };
        *peak = look.active().max(*peak);
        self.note_decisions(decisions);
        self.note_ends(&look);
        Ok(look)
    }

    /// A rollout is under way.
    pub fn rolls(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.ended_at.is_none())
    }

    fn note_rollout(&mut self, now: Rollout) {
        if now.ended_at.is_some() {
            self.tell(format!("rollout {} after {:.1} s: {}", now.phase, deploy::seconds(&now), now.says));
        }
        self.rollout = Some(now);
    }

    /// The API gives the newest first, and only the newest.
    fn note_decisions(&mut self, newest_first: Vec<Decision>) {
        let last = self.decisions.last().map(|last| (last.at, last.reason.clone()));
        let known = |decision: &Decision| {
            let (at, reason) = last.as_ref()?;
            Some(decision.at < *at || (decision.at == *at && decision.reason == *reason))
        };
        let new: Vec<Decision> =
            newest_first.into_iter().take_while(|decision| !known(decision).unwrap_or(false)).collect();
        self.decisions.extend(new.into_iter().rev());
    }

    fn note_ends(&mut self, look: &Look) {
        for worker in look.workers.iter().filter(|worker| worker.state == WorkerState::Gone) {
            if self.gone.insert(worker.id.clone()) {
                self.tell(match worker.reason.as_str() {
                    "" | "said goodbye" | "exited with status 0" => format!("{} left", worker.id),
                    why => format!("{} is gone: {why}", worker.id),
                });
            }
        }
    }

    pub fn tell(&mut self, event: String) {
        self.events.push((self.start.elapsed(), event));
    }

    /// When a decision was made, since the start.
    pub fn since_start(&self, at: Timestamp) -> Duration {
        at.since(self.started_at)
    }
}

/// `demo-10` comes after `demo-9`.
fn ordinal(id: &str) -> u64 {
    id.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::json::Json;

    fn decision(at: i64, reason: &str) -> Decision {
        let reason = reason.to_owned();
        Decision { at: Timestamp(at), kind: "hold".into(), from: 2, to: 2, reason, inputs: Json::null() }
    }

    #[test]
    fn a_decision_is_noted_once_and_in_order() {
        let mut book = Book::open();
        book.note_decisions(vec![decision(2, "b"), decision(1, "a")]);
        book.note_decisions(vec![decision(3, "d"), decision(2, "c"), decision(2, "b"), decision(1, "a")]);
        book.note_decisions(vec![decision(3, "d"), decision(2, "c")]);
        let reasons: Vec<&str> = book.decisions.iter().map(|decision| decision.reason.as_str()).collect();
        assert_eq!(reasons, ["a", "b", "c", "d"]);
    }
}
