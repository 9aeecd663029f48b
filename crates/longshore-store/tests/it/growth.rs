//! In a steady state the file does not grow: what is forgotten makes room for what comes.

use std::time::Duration;

use longshore_core::retention::{Policy, plan};
use longshore_core::task::Ending;
use longshore_store::*;

use crate::support::*;

/// One round: tasks come, run and end, and those of the round before are forgotten.
async fn round(world: &World, crew: &Crew, seq: u64) {
    let tasks = (0..50).map(|_| NewTask { input: json(&format!("\"{}\"", "x".repeat(4000))), ..new_task() });
    world.store.submit(tasks.collect(), None, world.now()).await.unwrap();
    let tasks = world.claim(crew, seq, 50).await.unwrap();
    assert_eq!(tasks.len(), 50);
    let ends = tasks.iter().map(|task| EndAttempt {
        held: task.held(),
        events: Vec::new(),
        ending: Ending::Succeeded,
        result: Some(json(&format!("\"{}\"", "y".repeat(4000)))),
        roll: 0.5,
    });
    world.store.end_attempts(crew.id.clone(), crew.nonce, ends.collect(), world.now()).await.unwrap();
    world.pass(Duration::from_secs(60));
    let minute = Some(60_000);
    let policy = Policy { journal_ms: minute, results_ms: minute, tasks_ms: Some(90_000), max_tasks: None };
    while world.store.retain(fleet("a"), plan(&policy, 0, world.now())).await.unwrap().more {}
}

#[tokio::test]
async fn the_file_stops_growing_when_as_much_is_forgotten_as_comes() {
    let world = World::embedded().await;
    let crew = world.worker("w").await;
    let pages = || -> i64 { world.ask("PRAGMA page_count") };
    for seq in 1..=10 {
        round(&world, &crew, seq).await;
    }
    let before = pages();
    for seq in 11..=60 {
        round(&world, &crew, seq).await;
    }
    let after = pages();
    // Ids and numbers grow, so that trees are split anew: a little, not by fifty rounds.
    assert!(after <= before + before / 5, "{before} pages became {after}");
    let log = world.dir.as_ref().unwrap().path().join("longshore.db-wal");
    let log = std::fs::metadata(log).map_or(0, |log| log.len());
    assert!(log <= 64 << 20, "the log holds {log} bytes");
}
