//! One attempt as this worker sees it, and the order to stop it.

use std::time::Duration;

use longshore_api::link::ClaimedTask;
use longshore_core::id::Held;
use tokio::sync::watch;

/// Why an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Cancelled,
    HandedOver,
    /// The lease is gone: nothing may be written any more.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub why: Why,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
}

pub struct Attempt {
    pub task: ClaimedTask,
    pub stop: StopReceiver,
}

impl Attempt {
    pub fn held(&self) -> Held {
        held(&self.task)
    }
}

pub fn held(task: &ClaimedTask) -> Held {
    Held { task: task.id, fence: task.fence }
}

/// Gives the order; kept by the ledger.
pub struct StopSender(watch::Sender<Option<Stop>>);

#[derive(Clone)]
pub struct StopReceiver(watch::Receiver<Option<Stop>>);

pub fn stop_channel() -> (StopSender, StopReceiver) {
    let (sender, receiver) = watch::channel(None);
    (StopSender(sender), StopReceiver(receiver))
}

impl StopSender {
    /// The first reason stays, but for a lost lease; the shortest grace counts.
    pub fn order(&self, stop: Stop) {
        self.0.send_if_modified(|now| {
            let next = match *now {
                None => stop,
                Some(now) => {
                    let why = if stop.why == Why::Lost { Why::Lost } else { now.why };
                    Stop { why, grace: now.grace.min(stop.grace) }
                }
            };
            let changed = *now != Some(next);
            *now = Some(next);
            changed
        });
    }
}

impl StopReceiver {
    /// The order that stands, if any.
    pub fn now(&self) -> Option<Stop> {
        *self.0.borrow()
    }

    /// Waits for an order.
    pub async fn ordered(&mut self) -> Stop {
        let stop = self.0.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        match stop {
            Some(stop) => stop,
            // The ledger is gone, and with it the worker.
            None => std::future::pending().await,
        }
    }

    /// Waits for an order that was not seen yet.
    pub async fn changed(&mut self) -> Stop {
        loop {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if let Some(stop) = *self.0.borrow_and_update() {
                return stop;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(orders: &[(Why, u64)], why: Why, grace: u64) {
        let (sender, receiver) = stop_channel();
        for (why, grace) in orders {
            sender.order(Stop { why: *why, grace: Duration::from_secs(*grace) });
        }
        assert_eq!(receiver.now(), Some(Stop { why, grace: Duration::from_secs(grace) }));
    }

    #[test]
    fn the_first_reason_stays_but_for_a_lost_lease() {
        check(&[(Why::Cancelled, 10), (Why::HandedOver, 2)], Why::Cancelled, 2);
        check(&[(Why::HandedOver, 1), (Why::Cancelled, 10)], Why::HandedOver, 1);
        check(&[(Why::Cancelled, 10), (Why::Lost, 10)], Why::Lost, 10);
    }
}
