//! No-op tasks of 1 KiB with stored results: in, and all the way through.

use std::time::{Duration, Instant};

use super::stage::{Stage, Used};
use crate::link_worker::LinkWorker;
use crate::{EXTERNAL, Row, kib, rate, row, task};

const TASKS: usize = 20_000;

/// As many as the batched peers of the table in docs/benchmarks.md put into one call.
const BATCH: usize = 1_000;

/// The most that one claim takes: what two of the peers fetch at once.
const CLAIM: u32 = 500;

pub async fn throughput() -> Vec<Row> {
    let mut rows = Vec::new();
    for workers in [1, 2, 4] {
        let Some(stage) = Stage::set(EXTERNAL).await else { return Vec::new() };
        let (enqueued, spent) = enqueue(&stage, 1).await;
        if workers == 1 {
            rows.push(row(
                "shared: enqueue, batches of 1,000, one caller, 1 KiB",
                rate(TASKS, enqueued) + &cost(spent, enqueued),
                "25,000/s",
            ));
        }
        let (drained, spent) = drain(&stage, workers).await;
        let what = format!("shared: drain through the worker link, {workers} workers, up to {CLAIM} a claim");
        rows.push(row(what, rate(TASKS, drained) + &cost(spent, drained), "13,700/s"));
    }
    let Some(stage) = Stage::set(EXTERNAL).await else { return rows };
    let (enqueued, spent) = enqueue(&stage, 2).await;
    rows.push(row(
        "shared: enqueue, batches of 1,000, two callers, 1 KiB",
        rate(TASKS, enqueued) + &cost(spent, enqueued),
        "25,000/s",
    ));
    rows
}

/// Puts all tasks in, in batches; the time it takes, and the work.
pub async fn enqueue(stage: &Stage, callers: usize) -> (Duration, Used) {
    let lines: String =
        (0..BATCH).map(|_| serde_json::to_string(&task(kib(1_000))).expect("plain data") + "\n").collect();
    let lines = lines.into_bytes();
    let (before, begun) = (stage.used(), Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let (client, lines) = (stage.plane.client.clone(), lines.clone());
        running.spawn(async move {
            for _ in 0..TASKS / BATCH / callers {
                client.submit_batch(lines.clone(), None).await.expect("accepted");
            }
        });
    }
    running.join_all().await;
    (begun.elapsed(), stage.used().since(before))
}

async fn drain(stage: &Stage, workers: usize) -> (Duration, Used) {
    let mut ready = Vec::new();
    for n in 0..workers {
        ready.push(LinkWorker::register(&stage.plane, "bench", &format!("bench-{n}")).await);
    }
    let (before, begun) = (stage.used(), Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for worker in ready {
        running.spawn(worker.run_until_empty(CLAIM, 1024));
    }
    let done: usize = running.join_all().await.into_iter().sum();
    assert_eq!(done, TASKS);
    (begun.elapsed(), stage.used().since(before))
}

/// CPU time for a task, of each part.
fn cost(spent: Used, took: Duration) -> String {
    let each = |time: Duration| time.as_secs_f64() * 1e6 / TASKS as f64;
    let load = (spent.serve + spent.postgres).as_secs_f64() / took.as_secs_f64();
    format!(
        " (CPU a task: serve {:.0} µs, Postgres {:.0} µs; {load:.1} cores)",
        each(spent.serve),
        each(spent.postgres)
    )
}
