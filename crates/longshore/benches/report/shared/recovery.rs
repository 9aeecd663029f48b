//! kill -9 of a worker with 50 tasks in flight until all of them run again: told by the platform, and by the lease alone.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use longshore_core::id::TaskId;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::json;

use super::stage::Stage;
use crate::plane::{Plane, binary, signal};
use crate::{Row, row};

const TASKS: usize = 50;
const AGENT: &str =
    "command = [\"sh\", \"-c\", \"cat >/dev/null; exec sleep 600\"]\nconcurrency = 50\nkill_grace = \"1s\"\n";

pub async fn recovery() -> Vec<Row> {
    let Some(seen) = seen_by_the_platform().await else { return Vec::new() };
    let Some(lease) = seen_by_its_lease().await else { return Vec::new() };
    let told = |took: Duration| format!("{:.2} s", took.as_secs_f64());
    vec![
        row(
            "shared: kill -9 of a worker of 50 tasks until all run again, seen by the platform",
            told(seen),
            "2 s",
        ),
        row("shared: the same, seen only by its lease of 30 s", told(lease), "lease + 2 s"),
    ]
}

async fn seen_by_the_platform() -> Option<Duration> {
    let stage = Stage::set(&format!("[fleet.busy]\n{AGENT}scaling = {{ min = 1, max = 1 }}\n")).await?;
    let victim = stage.plane.crew(1).await.remove(0).pid.expect("it told its pid");
    let ids = running(&stage.plane).await;
    let begun = Instant::now();
    signal(victim, Signal::SIGKILL);
    all_again(&stage.plane, &ids).await;
    Some(begun.elapsed())
}

async fn seen_by_its_lease() -> Option<Duration> {
    let stage = Stage::set(&format!("[fleet.busy]\nplatform = \"external\"\n{AGENT}")).await?;
    let victim = worker(&stage.plane, "victim");
    stage.plane.crew(1).await;
    let ids = running(&stage.plane).await;
    let _other = worker(&stage.plane, "other");
    stage.plane.crew(2).await;
    let begun = Instant::now();
    signal(victim.0.id(), Signal::SIGKILL);
    all_again(&stage.plane, &ids).await;
    Some(begun.elapsed())
}

/// A worker that nobody but its lease speaks for; killed when it is dropped.
struct ByHand(Child);

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn worker(plane: &Plane, id: &str) -> ByHand {
    let child = Command::new(binary())
        .args(["worker", "--id", id])
        .env("LONGSHORE_FLEET", "busy")
        .env("LONGSHORE_LINK", &plane.addresses.link)
        .env("LONGSHORE_WORKER_TOKEN_FILE", plane.dir().join(".longshore/tokens/busy"))
        .env("LONGSHORE_PROBE_ADDR", "127.0.0.1:0")
        .env("TMPDIR", plane.dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    ByHand(child.expect("the binary runs"))
}

async fn running(plane: &Plane) -> Vec<TaskId> {
    let ids = plane.submit_many("busy", (0..TASKS).map(|n| json!(n))).await;
    for id in &ids {
        plane.reaches(*id, State::Running).await;
    }
    ids
}

/// Waits until each of them runs for the second time.
async fn all_again(plane: &Plane, ids: &[TaskId]) {
    for id in ids {
        while !runs_again(plane, *id).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn runs_again(plane: &Plane, id: TaskId) -> bool {
    let task = plane.task(id).await;
    task.state == State::Running && task.interrupted == 1
}
