//! No-op tasks of 1 KiB with stored results: in, and all the way through.

use std::time::{Duration, Instant};

use longshore_api::task::Submit;
use longshore_core::id::{ConversationId, TenantName};

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

/// What tasks may have beside their input, and what their fleet then declares.
struct Feature {
    what: &'static str,
    declared: fn() -> String,
    change: fn(&mut Submit, usize),
}

const FEATURES: [Feature; 6] = [
    Feature { what: "nothing", declared: String::new, change: |_, _| {} },
    Feature {
        what: "three labels and a priority each",
        declared: String::new,
        change: |task, n| {
            for name in ["user", "plan", "region"] {
                task.labels.insert(name.into(), format!("{name}-{}", n % 100));
            }
            task.priority = (n % 5) as i32;
        },
    },
    Feature {
        what: "a conversation each",
        declared: String::new,
        change: |task, n| task.conversation = Some(ConversationId::new(format!("c-{n}")).expect("valid")),
    },
    Feature {
        what: "20 tenants that take turns",
        declared: String::new,
        change: |task, n| task.tenant = Some(TenantName::new(format!("t-{}", n / BATCH)).expect("valid")),
    },
    Feature { what: "a cap of the fleet", declared: || "max_running = 100000\n".into(), change: |_, _| {} },
    Feature { what: "a webhook that is told of failures", declared: webhook, change: |_, _| {} },
];

/// Nobody is told: nothing fails.
fn webhook() -> String {
    let secret = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("webhook-secret");
    std::fs::write(&secret, format!("whsec_{}", "QUJD".repeat(11))).expect("the folder is writable");
    format!(
        "[webhook.sink]\nurl = \"http://127.0.0.1:9/\"\nallow_private = true\nsecret = {{ file = {secret:?} }}\n\
         states = [\"failed\"]\n"
    )
}

/// What each feature costs where it is used: enqueue by one caller, drain by two workers.
pub async fn features() -> Vec<Row> {
    let (mut rows, mut plain) = (Vec::new(), None);
    for Feature { what, declared, change } in FEATURES {
        let Some(stage) = Stage::set(&format!("{EXTERNAL}{}", declared())).await else { return rows };
        let (enqueued, _) = enqueue_with(&stage, 1, change).await;
        let (drained, spent) = drain(&stage, 2).await;
        let (plain_in, plain_out) = *plain.get_or_insert((enqueued, drained));
        let times = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let figure = format!(
            "in {} ({:.2} times the time), out {} ({:.2} times){}",
            rate(TASKS, enqueued),
            times(enqueued, plain_in),
            rate(TASKS, drained),
            times(drained, plain_out),
            cost(spent, drained),
        );
        rows.push(row(format!("shared: tasks with {what}"), figure, ""));
    }
    rows
}

/// Puts all tasks in, in batches; the time it takes, and the work.
pub async fn enqueue(stage: &Stage, callers: usize) -> (Duration, Used) {
    enqueue_with(stage, callers, |_, _| {}).await
}

async fn enqueue_with(stage: &Stage, callers: usize, change: fn(&mut Submit, usize)) -> (Duration, Used) {
    let part = |part: usize| {
        let line = |n: usize| {
            let mut task = task(kib(1_000));
            change(&mut task, part * BATCH + n);
            serde_json::to_string(&task).expect("plain data") + "\n"
        };
        (0..BATCH).map(line).collect::<String>().into_bytes()
    };
    let mut parts: Vec<Vec<u8>> = (0..TASKS / BATCH).map(part).collect();
    let (before, begun) = (stage.used(), Instant::now());
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let own = parts.split_off(parts.len().saturating_sub(TASKS / BATCH / callers));
        let client = stage.plane.client.clone();
        running.spawn(async move {
            for lines in own {
                client.submit_batch(lines, None).await.expect("accepted");
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
