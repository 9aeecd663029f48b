use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::id::TaskId;
use longshore_core::search::BUDGET;
use longshore_core::task::{Ending, State};
use longshore_core::time::Timestamp;
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

/// A task whose id was made at this time, as the control plane makes them.
fn born(at: Timestamp) -> NewTask {
    let (seconds, rest) = (at.0 / 1000, at.0 % 1000 * 1_000_000);
    let time = uuid::Timestamp::from_unix(uuid::NoContext, seconds as u64, rest as u32);
    NewTask { id: TaskId(Uuid::new_v7(time)), ..new_task() }
}

async fn all(world: &World, filter: TaskFilter) -> Vec<TaskId> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let page = world.store.search(TaskFilter { before, ..filter.clone() }, 2).await.unwrap();
        assert!(page.tasks.len() <= 2);
        found.extend(page.tasks.into_iter().map(|task| task.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    let same = world.store.matching(filter, 1000).await.unwrap();
    assert_eq!(same.tasks.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), found);
    found
}

pub async fn times_choose(world: &World) {
    let day = Duration::from_secs(24 * 3600);
    let crew = world.worker("w").await;
    let mut ids = Vec::new();
    for seq in 1..=4 {
        let id = world.submit(born(world.now())).await;
        let held = world.claim_one(&crew, seq).await.held();
        world.pass(Duration::from_secs(60));
        world.end(&crew, held, Ending::Succeeded).await;
        ids.push((id, world.task(id).await));
        world.pass(day);
    }
    let created = |n: usize| Some(ids[n].1.created_at);
    let finished = |n: usize| ids[n].1.finished_at;
    let none = TaskFilter::default;
    let pick = |wanted: &[usize]| wanted.iter().map(|n| ids[*n].0).collect::<Vec<_>>();
    assert_eq!(all(world, TaskFilter { created_from: created(2), ..none() }).await, pick(&[3, 2]));
    assert_eq!(all(world, TaskFilter { created_before: created(1), ..none() }).await, pick(&[0]));
    let middle = TaskFilter { created_from: created(1), created_before: created(3), ..none() };
    assert_eq!(all(world, middle).await, pick(&[2, 1]));
    assert_eq!(all(world, TaskFilter { finished_from: finished(3), ..none() }).await, pick(&[3]));
    assert_eq!(all(world, TaskFilter { finished_before: finished(2), ..none() }).await, pick(&[1, 0]));
    let waiting = world.submit(born(world.now())).await;
    assert!(!all(world, TaskFilter { finished_from: Some(Timestamp(0)), ..none() }).await.contains(&waiting));
}

pub async fn batches_and_failures_choose(world: &World) {
    let batch = NewBatch {
        id: BatchId(Uuid::now_v7()),
        name: String::new(),
        labels: Default::default(),
        more: false,
    };
    let once = NewTask { max_attempts: 1, ..new_task() };
    let mine = world.store.submit_batch(batch.clone(), vec![once], None, world.now()).await.unwrap().ids[0];
    let other = world.submit(NewTask { max_attempts: 1, ..new_task() }).await;
    let crew = world.worker("w").await;
    for (seq, code) in [(1, "timeout"), (2, "it's \"x\"")] {
        let held = world.claim_one(&crew, seq).await.held();
        world.end(&crew, held, failed(code)).await;
    }
    let none = TaskFilter::default;
    assert_eq!(all(world, TaskFilter { batch: Some(batch.id), ..none() }).await, [mine]);
    let code = |code: &str| TaskFilter { code: Some(code.into()), ..none() };
    assert_eq!(all(world, code("timeout")).await, [mine]);
    assert_eq!(all(world, TaskFilter { states: vec![State::Failed], ..code("it's \"x\"") }).await, [other]);
    assert_eq!(all(world, TaskFilter { batch: Some(batch.id), ..code("it's \"x\"") }).await, []);
    assert_eq!(all(world, TaskFilter { parent: Some(mine), ..none() }).await, []);
    assert_eq!(all(world, TaskFilter { tenant: Some(tenant("default")), ..none() }).await, [other, mine]);
    assert_eq!(all(world, TaskFilter { tenant: Some(tenant("nobody")), ..none() }).await, []);
    let unfinished = vec![State::Queued, State::Waiting];
    assert_eq!(all(world, TaskFilter { states: unfinished, ..none() }).await, []);
}

pub async fn a_page_looks_at_so_many_tasks_and_no_more(world: &World) {
    let rare = NewTask { labels: [("rare".into(), "yes".into())].into(), ..new_task() };
    let rare = world.submit(rare).await;
    let many = (0..BUDGET + 10).map(|_| new_task()).collect();
    world.store.submit(many, None, world.now()).await.unwrap();
    let labels = [("rare".to_owned(), "yes".to_owned())].into();
    let filter = TaskFilter { labels, ..TaskFilter::default() };
    let first = world.store.search(filter.clone(), 10).await.unwrap();
    assert!(first.tasks.is_empty() && first.next.is_some(), "it ends, and says where to go on");
    let second = world.store.search(TaskFilter { before: first.next, ..filter }, 10).await.unwrap();
    assert_eq!(second.tasks.into_iter().map(|task| task.id).collect::<Vec<_>>(), [rare]);
    assert_eq!(second.next, None);
}

pub async fn a_cancellation_for_some_states_leaves_the_others(world: &World) {
    let (first, second) = (world.submit(new_task()).await, world.submit(new_task()).await);
    let crew = world.worker("w").await;
    assert_eq!(world.claim_one(&crew, 1).await.id, first);
    let cancel = |id| world.store.cancel_in(id, vec![State::Queued, State::Waiting], None, world.now());
    assert_eq!(cancel(first).await.unwrap(), CancelOutcome::Elsewhere(State::Running));
    assert!(!world.task(first).await.cancel_requested);
    assert_eq!(cancel(second).await.unwrap(), CancelOutcome::Cancelled);
    assert_eq!(cancel(second).await.unwrap(), CancelOutcome::AlreadyTerminal(State::Cancelled));
}
