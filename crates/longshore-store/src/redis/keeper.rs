//! Keeps one connection: makes it, watches it, gives it up, makes the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longshore_core::retry::Backoff;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Health;
use super::error::RedisError;
use super::link::{Link, OPENING};
use super::options::Options;

/// Whether commands are sent, or fail at once.
pub(super) enum State {
    Up { link: Link, generation: u64, since: Instant },
    Down { error: String, since: Instant },
}

pub(super) struct Keeper {
    state: Arc<watch::Sender<State>>,
    /// A command got no answer in time: is anybody there?
    doubt: Arc<Notify>,
    /// The newest generation on which a command was refused.
    refused: AtomicU64,
    task: JoinHandle<()>,
}

/// Between looks at a connection that nobody complains about.
const LOOK: Duration = Duration::from_secs(2);

/// A connection that held this long was a good one: the next try begins at once.
const GOOD: Duration = Duration::from_secs(10);

const RECONNECT: Backoff = Backoff { base_ms: 100, cap_ms: 5_000 };

impl State {
    pub(super) fn health(&self) -> Health {
        match self {
            State::Up { since, .. } => Health { up: true, since: *since, error: None },
            State::Down { since, error } => Health { up: false, since: *since, error: Some(error.clone()) },
        }
    }
}

impl Keeper {
    pub(super) fn start(options: Arc<Options>) -> Keeper {
        let first = State::Down { error: "not connected yet".into(), since: Instant::now() };
        let state = Arc::new(watch::channel(first).0);
        let doubt = Arc::new(Notify::new());
        let task = tokio::spawn(keep(options, Arc::clone(&state), Arc::clone(&doubt)));
        Keeper { state, doubt, refused: AtomicU64::new(0), task }
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Learns from a command that failed on the connection of that generation.
    pub(super) fn report(&self, generation: u64, error: &RedisError) {
        match error {
            RedisError::Broken { .. } | RedisError::Unfit { .. } => give_up(&self.state, generation, error),
            // One slow command closes nothing; a server that answers nobody does.
            RedisError::TimedOut => self.doubt.notify_one(),
            // Most likely a command that the user lacks, or full memory. Said once: it may happen to every command.
            RedisError::Refused { .. } => {
                if self.refused.swap(generation, Ordering::Relaxed) != generation {
                    warn!(%error, "redis refuses commands: check its user's permissions and its memory");
                }
            }
            RedisError::Down { .. } | RedisError::UnknownScript | RedisError::Unexpected { .. } => {}
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(options: Arc<Options>, state: Arc<watch::Sender<State>>, doubt: Arc<Notify>) {
    let (mut generation, mut failures) = (0, 0);
    loop {
        let opening = tokio::time::timeout(OPENING, Link::open(&options)).await;
        match opening.unwrap_or(Err(RedisError::TimedOut)) {
            Ok(link) => {
                generation += 1;
                let since = Instant::now();
                state.send_replace(State::Up { link: link.clone(), generation, since });
                info!("redis is connected");
                watch_over(link, generation, &options, &state, &doubt).await;
                failures = if since.elapsed() > GOOD { 0 } else { failures + 1 };
            }
            Err(error) => {
                still_down(&state, &error);
                failures += 1;
            }
        }
        tokio::time::sleep(RECONNECT.wait(failures, rand::random())).await;
    }
}

/// Returns when the connection has been given up.
async fn watch_over(
    mut link: Link,
    generation: u64,
    options: &Options,
    state: &watch::Sender<State>,
    doubt: &Notify,
) {
    let mut seen = state.subscribe();
    loop {
        tokio::select! {
            _ = seen.wait_for(|state| matches!(state, State::Down { .. })) => return,
            () = doubt.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let answer = tokio::time::timeout(options.timeout, link.ping()).await;
        if let Err(error) = answer.unwrap_or(Err(RedisError::TimedOut)) {
            give_up(state, generation, &error);
            return;
        }
    }
}

fn give_up(state: &watch::Sender<State>, generation: u64, error: &RedisError) {
    state.send_if_modified(|state| {
        let current = matches!(state, State::Up { generation: now, .. } if *now == generation);
        if current {
            warn!(%error, "redis is lost");
            *state = State::Down { error: error.to_string(), since: Instant::now() };
        }
        current
    });
}

/// The newest reason is the one to show; when it went down stays.
fn still_down(state: &watch::Sender<State>, newest: &RedisError) {
    state.send_if_modified(|state| {
        if let State::Down { error, .. } = state {
            *error = newest.to_string();
        }
        false
    });
}
