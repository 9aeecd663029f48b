//! Which attempts may use the relay, and by which tokens.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_api::llm::UNDELIVERED_MOST;
use longshore_api::problem::Problem;
use longshore_core::id::{Fence, Held};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::headers::Shown;
use crate::outbox::Speaker;

/// Tokens of attempts that ended which are still known as such.
const REMEMBERED: usize = 1024;

/// What task tokens begin with.
const TASK_TOKEN: &str = "lst1.";

pub struct Register {
    inner: Mutex<Inner>,
    concurrency: u32,
    kill_grace: Duration,
    /// How often an agent was caught using a token long after its attempt was stopped.
    overstays: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<Held, Arc<Entry>>,
    tokens: HashMap<Arc<str>, Held>,
    revoked: VecDeque<Revoked>,
}

struct Revoked {
    token: Arc<str>,
    held: Held,
    /// When the attempt was stopped; `None`: its agent ended it, or the process that could know the token is gone.
    stopped: Option<Instant>,
}

/// An attempt that runs.
pub struct Entry {
    pub held: Held,
    pub token: Arc<str>,
    pub speaker: Speaker,
    undelivered: Mutex<VecDeque<Uuid>>,
    broken: AtomicBool,
    closed: AtomicBool,
    closing: Notify,
}

/// How an attempt that is closed ended, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    ByItsAgent,
    /// Cancelled, lost or timed out: its agent may not have noticed.
    Stopped,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not say which task it is made for.
    TokenRequired,
    Unknown,
    Revoked,
}

impl Refusal {
    pub fn problem(self) -> Problem {
        match self {
            Refusal::TokenRequired => Problem::new(
                401,
                "task_token_required",
                "this worker runs several tasks, and the request does not say which one it is made for",
            )
            .hint(
                "use the token of the task as the API key (it comes with each task, as `token` and in `env`), or send \
                 the header `baggage: longshore.task=<task id>`",
            ),
            Refusal::Unknown => {
                Problem::new(401, "unknown_task_token", "the task token is not one of a task that runs on this worker")
            }
            Refusal::Revoked => Problem::new(
                401,
                "task_token_revoked",
                "the task token is no longer good: this attempt of its task has ended here",
            ),
        }
    }
}

impl Register {
    pub fn new(concurrency: u32, kill_grace: Duration) -> Register {
        Register { inner: Mutex::default(), concurrency, kill_grace, overstays: watch::Sender::new(0) }
    }

    /// From now on requests with this token are served.
    pub fn open(&self, held: Held, token: &str, speaker: Speaker) {
        let entry = Arc::new(Entry {
            held,
            token: token.into(),
            speaker,
            undelivered: Mutex::default(),
            broken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
        });
        let mut inner = self.lock();
        inner.tokens.insert(Arc::clone(&entry.token), held);
        inner.open.insert(held, entry);
    }

