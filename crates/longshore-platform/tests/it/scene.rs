//! A folder, a worker id that no other test has, and the promise that nothing with that id outlives the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore_platform::process::{
    Found, ProcessIdentity, ProcessPlatform, Running, Sighting, Signal, WORKER_ID_VARIABLE, WorkerEnd,
    WorkerSpec,
};
use nix::unistd::Pid;
use tempfile::TempDir;

pub struct Scene {
    pub platform: ProcessPlatform,
    pub id: String,
    folder: TempDir,
}

impl Scene {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("w-{}-{}-x", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { platform: platform(), id, folder: tempfile::tempdir().expect("a folder") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).expect("a log")
    }

    pub fn spec(&self, script: &str) -> WorkerSpec {
        shell_spec(&self.id, self.folder.path(), script)
    }

    pub async fn start(&self, script: &str) -> Running {
        self.platform.start(self.spec(script)).await.expect("started")
    }

    /// Starts a worker and waits until its script has written the files that `pids` names; returns what is in them.
    pub async fn start_with<const N: usize>(&self, script: &str, pids: [&str; N]) -> (Running, [u32; N]) {
        let running = self.start(script).await;
        let mut found = [0; N];
        for (pid, name) in found.iter_mut().zip(pids) {
            *pid = self.pid_in(name).await;
        }
        (running, found)
    }

    /// Waits for a file that holds a pid and a newline.
    pub async fn pid_in(&self, name: &str) -> u32 {
        let path = self.path(name);
        until(&format!("a pid in {name}"), || {
            std::fs::read_to_string(&path).ok()?.strip_suffix('\n')?.parse().ok()
        })
        .await
    }

    pub async fn running(&self, identity: Option<&ProcessIdentity>) -> Running {
        match self.platform.find_again(&self.id, identity).await.expect("an answer") {
            Found::Running(running) => running,
            Found::Gone(gone) => panic!("{} is gone: {gone:?}", self.id),
        }
    }

    /// Waits until the worker is listed.
    pub async fn seen(&self) -> Sighting {
        let listed = async {
            loop {
                if let Some(sighting) = self.listed().await.pop() {
                    return sighting;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), listed).await.expect("a worker in time")
    }

    pub async fn listed(&self) -> Vec<Sighting> {
        self.platform.list(&self.id).await.expect("a list")
    }

    /// What mentions the id in its environment or command line, and all below it.
    fn doomed(&self) -> Vec<u32> {
        let mut doomed: Vec<u32> = pids().into_iter().filter(|&pid| self.is_mentioned_by(pid)).collect();
        let parents: Vec<(u32, Option<String>)> =
            pids().into_iter().map(|pid| (pid, status(pid, "PPid"))).collect();
        for index in 0.. {
            let Some(parent) = doomed.get(index).map(u32::to_string) else { break };
            let is_child =
                |(pid, of): &&(u32, Option<String>)| of.as_ref() == Some(&parent) && !doomed.contains(pid);
            let children: Vec<u32> = parents.iter().filter(is_child).map(|(pid, _)| *pid).collect();
            doomed.extend(children);
        }
        doomed
    }

    fn is_mentioned_by(&self, pid: u32) -> bool {
        let mentions = |file| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.windows(self.id.len()).any(|part| part == self.id.as_bytes())
        };
        pid != std::process::id() && (mentions("environ") || mentions("cmdline"))
    }

    pub async fn kill(&self, running: &Running) -> WorkerEnd {
        running.signal(Signal::SIGKILL).expect("killed");
        ended(running).await
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // More widely than the code under test, to catch what that one misses. Stopped first, so that none starts
        // another that mentions nothing while its parent is killed.
        for signal in [Signal::SIGSTOP, Signal::SIGSTOP, Signal::SIGKILL] {
            for pid in self.doomed() {
                _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
            }
        }
    }
}

/// A process that has nothing to do with the worker; killed and reaped when dropped.
pub struct Stranger(Child);

impl Stranger {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("a stranger"))
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

pub fn platform() -> ProcessPlatform {
    ProcessPlatform::new().expect("a usable /proc")
}

/// `sh` as the worker. Its script should end in `; :` where it must not turn into its last command.
pub fn shell_spec(id: &str, folder: &Path, script: &str) -> WorkerSpec {
    WorkerSpec {
        worker_id: id.to_owned(),
        program: "/bin/sh".into(),
        args: ["-c", script, "worker", "--id", id].map(Into::into).to_vec(),
        env: vec![("SCENE".into(), folder.into())],
        env_clear: false,
        working_dir: folder.to_owned(),
        log_file: folder.join("log"),
        files: None,
    }
}

pub async fn ended(running: &Running) -> WorkerEnd {
    tokio::time::timeout(Duration::from_secs(20), running.ended()).await.expect("an end in time")
}

/// Waits until `ready` has an answer.
pub async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ready() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// A field of /proc/PID/status. `None`: there is no such process.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Whether it runs: it is there and no zombie.
pub fn lives(pid: u32) -> bool {
    status(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

pub fn start_time(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    let (_, rest) = stat.rsplit_once(") ").expect("a name");
    rest.split(' ').nth(19).expect("22 fields").parse().expect("a number")
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id").trim().to_owned()
}

pub fn identity(pid: u32) -> ProcessIdentity {
    ProcessIdentity { pid, start_time: start_time(pid), boot_id: boot_id() }
}

pub fn id_variable(id: &str) -> (&'static str, &str) {
    (WORKER_ID_VARIABLE, id)
}
