//! Wakes up who waits for a change, within this process, after the change is durable.
//!
//! A wake-up says "look again", never what happened; it is lost when the process ends, so waiters also look
//! now and then by themselves. Take the [`Wake`] before the query: what happens in between then wakes it.
//! Those that wait for tasks stand in a line, and only as many are woken as tasks became runnable: see [`Turn`].

mod line;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::batch::BatchId;
use longshore_core::id::{FleetName, TaskId, WorkerId};
use tokio::sync::watch;

use line::Lines;
pub use line::{Turn, Woken};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// There may be tasks of this fleet, nobody knows how many or for whom: wakes all that wait for one. Where their
    /// number is known, say [`Wakes::runnable`].
    Runnable(FleetName),
    Task(TaskId),
    Journal(TaskId),
    Worker(WorkerId),
    Batch(BatchId),
    Schedules,
    Webhooks,
}

impl Topic {
    /// One line that other replicas understand: a letter for the kind, then the name.
    fn encode(&self) -> String {
        match self {
            Topic::Runnable(fleet) => format!("r{fleet}"),
            Topic::Task(task) => format!("t{}", task.0.simple()),
            Topic::Journal(task) => format!("j{}", task.0.simple()),
            Topic::Worker(worker) => format!("w{worker}"),
            Topic::Batch(batch) => format!("b{}", batch.0.simple()),
            Topic::Schedules => "s".to_owned(),
            Topic::Webhooks => "h".to_owned(),
        }
    }

    /// None for what a newer replica may say and this one does not know.
    fn decode(text: &str) -> Option<Topic> {
        let mut rest = text.chars();
        let kind = rest.next()?;
        let name = rest.as_str();
        match kind {
            'r' => FleetName::new(name).ok().map(Topic::Runnable),
            't' => name.parse().ok().map(Topic::Task),
            'j' => name.parse().ok().map(Topic::Journal),
            'w' => WorkerId::new(name).ok().map(Topic::Worker),
            'b' => name.parse().ok().map(Topic::Batch),
            's' => Some(Topic::Schedules),
            'h' => Some(Topic::Webhooks),
            _ => None,
        }
    }
}

/// What changed, gathered until it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wakes {
    topics: HashSet<Topic>,
    /// How many tasks became runnable, by fleet.
    runnable: HashMap<FleetName, usize>,
}

impl Wakes {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many lines [`Wakes::encode`] makes.
    pub(crate) fn len(&self) -> usize {
        self.topics.len() + self.runnable.len()
    }

    pub(crate) fn insert(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    /// Tasks became runnable that any worker of the fleet may take.
    pub(crate) fn runnable(&mut self, fleet: &FleetName, tasks: usize) {
        match self.runnable.get_mut(fleet) {
            Some(count) => *count += tasks,
            None => _ = self.runnable.insert(fleet.clone(), tasks),
        }
    }

    pub(crate) fn extend(&mut self, more: Wakes) {
        self.topics.extend(more.topics);
        for (fleet, tasks) in &more.runnable {
            self.runnable(fleet, *tasks);
        }
    }

    /// Takes no more than so many out.
    pub(crate) fn take(&mut self, most: usize) -> Wakes {
        if self.len() <= most {
            return std::mem::take(self);
        }
        let Wakes { topics, runnable } = std::mem::take(self);
        let (mut topics, mut runnable) = (topics.into_iter(), runnable.into_iter());
        let mut taken = Wakes::from(topics.by_ref().take(most));
        taken.runnable = runnable.by_ref().take(most - taken.topics.len()).collect();
        *self = Wakes { topics: topics.collect(), runnable: runnable.collect() };
        taken
    }

    /// Lines that other replicas understand; each begins with a letter for its kind.
    pub(crate) fn encode(&self) -> impl Iterator<Item = String> {
        let counted = self.runnable.iter().map(|(fleet, tasks)| format!("n{tasks} {fleet}"));
        self.topics.iter().map(Topic::encode).chain(counted)
    }

    /// Leaves out what a newer replica may say and this one does not know.
    pub(crate) fn decode<'a>(lines: impl IntoIterator<Item = &'a str>) -> Wakes {
        let mut wakes = Wakes::default();
        for line in lines {
            if let Some((fleet, tasks)) = counted(line) {
                wakes.runnable(&fleet, tasks);
            } else if let Some(topic) = Topic::decode(line) {
                wakes.insert(topic);
            }
        }
        wakes
    }
}

fn counted(line: &str) -> Option<(FleetName, usize)> {
    let (tasks, fleet) = line.strip_prefix('n')?.split_once(' ')?;
    Some((FleetName::new(fleet).ok()?, tasks.parse().ok()?))
}

impl<T: IntoIterator<Item = Topic>> From<T> for Wakes {
    fn from(topics: T) -> Wakes {
        Wakes { topics: topics.into_iter().collect(), runnable: HashMap::new() }
    }
}

/// Where to wait for changes. Cheap to clone.
#[derive(Clone, Default)]
pub struct Signals {
    waiters: Arc<Mutex<HashMap<Topic, watch::Sender<()>>>>,
    lines: Lines,
}

