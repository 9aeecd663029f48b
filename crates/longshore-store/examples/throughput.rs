//! Measures the embedded store by itself: `cargo run --release -p longshore-store --example throughput
//! [FOLDER]`.
//!
//! Prints how long one durable submission takes, and how many tasks of 1 KiB per second go through submit,
//! claim and complete in batches: of one tenant, then of a thousand.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::{Ending, OnBusy, OnInterrupt};
use longshore_core::time::Timestamp;
use longshore_store::*;
use uuid::Uuid;

const TASKS: usize = 20_000;
const BATCH: usize = 100;
const NOW: Timestamp = Timestamp(1_795_000_000_000);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let parent = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = parent.join(format!("longshore-throughput-{}", std::process::id()));
    let measured = measure(&dir).await;
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(dir: &std::path::Path) -> Result<()> {
    let store = Store::open(&OpenOptions::new(dir))?;
    let fleet = FleetName::new("a")?;
    store.put_fleets(vec![Fleet::new(fleet.clone(), vec!["true".into()], "/".into())], NOW).await?;
    let input = Json::string(&"x".repeat(1022));
    single(&store, &fleet, &input).await?;
    for (tenants, worker) in [(1, "w1"), (1000, "w2")] {
        let started = Instant::now();
        for batch in 0..TASKS / BATCH {
            let number = |n: usize| (batch * BATCH + n) % tenants;
            let tasks = (0..BATCH).map(|n| of_tenant(task(&fleet, &input), number(n)));
            store.submit(tasks.collect::<Result<_>>()?, None, NOW).await?;
        }
        report(&format!("submit, batched, {tenants} tenants"), started.elapsed());
        let started = Instant::now();
        work(&store, &fleet, &input, worker).await?;
        report(&format!("claim and complete, batched, {tenants} tenants"), started.elapsed());
    }
    store.close().await?;
    Ok(())
}

fn of_tenant(task: NewTask, number: usize) -> Result<NewTask> {
    let tenant = if number == 0 { TenantName::default() } else { TenantName::new(format!("t{number}"))? };
    Ok(NewTask { tenant, ..task })
}

/// One caller that waits for each: the price of one sync.
async fn single(store: &Store, fleet: &FleetName, input: &Json) -> Result<()> {
    let started = Instant::now();
    for _ in 0..200 {
        let id = task(fleet, input);
        let cancel = id.id;
        store.submit(vec![id], None, NOW).await?;
        // So that only the tasks that are measured below are left.
        store.cancel(cancel, None, NOW).await?;
    }
    println!("one durable write: {:?}", started.elapsed() / 400);
    Ok(())
}

async fn work(store: &Store, fleet: &FleetName, result: &Json, worker: &str) -> Result<()> {
    let (worker, nonce) = (WorkerId::new(worker)?, Uuid::new_v4());
    let registration = Registration {
        worker: worker.clone(),
        nonce,
        fleet: fleet.clone(),
        version: String::new(),
        pid: None,
        host: None,
        probe_addr: None,
        concurrency: BATCH as u32,
    };
    store.register(registration, NOW).await?;
    for seq in 1.. {
        let lease = Duration::from_secs(30);
        let claim =
            ClaimRequest { worker: worker.clone(), nonce, seq, max: BATCH as u32, in_flight: 0, lease };
        let tasks = store.claim(claim, NOW).await?;
        if tasks.is_empty() {
            break;
        }
        let end = |task: &LeasedTask| EndAttempt {
            held: task.held(),
            events: Vec::new(),
            ending: Ending::Succeeded,
            result: Some(result.clone()),
            roll: 0.5,
        };
        store.end_attempts(worker.clone(), nonce, tasks.iter().map(end).collect(), NOW).await?;
    }
    Ok(())
}

fn task(fleet: &FleetName, input: &Json) -> NewTask {
    NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: fleet.clone(),
        input: input.clone(),
        tenant: TenantName::default(),
        conversation: None,
        on_busy: OnBusy::Enqueue,
        publish_input: false,
        priority: 0,
        run_at: None,
        deadline_at: None,
        timeout_ms: 1000,
        max_attempts: 3,
        on_interrupt: OnInterrupt::Resume,
        backoff: Backoff::default(),
        labels: BTreeMap::new(),
        retry_of: None,
    }
}

fn report(what: &str, took: Duration) {
    println!("{what}: {:.0} tasks/s", TASKS as f64 / took.as_secs_f64());
}
