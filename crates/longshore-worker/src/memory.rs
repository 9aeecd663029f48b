//! What the kernel says about memory: this process's share, and kills for lack of it.

use std::path::PathBuf;

/// Resident memory of this process in bytes; 0 if unknown.
pub fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: asks for a constant.
    let page = unsafe { nix::libc::sysconf(nix::libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4096)
}

/// Counts out-of-memory kills in this process's control group (version 2).
#[derive(Clone, Debug)]
pub struct OomCounter {
    events: Option<PathBuf>,
}

impl OomCounter {
    pub fn of_this_process() -> OomCounter {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        let events = own.map(|path| PathBuf::from(format!("/sys/fs/cgroup{path}/memory.events")));
        OomCounter { events: events.filter(|path| path.exists()) }
    }

    /// 0 where there is no such count.
    pub fn kills(&self) -> u64 {
        let text = self.events.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.as_deref().and_then(oom_kills).unwrap_or(0)
    }
}

fn oom_kills(events: &str) -> Option<u64> {
    events.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_kills_is_read() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n"), Some(3));
        assert_eq!(oom_kills("low 0\n"), None);
    }

    #[test]
    fn this_process_uses_some_memory() {
        assert!(resident() > 100_000);
    }
}
