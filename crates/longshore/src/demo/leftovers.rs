//! Finds processes of the demo that are still there, and ends them.
//!
//! A process belongs to the demo if the agent's file, in a folder that only this demo has, is an argument of its own as
//! a worker or an agent. Never signals anything else.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// How long what was told to end may take to be gone.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// Returns how many processes of the demo did not end by themselves; they are gone when this returns.
pub async fn end(agent: &Path) -> usize {
    let until = Instant::now() + PATIENCE;
    while !find(agent).is_empty() && Instant::now() < until {
        sleep(LOOK).await;
    }
    let left = find(agent);
    let until = Instant::now() + PATIENCE;
    while !find(agent).is_empty() && Instant::now() < until {
        for pid in find(agent) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        sleep(LOOK).await;
    }
    left.len()
}

/// The workers and agents that run `agent`.
pub fn find(agent: &Path) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_ours(&arguments(*pid), agent)).map(Pid::from_raw).collect()
}

fn is_ours(arguments: &[Vec<u8>], agent: &Path) -> bool {
    let role = arguments.get(1).is_some_and(|word| word == b"worker" || word == b"-S");
    role && arguments.last().is_some_and(|word| word == agent.as_os_str().as_bytes())
}

/// Whether process `pid` is this worker: its number may have been given to another one since it was told to us.
pub fn is_worker(pid: i32, worker: &str, agent: &Path) -> bool {
    let arguments = arguments(pid);
    let named = arguments.windows(2).any(|pair| pair[0] == b"--id" && pair[1] == worker.as_bytes());
    named && is_ours(&arguments, agent)
}

/// Empty for a process that is gone or has ended.
fn arguments(pid: i32) -> Vec<Vec<u8>> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper(agent: &Path) -> std::process::Child {
        let mut command = Command::new("python3");
        command.arg("-S").arg(agent).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("python3 starts")
    }

    #[test]
    fn only_workers_and_agents_of_this_folder_are_ours() {
        let agent = Path::new("/tmp/demo-x/agent.py");
        let line = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        assert!(is_ours(
            &line(&["longshore", "worker", "--id", "w", "--", "p", "-S", "/tmp/demo-x/agent.py"]),
            agent
        ));
        assert!(is_ours(&line(&["python3", "-S", "/tmp/demo-x/agent.py"]), agent));
        assert!(!is_ours(&line(&["python3", "-S", "/tmp/demo-y/agent.py"]), agent));
        assert!(!is_ours(&line(&["vim", "/tmp/demo-x/agent.py"]), agent));
        assert!(!is_ours(&line(&[""]), agent));
    }

    #[tokio::test]
    async fn a_leftover_is_counted_and_ended() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let agent = folder.path().join("agent.py");
        std::fs::write(&agent, "import time\ntime.sleep(60)\n").expect("written");
        assert_eq!(end(&agent).await, 0);
        let mut child = sleeper(&agent);
        let until = std::time::Instant::now() + Duration::from_secs(5);
        while find(&agent).is_empty() {
            assert!(std::time::Instant::now() < until && child.try_wait().expect("ours").is_none());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(end(&agent).await, 1);
        assert!(!child.wait().expect("ours").success());
    }
}
