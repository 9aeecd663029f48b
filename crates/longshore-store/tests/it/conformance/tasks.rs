use std::time::Duration;

use longshore_core::task::{Ending, Hold, State};
use longshore_core::time::Timestamp;
use longshore_store::*;

use crate::support::*;

pub async fn a_task_is_stored_as_it_was_submitted(world: &World) {
    let new = NewTask { priority: 7, labels: [("k".into(), "v".into())].into(), ..new_task() };
    let id = world.submit(new.clone()).await;
    let task = world.task(id).await;
    assert_eq!(task.input.as_ref(), Some(&new.input), "byte for byte");
    assert_eq!((task.state, task.hold, task.priority), (State::Queued, Some(Hold::Ready), 7));
    assert_eq!((task.labels, task.timeout_ms, task.max_attempts), (new.labels, 1000, 3));
    assert_eq!((task.created_at, task.attempts, task.last_event), (world.now(), 0, 2));
    assert_eq!(world.kinds(id).await, ["submitted", "queued"]);
}

pub async fn an_unknown_or_inactive_fleet_takes_no_task_of_the_batch(world: &World) {
    let (good, bad) = (new_task(), NewTask { fleet: fleet("nobody"), ..new_task() });
    let refused = world.store.submit(vec![good.clone(), bad], None, world.now()).await;
    assert!(matches!(refused, Err(SubmitError::UnknownFleet(name)) if name.as_str() == "nobody"));
    assert_eq!(world.store.task(good.id).await.unwrap(), None);
}

fn key(fingerprint: u8) -> Option<Idempotency> {
    Some(Idempotency { scope: "POST /v1/tasks".into(), key: "k".into(), fingerprint: [fingerprint; 32] })
}

pub async fn a_repeated_key_makes_nothing_new(world: &World) {
    let tasks = vec![new_task(), new_task()];
    let first = world.store.submit(tasks, key(1), world.now()).await.unwrap();
    let second = world.store.submit(vec![new_task(), new_task()], key(1), world.now()).await.unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.ids, second.ids);
    assert_eq!(world.load("a").await.runnable, 2);
    assert_eq!(world.store.forget_keys(world.now().after(Duration::from_secs(1))).await.unwrap(), 1);
    assert!(!world.store.submit(vec![new_task()], key(1), world.now()).await.unwrap().replayed);
}

/// So many keys that were used now, behind the store's back.
async fn fill_keys(world: &World, many: u32) {
    let now = world.now();
    let key = |print: &str, ids: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {many})
             INSERT INTO idempotency (scope, key, fingerprint, task_ids, at)
             SELECT 'POST /v1/tasks', 'k' || i, {print}, {ids}, {} FROM n",
            now.0
        )
    };
    match &world.dir {
        Some(dir) => {
            let file = rusqlite::Connection::open(dir.path().join("longshore.db")).unwrap();
            file.execute_batch(&key("zeroblob(32)", "zeroblob(16)")).unwrap();
        }
        None => {
            let zeros = |bytes: usize| format!("'\\x{}'::bytea", "00".repeat(bytes));
            world.on_server(&key(&zeros(32), &zeros(16))).await;
        }
    }
}

pub async fn keys_are_forgotten_some_at_a_time_and_all_in_the_end(world: &World) {
    // More than one statement is to take: who was away for weeks comes back to millions.
    fill_keys(world, 10_001).await;
    let later = world.now().after(Duration::from_secs(1));
    assert_eq!(world.store.forget_keys(world.now()).await.unwrap(), 0, "used just now");
    assert_eq!(world.store.forget_keys(later).await.unwrap(), 10_000);
    assert_eq!(world.store.forget_keys(later).await.unwrap(), 1);
    assert_eq!(world.store.forget_keys(later).await.unwrap(), 0);
}

pub async fn a_key_with_another_request_is_refused(world: &World) {
    world.store.submit(vec![new_task()], key(1), world.now()).await.unwrap();
    let reused = world.store.submit(vec![new_task()], key(2), world.now()).await;
    assert!(matches!(reused, Err(SubmitError::KeyReused)));
    assert_eq!(world.load("a").await.runnable, 1);
}

pub async fn lists_go_from_new_to_old_in_pages(world: &World) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.submit(new_task()).await);
    }
    ids.sort();
    ids.reverse();
    let first = world.store.search(TaskFilter::default(), 3).await.unwrap();
    let before = first.next;
    let second = world.store.search(TaskFilter { before, ..TaskFilter::default() }, 3).await.unwrap();
    let listed: Vec<_> = first.tasks.iter().chain(&second.tasks).map(|task| task.id).collect();
    assert_eq!(listed, ids);
    assert_eq!(second.next, None);
    assert!(first.tasks[0].input.is_none(), "lists leave payloads out");
}

