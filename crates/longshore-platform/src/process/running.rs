//! A worker that was seen running: signals it, and tells how it ended.
//!
//! One task per worker watches its pidfd, reaps it if it is our child, and publishes the end. It reaps that child only:
//! other children of this process are other people's. Never decides that a worker should end.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::libc;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tracing::{error, info};

use super::identity::ProcessIdentity;
use super::pidfd::PidFd;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEnd {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It was not our child, so nobody told us how.
    Gone,
}

impl fmt::Display for WorkerEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Gone => write!(f, "gone, status unknown"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    #[error("process {pid} has ended")]
    Ended { pid: u32 },
    #[error("could not send {signal} to process {pid}")]
    Refused { pid: u32, signal: Signal, source: io::Error },
}

/// A worker that was seen running. Clones are handles to the same worker; dropping them does nothing to it.
#[derive(Clone, Debug)]
pub struct Running(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    worker_id: String,
    identity: ProcessIdentity,
    pidfd: Arc<PidFd>,
    end: watch::Receiver<Option<WorkerEnd>>,
}

impl Running {
    pub fn worker_id(&self) -> &str {
        &self.0.worker_id
    }

    pub fn identity(&self) -> &ProcessIdentity {
        &self.0.identity
    }

    /// Signals the worker alone, not its agents. It cannot hit another process, however old this handle is.
    pub fn signal(&self, signal: Signal) -> Result<(), SignalError> {
        let pid = self.0.identity.pid;
        self.0.pidfd.signal(signal).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => SignalError::Ended { pid },
            _ => SignalError::Refused { pid, signal, source },
        })
    }

    /// Waits for the worker's end. Any number of callers may wait, before or after it; all get the same answer.
    ///
    /// Never returns if the runtime that watched the worker shut down first: no end was seen.
    pub async fn ended(&self) -> WorkerEnd {
        let mut end = self.0.end.clone();
        match end.wait_for(Option::is_some).await.map(|end| *end) {
            Ok(Some(end)) => end,
            _ => std::future::pending().await,
        }
    }

    fn is_watched(&self) -> bool {
        self.0.end.has_changed().is_ok()
    }
}

/// The workers that are being watched: one watch each, however often one is found again.
#[derive(Clone, Default)]
pub(super) struct Watched(Arc<Mutex<HashMap<ProcessIdentity, Running>>>);

impl Watched {
    /// Watches a worker until it ends. `pidfd` holds the process that `identity` names.
    ///
    /// Must be called within a runtime.
    pub fn watch(&self, worker_id: &str, identity: ProcessIdentity, pidfd: PidFd) -> io::Result<Running> {
        let mut watched = self.lock();
        if let Some(running) = watched.get(&identity).filter(|running| running.is_watched()) {
            return Ok(running.clone());
        }
        let pidfd = Arc::new(pidfd);
        // SAFETY: a `PidFd` owns one descriptor, never replaces it, and closes it only when the last `Arc` is dropped.
        let poll = unsafe { AsyncFd::register_with_interest(pidfd.clone(), Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        let (publish, end) = watch::channel(None);
        let running = Running(Arc::new(Handle {
            worker_id: worker_id.to_owned(),
            identity: identity.clone(),
            pidfd,
            end,
        }));
        watched.insert(identity.clone(), running.clone());
        tokio::spawn(self.clone().publish_end(worker_id.to_owned(), identity, poll, publish));
        Ok(running)
    }

    async fn publish_end(
        self,
        worker: String,
        identity: ProcessIdentity,
        poll: AsyncFd<Arc<PidFd>>,
        publish: watch::Sender<Option<WorkerEnd>>,
    ) {
        let end = wait_for_end(&poll, identity.pid).await;
        info!(worker, pid = identity.pid, %end, "worker process ended");
        self.lock().remove(&identity);
        publish.send_replace(Some(end));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProcessIdentity, Running>> {
        // Each change to the map is a single call, so a panic elsewhere cannot have left it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait_for_end(poll: &AsyncFd<Arc<PidFd>>, pid: u32) -> WorkerEnd {
    loop {
        // An error says that the runtime shuts down: nothing was seen to end.
        let Ok(mut ready) = poll.readable().await else { std::future::pending().await };
        match end_of(poll.get_ref()) {
            Ok(Some(end)) => return end,
            Ok(None) => ready.clear_ready(),
            Err(source) => {
                error!(pid, error = %source, "worker process ended but its status could not be read");
                return WorkerEnd::Gone;
            }
        }
    }
}

fn end_of(pidfd: &PidFd) -> io::Result<Option<WorkerEnd>> {
    // Asked first, because reaping a living process that is not our child says `Gone` too.
    if pidfd.has_ended()? { pidfd.reap() } else { Ok(None) }
}
