//! What is to be told to the control plane: agents' events, and how attempts ended.
//!
//! Sends nothing itself. Bounded per attempt: an agent that reports progress faster than it can be sent loses the
//! excess, one that writes more messages than that fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use longshore_api::link::{AgentEvent, AgentEventKind, AttemptEnding, AttemptEvents, Outcome};
use longshore_core::id::Held;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use longshore_core::wait::Awaits;
use tokio::sync::Notify;
use tracing::warn;

use crate::output::TooLarge;

/// Progress of one attempt that waits to be sent: bytes and events.
const PROGRESS_LIMIT: (usize, usize) = (256 << 10, 1000);

/// Messages of one attempt that wait to be sent, bytes.
pub const MESSAGES_LIMIT: usize = 4 << 20;

/// The most that one request carries, but for a single ending or event that is larger.
const BATCH: (usize, usize) = (1 << 20, 500);

#[derive(Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    /// There are events to send.
    pub events: Notify,
    /// There are endings to send.
    pub endings: Notify,
}

#[derive(Default)]
struct Inner {
    queues: BTreeMap<Held, Queue>,
    endings: VecDeque<AttemptEnding>,
}

#[derive(Default)]
struct Queue {
    told: u64,
    waiting: VecDeque<AgentEvent>,
    progress_bytes: usize,
    progress_events: usize,
    message_bytes: usize,
    dropped: u64,
}

/// Takes one attempt's events.
#[derive(Clone)]
pub struct Speaker {
    outbox: Arc<Outbox>,
    held: Held,
}

impl Speaker {
    pub fn progress(&self, data: Json) {
        // Dropped progress is counted, and said when the attempt ends.
        _ = self.outbox.add(self.held, AgentEventKind::Progress, data);
    }

    pub fn message(&self, data: Json) -> Result<(), TooLarge> {
        self.outbox.add(self.held, AgentEventKind::Message, data)
    }
}

impl Outbox {
    pub fn open(self: &Arc<Self>, held: Held) -> Speaker {
        self.lock().queues.insert(held, Queue::default());
        Speaker { outbox: Arc::clone(self), held }
    }

    /// Ends an attempt: events that are not acknowledged go along, so that they are written before its ending.
    pub fn close(&self, held: Held, outcome: Outcome) {
        let mut inner = self.lock();
        let events = inner.remove(held);
        inner.endings.push_back(AttemptEnding { held, events, outcome });
        drop(inner);
        self.endings.notify_one();
    }

    /// Forgets an attempt whose lease is gone.
    pub fn discard(&self, held: Held) {
        self.lock().remove(held);
    }

    /// The oldest events that are not acknowledged.
    pub fn events(&self) -> Vec<AttemptEvents> {
        let (mut bytes, mut count) = (0, 0);
        let mut fits = |event: &&AgentEvent| {
            bytes += event.data.text().len();
            count += 1;
            count == 1 || (bytes <= BATCH.0 && count <= BATCH.1)
        };
        let inner = self.lock();
        let full = inner.queues.iter().filter(|(_, queue)| !queue.waiting.is_empty());
        let batch = full.map(|(held, queue)| AttemptEvents {
            held: *held,
            events: queue.waiting.iter().take_while(&mut fits).cloned().collect(),
        });
        batch.filter(|attempt| !attempt.events.is_empty()).collect()
    }

    /// Events that need not be sent any more. Those of attempts that ended meanwhile go with the ending.
    pub fn sent(&self, batch: &[AttemptEvents]) {
        let mut inner = self.lock();
        for attempt in batch {
            let newest = attempt.events.last().map_or(0, |event| event.n);
            if let Some(queue) = inner.queues.get_mut(&attempt.held) {
                queue.drop_until(newest);
            }
        }
        if inner.queues.values().any(|queue| !queue.waiting.is_empty()) {
            self.events.notify_one();
        }
    }

    /// The next endings to send; whoever takes them delivers them.
    pub fn take_endings(&self) -> Vec<AttemptEnding> {
        let mut inner = self.lock();
        let (mut taken, mut bytes): (Vec<AttemptEnding>, usize) = (Vec::new(), 0);
        while let Some(next) = inner.endings.front() {
            bytes += size(next);
            if !taken.is_empty() && (bytes > BATCH.0 || taken.len() >= BATCH.1) {
                break;
            }
            taken.extend(inner.endings.pop_front());
        }
        taken
    }

    fn add(&self, held: Held, kind: AgentEventKind, data: Json) -> Result<(), TooLarge> {
        let mut inner = self.lock();
        // A stopped attempt may still speak: its queue is gone.
        let Some(queue) = inner.queues.get_mut(&held) else { return Ok(()) };
        queue.add(kind, data)?;
        drop(inner);
        self.events.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, held: Held) -> Vec<AgentEvent> {
        let Some(queue) = self.queues.remove(&held) else { return Vec::new() };
        if queue.dropped > 0 {
            warn!(task = %held.task, events = queue.dropped, "progress events dropped: more than could be sent");
        }
        queue.waiting.into()
    }
}

