//! From the moment that a caller begins to submit until a worker has the task: alone, and among many that wait.

use std::time::{Duration, Instant};

use longshore_core::id::TaskId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::stage::Stage;
use crate::link_worker::LinkWorker;
use crate::{EXTERNAL, Row, kib, row, task};

const TASKS: usize = 500;
const IDLE: usize = 1_000;

/// Between two tasks: longer than a pick-up, and as in the peers' measure.
const PAUSE: Duration = Duration::from_millis(20);

pub async fn pick_up() -> Vec<Row> {
    let mut rows = Vec::new();
    for idle in [1, IDLE] {
        let Some(stage) = Stage::set(EXTERNAL).await else { return rows };
        let figure = measured(&stage, idle).await;
        let what = format!("shared: pick-up, {idle} idle worker(s) connected, p50 / p99");
        rows.push(row(what, figure, "2 ms / 4 ms"));
    }
    rows
}

async fn measured(stage: &Stage, idle: usize) -> String {
    let (found, mut arrivals) = mpsc::unbounded_channel();
    let mut waiting = JoinSet::new();
    let link = LinkWorker::client(&stage.plane, "bench");
    for n in 0..idle {
        let mut worker = LinkWorker::register_by(link.clone(), "bench", &format!("idle-{n}")).await;
        let found = found.clone();
        waiting.spawn(async move {
            loop {
                let claimed = worker.claim(1).await;
                let arrived = Instant::now();
                for task in &claimed {
                    let _ = found.send((task.id, arrived));
                }
                worker.complete(claimed, 1024).await;
            }
        });
    }
    // Until all of them wait.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut taken = Vec::new();
    for _ in 0..TASKS {
        tokio::time::sleep(PAUSE).await;
        let begun = Instant::now();
        let id = stage.plane.client.submit(&task(kib(1000)), None).await.expect("accepted").id;
        taken.push(arrival(&mut arrivals, id).await.saturating_duration_since(begun));
    }
    waiting.shutdown().await;
    taken.sort();
    let at = |share: f64| taken[(taken.len() as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("{:.1} ms / {:.1} ms", at(0.5), at(0.99))
}

async fn arrival(arrivals: &mut mpsc::UnboundedReceiver<(TaskId, Instant)>, id: TaskId) -> Instant {
    loop {
        let (task, at) = arrivals.recv().await.expect("workers wait");
        if task == id {
            return at;
        }
    }
}
