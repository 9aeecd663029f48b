//! Measures the product as its users meet it, with the real binary over loopback; prints one table.
//!
//! `./dev bench` runs all of it, `./dev bench latency memory` some. Nothing here is asserted: these are figures.

#[allow(dead_code)]
#[path = "../../tests/it/plane.rs"]
mod plane;

mod link_worker;
mod llm;
mod shared;

use std::time::{Duration, Instant};

use longshore_api::task::Submit;
use longshore_core::id::FleetName;
use longshore_core::json::Json;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::json;

use link_worker::LinkWorker;
use plane::{Plane, pause, signal};

const EXTERNAL: &str = "[fleet.bench]\ncommand = [\"true\"]\nplatform = \"external\"\n";

/// One line of the report.
struct Row {
    what: String,
    figure: String,
    aim: &'static str,
}

fn row(what: impl Into<String>, figure: String, aim: &'static str) -> Row {
    Row { what: what.into(), figure, aim }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    println!("| what | measured | aim |\n| --- | --- | --- |");
    let show = |rows: Vec<Row>| {
        for row in rows {
            println!("| {} | {} | {} |", row.what, row.figure, row.aim);
        }
    };
    if runs("submit") {
        show(submit().await);
    }
    if runs("throughput") {
        show(throughput().await);
    }
    if runs("latency") {
        show(latency().await);
    }
    if runs("memory") {
        show(memory().await);
    }
    if runs("waiting") {
        show(waiting().await);
    }
    if runs("start") {
        show(start().await);
    }
    if runs("recovery") {
        show(recovery().await);
    }
    if runs("llm") || runs("llm-added") {
        show(llm::added().await);
    }
    if runs("llm") || runs("llm-memory") {
        show(llm::of_streams().await);
    }
    if runs("llm") || runs("llm-journal") {
        show(llm::growth_and_replay().await);
    }
    if runs("shared") || runs("shared-throughput") {
        show(shared::throughput().await);
    }
    if runs("shared") || runs("shared-features") {
        show(shared::features().await);
    }
    if runs("shared") || runs("shared-latency") {
        show(shared::pick_up().await);
    }
    if runs("shared") || runs("shared-waiting") {
        show(shared::waiting().await);
    }
    if runs("shared") || runs("shared-claims") {
        show(shared::claims().await);
    }
    if runs("shared") || runs("shared-depth") {
        show(shared::depth().await);
    }
    if runs("shared") || runs("shared-heartbeats") {
        show(shared::heartbeats().await);
    }
    if runs("shared") || runs("shared-recovery") {
        show(shared::recovery().await);
    }
}

fn kib(bytes: usize) -> serde_json::Value {
    json!("x".repeat(bytes))
}

fn task(input: serde_json::Value) -> Submit {
    Submit::new(FleetName::new("bench").expect("valid"), Json::of(&input))
}

fn rate(count: usize, took: Duration) -> String {
    format!("{:.0}/s", count as f64 / took.as_secs_f64())
}

async fn submit() -> Vec<Row> {
    let plane = Plane::start(EXTERNAL).await;
    let one = timed_submits(&plane, 1, 2_000).await;
    let many = timed_submits(&plane, 32, 20_000).await;
    let lines: String =
        (0..10_000).map(|_| serde_json::to_string(&task(kib(1024))).expect("plain data") + "\n").collect();
    let begun = Instant::now();
    for _ in 0..4 {
        plane.client.submit_batch(lines.clone().into_bytes(), None).await.expect("accepted");
    }
    let batch = rate(40_000, begun.elapsed());
    vec![
        row("submit, one caller, 1 KiB", one, ""),
        row("submit, 32 callers, 1 KiB", many, ""),
        row("submit, batches of 10,000, 1 KiB", batch, ""),
    ]
}

async fn timed_submits(plane: &Plane, callers: usize, total: usize) -> String {
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let client = plane.client.clone();
        running.spawn(async move {
            for _ in 0..total / callers {
                client.submit(&task(kib(1024)), None).await.expect("accepted");
            }
        });
    }
    running.join_all().await;
    rate(total / callers * callers, begun.elapsed())
}