    /// Revokes the attempt's token and ends its requests. Returns whether longshore broke off an answer that its agent was
    /// reading.
    pub fn close(&self, held: Held, how: Closed) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.open.remove(&held) else { return false };
        if inner.tokens.get(&entry.token) == Some(&held) {
            inner.tokens.remove(&entry.token);
        }
        if inner.revoked.len() >= REMEMBERED {
            inner.revoked.pop_front();
        }
        let stopped = (how == Closed::Stopped).then(Instant::now);
        inner.revoked.push_back(Revoked { token: Arc::clone(&entry.token), held, stopped });
        drop(inner);
        entry.closed.store(true, Ordering::Release);
        entry.closing.notify_waiters();
        entry.broken.load(Ordering::Acquire)
    }

    /// Finds the attempt that a request is made for.
    pub fn admit(&self, shown: &Shown) -> Result<Arc<Entry>, Refusal> {
        let mut inner = self.lock();
        let held = shown.keys.iter().find_map(|key| inner.tokens.get(key.as_str()));
        if let Some(entry) = held.and_then(|held| inner.open.get(held)) {
            return Ok(Arc::clone(entry));
        }
        if shown.keys.iter().any(|key| inner.was_revoked(key)) {
            self.watch_overstay(&mut inner, shown);
            return Err(Refusal::Revoked);
        }
        if shown.keys.iter().any(|key| key.starts_with(TASK_TOKEN)) {
            return Err(Refusal::Unknown);
        }
        inner.named(shown).or_else(|| inner.only(self.concurrency)).ok_or(Refusal::TokenRequired)
    }

    fn watch_overstay(&self, inner: &mut Inner, shown: &Shown) {
        let late = |revoked: &&Revoked| {
            let stopped = revoked.stopped.is_some_and(|at| at.elapsed() > self.kill_grace);
            stopped && shown.keys.iter().any(|key| **key == *revoked.token)
        };
        let Some(task) = inner.revoked.iter().find(late).map(|revoked| revoked.held.task) else { return };
        warn!(%task, "agent still works on a task that was stopped");
        // Whoever serves next was never told these tokens.
        inner.revoked.iter_mut().for_each(|revoked| revoked.stopped = None);
        self.overstays.send_modify(|count| *count += 1);
    }

    /// Waits until an agent uses a token whose attempt was stopped longer than the kill grace ago; from the call on.
    pub fn overstayed(&self) -> impl Future<Output = ()> + use<> {
        let mut overstays = self.overstays.subscribe();
        async move {
            if overstays.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn was_revoked(&self, key: &str) -> bool {
        self.revoked.iter().any(|revoked| *revoked.token == *key)
    }

    fn named(&self, shown: &Shown) -> Option<Arc<Entry>> {
        let task = shown.task?;
        let all = Held { task, fence: Fence(0) }..=Held { task, fence: Fence(u64::MAX) };
        self.open.range(all).next_back().map(|(_, entry)| Arc::clone(entry))
    }

    /// Where one task runs at a time there is no doubt whose request it is.
    fn only(&self, concurrency: u32) -> Option<Arc<Entry>> {
        let alone = concurrency == 1 && self.open.len() == 1;
        self.open.values().next().filter(|_| alone).map(Arc::clone)
    }
}

impl Entry {
    /// Waits until the attempt is over.
    pub async fn closed(&self) {
        let closing = self.closing.notified();
        if !self.closed.load(Ordering::Acquire) {
            closing.await;
        }
    }

    /// Notes that longshore breaks off an answer: should the attempt fail, that is not its agent's doing.
    pub fn note_break(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// The call's answer did not reach the agent whole.
    pub fn note_undelivered(&self, call: Uuid) {
        let mut calls = self.lock();
        if calls.len() >= UNDELIVERED_MOST {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    pub fn undelivered(&self) -> Vec<Uuid> {
        self.lock().iter().copied().collect()
    }

    /// The gateway was told of these.
    pub fn told(&self, told: &[Uuid]) {
        if !told.is_empty() {
            self.lock().retain(|call| !told.contains(call));
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Uuid>> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::Outbox;
    use longshore_core::id::TaskId;

    fn held(n: u64) -> Held {
        Held { task: TaskId(Uuid::from_u128(n.into())), fence: Fence(n) }
    }

    fn register(concurrency: u32, open: &[u64]) -> Register {
        let register = Register::new(concurrency, Duration::from_secs(10));
        open.iter().for_each(|n| enter(&register, *n));
        register
    }

    fn enter(register: &Register, n: u64) {
        register.open(held(n), &format!("lst1.{n}"), Arc::new(Outbox::default()).open(held(n)));
    }

    fn check(register: &Register, keys: &[&str], task: Option<u64>, expected: Result<u64, Refusal>) {
        let shown = Shown {
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            task: task.map(|n| held(n).task),
        };
        let admitted = register.admit(&shown).map(|entry| entry.held.fence.0);
        assert_eq!(admitted, expected, "{shown:?}");
    }

    #[test]
    fn a_token_names_its_task_whatever_else_runs() {
        let register = register(8, &[1, 2]);
        check(&register, &["lst1.2"], None, Ok(2));
        check(&register, &["sk-remnant", "lst1.1"], Some(2), Ok(1));
        check(&register, &["lst1.3"], Some(2), Err(Refusal::Unknown));
    }

    #[test]
    fn what_is_no_token_is_good_where_there_is_no_doubt() {
        for keys in [&[][..], &[""], &["lsr1.x"], &["sk-own"]] {
            check(&register(1, &[1]), keys, None, Ok(1));
            check(&register(1, &[]), keys, None, Err(Refusal::TokenRequired));
            check(&register(1, &[1, 2]), keys, None, Err(Refusal::TokenRequired));
            check(&register(8, &[1]), keys, None, Err(Refusal::TokenRequired));
            check(&register(8, &[1, 2]), keys, Some(2), Ok(2));
            check(&register(8, &[1]), keys, Some(2), Err(Refusal::TokenRequired));
        }
    }

    #[test]
    fn a_token_dies_with_its_attempt() {
        let register = register(8, &[1]);
        assert!(!register.close(held(1), Closed::ByItsAgent));
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
        // The same task again, with the same name but another fence.
        let again = Held { fence: Fence(7), ..held(1) };
        register.open(again, "lst1.1-7", Arc::new(Outbox::default()).open(again));
        check(&register, &["lst1.1-7"], None, Ok(7));
        check(&register, &[], Some(1), Ok(7));
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
    }

    #[test]
    fn only_so_many_revoked_tokens_are_remembered() {
        let register = register(8, &[]);
        for n in 0..=REMEMBERED as u64 {
            enter(&register, n);
            register.close(held(n), Closed::Stopped);
        }
        check(&register, &["lst1.0"], None, Err(Refusal::Unknown));
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_overstays_when_it_uses_a_stopped_tasks_token_after_the_grace() {
        let register = register(8, &[1, 2]);
        let overstayed = register.overstayed();
        register.close(held(1), Closed::Stopped);
        register.close(held(2), Closed::ByItsAgent);
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
        tokio::time::advance(Duration::from_secs(11)).await;
        check(&register, &["lst1.2"], None, Err(Refusal::Revoked));
        assert_eq!(*register.overstays.borrow(), 0);
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
        overstayed.await;
        // Once is enough.
        check(&register, &["lst1.1"], None, Err(Refusal::Revoked));
        assert_eq!(*register.overstays.borrow(), 1);
    }

    #[tokio::test]
    async fn what_happened_to_answers_is_kept_with_the_attempt() {
        let register = register(1, &[1]);
        let entry = register.admit(&Shown::default()).expect("alone");
        (0..40).for_each(|n| entry.note_undelivered(Uuid::from_u128(n)));
        let told = entry.undelivered();
        assert_eq!((told.len(), told[0]), (UNDELIVERED_MOST, Uuid::from_u128(8)));
        entry.note_undelivered(Uuid::from_u128(99));
        entry.told(&told);
        assert_eq!(entry.undelivered(), [Uuid::from_u128(99)]);
        entry.note_break();
        assert!(register.close(held(1), Closed::ByItsAgent));
        entry.closed().await;
    }
}
