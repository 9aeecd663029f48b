//! Platform `process`: a worker is a process of this machine, in a session of its own.
//!
//! Owns starting workers, finding them again after a restart of the control plane, watching for their end, signalling
//! them, and killing what a dead one left behind. Keeps nothing that matters in memory: what a restart needs is a
//! worker's id (saved by the caller before [`ProcessPlatform::start`]) and its [`ProcessIdentity`] (saved after).
//! Never drains, never picks ports, never releases a lease, and never signals a process by its number alone.
//!
//! Needs Linux 5.4 or newer (`P_PIDFD`), a `/proc` that shows every process, and a tokio runtime with its I/O driver on.

mod find;
mod identity;
mod pidfd;
mod procfs;
mod running;
mod spawn;
mod sweep;

pub use find::{Found, Gone, Sighting};
pub use identity::ProcessIdentity;
pub use nix::sys::signal::Signal;
pub use procfs::ProcError;
pub use running::{Running, SignalError, WorkerEnd};
pub use spawn::{StartError, WORKER_ID_VARIABLE, WorkerSpec};
pub use sweep::{SweepError, Swept};

use std::sync::Arc;

use tracing::info;

use self::running::Watched;

/// Workers as processes of this machine. Cheap to clone; clones share their watches.
#[derive(Clone)]
pub struct ProcessPlatform {
    boot_id: Arc<str>,
    watched: Watched,
}

impl ProcessPlatform {
    /// Reads this machine's boot id.
    ///
    /// Errors: `/proc` is missing, belongs to another pid namespace, or hides processes (`hidepid`). With such a `/proc`
    /// a living worker would look dead, and its tasks would run twice.
    pub fn new() -> Result<Self, ProcError> {
        procfs::shows_every_process()?;
        Ok(Self { boot_id: identity::boot_id()?.into(), watched: Watched::default() })
    }

    /// Starts a worker and watches it; returns once its program has been executed.
    ///
    /// Dropping the future does not undo the start, and the worker is reaped either way. The worker outlives this
    /// process. Errors: see [`StartError`]; on an error no process is left.
    pub async fn start(&self, spec: WorkerSpec) -> Result<Running, StartError> {
        let this = self.clone();
        blocking(move || this.start_blocking(&spec)).await
    }

    /// Finds a worker that an earlier control plane (or this one) started, and watches it.
    ///
    /// With an identity, exactly that process is looked for. Without one (the control plane died before it could save
    /// it), the worker is looked for by the `--id` on its command line. Errors: it could not be told whether the worker
    /// lives; never take that for `Gone`.
    pub async fn find_again(
        &self,
        worker_id: &str,
        identity: Option<&ProcessIdentity>,
    ) -> Result<Found, ProcError> {
        let (this, worker_id, identity) = (self.clone(), worker_id.to_owned(), identity.cloned());
        blocking(move || find::find_again(&this.watched, &this.boot_id, &worker_id, identity.as_ref())).await
    }

    /// Kills everything that a dead worker left running; returns once it is gone, after 5 s at most.
    ///
    /// A few milliseconds when nothing is left. See [`Swept`] for what could not be killed. Errors: the worker lives
    /// ([`SweepError::WorkerLives`]), or `/proc` could not be read.
    pub async fn sweep(
        &self,
        worker_id: &str,
        identity: Option<&ProcessIdentity>,
    ) -> Result<Swept, SweepError> {
        let (boot_id, worker_id, identity) = (self.boot_id.clone(), worker_id.to_owned(), identity.cloned());
        blocking(move || sweep::sweep(&boot_id, &worker_id, identity.as_ref())).await
    }

    /// Lists living workers whose id starts with `id_prefix`, oldest first, as their command lines tell.
    ///
    /// Only this user's. For ids that were saved when their pid was not.
    pub async fn list(&self, id_prefix: &str) -> Result<Vec<Sighting>, ProcError> {
        let (boot_id, id_prefix) = (self.boot_id.clone(), id_prefix.to_owned());
        blocking(move || find::sightings(&boot_id, |id| id.starts_with(&id_prefix))).await
    }

    fn start_blocking(&self, spec: &WorkerSpec) -> Result<Running, StartError> {
        let mut child = spawn::spawn(spec)?;
        let pid = child.id();
        self.watch_child(spec, pid)
            .inspect(|_| info!(worker = spec.worker_id, pid, "worker process started"))
            .map_err(|source| {
                // Nobody would see this worker end: better none than one that nobody watches.
                let _ = child.kill();
                let _ = child.wait();
                StartError::Watch { worker_id: spec.worker_id.clone(), pid, source }
            })
    }

    fn watch_child(&self, spec: &WorkerSpec, pid: u32) -> std::io::Result<Running> {
        // Until the watch reaps it, the child's number cannot be given to another process.
        let missing = || std::io::Error::from_raw_os_error(nix::libc::ESRCH);
        let stat = procfs::stat(pid)?.ok_or_else(missing)?;
        let pidfd = pidfd::PidFd::open(pid)?.ok_or_else(missing)?;
        let identity =
            ProcessIdentity { pid, start_time: stat.start_time, boot_id: self.boot_id.to_string() };
        self.watched.watch(&spec.worker_id, identity, pidfd)
    }
}

/// Runs `work` where blocking is allowed: /proc, fork and exec all block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down and drops this future next: there is no answer to give, so none is made up.
            Err(_) => std::future::pending().await,
        },
    }
}