pub async fn filters_choose(world: &World) {
    let labelled = NewTask { labels: [("it's".into(), "\"x\"".into())].into(), ..new_task() };
    let labelled = world.submit(labelled).await;
    let other = world.submit(NewTask { fleet: fleet("b"), ..new_task() }).await;
    let spoken = world.submit(talk("c")).await;
    let cancelled = world.submit(new_task()).await;
    world.store.cancel(cancelled, None, world.now()).await.unwrap();
    let crew = world.worker("w").await;
    let running = world.claim_one(&crew, 1).await.id;
    assert_eq!(running, labelled);
    let list = async |filter: TaskFilter| {
        let tasks = world.store.search(filter, 10).await.unwrap().tasks;
        tasks.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let all = TaskFilter::default;
    assert_eq!(list(TaskFilter { fleet: Some(fleet("b")), ..all() }).await, [other]);
    assert_eq!(list(TaskFilter { conversation: talk("c").conversation, ..all() }).await, [spoken]);
    let labels = [("it's".to_owned(), "\"x\"".to_owned())].into();
    assert_eq!(list(TaskFilter { labels, ..all() }).await, [labelled]);
    assert_eq!(list(TaskFilter { states: vec![State::Cancelled], ..all() }).await, [cancelled]);
    assert_eq!(list(TaskFilter { states: vec![State::Running], ..all() }).await, [running]);
    let unfinished = vec![State::Running, State::Cancelled];
    assert_eq!(list(TaskFilter { states: unfinished, ..all() }).await, [cancelled, running]);
}

pub async fn counts_follow_every_move(world: &World) {
    let crew = world.worker("w").await;
    for _ in 0..3 {
        world.submit(new_task()).await;
    }
    world.submit(talk("c")).await;
    world.submit(talk("c")).await;
    world.submit(NewTask { run_at: Some(world.now().after(LEASE)), ..new_task() }).await;
    let tasks = world.claim(&crew, 1, 3).await.unwrap();
    world.end(&crew, tasks[0].held(), Ending::Succeeded).await;
    world.end(&crew, tasks[1].held(), failed("timeout")).await;
    let counts = world.store.counts().await.unwrap();
    let counts = counts.iter().find(|counts| counts.fleet == fleet("a")).unwrap();
    assert_eq!((counts.runnable, counts.delayed, counts.held), (1, 2, 1));
    assert_eq!((counts.running, counts.succeeded, counts.failed), (1, 1, 0));
    assert_eq!(counts.queued(), 4);
}

pub async fn events_are_numbered_and_resumable(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, Ending::Succeeded).await;
    let all = world.store.events(id, 0, 100).await.unwrap();
    let numbers: Vec<_> = all.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!(all.last().map(|event| event.kind.as_str()), Some("succeeded"));
    assert_eq!(world.store.events(id, 3, 100).await.unwrap(), all[3..]);
    assert_eq!(world.store.events(id, 1, 2).await.unwrap(), all[1..3]);
    assert_eq!(world.store.events(id, u64::MAX, 100).await.unwrap(), []);
}

pub async fn a_scheduled_task_waits_for_its_time(world: &World) {
    let due = world.now().after(Duration::from_secs(10));
    let id = world.submit(NewTask { run_at: Some(due), ..new_task() }).await;
    let crew = world.worker("w").await;
    assert_eq!(world.task(id).await.hold, Some(Hold::Scheduled));
    assert_eq!(world.claim(&crew, 1, 1).await.unwrap(), []);
    let idle =
        world.store.tick(world.epoch, Some(Duration::from_secs(1)), true, world.now(), 0.5).await.unwrap();
    assert_eq!((idle.promoted, idle.next_due), (0, Some(due)));
    world.tick(Duration::from_secs(10)).await;
    assert_eq!(world.task(id).await.hold, Some(Hold::Ready));
    assert_eq!(world.claim_one(&crew, 1).await.id, id);
}

pub async fn a_task_with_huge_numbers_is_stored(world: &World) {
    let run_at = Some(Timestamp::MAX);
    let new =
        NewTask { timeout_ms: u64::MAX, max_attempts: u32::MAX, priority: i32::MIN, run_at, ..new_task() };
    let task = world.task(world.submit(new).await).await;
    assert_eq!((task.timeout_ms, task.max_attempts, task.priority), (i64::MAX as u64, u32::MAX, i32::MIN));
    assert_eq!(task.due_at, Some(Timestamp::MAX));
}
