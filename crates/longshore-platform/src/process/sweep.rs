//! Kills what a dead worker left behind, so that none of it works on when its tasks run elsewhere.
//!
//! Agents die with their worker by parent-death signal; what they started does not. A process is the dead worker's if
//! - its environment carries the worker's id, or
//! - it is in the worker's session, and the worker's number has not gone to another process. Linux gives no number
//!   away while a session has it, so a living process with that number that is not the worker means that the worker's
//!   session is empty; or
//! - a process that is the dead worker's is its parent or leads its session.
//!
//! What cleared its environment, left the session and lost its parent cannot be told from a stranger, and is left alone.
//! Never touches a living worker, this process, or what this process descends from.
//!
//! One case cannot be told apart: the worker's whole session ended unseen, its number went to a stranger who led a session
//! and ended too, and that session lives on. It takes a full turn of the pid counter while no control plane watched.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use tracing::{info, warn};

use super::find::{self, Gone};
use super::identity::ProcessIdentity;
use super::pidfd::PidFd;
use super::procfs::{self, ProcError, Stat};

/// Longer than any kill takes, unless the process hangs in the kernel.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait for the killed before looking for what they started meanwhile.
const ROUND: Duration = Duration::from_millis(200);

/// Beyond this many, kill first and look again: something starts processes faster than they are stopped.
const MANY: usize = 10_000;

/// A pid and its start time: a number may come round again between two looks.
type Key = (u32, u64);

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many processes were killed and are gone.
    pub killed: usize,
    /// Pids of the dead worker's processes that are still there: another user's, or hanging in the kernel.
    pub survivors: Vec<u32>,
}

#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("worker `{worker_id}` still runs as process {pid}; stop it first")]
    WorkerLives { worker_id: String, pid: u32 },
    #[error(transparent)]
    Proc(#[from] ProcError),
}

pub(super) fn sweep(
    boot_id: &str,
    worker_id: &str,
    identity: Option<&ProcessIdentity>,
) -> Result<Swept, SweepError> {
    let living = match identity {
        Some(identity) => match find::why_gone(boot_id, identity)? {
            Some(Gone::OtherBoot) => return Ok(Swept::default()),
            Some(_) => None,
            None => Some(identity.pid),
        },
        None => find::by_command_line(boot_id, worker_id)?.map(|identity| identity.pid),
    };
    if let Some(pid) = living {
        return Err(SweepError::WorkerLives { worker_id: worker_id.to_owned(), pid });
    }
    let swept = kill_all(worker_id, identity)?;
    if !swept.survivors.is_empty() {
        warn!(worker = worker_id, pids = ?swept.survivors, "processes of a dead worker could not be killed");
    } else if swept.killed > 0 {
        info!(worker = worker_id, killed = swept.killed, "processes of a dead worker killed");
    }
    Ok(swept)
}

fn kill_all(worker_id: &str, identity: Option<&ProcessIdentity>) -> Result<Swept, ProcError> {
    let deadline = Instant::now() + PATIENCE;
    let mut killed: HashSet<Key> = HashSet::new();
    let mut refused: HashSet<Key> = HashSet::new();
    loop {
        let victims = stopped(worker_id, identity)?;
        if Instant::now() >= deadline || victims.iter().all(|victim| refused.contains(&victim.key())) {
            victims.iter().for_each(|victim| _ = killed.remove(&victim.key()));
            let survivors = victims.iter().map(|victim| victim.pid).collect();
            return Ok(Swept { killed: killed.len(), survivors });
        }
        for victim in &victims {
            match victim.pidfd.signal(Signal::SIGKILL) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => refused.insert(victim.key()),
                _ => killed.insert(victim.key()),
            };
        }
        let dying = victims.iter().filter(|victim| killed.contains(&victim.key())).collect();
        wait_until_gone(dying, deadline.min(Instant::now() + ROUND));
    }
}

