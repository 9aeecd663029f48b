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

/// Counts out-of-memory kills in this process's control group, of version 2 or 1.
#[derive(Clone, Debug)]
pub struct OomCounter {
    counts: Option<PathBuf>,
}

impl OomCounter {
    pub fn of_this_process() -> OomCounter {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        OomCounter { counts: files(&groups).into_iter().find(|path| path.exists()) }
    }

    /// 0 where there is no such count.
    pub fn kills(&self) -> u64 {
        let text = self.counts.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        text.as_deref().and_then(oom_kills).unwrap_or(0)
    }
}

/// Where the count may be, most likely first. A container sees its own group where the host has the root.
fn files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (folder, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            some if some.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => continue,
        };
        files.push(PathBuf::from(format!("{folder}{path}/{file}")));
        files.push(PathBuf::from(format!("{folder}/{file}")));
    }
    files
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
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"), Some(2));
        assert_eq!(oom_kills("low 0\n"), None);
    }

    #[test]
    fn the_count_is_looked_for_in_both_versions_of_groups() {
        let found = |groups: &str| -> Vec<String> {
            files(groups).iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(found("0::/a/b\n")[0], "/sys/fs/cgroup/a/b/memory.events");
        let first = "12:cpu,cpuacct:/x\n4:memory:/docker/c1\n1:name=systemd:/y\n0::/z\n";
        let expected = [
            "/sys/fs/cgroup/memory/docker/c1/memory.oom_control",
            "/sys/fs/cgroup/memory/memory.oom_control",
        ];
        assert_eq!(found(first)[..2], expected);
    }

    #[test]
    fn this_process_uses_some_memory() {
        assert!(resident() > 100_000);
    }
}
