//! Measures a store by itself: `cargo run --release -p longshore-store --example throughput [FOLDER | postgres://…]`.
//!
//! Prints how long one durable submission takes, and how many tasks of 1 KiB per second go through submit,
//! claim and complete in batches: by one worker, and by four at a time. A database is left with the schema `throughput`, which
//! is made anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TaskId, WorkerId};
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::{Ending, OnInterrupt};
use longshore_core::time::Timestamp;
use longshore_store::*;
use uuid::Uuid;

const TASKS: usize = 20_000;
const BATCH: usize = 100;
const NOW: Timestamp = Timestamp(1_795_000_000_000);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let place = std::env::args().nth(1).unwrap_or_default();
    if place.starts_with("postgres") {
        let options = ConnectOptions { schema: "throughput".into(), ..ConnectOptions::new(place) };
        return measure(&Store::connect(&options, NOW).await?).await;
    }
    let parent = if place.is_empty() { std::env::temp_dir() } else { place.into() };
    let dir = parent.join(format!("longshore-throughput-{}", std::process::id()));
    let measured = measure(&Store::open(&OpenOptions::new(&dir))?).await;
    std::fs::remove_dir_all(&dir)?;
    measured
}

async fn measure(store: &Store) -> Result<()> {
    let fleet = FleetName::new("a")?;
    store.put_fleets(vec![Fleet::new(fleet.clone(), vec!["true".into()], "/".into())], NOW).await?;
    let input = Json::string(&"x".repeat(1022));
    single(store, &fleet, &input).await?;
    for workers in [1, 4] {
        let started = Instant::now();
        let submits = (0..TASKS / BATCH / workers).map(|_| async {
            let share = (0..workers)
                .map(|_| store.submit((0..BATCH).map(|_| task(&fleet, &input)).collect(), None, NOW));
            futures_util::future::try_join_all(share).await
        });
        for submit in submits {
            submit.await?;
        }
        report(&format!("submit, batched, {workers} at a time"), started.elapsed());
        let started = Instant::now();
        let work = (0..workers).map(|n| work(store, &fleet, &input, n));
        futures_util::future::try_join_all(work).await?;
        report(&format!("claim and complete, batched, {workers} workers"), started.elapsed());
    }
    store.close().await?;
    Ok(())
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

async fn work(store: &Store, fleet: &FleetName, result: &Json, number: usize) -> Result<()> {
    let (worker, nonce) = (WorkerId::new(format!("w-{number}"))?, Uuid::new_v4());
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
        conversation: None,
        publish_input: false,
        priority: 0,
        run_at: None,
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