/// Stops the dead worker's processes until a look finds no new one.
///
/// Killed while it starts another, a parent would take with it the only thing that tells whose child that is.
fn stopped(worker_id: &str, identity: Option<&ProcessIdentity>) -> Result<Vec<Victim>, ProcError> {
    let mut known: HashSet<Key> = HashSet::new();
    loop {
        let victims = Census::take(worker_id)?.victims(identity)?;
        let fresh: Vec<&Victim> = victims.iter().filter(|victim| known.insert(victim.key())).collect();
        if fresh.is_empty() || known.len() > MANY {
            return Ok(victims);
        }
        for victim in fresh {
            // What cannot be stopped cannot be killed either, and that is where it is noticed.
            _ = victim.pidfd.signal(Signal::SIGSTOP);
        }
    }
}

/// Returns early once all are gone.
fn wait_until_gone(mut dying: Vec<&Victim>, until: Instant) {
    while !dying.is_empty() {
        // A millisecond more than is left, because the time-out is cut to whole ones.
        let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        let mut fds: Vec<PollFd> =
            dying.iter().map(|victim| PollFd::new(victim.pidfd.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
            Ok(0) => return,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return, // the next look at /proc tells
        }
        let gone: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut gone = gone.into_iter();
        dying.retain(|_| !gone.next().unwrap_or(false));
    }
}

struct Victim {
    pid: u32,
    start_time: u64,
    pidfd: PidFd,
}

impl Victim {
    fn key(&self) -> Key {
        (self.pid, self.start_time)
    }
}

/// Every process that lives, at one look.
struct Census {
    seen: HashMap<u32, Seen>,
}

struct Seen {
    stat: Stat,
    carries_id: bool,
}

impl Census {
    fn take(worker_id: &str) -> Result<Self, ProcError> {
        let mut seen = HashMap::new();
        for pid in procfs::pids()? {
            let Some(stat) = procfs::stat(pid).ok().flatten().filter(|stat| !stat.ended()) else { continue };
            let carries_id = procfs::environment(pid).is_some_and(|all| find::carries(&all, worker_id));
            seen.insert(pid, Seen { stat, carries_id });
        }
        Ok(Self { seen })
    }

    fn victims(mut self, worker: Option<&ProcessIdentity>) -> Result<Vec<Victim>, ProcError> {
        self.spare_own_line();
        // Asked after the look: see `session_of`.
        let session = worker.map(session_of).transpose()?.flatten();
        let is_root = |seen: &Seen| seen.carries_id || session == Some(seen.stat.session);
        let mut queue: Vec<u32> =
            self.seen.iter().filter(|(_, seen)| is_root(seen)).map(|(&pid, _)| pid).collect();
        let mut victims = Vec::new();
        while let Some(pid) = queue.pop() {
            let Some(seen) = self.seen.remove(&pid) else { continue };
            let start_time = seen.stat.start_time;
            let opened = PidFd::open_exactly(pid, start_time);
            let Some(pidfd) = opened.map_err(|source| ProcError::Open { pid, source })? else { continue };
            // It had this number before the look and has it after, so whoever named it meant it.
            let named = |seen: &Seen| seen.stat.parent == pid || seen.stat.session == pid;
            queue.extend(self.seen.iter().filter(|(_, seen)| named(seen)).map(|(&pid, _)| pid));
            victims.push(Victim { pid, start_time, pidfd });
        }
        Ok(victims)
    }

    /// Takes this process, what it descends from and PID 1 out of the count.
    fn spare_own_line(&mut self) {
        self.seen.remove(&1);
        let mut pid = std::process::id();
        while let Some(seen) = self.seen.remove(&pid) {
            pid = seen.stat.parent;
        }
    }
}

/// The dead worker's session, unless its number is another process's by now.
fn session_of(worker: &ProcessIdentity) -> Result<Option<u32>, ProcError> {
    let still_its = match procfs::known_stat(worker.pid)? {
        None => true,
        Some(stat) => worker.is(&stat) && stat.ended(),
    };
    Ok(still_its.then_some(worker.pid))
}