impl Signals {
    /// Tasks of this fleet became runnable.
    pub fn runnable(&self, fleet: &FleetName) -> Turn {
        self.lines.join(fleet)
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

    /// Schedules were declared anew, paused, or go on.
    pub fn schedules(&self) -> Wake {
        self.on(Topic::Schedules)
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

    pub(crate) fn fire(&self, wakes: Wakes) {
        for (fleet, tasks) in &wakes.runnable {
            // Else each of them is woken anyway.
            if !wakes.topics.contains(&Topic::Runnable(fleet.clone())) {
                self.lines.call(fleet, *tasks);
            }
        }
        if wakes.topics.is_empty() {
            return;
        }
        let waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for topic in wakes.topics {
            if let Topic::Runnable(fleet) = &topic {
                self.lines.call_all(fleet);
            } else if let Some(sender) = waiters.get(&topic) {
                sender.send_replace(());
            }
        }
    }

    /// Something may have been missed: everyone looks again.
    pub(crate) fn fire_all(&self) {
        self.lines.call_everyone();
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
    use futures_util::FutureExt;

    fn fleet(name: &str) -> FleetName {
        FleetName::new(name).unwrap()
    }

    fn worker() -> WorkerId {
        WorkerId::new("w").unwrap()
    }

    #[tokio::test]
    async fn a_signal_between_subscription_and_wait_is_seen() {
        let signals = Signals::default();
        let mut wake = signals.worker(&worker());
        signals.fire([Topic::Worker(worker())].into());
        wake.wait().await;
        assert!(wake.wait().now_or_never().is_none(), "one signal wakes once");
    }

    #[test]
    fn wakes_survive_their_way_to_another_replica() {
        let task = TaskId(uuid::Uuid::from_u128(7));
        let other = WorkerId::new("host:1/a.b_c-d").unwrap();
        let named =
            [Topic::Runnable(fleet("a")), Topic::Task(task), Topic::Journal(task), Topic::Worker(other)];
        let topics = named.into_iter().chain([Topic::Schedules, Topic::Webhooks]);
        let mut wakes = Wakes::from(topics);
        wakes.runnable(&fleet("a"), 12);
        wakes.runnable(&fleet("b"), 1);
        let lines: Vec<String> = wakes.encode().collect();
        assert_eq!(lines.len(), wakes.len());
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:?}");
        assert_eq!(Wakes::decode(lines.iter().map(String::as_str)), wakes);
        let unknown = ["", "x1", "tnot-a-task", "r", "rUPPER", "n1", "n1 UPPER", "nx a"];
        assert_eq!(Wakes::decode(unknown), Wakes::default());
    }

    #[test]
    fn wakes_are_taken_in_parts_and_none_is_lost() {
        let mut wakes = Wakes::from((0..3).map(|n| Topic::Task(TaskId(uuid::Uuid::from_u128(n)))));
        ["a", "b", "c"].iter().for_each(|name| wakes.runnable(&fleet(name), 2));
        let (all, mut taken) = (wakes.clone(), Wakes::default());
        let sizes: Vec<usize> = (0..3)
            .map(|_| {
                let part = wakes.take(4);
                let size = part.len();
                taken.extend(part);
                size
            })
            .collect();
        assert_eq!(sizes, [4, 2, 0]);
        assert_eq!(taken, all);
    }

    #[tokio::test]
    async fn everyone_can_be_woken() {
        let signals = Signals::default();
        let mut turns = [signals.runnable(&fleet("a")), signals.runnable(&fleet("a"))];
        let mut task = signals.task(&TaskId(uuid::Uuid::nil()));
        signals.fire_all();
        for turn in &mut turns {
            assert_eq!(turn.wait().await, Woken::Called);
        }
        task.wait().await;
    }

    #[test]
    fn topics_that_nobody_waits_for_are_forgotten() {
        let signals = Signals::default();
        let (one, two) = (signals.worker(&worker()), signals.worker(&worker()));
        drop(one);
        assert_eq!(signals.waiting(), 1);
        drop(two);
        assert_eq!(signals.waiting(), 0);
    }

    /// How many of three waiters of fleet `a` are woken.
    fn check_woken(change: impl FnOnce(&mut Wakes), expected: usize) {
        let signals = Signals::default();
        let mut turns: Vec<Turn> = (0..3).map(|_| signals.runnable(&fleet("a"))).collect();
        let mut wakes = Wakes::default();
        change(&mut wakes);
        signals.fire(wakes);
        let woken = turns.iter_mut().filter_map(|turn| turn.wait().now_or_never()).count();
        assert_eq!(woken, expected);
    }

    #[tokio::test]
    async fn tasks_wake_as_many_as_they_are_and_what_is_not_counted_wakes_all() {
        check_woken(|wakes| wakes.runnable(&fleet("a"), 1), 1);
        check_woken(|wakes| wakes.runnable(&fleet("b"), 9), 0);
        check_woken(|wakes| wakes.insert(Topic::Runnable(fleet("a"))), 3);
        let both = |wakes: &mut Wakes| {
            wakes.insert(Topic::Runnable(fleet("a")));
            wakes.runnable(&fleet("a"), 1);
        };
        check_woken(both, 3);
        let in_parts = |wakes: &mut Wakes| {
            wakes.runnable(&fleet("a"), 1);
            let mut more = Wakes::default();
            more.runnable(&fleet("a"), 1);
            wakes.extend(more);
        };
        check_woken(in_parts, 2);
    }
}
