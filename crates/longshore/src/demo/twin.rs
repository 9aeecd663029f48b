//! Runs an interrupted task's agent once more, undisturbed, to see what it should have come to.
//!
//! By itself: no control plane, no worker, no journal; a second provider that gives the same answers as the first.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_api::task::Task;
use longshore_simulate::Sim;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::provider::{self, KEY, MODEL};
use crate::error::{Fault, Outcome};

/// Its provider does not wait, so it takes about as long as Python to start.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Twin {
    command: Vec<OsString>,
    provider: Sim,
}

/// A line of the exec protocol, as far as it is looked at.
#[derive(Deserialize)]
struct Line {
    longshore: String,
    #[serde(default)]
    data: Value,
}

impl Twin {
    pub async fn start(command: Vec<OsString>) -> Outcome<Twin> {
        Ok(Twin { command, provider: provider::start_twin().await? })
    }

    /// What the agent answers to this task in this attempt, deployed as this release; `None`: nothing.
    pub async fn result(&self, task: &Task, attempt: u32, release: u64) -> Outcome<Option<Value>> {
        let task = json!({"id": task.id, "attempt": attempt, "input": task.input});
        let input = json!({"longshore": 1, "task": task}).to_string();
        let command = self.command(release);
        let running = spawn_blocking(move || run(command, &input));
        // An agent that hangs is ended with what else the demo left.
        let ran = timeout(PATIENCE, running).await;
        let ran = ran.map_err(|error| Fault::new("the agent by itself hangs").cause(&error))?;
        let ran = ran.map_err(|error| Fault::new("running the agent by itself broke off").cause(&error))?;
        let output = ran.map_err(|error| Fault::new("could not run the agent by itself").cause(&error))?;
        Ok(last_result(&output))
    }

    fn command(&self, release: u64) -> Command {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .env("OPENAI_BASE_URL", self.provider.openai_base_url())
            .env("OPENAI_API_KEY", KEY)
            .env("MODEL", MODEL)
            .env("RELEASE", release.to_string());
        command
    }
}

fn run(mut command: Command, input: &str) -> std::io::Result<String> {
    let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // Dropped after it was written, so that the agent sees its end; an agent that reads nothing is seen by its result.
    if let Some(mut stdin) = agent.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = agent.wait_with_output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn last_result(output: &str) -> Option<Value> {
    let mut lines = output.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.rfind(|line| line.longshore == "result").map(|line| line.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_among_other_lines() {
        let check = |output: &str, result: Option<Value>| assert_eq!(last_result(output), result, "{output}");
        let result = r#"{"longshore": "result", "data": {"a": 1}}"#;
        check(&format!("words\n{{\"longshore\": \"progress\"}}\n{result}\n"), Some(json!({"a": 1})));
        check("{\"longshore\": \"error\", \"message\": \"no\"}\n", None);
        check("", None);
    }
}
