//! A fleet of simulated workers that hold eight tasks each and do nothing but renew them, as real ones do.

mod beat;

use std::time::Duration;

use longshore_core::id::{Held, WorkerId};
use tokio::task::JoinSet;

use super::chart;
use super::stage::Stage;
use crate::link_worker::LinkWorker;
use crate::{EXTERNAL, Row, kib, row};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const TASKS: u32 = 8;
/// One heartbeat of each worker in this time.
const EVERY: Duration = Duration::from_secs(5);
/// How long each size is watched.
const WATCHED: Duration = Duration::from_secs(30);
const CHART: &str = "docs/heartbeats.svg";

/// What some number of workers costs.
pub struct Load {
    pub workers: usize,
    /// Shares of one core.
    pub serve: f64,
    pub postgres: f64,
    pub transactions: f64,
    pub heartbeats: f64,
}

pub async fn heartbeats() -> Vec<Row> {
    let mut loads = Vec::new();
    for workers in SIZES {
        let Some(load) = measured(workers).await else { return Vec::new() };
        loads.push(load);
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::fs::write(root.join(CHART), chart::drawn(&loads)).expect("the folder is writable");
    let told = |load: &Load| {
        let figure = format!(
            "serve {:.1} %, Postgres {:.1} % of a core; {:.0} transactions/s for {:.0} heartbeats/s",
            load.serve * 100.0,
            load.postgres * 100.0,
            load.transactions,
            load.heartbeats
        );
        row(format!("shared: {} workers that hold {TASKS} tasks each", load.workers), figure, "")
    };
    loads.iter().map(told).collect()
}

async fn measured(workers: usize) -> Option<Load> {
    let stage = Stage::set(EXTERNAL).await?;
    let idle = idle(&stage).await;
    let mut beating = JoinSet::new();
    let sent = beat::Count::default();
    hire(&stage, workers, &mut beating, &sent).await;
    // Once around, so that all connections are there.
    tokio::time::sleep(EVERY * 2).await;
    let (used, transactions, beats) = (stage.used(), stage.transactions().await, sent.get());
    tokio::time::sleep(WATCHED).await;
    let spent = stage.used().since(used);
    let (transactions, beats) = (stage.transactions().await - transactions, sent.get() - beats);
    let lost =
        stage.database.query_one("SELECT count(*) FROM longshore.live WHERE state <> 'running'", &[]).await;
    assert_eq!(lost.expect("it answers").get::<_, i64>(0), 0, "no lease was lost");
    beating.shutdown().await;
    let each = |count: f64| count / WATCHED.as_secs_f64();
    Some(Load {
        workers,
        serve: each(spent.serve.as_secs_f64()),
        postgres: (each(spent.postgres.as_secs_f64()) - idle).max(0.0),
        transactions: each(transactions as f64),
        heartbeats: each(beats as f64),
    })
}

/// What the database's processes use while nothing of ours happens: others may work there as well.
async fn idle(stage: &Stage) -> f64 {
    let before = stage.used();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.used().since(before).postgres.as_secs_f64() / 5.0
}

/// A worker that has its tasks.
pub struct Holder {
    pub worker: WorkerId,
    pub nonce: uuid::Uuid,
    pub held: Vec<Held>,
}

/// Each renews from then on what it holds: it takes longer than a lease until the last one is there.
async fn hire(stage: &Stage, workers: usize, beating: &mut JoinSet<()>, sent: &beat::Count) {
    let tasks = workers * TASKS as usize;
    for part in 0..tasks.div_ceil(5_000) {
        let number = (tasks - part * 5_000).min(5_000);
        stage.plane.submit_many("bench", (0..number).map(|_| kib(100))).await;
    }
    let (address, token) = (stage.plane.addresses.link.clone(), LinkWorker::token(&stage.plane, "bench"));
    // One client for all: what is measured comes later.
    let link = LinkWorker::client(&stage.plane, "bench");
    for n in 0..workers {
        let name = format!("holder-{n}");
        let mut worker = LinkWorker::register_by(link.clone(), "bench", &name).await;
        let tasks = worker.claim(TASKS).await;
        assert_eq!(tasks.len(), TASKS as usize);
        let held = tasks.iter().map(|task| Held { task: task.id, fence: task.fence }).collect();
        let holder = Holder { worker: worker.id().clone(), nonce: worker.nonce(), held };
        let first = EVERY.mul_f64(n as f64 / workers as f64);
        beating.spawn(beat::keep(address.clone(), token.clone(), holder, first, sent.clone()));
    }
}
