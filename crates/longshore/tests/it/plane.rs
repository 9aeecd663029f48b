//! A control plane for one test: the real binary on free ports with a store in a temporary folder.
//!
//! Dropping it ends the control plane, its workers and their agents, each by its id.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore_api::client::Client;
use longshore_api::fleet::Worker;
use longshore_api::link::WorkerState;
use longshore_api::task::{Submit, Task};
use longshore_api::tls::Trust;
use longshore_core::id::{FleetName, TaskId};
use longshore_core::json::Json;
use longshore_core::task::State;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a test waits for anything before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Plane {
    dir: tempfile::TempDir,
    /// Where `serve` runs, if not in `dir`.
    home: Option<PathBuf>,
    /// Added to the control plane's own environment.
    env: Vec<(String, String)>,
    child: Child,
    pub client: Client,
    pub addresses: Addresses,
}

/// Empty: it does not listen there.
#[derive(Clone, Debug)]
pub struct Addresses {
    pub api: String,
    pub link: String,
    pub probes: String,
    /// What its certificate is held against, if it has one.
    pub ca: Option<String>,
}

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_longshore")
}

impl Plane {
    /// Starts `longshore serve` with these fleets (TOML) and waits until it is up.
    pub async fn start(fleets: &str) -> Plane {
        Plane::start_with(fleets, &[]).await
    }

