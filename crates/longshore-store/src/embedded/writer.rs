//! The thread that writes: it runs what is queued in one transaction, commits once, then answers everybody.
//!
//! A command sees what earlier commands of its group wrote, and is told "done" only after the commit that
//! holds it is on the disk. A command that fails, or panics, takes back only itself.

pub(super) mod batches;
mod counts;
mod group;
mod write;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::fault::{self, Fault};
use crate::error::StoreError;
use crate::signals::Signals;
pub(crate) use counts::{PLACES, Place};
use group::Groups;
pub(super) use write::Write;

/// Called when what the disk holds is no longer known; the default does not return.
pub(crate) type FatalHook = Arc<dyn Fn(&str) + Send + Sync>;

/// Answers one command, once it is known what became of its commit.
type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Runs one command, or only refuses it; false: take back what it wrote.
type Run = Box<dyn FnOnce(Result<&mut Write<'_>, StoreError>) -> (bool, Answer) + Send>;

/// What is run outside of any transaction, with nothing beside it.
type Alone = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Option<Fault> + Send>;

enum Job {
    Command(Command),
    Alone(Alone),
}

struct Command {
    run: Run,
    /// It is answered once it is on the disk; else once others can see it, which outlives this process but not the
    /// machine's power.
    synced: bool,
}

pub(super) struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        signals: Signals,
        fatal: FatalHook,
    ) -> Result<Writer, std::io::Error> {
        let (jobs, receiver) = channel();
        let mut groups = Groups::new(connection, signals, fatal).map_err(std::io::Error::other)?;
        let thread = std::thread::Builder::new().name("store-write".to_owned());
        let thread = thread.spawn(move || serve(&mut groups, &receiver))?;
        Ok(Writer { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) })
    }

    /// Queues a command at once, whether its answer is awaited or not.
    pub(super) fn run<T, E, F>(
        &self,
        synced: bool,
        command: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: FnOnce(&mut Write<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let run: Run = Box::new(move |write| {
            let run = || write.map_err(E::from).and_then(command);
            let result = catch_unwind(AssertUnwindSafe(run))
                .unwrap_or_else(|panic| Err(fault::panicked(panic).into()));
            let keep = result.is_ok();
            let tell: Answer = Box::new(move |commit| {
                // Nobody may be waiting any more; what is written stays.
                let _ = answer.send(commit.map_err(E::from).and(result));
            });
            (keep, tell)
        });
        let sent = self.send(Job::Command(Command { run, synced }));
        async move {
            sent?;
            answered.await.unwrap_or_else(|_| Err(StoreError::Closed.into()))
        }
    }

    /// Runs what cannot be part of a transaction. All that is queued behind it waits.
    pub(super) async fn alone<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let alone: Alone = Box::new(move |connection| {
            let run = || connection.map(job);
            let result =
                catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(fault::panicked(panic)));
            let fault = result.as_ref().ok().and_then(|done| done.as_ref().err()).map(fault::of);
            let _ = answer.send(result.and_then(|done| done.map_err(StoreError::from)));
            fault
        });
        self.send(Job::Alone(alone))?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }

    fn send(&self, job: Job) -> Result<(), StoreError> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().ok_or(StoreError::Closed)?.send(job).map_err(|_| StoreError::Closed)
    }

    pub(super) async fn close(&self) {
        let thread = self.stop();
        // Joining blocks until all that was asked for is on the disk.
        let _ = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await;
    }

    fn stop(&self) -> Option<JoinHandle<()>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A panic of the thread was reported when it happened.
        let _ = self.stop().map(JoinHandle::join);
    }
}

fn serve(groups: &mut Groups, jobs: &Receiver<Job>) {
    let mut left = None;
    while let Some(first) = left.take().map(Job::Command).or_else(|| jobs.recv().ok()) {
        match first {
            Job::Alone(alone) => groups.alone(alone),
            Job::Command(first) => left = serve_group(groups, first, jobs),
        }
    }
}

/// Runs a group and what ended it, if that is to run alone; returns the command that did not belong into it.
fn serve_group(groups: &mut Groups, first: Command, jobs: &Receiver<Job>) -> Option<Command> {
    let mut alone = None;
    let left = groups.run(first, || match jobs.try_recv().ok()? {
        Job::Command(command) => Some(command),
        Job::Alone(job) => {
            alone = Some(job);
            None
        }
    });
    if let Some(alone) = alone {
        groups.alone(alone);
    }
    left
}
