//! A worker with its fake control plane and its folder, and the words that tests are written in.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longshore_api::link::{ClaimedTask, Outcome, Registered};
use longshore_core::fleet::Protocol;
use longshore_core::id::{Fence, Held, TaskId};
use longshore_core::json::Json;

use super::control_plane::{ControlPlane, registered};
use super::worker::{Config, WorkerProcess};

pub struct Scene {
    pub plane: ControlPlane,
    pub worker: WorkerProcess,
    pub folder: tempfile::TempDir,
}

impl Scene {
    /// An exec worker whose agent is a shell script; it sees `$SCENE_FOLDER` as its first argument.
    pub async fn shell(script: &str) -> Scene {
        Scene::shell_with(registered(Protocol::Exec, 1), script).await
    }

    pub async fn shell_with(registered: Registered, script: &str) -> Scene {
        Scene::start(registered, |folder| ["sh", "-c", script, "agent", folder].map(str::to_owned).to_vec())
            .await
    }

    pub async fn python(registered: Registered, script: &str) -> Scene {
        Scene::start(registered, |folder| ["python3", "-u", "-c", script, folder].map(str::to_owned).to_vec())
            .await
    }

    pub async fn start(registered: Registered, command: impl FnOnce(&str) -> Vec<String>) -> Scene {
        let plane = ControlPlane::start(registered).await;
        Scene::with(plane, command, |_| {})
    }

    pub fn with(
        plane: ControlPlane,
        command: impl FnOnce(&str) -> Vec<String>,
        change: impl FnOnce(&mut Config),
    ) -> Scene {
        let folder = tempfile::tempdir().expect("a folder");
        let command = command(folder.path().to_str().expect("UTF-8"));
        let mut config = Config::new(plane.url(), command, &folder.path().join("run"));
        change(&mut config);
        let worker = WorkerProcess::start(&config, folder.path().join("log"));
        Scene { plane, worker, folder }
    }

    pub fn submit(&self, input: &str) -> Held {
        self.plane.submit(task(input))
    }

    pub async fn run(&self, input: &str) -> Outcome {
        let held = self.submit(input);
        self.plane.ending(held).await
    }

    /// Lines of the log that are JSON.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.worker.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The number that an agent wrote into a file of the scene's folder.
    pub async fn number(&self, file: &str) -> i32 {
        let path = self.folder.path().join(file);
        eventually(file, || {
            let text = std::fs::read_to_string(&path).ok()?;
            text.strip_suffix('\n')?.trim().parse().ok()
        })
        .await
    }
}

/// A task with this JSON as its input.
pub fn task(input: &str) -> ClaimedTask {
    static FENCE: AtomicU64 = AtomicU64::new(1);
    let n = FENCE.fetch_add(1, Ordering::Relaxed);
    ClaimedTask {
        id: TaskId(uuid::Uuid::from_u128(n.into())),
        fence: Fence(n),
        attempt: 1,
        input: Json::parse(input).expect("valid input"),
        labels: BTreeMap::from([("team".into(), "a".into())]),
        conversation: None,
        questions: Default::default(),
        token: format!("lst1.{n}"),
        timeout_ms: 60_000,
        alone: false,
    }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Status and body of a GET; `None` if nobody answers.
pub fn get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: test\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// An outcome in a few words.
pub fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded { result } => format!("succeeded {}", result.text()),
        Outcome::Failed(failure) => format!("failed {}: {}", failure.code, failure.message),
        Outcome::Interrupted(cause) => format!("interrupted {cause:?}"),
        Outcome::Waited(awaits) => format!("waited {}", longshore_core::json::Json::of(awaits).text()),
    }
}

pub fn succeeded(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Succeeded { result } => result.text(),
        other => panic!("{}", words(other)),
    }
}
