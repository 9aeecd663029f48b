//! Ends what an attempt started and left behind, however it went out of the way.
//!
//! A process that leaves its group and its parent is this one's child sooner or later, since this one is a subreaper. So
//! children that nobody spawned here are what attempts have left. With no other attempt under way all of them go; else those
//! whose environment says that they are of this one, for the others have a right to theirs. Children that were there before
//! the first attempt, of the shell that became this process, are nobody's leftovers; what they have started is, should it come to
//! be this one's child. What runs as another user cannot be killed, and is a reason to begin nothing more here.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_api::link::ClaimedTask;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid};
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::{Family, Host, Inner};
use crate::environment;

/// How long killed processes may take to be gone: longer only if the system cannot let go of them.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so many looks that found new ones something starts processes faster than they are found.
const MANY: u32 = 10;

/// An attempt under way. Dropping it leaves what it started alone.
pub struct Stay {
    family: Arc<Family>,
    over: bool,
}

/// What an attempt left behind does not end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} processes that a task left behind cannot be ended")]
pub struct Left(usize);

impl Host {
    pub fn enter(&self) -> Stay {
        self.family.lock().attempts += 1;
        Stay { family: Arc::clone(&self.family), over: false }
    }
}

impl Stay {
    /// Ends all that is known to be left of the attempt; with no other one under way, of any.
    pub async fn leave(mut self, mark: &Mark) -> Result<(), Left> {
        let end = Instant::now() + PATIENCE;
        let (mut looks, mut pause) = (Looks::default(), Duration::from_millis(1));
        loop {
            let left = self.family.sweep(mark, &mut looks);
            self.over = left == 0;
            match left {
                0 => return Ok(()),
                left if Instant::now() > end => return Err(Left(left)),
                left => debug!(left, "a task left processes behind, which are killed"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if !self.over {
            self.family.lock().attempts -= 1;
        }
    }
}

impl Family {
    /// Kills what is found, after these looks; returns how many that were. None: the attempt is no longer under way.
    fn sweep(&self, mark: &Mark, looks: &mut Looks) -> usize {
        // Under the lock nobody is born, and no number is given back that could be another's then.
        let mut inner = self.lock();
        let any = inner.reap();
        let alone = inner.attempts <= 1 && inner.living.is_empty();
        let left = match any {
            true => inner.strangers().into_iter().filter(|pid| alone || mark.is_on(*pid)).collect(),
            false => Vec::new(),
        };
        for pid in &left {
            _ = kill(*pid, Signal::SIGKILL);
        }
        let all_are_its = alone && inner.before.is_empty();
        let unseen = any && all_are_its && left.is_empty();
        let in_vain = looks.are_in_vain(&left, unseen);
        if in_vain && all_are_its && getpid().as_raw() == 1 {
            // All at once, so that nothing can get away. In a container that is what the agent started, and people who have a
            // shell there.
            _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
        let left = left.len().max(unseen.into());
        if left == 0 {
            inner.attempts = inner.attempts.saturating_sub(1);
        }
        left
    }
}

impl Inner {
    /// Before anything is spawned: those that are here already are no attempt's.
    pub(super) fn with_those_before() -> Inner {
        let before = children().into_iter().filter(|pid| is_child(*pid)).map(Pid::as_raw);
        Inner { living: HashMap::new(), before: before.collect(), attempts: 0 }
    }

    /// Children that were not spawned here, and came since.
    fn strangers(&self) -> Vec<Pid> {
        let is_known = |pid: &i32| self.living.contains_key(pid) || self.before.contains(pid);
        let is_stranger = |pid: &Pid| !is_known(&pid.as_raw()) && is_child(*pid);
        children().into_iter().filter(is_stranger).collect()
    }
}

/// What the looks for an attempt's leftovers have come to.
#[derive(Default)]
struct Looks {
    killed: HashSet<Pid>,
    /// Looks that found some which none before had found.
    fresh: u32,
    /// Looks in a row that saw nothing, though there is something.
    blind: u32,
}

impl Looks {
    /// Takes one more into account. What is killed and takes its time to end is no reason to give up.
    fn are_in_vain(&mut self, left: &[Pid], unseen: bool) -> bool {
        let new = left.iter().filter(|pid| self.killed.insert(**pid)).count();
        self.fresh += u32::from(new > 0);
        self.blind = if unseen { self.blind + 1 } else { 0 };
        self.blind > 1 || self.fresh > MANY
    }
}

/// The numbers in /proc could be those of another namespace.
fn is_child(pid: Pid) -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), look) != Err(Errno::ECHILD)
}

fn children() -> Vec<Pid> {
    listed_children().unwrap_or_else(children_by_parent)
}

/// A process's children are listed by its threads. `None`: this system has no such lists.
fn listed_children() -> Option<Vec<Pid>> {
    let mut found = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(pid)),
            // The thread has ended since, or there are no lists at all.
            Err(_) if thread.path().join("stat").exists() => return None,
            Err(_) => {}
        }
    }
    Some(found)
}