/// Tasks that are stored already, through two workers that claim, do nothing and complete with 1 KiB.
async fn throughput() -> Vec<Row> {
    const TASKS: usize = 40_000;
    let plane = Plane::start(EXTERNAL).await;
    for _ in 0..TASKS / 10_000 {
        plane.submit_many("bench", (0..10_000).map(|_| kib(1024))).await;
    }
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..2 {
        let worker = LinkWorker::register(&plane, "bench", &format!("bench-{n}")).await;
        running.spawn(worker.run_until_empty(500, 1024));
    }
    let done: usize = running.join_all().await.into_iter().sum();
    assert_eq!(done, TASKS);
    let batched = rate(TASKS, begun.elapsed());

    let tasks = 4_000;
    plane.submit_many("bench", (0..tasks).map(|_| kib(1024))).await;
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..16 {
        let worker = LinkWorker::register(&plane, "bench", &format!("bench-one-{n}")).await;
        running.spawn(worker.run_until_empty(1, 1024));
    }
    let done: usize = running.join_all().await.into_iter().sum();
    let single = rate(done, begun.elapsed());
    vec![
        row("tasks through the worker link, 2 workers, up to 500 a claim, 1 KiB in and out", batched, ""),
        row("tasks through the worker link, 16 workers, one a claim, 1 KiB in and out", single, ""),
    ]
}

/// From the moment that a caller begins to submit until an idle worker has the task.
async fn latency() -> Vec<Row> {
    let plane = Plane::start(EXTERNAL).await;
    let mut worker = LinkWorker::register(&plane, "bench", "bench-idle").await;
    let mut taken = Vec::new();
    for _ in 0..1_000 {
        let client = plane.client.clone();
        let submitted = tokio::spawn(async move {
            // Long enough for the claim to be waiting there.
            tokio::time::sleep(Duration::from_millis(3)).await;
            let begun = Instant::now();
            client.submit(&task(kib(1024)), None).await.expect("accepted");
            begun
        });
        let claimed = worker.claim(1).await;
        let arrived = Instant::now();
        let begun = submitted.await.expect("the caller does not panic");
        taken.push(arrived.saturating_duration_since(begun));
        worker.complete(claimed, 1024).await;
    }
    taken.sort();
    let at =
        |share: f64| format!("{:.1} ms", taken[(taken.len() as f64 * share) as usize].as_secs_f64() * 1e3);
    vec![row("pick-up with an idle worker, p50 / p99", format!("{} / {}", at(0.5), at(0.99)), "2 ms / 10 ms")]
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

async fn memory() -> Vec<Row> {
    let plane = Plane::start("[fleet.idle]\ncommand = [\"cat\"]\nscaling = { min = 2, max = 2 }\n").await;
    let workers = plane.crew(2).await;
    let idle = resident(plane.pid());
    let worker = workers.iter().filter_map(|worker| worker.pid).map(resident).max().unwrap_or(0);
    let plane = Plane::start(EXTERNAL).await;
    for _ in 0..10 {
        plane.submit_many("bench", (0..10_000).map(|_| kib(1024))).await;
    }
    let loaded = resident(plane.pid());
    vec![
        row("memory of `serve`, idle, two workers", mib(idle), "30 MiB"),
        row("memory of `serve` after 100,000 tasks of 1 KiB in batches of 10,000", mib(loaded), ""),
        row("memory of an idle `worker`", mib(worker), "15 MiB"),
    ]
}

const SLEEPER: &str = r#"
import asyncio, json, os
async def answer(reader, writer):
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        if head.startswith(b"POST"):
            while not os.path.exists(json.loads(body)["task"]["input"]):
                await asyncio.sleep(1)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(os.environ["PORT"]), backlog=2048)
    await server.serve_forever()
asyncio.run(main())
"#;

