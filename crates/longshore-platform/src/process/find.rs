//! Finds workers again: exactly, by what was saved; or by the id on their command line, when nothing was.
//!
//! A worker makes itself undumpable, so its environment cannot be read by its own user; its command line can. A process
//! between fork and exec still shows its parent's command line and is not seen. Never signals anything.

use nix::unistd::getuid;
use tracing::{info, warn};

use super::identity::ProcessIdentity;
use super::pidfd::PidFd;
use super::procfs::{self, ProcError};
use super::running::{Running, Watched};
use super::spawn::{ID_ARGUMENT, WORKER_ID_VARIABLE};

/// Whether a worker is still there.
#[derive(Debug)]
pub enum Found {
    Running(Running),
    Gone(Gone),
}

/// Why a worker counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The machine was started anew.
    OtherBoot,
    /// No process has its number, or its id.
    NoProcess,
    /// Its number is another process's now.
    OtherProcess,
    /// It has ended, and its parent has not reaped it.
    Zombie,
}

/// A worker seen in `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub worker_id: String,
    pub identity: ProcessIdentity,
}

pub(super) fn find_again(
    watched: &Watched,
    boot_id: &str,
    worker_id: &str,
    saved: Option<&ProcessIdentity>,
) -> Result<Found, ProcError> {
    let identity = match saved {
        Some(identity) => identity.clone(),
        None => match by_command_line(boot_id, worker_id)? {
            Some(identity) => identity,
            None => return Ok(Found::Gone(Gone::NoProcess)),
        },
    };
    if let Some(gone) = why_gone(boot_id, &identity)? {
        return Ok(Found::Gone(gone));
    }
    let pid = identity.pid;
    let opened = PidFd::open_exactly(pid, identity.start_time);
    let Some(pidfd) = opened.map_err(|source| ProcError::Open { pid, source })? else {
        return Ok(Found::Gone(Gone::NoProcess)); // it ended just now
    };
    let running =
        watched.watch(worker_id, identity, pidfd).map_err(|source| ProcError::Watch { pid, source })?;
    info!(worker = worker_id, pid, "worker process found again");
    Ok(Found::Running(running))
}

/// `None`: the process lives.
pub(super) fn why_gone(boot_id: &str, identity: &ProcessIdentity) -> Result<Option<Gone>, ProcError> {
    if identity.boot_id != boot_id {
        return Ok(Some(Gone::OtherBoot));
    }
    Ok(match procfs::known_stat(identity.pid)? {
        None => Some(Gone::NoProcess),
        Some(stat) if !identity.is(&stat) => Some(Gone::OtherProcess),
        Some(stat) if stat.ended() => Some(Gone::Zombie),
        Some(_) => None,
    })
}

pub(super) fn by_command_line(boot_id: &str, worker_id: &str) -> Result<Option<ProcessIdentity>, ProcError> {
    let seen = sightings(boot_id, |id| id == worker_id)?;
    if seen.len() > 1 {
        let pids: Vec<u32> = seen.iter().map(|sighting| sighting.identity.pid).collect();
        warn!(
            worker = worker_id,
            ?pids,
            "several processes have this worker's id; the oldest is taken for it"
        );
    }
    // The oldest: a worker begins before everything that it starts.
    Ok(seen.into_iter().next().map(|sighting| sighting.identity))
}

/// Living workers of this user whose id passes, oldest first.
pub(super) fn sightings(boot_id: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<Sighting>, ProcError> {
    let mut seen: Vec<Sighting> =
        procfs::pids()?.into_iter().filter_map(|pid| sighting(boot_id, pid, &wanted)).collect();
    seen.sort_by_key(|sighting| (sighting.identity.start_time, sighting.identity.pid));
    Ok(seen)
}

fn sighting(boot_id: &str, pid: u32, wanted: impl Fn(&str) -> bool) -> Option<Sighting> {
    let command_line = procfs::command_line(pid)?;
    let worker_id = id_argument(arguments(&command_line))
        .and_then(|id| std::str::from_utf8(id).ok())
        .filter(|id| !id.is_empty() && wanted(id))?
        .to_owned();
    let stat = procfs::stat(pid).ok().flatten()?;
    // A worker leads its session; a command that only mentions the id, such as `ps` in a shell, seldom does.
    let is_worker = !stat.ended()
        && stat.session == pid
        && procfs::user(pid) == Some(getuid().as_raw())
        && procfs::environment(pid).is_none_or(|environment| carries(&environment, &worker_id));
    let identity = ProcessIdentity { pid, start_time: stat.start_time, boot_id: boot_id.to_owned() };
    is_worker.then_some(Sighting { worker_id, identity })
}

fn arguments(command_line: &[u8]) -> impl Iterator<Item = &[u8]> {
    command_line.split(|&byte| byte == 0).skip(1) // the program
}

/// The value of the first `--id`. What stands after `--` is the agent's own command.
pub(super) fn id_argument<'a>(arguments: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let mut own = arguments.take_while(|argument| *argument != b"--");
    own.find(|argument| *argument == ID_ARGUMENT.as_bytes())?;
    own.next()
}

/// Whether these `NAME=value`s hold exactly this worker's id.
pub(super) fn carries(environment: &[u8], worker_id: &str) -> bool {
    environment.split(|&byte| byte == 0).any(|variable| {
        variable
            .strip_prefix(WORKER_ID_VARIABLE.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .is_some_and(|id| id == worker_id.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_id(command_line: &str, id: Option<&str>) {
        let bytes = command_line.replace(' ', "\0").into_bytes();
        assert_eq!(id_argument(arguments(&bytes)), id.map(str::as_bytes), "{command_line}");
    }

    #[test]
    fn the_id_is_the_workers_own_argument() {
        check_id("longshore worker --id w-1 -- python agent.py", Some("w-1"));
        check_id("longshore worker --id w-1 --id w-2", Some("w-1"));
        check_id("longshore worker -- agent --id w-1", None);
        check_id("longshore worker --id", None);
        check_id("longshore worker --id -- agent", None);
        check_id("longshore worker --id=w-1", None);
        check_id("longshore --identity w-1", None);
        check_id("--id w-1", None);
    }

    #[test]
    fn an_id_is_carried_whole_or_not_at_all() {
        let environment =
            b"HOME=/\0LONGSHORE_WORKER_ID=w-12\0X_LONGSHORE_WORKER_ID=w-9\0A=LONGSHORE_WORKER_ID=w-8\0";
        assert!(carries(environment, "w-12"));
        for other in ["w-1", "w-123", "-12", "", "w-9", "w-8"] {
            assert!(!carries(environment, other), "{other}");
        }
    }
}