fn children_by_parent() -> Vec<Pid> {
    let me = getpid();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = all.filter_map(|entry| Some((pid(entry.file_name().to_str()?)?, entry.path())));
    all.filter(|(_, folder)| parent(folder) == Some(me)).map(|(pid, _)| pid).collect()
}

fn parent(folder: &Path) -> Option<Pid> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // A program's name may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(1).and_then(pid)
}

fn pid(number: &str) -> Option<Pid> {
    number.parse().ok().filter(|number| *number > 0).map(Pid::from_raw)
}

/// What the environment of an attempt's processes holds, and of no other's.
pub struct Mark(Vec<Vec<u8>>);

impl Mark {
    pub fn of(task: &ClaimedTask) -> Mark {
        let names = environment::of_attempt(task);
        Mark(names.map(|(name, value)| format!("{name}={value}").into_bytes()).into())
    }

    /// Of a process that has a folder of its own.
    pub fn of_folder(folder: &Path) -> Mark {
        let names = environment::of_folder(folder).into_iter();
        Mark(names.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect())
    }

    /// What has thrown its environment away, or does not let it be read, does not count.
    fn is_on(&self, pid: Pid) -> bool {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let carries = |wanted: &Vec<u8>| environment.split(|byte| *byte == 0).any(|it| it == wanted);
        self.0.iter().all(carries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `seen`: what each look finds; nothing is what cannot be seen. Returns the looks after which it is in vain.
    fn looks_until_in_vain(seen: impl IntoIterator<Item = Vec<i32>>) -> Option<usize> {
        let mut looks = Looks::default();
        let mut seen = seen.into_iter().map(|pids| pids.into_iter().map(Pid::from_raw).collect::<Vec<_>>());
        seen.position(|left| looks.are_in_vain(&left, left.is_empty())).map(|before| before + 1)
    }

    #[test]
    fn what_is_slow_to_end_is_waited_for_and_what_always_starts_more_or_is_not_seen_is_not() {
        let many = MANY as i32;
        assert_eq!(looks_until_in_vain((0..10 * many).map(|_| vec![7, 8])), None, "killed, and not gone yet");
        assert_eq!(
            looks_until_in_vain((0..10 * many).map(|look| vec![7, 8 + look / 20])),
            None,
            "and a few more"
        );
        assert_eq!(
            looks_until_in_vain((0..10 * many).map(|look| vec![7, 8 + look])),
            Some(MANY as usize + 1)
        );
        assert_eq!(looks_until_in_vain([vec![], vec![7], vec![], vec![7]]), None, "seen in between");
        assert_eq!(looks_until_in_vain([vec![7], vec![], vec![]]), Some(3));
        assert_eq!(looks_until_in_vain([vec![], vec![]]), Some(2));
    }

    #[test]
    fn both_ways_to_list_children_find_the_same() {
        // Not through the host: no test here reaps, so it stays a child until it is waited for.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("it starts");
        let own = Pid::from_raw(child.id().cast_signed());
        assert!(children_by_parent().contains(&own));
        assert!(listed_children().is_none_or(|listed| listed.contains(&own)));
        assert!(is_child(own) && !is_child(getpid()) && !is_child(Pid::from_raw(1)));
        child.kill().expect("it lives");
        child.wait().expect("it is our child");
        assert!(!is_child(own));
    }
}
