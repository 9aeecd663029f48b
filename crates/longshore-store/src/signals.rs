//! Wakes up who waits for a change, within this process, after the change is durable.
//!
//! A wake-up says "look again", never what happened; it is lost when the process ends, so waiters also look
//! now and then by themselves. Take the [`Wake`] before the query: what happens in between then wakes it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::id::{FleetName, TaskId, WorkerId};
use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Runnable(FleetName),
    Task(TaskId),
    Journal(TaskId),
    Worker(WorkerId),
    Webhooks,
}

/// Where to wait for changes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Signals {
    waiters: Arc<Mutex<HashMap<Topic, watch::Sender<()>>>>,
}

impl Signals {
    /// Tasks of this fleet became runnable.
    pub fn runnable(&self, fleet: &FleetName) -> Wake {
        self.on(Topic::Runnable(fleet.clone()))
    }

    /// This task has new events.
    pub fn task(&self, task: &TaskId) -> Wake {
        self.on(Topic::Task(*task))
    }

    /// Calls of this task were answered or given up.
    pub fn journal(&self, task: &TaskId) -> Wake {
        self.on(Topic::Journal(*task))
    }

    /// This worker has to be told something: a cancellation, a lost lease, an order to drain.
    pub fn worker(&self, worker: &WorkerId) -> Wake {
        self.on(Topic::Worker(worker.clone()))
    }

    /// Webhooks are owed messages, or were changed.
    pub fn webhooks(&self) -> Wake {
        self.on(Topic::Webhooks)
    }

    fn on(&self, topic: Topic) -> Wake {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = waiters.entry(topic.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Wake { receiver: Some(receiver), topic, signals: self.clone() }
    }

    pub(crate) fn fire(&self, topics: HashSet<Topic>) {
        if topics.is_empty() {
            return;
        }
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in topics {
            if let Some(sender) = waiters.get(&topic) {
                sender.send_replace(());
            }
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.waiters.lock().unwrap().len()
    }
}

/// One waiter. Sees every signal since it was made or last woke up.
pub struct Wake {
    receiver: Option<watch::Receiver<()>>,
    topic: Topic,
    signals: Signals,
}

impl Wake {
    /// Returns at once if there was a signal since the last return. Cancel-safe.
    pub async fn wait(&mut self) {
        let receiver = self.receiver.as_mut().expect("only taken when dropped");
        // Its sender lives in the registry for as long as this waiter does.
        let _ = receiver.changed().await;
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        let mut waiters = self.signals.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        self.receiver = None;
        if waiters.get(&self.topic).is_some_and(|sender| sender.receiver_count() == 0) {
            waiters.remove(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet() -> FleetName {
        FleetName::new("a").unwrap()
    }

    #[tokio::test]
    async fn a_signal_between_subscription_and_wait_is_seen() {
        let signals = Signals::default();
        let mut wake = signals.runnable(&fleet());
        signals.fire(HashSet::from([Topic::Runnable(fleet())]));
        wake.wait().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(20), wake.wait()).await;
        assert!(again.is_err(), "one signal wakes once");
    }

    #[test]
    fn topics_that_nobody_waits_for_are_forgotten() {
        let signals = Signals::default();
        let (one, two) = (signals.runnable(&fleet()), signals.runnable(&fleet()));
        drop(one);
        assert_eq!(signals.waiting(), 1);
        drop(two);
        assert_eq!(signals.waiting(), 0);
    }
}
