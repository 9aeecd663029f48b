//! Starts agents and reaps every process that ends below this one.
//!
//! Agents are spawned from one thread that never ends: the parent-death signal is bound to the thread that spawned, not
//! to the process. As PID 1 or as subreaper this process inherits orphans, so it waits for any child, and hands statuses
//! on to the owners of those that it knows. Nothing else in this process may start or wait for children.

mod agent;
mod leftovers;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};

use longshore_api::files;
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, sigaction};
use nix::unistd::{Pid, getppid};
use tokio::sync::oneshot;

pub use agent::{Agent, Pipes};
pub use leftovers::{Left, Mark, Stay};

static HOST: OnceLock<Host> = OnceLock::new();

/// The one spawner and reaper of this process.
pub struct Host {
    jobs: mpsc::Sender<Job>,
    family: Arc<Family>,
}

struct Job {
    command: Command,
    reply: oneshot::Sender<io::Result<Born>>,
}

struct Born {
    child: Child,
    exit: oneshot::Receiver<ExitStatus>,
}

/// What this process has started and has not seen end.
///
/// Its lock is held while a child is spawned: `spawn` itself waits for a child whose exec failed, and the reaper must
/// not take that status from it, nor see a child that is not in the list yet.
pub struct Family(Mutex<Inner>);

struct Inner {
    /// Children that were spawned and not reaped, with those who wait for them.
    living: HashMap<i32, oneshot::Sender<ExitStatus>>,
    /// Children that were there at the start, and are still: a shell that became this process had begun them.
    before: HashSet<i32>,
    /// Attempts under way.
    attempts: usize,
}

/// Makes this process undumpable, a subreaper, and ready to spawn. Later calls return the same host.
pub fn host() -> io::Result<&'static Host> {
    if let Some(host) = HOST.get() {
        return Ok(host);
    }
    // An agent of the same user must not read this process's memory or environment: both hold the token.
    prctl::set_dumpable(false)?;
    prctl::set_child_subreaper(true)?;
    let (jobs, inbox) = mpsc::channel();
    let family = Arc::new(Family(Mutex::new(Inner::with_those_before())));
    let theirs = Arc::clone(&family);
    std::thread::Builder::new()
        .name("spawner".into())
        .stack_size(256 << 10)
        .spawn(move || spawner(inbox, &theirs))?;
    Ok(HOST.get_or_init(|| Host { jobs, family }))
}

impl Host {
    /// Starts `command` in a process group of its own, to be killed when this process dies.
    pub async fn spawn(&self, mut command: Command) -> io::Result<(Agent, Pipes)> {
        prepare(&mut command);
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the spawner thread has ended");
        self.jobs.send(Job { command, reply }).map_err(|_| gone())?;
        let born = answer.await.map_err(|_| gone())??;
        Agent::new(born.child, born.exit, Arc::clone(&self.family))
    }

    /// Takes the status of every process that has ended.
    pub fn reap(&self) {
        self.family.lock().reap();
    }

    /// Passes a signal on to every agent's group.
    pub fn forward(&self, signal: Signal) {
        for pid in self.family.lock().living.keys() {
            _ = killpg(Pid::from_raw(*pid), signal);
        }
    }
}

impl Family {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // It is whole at every point where the lock can be poisoned.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, command: &mut Command) -> io::Result<Born> {
        let mut inner = self.lock();
        let child = command.spawn()?;
        let (sender, exit) = oneshot::channel();
        inner.living.insert(child.id().cast_signed(), sender);
        Ok(Born { child, exit })
    }

    /// Signals the group of a process that is not reaped yet, so that its number is surely its own.
    fn signal(&self, pid: i32, signal: Signal) {
        if self.lock().living.contains_key(&pid) {
            _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

impl Inner {
    /// Takes the status of every child that has ended; returns whether others live.
    fn reap(&mut self) -> bool {
        loop {
            let mut status = 0;
            // SAFETY: `status` outlives the call. nix's own `waitpid` loses the pid of a child that ended by a real-time signal.
            match unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) } {
                pid if pid > 0 => {
                    self.before.remove(&pid);
                    if let Some(owner) = self.living.remove(&pid) {
                        _ = owner.send(ExitStatus::from_raw(status));
                    }
                }
                0 => return true,
                _ if Errno::last() == Errno::EINTR => {}
                _ => return false,
            }
        }
    }
}

fn spawner(inbox: mpsc::Receiver<Job>, family: &Family) {
    for mut job in inbox {
        let born = family.spawn(&mut job.command);
        if let Err(Ok(born)) = job.reply.send(born) {
            // Whoever asked for it is gone.
            family.signal(born.child.id().cast_signed(), Signal::SIGKILL);
        }
    }
}

fn prepare(command: &mut Command) {
    let parent = Pid::this();
    command.process_group(0);
    // SAFETY: `become_agent` makes system calls only: it neither allocates nor takes a lock that another thread may hold.
    unsafe { command.pre_exec(move || become_agent(parent)) };
}

/// Runs in the new process, before exec.
fn become_agent(parent: Pid) -> io::Result<()> {
    default_signals()?;
    files::restore();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above.
    if getppid() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // What this process inherited open by mistake is not the agent's. Linux before 5.11 has no such call: then nothing
    // is done, for all that longshore itself opens is closed on exec anyway.
    // SAFETY: marks descriptors and closes none, so the pipe on which a failed exec is reported stays usable.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    Ok(())
}

/// An agent must not inherit what this process, or the shell that started it, ignores.
fn default_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_runs_agents_is_undumpable() {
        host().expect("a host");
        assert!(!prctl::get_dumpable().expect("Linux"));
    }
}
