//! This test program once more, as a worker: one that can be signalled and killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use longshore_core::id::FleetName;
use longshore_worker::{Options, RelayTimes, Secret};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::control_plane::TOKEN;
use super::scene::eventually;

/// Ours by its name, so no agent sees it.
const CONFIG: &str = "LONGSHORE_TEST_WORKER";

/// Not a test, and ignored as one: other tests run it.
#[test]
#[ignore = "other tests run it as a process of their own"]
fn worker_process() {
    let Ok(config) = std::env::var(CONFIG) else { return };
    rustls::crypto::ring::default_provider().install_default().expect("the first one");
    let config: Config = serde_json::from_str(&config).expect("a configuration");
    let filter = tracing_subscriber::EnvFilter::new("info,longshore_worker::process=debug");
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stdout)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let ended = runtime.block_on(longshore_worker::run(config.options()));
    drop(runtime);
    std::process::exit(match ended {
        Ok(exit) => exit.code.into(),
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code().into()
        }
    });
}

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Config {
    pub links: Vec<String>,
    pub token: String,
    pub command: Vec<String>,
    pub run_dir: PathBuf,
    pub probe_addr: SocketAddr,
    pub cut_off_ms: u64,
    pub stays_ms: Option<u64>,
    pub agent_port: Option<u16>,
    pub keep_alive_after_ms: u64,
    pub silence_ms: u64,
    /// Run it as PID 1 of a pid namespace.
    pub first_process: bool,
    /// What a shell does before it becomes the worker.
    pub before: String,
}

impl Config {
    pub fn new(link: String, command: Vec<String>, run_dir: &Path) -> Config {
        Config {
            links: vec![link],
            token: TOKEN.into(),
            command,
            run_dir: run_dir.into(),
            probe_addr: ([127, 0, 0, 1], 0).into(),
            cut_off_ms: 600_000,
            stays_ms: None,
            agent_port: None,
            keep_alive_after_ms: 240_000,
            silence_ms: 30_000,
            first_process: false,
            before: String::new(),
        }
    }

    fn options(self) -> Options {
        Options {
            links: self.links,
            token: Secret::new(self.token),
            ca: None,
            worker: None,
            fleet: FleetName::new("test").expect("a name"),
            command: self.command,
            concurrency: None,
            probe_addr: Some(self.probe_addr),
            agent_port: self.agent_port,
            run_dir: self.run_dir,
            cut_off: Duration::from_millis(self.cut_off_ms),
            stays: self.stays_ms.map(Duration::from_millis),
            relay: RelayTimes {
                keep_alive_after: Duration::from_millis(self.keep_alive_after_ms),
                keep_alive_every: Duration::from_millis(100),
                silence: Duration::from_millis(self.silence_ms),
                unauthorised: Duration::from_secs(1),
            },
        }
    }
}

/// A running worker; killed when dropped.
pub struct WorkerProcess {
    child: Child,
    log: PathBuf,
    first_process: bool,
}

/// Says that the test is skipped where not; fails where none may be.
pub fn may_make_a_pid_namespace() -> bool {
    let may = in_a_pid_namespace().arg("true").output().is_ok_and(|done| done.status.success());
    let required = std::env::var("LONGSHORE_TEST_REQUIRE").as_deref() == Ok("all");
    assert!(may || !required, "no right to make a pid namespace");
    if !may {
        eprintln!("SKIPPED: no right to make a pid namespace");
    }
    may
}

/// The command that runs another as PID 1; kills all of the namespace with itself.
fn in_a_pid_namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command
}

impl WorkerProcess {
    pub fn start(config: &Config, log: PathBuf) -> WorkerProcess {
        let program = std::env::current_exe().expect("this program");
        let file = std::fs::File::create(&log).expect("a log file");
        let mut command = if config.first_process { in_a_pid_namespace() } else { Command::new("env") };
        let child = command
            .args(["sh", "-c", &format!("{}\nexec \"$0\" \"$@\"", config.before)])
            .arg(program)
            .args(["--exact", "worker::worker_process", "--ignored", "--nocapture"])
            .env(CONFIG, serde_json::to_string(config).expect("JSON"))
            .envs([("LONGSHORE_WORKER_TOKEN", TOKEN), ("LONGSHORE_LINK", "http://secret-link")])
            .env("PLAIN_SETTING", "passed through")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("once more"))
            .stderr(file)
            .spawn()
            .expect("a worker");
        WorkerProcess { child, log, first_process: config.first_process }
    }

    pub fn pid(&self) -> i32 {
        let pid = self.child.id().cast_signed();
        if self.first_process { children(pid)[0].0 } else { pid }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it lives");
    }

    pub async fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the worker's end", || child.try_wait().expect("our child")).await
    }

    /// The code it ended with.
    pub async fn code(&mut self) -> i32 {
        let status = self.exit().await;
        status.code().unwrap_or_else(|| panic!("{status}\n{}", self.log()))
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).expect("the log")).into_owned()
    }

    /// Peak of its resident memory, KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Its children that nobody waited for.
    pub fn zombies(&self) -> usize {
        children(self.pid()).into_iter().filter(|(_, state)| state == "Z").count()
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the worker's log\n{}", self.log());
        }
    }
}

/// Pid and state of a process's children.
pub fn children(parent: i32) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if fields.get(1).and_then(|ppid| ppid.parse().ok()) == Some(parent) {
            found.push((pid, fields[0].to_owned()));
        }
    }
    found
}

/// Whether a process runs: a zombie does not.
pub fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