    /// The same with more in the control plane's environment.
    pub async fn start_with(fleets: &str, env: &[(&str, &str)]) -> Plane {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("longshore.toml"), fleets).expect("the folder is writable");
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (child, addresses) = launch(dir.path(), None, &env).await;
        let client = client(&addresses);
        Plane { dir, home: None, env, child, client, addresses }
    }

    /// The same with limits of open files, soft and hard.
    pub async fn start_limited(fleets: &str, env: &[(&str, &str)], files: (u64, u64)) -> Plane {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("longshore.toml"), fleets).expect("the folder is writable");
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (child, addresses) = launch_limited(dir.path(), None, &env, Some(files)).await;
        let client = client(&addresses);
        Plane { dir, home: None, env, child, client, addresses }
    }

    /// Starts `longshore serve` in a folder that has a `longshore.toml` of its own; the store is elsewhere.
    pub async fn of(home: &Path) -> Plane {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (child, addresses) = launch(dir.path(), Some(home), &[]).await;
        let client = client(&addresses);
        Plane { dir, home: Some(home.to_owned()), env: Vec::new(), child, client, addresses }
    }

    /// The same with more in the environment. A part without the API has a client that nobody answers.
    pub async fn part(home: &Path, env: &[(&str, &str)]) -> Plane {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (child, addresses) = launch(dir.path(), Some(home), &env).await;
        let client = client(&addresses);
        Plane { dir, home: Some(home.to_owned()), env, child, client, addresses }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9 of the control plane; its workers live on.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it is our child");
    }

    /// Starts the control plane again on the same store.
    pub async fn restart(&mut self) {
        let (child, addresses) = launch(self.dir.path(), self.home.as_deref(), &self.env).await;
        assert_eq!(addresses.link, self.addresses.link, "workers look for it where it listened before");
        self.child = child;
        self.client = client(&addresses);
        self.addresses = addresses;
    }

    /// Replaces the declared fleets; takes effect at the next restart.
    pub fn declare(&self, fleets: &str) {
        fs::write(self.dir.path().join("longshore.toml"), fleets).expect("the folder is writable");
    }

    /// SIGTERM; waits for the end.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        signal(self.child.id(), Signal::SIGTERM);
        self.ended().await
    }

    /// Waits for its end, which somebody else asked for.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        wait_for("the control plane to stop", || child.try_wait().expect("it is our child")).await
    }

    pub async fn submit(&self, fleet: &str, input: Value) -> TaskId {
        self.submit_with(fleet, input, |_| {}).await
    }

    pub async fn submit_with(&self, fleet: &str, input: Value, change: impl FnOnce(&mut Submit)) -> TaskId {
        let mut task = Submit::new(FleetName::new(fleet).expect("valid"), Json::of(&input));
        change(&mut task);
        self.client.submit(&task, None).await.expect("the submission is accepted").id
    }

    pub async fn submit_many(&self, fleet: &str, inputs: impl IntoIterator<Item = Value>) -> Vec<TaskId> {
        let line = |input: Value| {
            let task = Submit::new(FleetName::new(fleet).expect("valid"), Json::of(&input));
            serde_json::to_string(&task).expect("plain data") + "\n"
        };
        let lines: String = inputs.into_iter().map(line).collect();
        self.client.submit_batch(lines.into_bytes(), None).await.expect("the batch is accepted").ids
    }

    pub async fn task(&self, id: TaskId) -> Task {
        self.client.task(id).await.expect("the task is there")
    }

    /// Waits until the task is in this state.
    pub async fn reaches(&self, id: TaskId, state: State) -> Task {
        let end = Instant::now() + PATIENCE;
        loop {
            let task = self.task(id).await;
            if task.state == state {
                return task;
            }
            let gone_wrong = task.state.is_terminal() || Instant::now() > end;
            assert!(!gone_wrong, "waited for {state:?}, got {task:#?}\n{}", self.worker_logs());
            pause().await;
        }
    }

    pub async fn result(&self, id: TaskId) -> Value {
        let task = self.reaches(id, State::Succeeded).await;
        task.result.expect("a success has a result").read().expect("a result is JSON")
    }

    /// Waits until all of them have succeeded, and that each was written once.
    pub async fn all_succeed(&self, ids: &[TaskId]) {
        for id in ids {
            let task = self.reaches(*id, State::Succeeded).await;
            let successes =
                task.attempts.iter().filter(|a| a.outcome.as_deref() == Some("succeeded")).count();
            assert_eq!(successes, 1, "{task:#?}");
        }
    }

    pub async fn workers(&self) -> Vec<Worker> {
        self.client.workers(None, false).await.expect("the control plane answers").items
    }

    /// Waits until exactly this many workers are ready and no others are there; in order of id.
    pub async fn crew(&self, ready: usize) -> Vec<Worker> {
        self.workers_when(&format!("{ready} ready workers"), |workers| {
            workers.len() == ready && workers.iter().all(|worker| worker.state == WorkerState::Ready)
        })
        .await
    }

    pub async fn workers_when(&self, what: &str, wanted: impl Fn(&[Worker]) -> bool) -> Vec<Worker> {
        let end = Instant::now() + PATIENCE;
        loop {
            let workers = self.workers().await;
            if wanted(&workers) {
                return workers;
            }
            assert!(Instant::now() < end, "waited for {what}, got {workers:#?}\n{}", self.worker_logs());
            pause().await;
        }
    }

    /// The worker that holds this task now.
    pub async fn holder(&self, id: TaskId) -> Worker {
        let mut found = None;
        for worker in self.workers().await {
            let worker = self.client.worker(&worker.id).await.expect("it was just listed");
            if worker.tasks.contains(&id.to_string()) {
                found = Some(worker);
            }
        }
        found.expect("some worker holds the task")
    }

    /// Ids of all workers that this plane ever started: each has a log file.
    pub fn worker_ids(&self) -> HashSet<String> {
        let logs = fs::read_dir(self.dir.path().join(".longshore/logs"));
        let names = logs.into_iter().flatten().flatten().map(|entry| entry.path());
        names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
    }

    pub fn worker_log(&self, id: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!(".longshore/logs/{id}.log"))).unwrap_or_default()
    }

    /// What the newest run of the control plane logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("serve.log")).unwrap_or_default()
    }

    /// The data of a task's progress events, once there are this many.
    pub async fn progress(&self, id: TaskId, times: usize) -> Vec<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let events = self.client.events(id, 0).await.expect("it has events").items;
            let said: Vec<Value> = events
                .iter()
                .filter(|event| event.kind == "progress")
                .map(|event| event.data.read().expect("JSON"))
                .map(|told: Value| told.get("data").cloned().unwrap_or(told))
                .collect();
            if said.len() >= times {
                return said;
            }
            assert!(Instant::now() < end, "waited for {times} events of {id}\n{}", self.worker_logs());
            pause().await;
        }
    }

    /// A metric of the control plane, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = reqwest::get(format!("{}/metrics", self.addresses.probes)).await.expect("an answer");
        let text = text.text().await.expect("text");
        let lines: Vec<_> = text.lines().filter(|line| line.split([' ', '{']).next() == Some(name)).collect();
        assert!(!lines.is_empty(), "no metric {name} in\n{text}");
        lines
            .iter()
            .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0))
            .sum()
    }

    pub fn worker_logs(&self) -> String {
        let logs =
            self.worker_ids().into_iter().map(|id| format!("--- {id}\n{}", tail(&self.worker_log(&id))));
        logs.chain([format!("--- serve\n{}", tail(&self.log()))]).collect::<Vec<_>>().join("\n")
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let ids = self.worker_ids();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = carriers(&ids);
            if left.is_empty() || Instant::now() > end {
                return;
            }
            left.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Living processes that carry one of these worker ids on their command line or in their environment.
pub fn carriers(ids: &HashSet<String>) -> Vec<u32> {
    let pids = fs::read_dir("/proc").expect("Linux").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| is_alive(*pid) && carries(*pid, ids)).collect()
}

