//! The processes: a simulated provider, a control plane, and a worker whose agents give their token away and sleep.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use longshore_core::id::TaskId;
use serde_json::{Value, json};

use crate::plane::{Plane, binary, wait_for};

pub struct Stage {
    pub plane: Plane,
    pub provider: Provider,
    folder: tempfile::TempDir,
}

/// Where calls can be sent to, and with which key.
#[derive(Clone)]
pub struct Door {
    /// As SDKs know it; ends in `/v1`.
    pub base: String,
    pub key: String,
}

/// An attempt that sleeps, and its way to the relay.
pub struct Agent {
    pub task: TaskId,
    pub door: Door,
}

/// The agent: its relay and its token into a file, whole or not at all.
const AGENT: &str = r#"
file="$FOLDER/$LONGSHORE_TASK_ID.$LONGSHORE_ATTEMPT"
echo "$OPENAI_BASE_URL $LONGSHORE_TASK_TOKEN" > "$file.part" && mv "$file.part" "$file"
exec sleep 3600
"#;

impl Stage {
    pub async fn set(pace: Pace, agents: u32) -> Stage {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let provider = Provider::start(&folder, pace);
        let agent = serde_json::to_string(AGENT).expect("a string");
        let fleets = format!(
            "[provider.openai]\nbase_url = \"{}\"\napi_key = {{ env = \"PROVIDER_KEY\" }}\n[fleet.calls]\ncommand = [\"sh\", \"-c\", {agent}]\n\
             env = {{ FOLDER = \"{}\" }}\nconcurrency = {agents}\nkill_grace = \"1s\"\n\
             scaling = {{ min = 1, max = 1 }}\ntask = {{ timeout = \"1h\" }}\n",
            provider.door.base,
            folder.path().display()
        );
        let plane = Plane::start_with(&fleets, &[("PROVIDER_KEY", &provider.door.key)]).await;
        plane.crew(1).await;
        Stage { plane, provider, folder }
    }

    /// Agents that run at once.
    pub async fn agents(&self, count: u32) -> Vec<Agent> {
        let tasks = self.plane.submit_many("calls", (0..count).map(|n| json!(n))).await;
        let mut agents = Vec::new();
        for task in tasks {
            agents.push(self.attempt(task, 1).await);
        }
        agents
    }

    /// Waits until this attempt of a task runs.
    pub async fn attempt(&self, task: TaskId, number: u32) -> Agent {
        let file: PathBuf = self.folder.path().join(format!("{task}.{number}"));
        let told = wait_for("an agent to start", || std::fs::read_to_string(&file).ok()).await;
        let (base, key) = told.trim().split_once(' ').expect("the agent writes both");
        Agent { task, door: Door { base: base.to_owned(), key: key.to_owned() } }
    }

    pub async fn worker_pid(&self) -> u32 {
        self.plane.crew(1).await.remove(0).pid.expect("it told its pid")
    }
}

/// How the provider answers: always 40 tokens, each in an event of its own.
#[derive(Clone, Copy)]
pub struct Pace {
    pub first_ms: u32,
    pub token_ms: f64,
}

pub struct Provider {
    child: Child,
    pub door: Door,
}

impl Provider {
    fn start(folder: &tempfile::TempDir, pace: Pace) -> Provider {
        let lengths = folder.path().join("lengths.csv");
        std::fs::write(&lengths, "output_tokens\n40\n").expect("the folder is writable");
        let mut child = Command::new(binary())
            .args(["llm-sim", "--json", "--latency", "none"])
            .args(["--ttft".to_owned(), pace.first_ms.to_string()])
            .args(["--token-ms".to_owned(), pace.token_ms.to_string()])
            .arg("--trace")
            .arg(&lengths)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let output = child.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("it greets");
        let greeting: Value = serde_json::from_str(&line).expect("in JSON");
        let base = greeting["openai"].as_str().expect("with its address").to_owned();
        Provider { child, door: Door { base, key: "any".into() } }
    }

    /// From now on streams stop after so many events, or go on.
    pub async fn hold(&self, after: Option<usize>) {
        let told = json!({"held": after.is_some(), "after_chunks": after});
        let sent = reqwest::Client::new().post(self.url("hold")).json(&told).send().await;
        sent.and_then(reqwest::Response::error_for_status).expect("the provider is told");
    }

    /// How many streams are held.
    pub async fn waiting(&self) -> u64 {
        let told = reqwest::get(self.url("waiting")).await.expect("the provider answers");
        let told: Value = told.json().await.expect("in JSON");
        told["waiting"].as_u64().expect("with a number")
    }

    fn url(&self, what: &str) -> String {
        format!("{}/sim/{what}", self.door.base.trim_end_matches("/v1"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
