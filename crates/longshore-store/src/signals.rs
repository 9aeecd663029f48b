//! Wakes up who waits for a change, within this process, after the change is durable.
//!
//! A wake-up says "look again", never what happened; it is lost when the process ends, so waiters also look
//! now and then by themselves. Take the [`Wake`] before the query: what happens in between then wakes it.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::batch::BatchId;
use longshore_core::id::{FleetName, TaskId, WorkerId};
use tokio::sync::watch;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Runnable(FleetName),
    Task(TaskId),
    Journal(TaskId),
    Worker(WorkerId),
    Batch(BatchId),
}

#[allow(dead_code)]
impl Topic {
    /// One line that other replicas understand: a letter for the kind, then the name.
    pub(crate) fn encode(&self) -> String {
        match self {
            Topic::Runnable(fleet) => format!("r{fleet}"),
            Topic::Task(task) => format!("t{}", task.0.simple()),
            Topic::Journal(task) => format!("j{}", task.0.simple()),
            Topic::Worker(worker) => format!("w{worker}"),
            Topic::Batch(batch) => format!("b{}", batch.0.simple()),
        }
    }

    /// None for what a newer replica may say and this one does not know.
    pub(crate) fn decode(text: &str) -> Option<Topic> {
        let mut rest = text.chars();
        let kind = rest.next()?;
        let name = rest.as_str();
        match kind {
            'r' => FleetName::new(name).ok().map(Topic::Runnable),
            't' => name.parse().ok().map(Topic::Task),
            'j' => name.parse().ok().map(Topic::Journal),
            'w' => WorkerId::new(name).ok().map(Topic::Worker),
            'b' => name.parse().ok().map(Topic::Batch),
            _ => None,
        }
    }
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

    /// Tasks of this batch moved, or it ended.
    pub fn batch(&self, batch: BatchId) -> Wake {
        self.on(Topic::Batch(batch))
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

    /// Something may have been missed: everyone looks again.
    #[allow(dead_code)]
    pub(crate) fn fire_all(&self) {
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        waiters.values().for_each(|sender| sender.send_replace(()));
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
    fn topics_survive_their_way_to_another_replica() {
        let task = TaskId(uuid::Uuid::from_u128(7));
        let worker = WorkerId::new("host:1/a.b_c-d").unwrap();
        for topic in
            [Topic::Runnable(fleet()), Topic::Task(task), Topic::Journal(task), Topic::Worker(worker)]
        {
            let text = topic.encode();
            assert!(!text.contains(char::is_whitespace), "{text:?} is one word");
            assert_eq!(Topic::decode(&text), Some(topic));
        }
        for text in ["", "x1", "tnot-a-task", "r", "rUPPER"] {
            assert_eq!(Topic::decode(text), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn everyone_can_be_woken() {
        let signals = Signals::default();
        let (mut one, mut two) = (signals.runnable(&fleet()), signals.task(&TaskId(uuid::Uuid::nil())));
        signals.fire_all();
        one.wait().await;
        two.wait().await;
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