fn carries(pid: u32, ids: &HashSet<String>) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let (command, environment) = (read("cmdline"), read("environ"));
    let words = command.split(|byte| *byte == 0).chain(environment.split(|byte| *byte == 0));
    words.filter_map(|word| std::str::from_utf8(word).ok()).any(|word| {
        ids.contains(word) || word.strip_prefix("LONGSHORE_WORKER_ID=").is_some_and(|id| ids.contains(id))
    })
}

/// Whether a process runs; a zombie does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

pub fn signal(pid: u32, signal: Signal) {
    // It may have ended by itself in between.
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

pub fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o755).open(&path);
    file.as_mut().expect("the folder is writable").write_all(text.as_bytes()).expect("there is room");
    path
}

/// A fleet whose agent is a shell script, with more keys below.
pub fn shell(name: &str, script: &str, more: &str) -> String {
    format!("[fleet.{name}]\ncommand = [\"sh\", \"-c\", {}]\n{more}\n", quoted(script))
}

/// A fleet whose agent is a Python program, with more keys below.
pub fn python(name: &str, program: &str, more: &str) -> String {
    format!("[fleet.{name}]\ncommand = [\"python3\", \"-c\", {}]\n{more}\n", quoted(program))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

/// Leaves a test out where it cannot run; where all must run (CI) that is a failure.
pub fn skip(why: &str) {
    assert_ne!(std::env::var("LONGSHORE_TEST_REQUIRE").as_deref(), Ok("all"), "cannot run here: {why}");
    println!("SKIPPED: {why}");
}

fn client(addresses: &Addresses) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = if addresses.api.is_empty() { &addresses.probes } else { &addresses.api };
    let trust: Option<Trust> =
        addresses.ca.as_ref().map(|ca| ca.parse().expect("as the command line takes it"));
    Client::trusting(api, None, trust.as_ref()).expect("a client needs nothing that could fail")
}

async fn launch(dir: &Path, home: Option<&Path>, env: &[(String, String)]) -> (Child, Addresses) {
    launch_limited(dir, home, env, None).await
}

async fn launch_limited(
    dir: &Path,
    home: Option<&Path>,
    env: &[(String, String)],
    files: Option<(u64, u64)>,
) -> (Child, Addresses) {
    let log = dir.join("serve.log");
    let output = fs::File::create(&log).expect("the folder is writable");
    let errors = output.try_clone().expect("a file can be cloned");
    let mut command = Command::new(binary());
    if let Some(files) = files {
        limit_files(&mut command, files);
    }
    let mut child = command
        .arg("serve")
        .current_dir(home.unwrap_or(dir))
        .env_remove("LONGSHORE_CONFIG")
        .env("LONGSHORE__STORE__DIR", dir.join(".longshore"))
        .env("LONGSHORE__SERVER__API", "127.0.0.1:0")
        .env("LONGSHORE__SERVER__LINK", "127.0.0.1:0")
        .env("LONGSHORE__SERVER__PROBES", "127.0.0.1:0")
        .env("LONGSHORE_LOG", "info")
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .expect("the binary runs");
    let addresses = wait_for("the control plane to come up", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let up = text.lines().find_map(up_line);
        assert!(up.is_some() || child.try_wait().expect("our child").is_none(), "serve ended:\n{text}");
        up
    })
    .await;
    (child, addresses)
}

/// Starts a command with limits of open files, soft and hard.
pub fn limit_files(command: &mut Command, (soft, hard): (u64, u64)) {
    use std::os::unix::process::CommandExt;
    let limit = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?);
    // SAFETY: makes a system call only.
    unsafe { command.pre_exec(limit) };
}

fn up_line(line: &str) -> Option<Addresses> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let ca = fields.get("ca").and_then(Value::as_str).map(str::to_owned);
    let scheme = if ca.is_some() { "https" } else { "http" };
    let url = |name: &str, scheme: &str| {
        let at = fields.get(name).and_then(Value::as_str);
        at.map(|at| format!("{scheme}://{at}")).unwrap_or_default()
    };
    (fields.get("message")?.as_str()? == "control plane is up").then(|| Addresses {
        api: url("api", scheme),
        link: url("link", scheme),
        probes: url("probes", "http"),
        ca,
    })
}

/// Asks again and again until there is an answer.
pub async fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        pause().await;
    }
}

/// Between two looks at a condition.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits until the control plane has logged this.
pub async fn is_logged(plane: &Plane, message: &str) {
    wait_for(message, || plane.log().contains(message).then_some(())).await;
}
