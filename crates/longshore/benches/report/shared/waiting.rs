//! 1,000 tasks that wait in two workers: whose memory that is.

use super::process::{family, pss};
use super::stage::Stage;
use crate::plane::pause;
use crate::{Row, SLEEPER, mib, row};
use serde_json::json;

const TASKS: u32 = 1_000;

pub async fn waiting() -> Vec<Row> {
    let agent = serde_json::to_string(SLEEPER).expect("a string");
    let fleet = format!(
        "[fleet.many]\ncommand = [\"python3\", \"-c\", {agent}]\nprotocol = \"http\"\nconcurrency = {}\n\
         scaling = {{ min = 2, max = 2 }}\n",
        TASKS / 2
    );
    let Some(stage) = Stage::set(&fleet).await else { return Vec::new() };
    let workers: Vec<u32> = stage.plane.crew(2).await.iter().filter_map(|worker| worker.pid).collect();
    let before = Memory::of(&stage, &workers);
    let go = stage.plane.dir().join("go");
    let ids = stage.plane.submit_many("many", (0..TASKS).map(|_| json!(go))).await;
    let all = |workers: &[longshore_api::fleet::Worker]| {
        workers.iter().map(|worker| worker.in_flight).sum::<u32>() == TASKS
    };
    stage.plane.workers_when("1,000 tasks in flight", all).await;
    // The workers have claimed them; give them the moment to send all of them to their agents.
    for _ in 0..150 {
        pause().await;
    }
    let now = Memory::of(&stage, &workers);
    std::fs::write(&go, "").expect("the folder is writable");
    stage.plane.all_succeed(&ids).await;
    let told = |before: u64, now: u64| format!("{} (idle {})", mib(now), mib(before));
    vec![
        row("shared: PSS of two workers with 500 waiting tasks each", told(before.workers, now.workers), ""),
        row("shared: PSS of `serve` meanwhile", told(before.serve, now.serve), ""),
        row("shared: PSS of their two http agents (Python, asyncio)", told(before.agents, now.agents), ""),
        row(
            "shared: workers and agents together, as the peers' figures are",
            mib(now.workers + now.agents),
            "arq: 56 MiB",
        ),
    ]
}

struct Memory {
    workers: u64,
    serve: u64,
    agents: u64,
}

impl Memory {
    fn of(stage: &Stage, workers: &[u32]) -> Memory {
        let below = workers.iter().flat_map(|worker| family(*worker)).filter(|pid| !workers.contains(pid));
        Memory {
            workers: workers.iter().copied().map(pss).sum(),
            serve: pss(stage.plane.pid()),
            agents: below.map(pss).sum(),
        }
    }
}