/// 1,000 tasks that wait in one http agent.
async fn waiting() -> Vec<Row> {
    let agent = serde_json::to_string(SLEEPER).expect("a string");
    let fleet = format!(
        "[fleet.many]\ncommand = [\"python3\", \"-c\", {agent}]\nprotocol = \"http\"\nconcurrency = 1000\n\
         scaling = {{ min = 1, max = 1 }}\n"
    );
    let plane = Plane::start(&fleet).await;
    let worker = plane.crew(1).await.remove(0);
    let pid = worker.pid.expect("it told its pid");
    let (worker_before, serve_before) = (resident(pid), resident(plane.pid()));
    let go = plane.dir().join("go");
    let ids = plane.submit_many("many", (0..1_000).map(|_| json!(go))).await;
    plane.workers_when("1,000 tasks in flight", |workers| workers[0].in_flight == 1_000).await;
    // The worker has claimed them; give it the moment to send all of them to the agent.
    for _ in 0..100 {
        pause().await;
    }
    let per_task =
        |before: u64, now: u64| format!("{:.1} KiB", now.saturating_sub(before) as f64 / 1024.0 / 1_000.0);
    let figures = (per_task(worker_before, resident(pid)), per_task(serve_before, resident(plane.pid())));
    std::fs::write(&go, "").expect("the folder is writable");
    plane.all_succeed(&ids).await;
    vec![
        row("memory a waiting task adds to its worker (1,000 in one http agent)", figures.0, "20 KiB"),
        row("memory a waiting task adds to `serve`", figures.1, ""),
    ]
}

/// From the wish for one more worker until it is ready: decision, start, registration, first heartbeat.
async fn start() -> Vec<Row> {
    let plane = Plane::start("[fleet.fast]\ncommand = [\"cat\"]\nscaling = { min = 1, max = 2 }\n").await;
    let mut taken = Vec::new();
    for _ in 0..10 {
        plane.client.set_scale("fast", Some(1)).await.expect("the fleet is there");
        plane.crew(1).await;
        let begun = Instant::now();
        plane.client.set_scale("fast", Some(2)).await.expect("the fleet is there");
        let ready = |w: &longshore_api::fleet::Worker| w.state == longshore_api::link::WorkerState::Ready;
        while plane.workers().await.iter().filter(|worker| ready(worker)).count() < 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        taken.push(begun.elapsed());
    }
    taken.sort();
    let figure = format!("{:.0} ms", taken[taken.len() / 2].as_secs_f64() * 1e3);
    vec![row("start of a worker, from the wish until it is ready, median of 10", figure, "50 ms + its agent")]
}

/// kill -9 of a worker with eight tasks in flight until all of them run again.
async fn recovery() -> Vec<Row> {
    let agent = "[fleet.busy]\ncommand = [\"sh\", \"-c\", \"cat >/dev/null; sleep 600\"]\nconcurrency = 8\n\
                 scaling = { min = 2, max = 2 }\nkill_grace = \"1s\"\n";
    let plane = Plane::start(agent).await;
    let workers = plane.crew(2).await;
    let ids = plane.submit_many("busy", (0..8).map(|n| json!(n))).await;
    for id in &ids {
        plane.reaches(*id, State::Running).await;
    }
    let busiest = plane.workers().await.into_iter().max_by_key(|worker| worker.in_flight);
    let victim = busiest.unwrap_or_else(|| workers[0].clone());
    let begun = Instant::now();
    signal(victim.pid.expect("it told its pid"), Signal::SIGKILL);
    loop {
        let mut again = 0;
        for id in &ids {
            let task = plane.task(*id).await;
            again += usize::from(task.state == State::Running && task.interrupted == 1);
        }
        if again as u32 == victim.in_flight {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let figure = format!("{:.0} ms for {} tasks", begun.elapsed().as_secs_f64() * 1e3, victim.in_flight);
    vec![row("kill -9 of a worker until all its tasks run again", figure, "2 s")]
}