impl Queue {
    fn add(&mut self, kind: AgentEventKind, data: Json) -> Result<(), TooLarge> {
        let size = data.text().len();
        let full = match kind {
            AgentEventKind::Message => self.message_bytes + size > MESSAGES_LIMIT && self.message_bytes > 0,
            AgentEventKind::Progress => {
                let over = self.progress_bytes + size > PROGRESS_LIMIT.0 && self.progress_bytes > 0;
                over || self.progress_events >= PROGRESS_LIMIT.1
            }
        };
        if full {
            self.dropped += u64::from(kind == AgentEventKind::Progress);
            return Err(TooLarge);
        }
        self.told += 1;
        self.count(kind, size as isize);
        self.waiting.push_back(AgentEvent { n: self.told, at: now(), kind, data });
        Ok(())
    }

    fn drop_until(&mut self, newest: u64) {
        while self.waiting.front().is_some_and(|event| event.n <= newest) {
            if let Some(event) = self.waiting.pop_front() {
                self.count(event.kind, -(event.data.text().len() as isize));
            }
        }
    }

    fn count(&mut self, kind: AgentEventKind, size: isize) {
        match kind {
            AgentEventKind::Message => self.message_bytes = self.message_bytes.saturating_add_signed(size),
            AgentEventKind::Progress => {
                self.progress_bytes = self.progress_bytes.saturating_add_signed(size);
                let one = if size < 0 { -1 } else { 1 };
                self.progress_events = self.progress_events.saturating_add_signed(one);
            }
        }
    }
}

fn size(ending: &AttemptEnding) -> usize {
    let result = match &ending.outcome {
        Outcome::Succeeded { result } => result.text().len(),
        Outcome::Failed(failure) => failure.message.len(),
        Outcome::Interrupted(_) => 0,
        Outcome::Waited(Awaits::Ask(ask)) => ask.question.text().len(),
        Outcome::Waited(_) => 0,
    };
    result + ending.events.iter().map(|event| event.data.text().len()).sum::<usize>()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::id::{Fence, TaskId};
    use uuid::Uuid;

    fn held(n: u64) -> Held {
        Held { task: TaskId(Uuid::from_u128(n.into())), fence: Fence(n) }
    }

    fn numbers(events: &[AgentEvent]) -> Vec<u64> {
        events.iter().map(|event| event.n).collect()
    }

    #[test]
    fn events_that_are_not_acknowledged_go_with_the_ending() {
        let outbox = Arc::new(Outbox::default());
        let speaker = outbox.open(held(1));
        for _ in 0..3 {
            speaker.progress(Json::null());
        }
        let mut batch = outbox.events();
        assert_eq!(numbers(&batch[0].events), [1, 2, 3]);
        batch[0].events.truncate(1);
        outbox.sent(&batch);
        outbox.close(held(1), Outcome::Succeeded { result: Json::null() });
        assert_eq!(numbers(&outbox.take_endings()[0].events), [2, 3]);
        assert!(outbox.events().is_empty());
    }

    #[test]
    fn progress_that_cannot_be_sent_is_dropped_without_gaps_in_its_numbers() {
        let outbox = Arc::new(Outbox::default());
        let speaker = outbox.open(held(1));
        for _ in 0..5000 {
            speaker.progress(Json::string("x"));
        }
        speaker.message(Json::string("kept")).expect("messages have their own room");
        let mut seen = Vec::new();
        while let batch @ [_, ..] = &outbox.events()[..] {
            seen.extend(numbers(&batch[0].events));
            outbox.sent(batch);
        }
        assert_eq!(seen, (1..=1001).collect::<Vec<u64>>());
        speaker.progress(Json::null());
        assert_eq!(numbers(&outbox.events()[0].events), [1002]);
    }

    #[test]
    fn messages_beyond_the_limit_are_refused() {
        let outbox = Arc::new(Outbox::default());
        let speaker = outbox.open(held(1));
        let big = Json::string(&"x".repeat(MESSAGES_LIMIT / 2 - 2));
        assert!(speaker.message(big.clone()).is_ok());
        assert!(speaker.message(big.clone()).is_ok());
        assert!(speaker.message(big).is_err());
    }

    #[test]
    fn a_batch_of_endings_is_bounded_but_never_empty() {
        let outbox = Arc::new(Outbox::default());
        for n in 1..=3 {
            outbox.open(held(n));
            outbox.close(held(n), Outcome::Succeeded { result: Json::string(&"x".repeat(900 << 10)) });
        }
        let sizes: Vec<usize> = (0..4).map(|_| outbox.take_endings().len()).collect();
        assert_eq!(sizes, [1, 1, 1, 0]);
    }
}
