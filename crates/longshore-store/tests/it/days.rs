//! What goes as a whole day, and what stays: only the shared store keeps days apart.

use std::time::Duration;

use longshore_core::id::TaskId;
use longshore_core::retention::{Plan, Policy, plan};
use longshore_core::task::{Ending, State};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

const DAY: u64 = 24 * 3_600_000;

/// A task that was submitted now, as the world's clock says.
fn task_of(world: &World) -> NewTask {
    let at = world.now().0 as u64;
    let time = uuid::Timestamp::from_unix(uuid::NoContext, at / 1000, (at % 1000) as u32 * 1_000_000);
    NewTask { id: TaskId(Uuid::new_v7(time)), ..new_task() }
}

/// Runs it to its end, with a step and an event.
async fn run(world: &World, crew: &Crew, seq: u64) -> TaskId {
    world.register(crew).await.unwrap();
    let id = world.submit(task_of(world)).await;
    let held = world.claim_one(crew, seq).await.held();
    world.store.begin_step(held, fleet("a"), "s".into(), world.now()).await.unwrap();
    world.end(crew, held, Ending::Succeeded).await;
    id
}

async fn forget(world: &World, journal: u64, tasks: u64) -> Forgotten {
    let policy = Policy {
        journal_ms: Some(journal * DAY),
        results_ms: Some(tasks * DAY),
        tasks_ms: Some(tasks * DAY),
        max_tasks: None,
    };
    let plan: Plan = plan(&policy, 0, world.now());
    let plans = [fleet("a"), fleet("b")].map(|name| (name, plan)).to_vec();
    world.store.forget_days(plans, world.now()).await.unwrap().expect("it keeps days apart")
}

/// The tables of a day that are there, by the world's clock `days` ago.
async fn tables(world: &World, days: u64) -> Vec<String> {
    let day = world.now().0 as u64 / DAY - days;
    let list = format!(
        "SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace
            AND relkind = 'r' AND relname LIKE '%\\_d{day}' ORDER BY relname"
    );
    let tables = world.ask_server(&list).await;
    tables.into_iter().map(|name| name.trim_end_matches(&format!("_d{day}")).to_owned()).collect()
}

async fn next_day(world: &World) {
    world.pass(Duration::from_millis(DAY));
    world.store.make_room(world.now()).await.unwrap();
}

#[tokio::test]
async fn a_day_goes_as_a_whole_first_its_journals_then_its_tasks() {
    let Some(world) = World::shared().await else { return };
    let crew = world.worker("w").await;
    let (first, second) = (run(&world, &crew, 1).await, run(&world, &crew, 2).await);
    next_day(&world).await;
    let kept = run(&world, &crew, 3).await;
    let unfinished = world.submit(task_of(&world)).await;
    for _ in 0..4 {
        next_day(&world).await;
    }
    assert_eq!(forget(&world, 6, 9).await, Forgotten::default(), "nothing is old enough");
    assert_eq!(tables(&world, 5).await.len(), 12);
    assert_eq!(forget(&world, 2, 9).await, Forgotten { journals: 2, ..Forgotten::default() });
    assert_eq!(tables(&world, 5).await, ["child", "done", "event", "question", "task"]);
    assert_eq!(tables(&world, 4).await.len(), 12, "one of its tasks has not ended");
    let task = world.task(first).await;
    assert!(task.journal_expired && task.result.is_some());
    assert!(world.store.journal(first).await.unwrap().expect("the task is there").steps.is_empty());
    assert!(!world.task(kept).await.journal_expired);
    assert_eq!(forget(&world, 2, 4).await, Forgotten { tasks: 2, ..Forgotten::default() });
    assert_eq!(tables(&world, 5).await, [""; 0]);
    for id in [first, second] {
        assert_eq!(world.store.task(id).await.unwrap(), None);
        assert!(world.store.events(id, 0, 10).await.unwrap().is_empty());
    }
    let counts = world.store.counts().await.unwrap();
    assert_eq!(counts.iter().map(|counts| counts.succeeded).sum::<u64>(), 1, "counts are what is there");
    assert_eq!(world.task(unfinished).await.state, State::Queued, "unfinished tasks are never touched");
    world.store.cancel(unfinished, None, world.now()).await.unwrap();
    for _ in 0..5 {
        next_day(&world).await;
    }
    // An empty day goes, too.
    assert_eq!(forget(&world, 2, 4).await, Forgotten { tasks: 2, ..Forgotten::default() });
    assert_eq!(tables(&world, 9).await, [""; 0]);
    assert_eq!(tables(&world, 8).await, [""; 0]);
    assert_eq!(tables(&world, 1).await.len(), 12, "tasks of yesterday may still be on their way");
    world.clean_up().await;
}

#[tokio::test]
async fn what_is_still_needed_keeps_its_day() {
    let Some(world) = World::shared().await else { return };
    let crew = world.worker("w").await;
    let (child, sibling) = (run(&world, &crew, 1).await, run(&world, &crew, 2).await);
    next_day(&world).await;
    let parent = world.submit(task_of(&world)).await;
    world
        .on_server(&format!(
            "UPDATE task SET parent = '{0}' WHERE id = '{1}'; UPDATE done SET parent = '{0}' WHERE id = '{1}'",
            parent.0, child.0
        ))
        .await;
    for _ in 0..9 {
        next_day(&world).await;
    }
    let done = forget(&world, 2, 4).await;
    assert_eq!((done.journals, done.tasks), (2, 0), "its parent may ask for its result");
    world.store.retain(fleet("a"), everything(&world)).await.unwrap();
    assert!(world.task(child).await.result.is_some());
    assert_eq!(world.task(sibling).await.result, None, "nobody needs this one");
    world.store.cancel(parent, None, world.now()).await.unwrap();
    while world.store.retain(fleet("a"), everything(&world)).await.unwrap().more {}
    assert_eq!(world.store.task(child).await.unwrap(), None);
    world.clean_up().await;
}

/// A plan that keeps nothing that ended before now.
fn everything(world: &World) -> Plan {
    let before = Some(world.now().after(Duration::from_millis(1)));
    Plan { journals_before: before, results_before: before, tasks_before: before, excess: 0 }
}

#[tokio::test]
async fn a_day_that_is_being_read_goes_later() {
    let Some(world) = World::shared().await else { return };
    let crew = world.worker("w").await;
    run(&world, &crew, 1).await;
    for _ in 0..9 {
        next_day(&world).await;
    }
    let reader = world.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM task").await.unwrap();
    assert_eq!(forget(&world, 2, 4).await.tasks, 0, "who reads is not waited for");
    world.submit(task_of(&world)).await;
    reader.batch_execute("COMMIT").await.unwrap();
    assert_eq!(forget(&world, 2, 4).await.tasks, 1);
    world.clean_up().await;
}
