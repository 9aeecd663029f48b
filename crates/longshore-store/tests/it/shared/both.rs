//! Two control planes that do the same work at the same time.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use longshore_core::fleet::Fleet;
use longshore_core::id::{ConversationId, TaskId};
use longshore_core::task::{Ending, Interruption, State};
use longshore_core::time::Timestamp;
use longshore_store::*;

use super::{everything, until};
use crate::support::*;

/// An attempt's ending as its worker reports it.
fn succeeded(task: &LeasedTask) -> EndAttempt {
    let (held, ending) = (task.held(), Ending::Succeeded);
    EndAttempt { held, events: Vec::new(), ending, result: None, roll: 0.5 }
}

/// Claims from one and reports to the other until all of so many tasks are done; returns what it had, in order.
async fn work(claims: Store, reports: Store, crew: Crew, now: Timestamp, all: u64) -> Vec<LeasedTask> {
    let mut had = Vec::new();
    for seq in 1.. {
        let tasks = until("a task, or the end of all", async || {
            let (worker, nonce) = (crew.id.clone(), crew.nonce);
            let request = ClaimRequest { worker, nonce, seq, max: 7, in_flight: 0, lease: LEASE };
            let tasks = claims.claim(request, now).await.unwrap();
            let done = tasks.is_empty() && claims.counts().await.unwrap()[0].succeeded == all;
            (done || !tasks.is_empty()).then_some(tasks)
        })
        .await;
        if tasks.is_empty() {
            break;
        }
        let endings = tasks.iter().map(succeeded).collect();
        let ended = reports.end_attempts(crew.id.clone(), crew.nonce, endings, now).await.unwrap();
        assert_eq!(ended.accepted.len(), tasks.len());
        had.extend(tasks);
    }
    had
}

/// Six workers, every other one with its claims at one control plane and its reports at the other.
async fn work_at_both(world: &World, other: &Store, all: u64) -> Vec<LeasedTask> {
    let mut workers = Vec::new();
    for number in 0..6 {
        let crew = world.worker(&format!("w{number}")).await;
        let mut stores = (world.store.clone(), other.clone());
        if number % 2 == 1 {
            stores = (stores.1, stores.0);
        }
        workers.push(work(stores.0, stores.1, crew, world.now(), all));
    }
    futures_util::future::join_all(workers).await.concat()
}

#[tokio::test]
async fn no_task_is_claimed_twice() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let mut ids = HashSet::new();
    for at in 0..20 {
        let store = if at % 2 == 0 { &world.store } else { &other };
        let tasks = (0..50).map(|_| new_task()).collect();
        ids.extend(store.submit(tasks, None, world.now()).await.unwrap().ids);
    }
    let had = work_at_both(&world, &other, 1000).await;
    let fences: HashSet<_> = had.iter().map(|task| task.fence).collect();
    assert_eq!((had.len(), fences.len()), (1000, 1000));
    assert_eq!(had.iter().map(|task| task.id).collect::<HashSet<_>>(), ids);
    world.clean_up().await;
}

#[tokio::test]
async fn conversations_go_on_in_order() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let mut submitted: BTreeMap<ConversationId, Vec<TaskId>> = BTreeMap::new();
    for at in 0..60 {
        let store = if at % 2 == 0 { &world.store } else { &other };
        let task = talk(["c0", "c1", "c2", "c3"][at % 4]);
        let conversation = task.conversation.clone().unwrap();
        let ids = store.submit(vec![task], None, world.now()).await.unwrap().ids;
        submitted.entry(conversation).or_default().extend(ids);
    }
    let mut had = work_at_both(&world, &other, 60).await;
    // A fence is given with the lease, so this is the order in which they began.
    had.sort_by_key(|task| task.fence);
    let mut begun: BTreeMap<ConversationId, Vec<TaskId>> = BTreeMap::new();
    for task in had {
        begun.entry(task.conversation.unwrap().id).or_default().push(task.id);
    }
    assert_eq!(begun, submitted);
    let attempts = |at: usize| world.store.attempts(submitted[&ConversationId::new("c0").unwrap()][at]);
    assert_eq!(attempts(14).await.unwrap().len(), 1, "nobody began before its turn");
    world.clean_up().await;
}

#[tokio::test]
async fn wake_ups_reach_the_waiters_of_the_other() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    if world.options().redis.is_none() {
        return world.clean_up().await;
    }
    until("both to hear", async || (world.store.wakes() && other.wakes()).then_some(())).await;
    let mut runnable = other.signals().runnable(&fleet("a"));
    let id = world.submit(new_task()).await;
    woken("tasks that can run", runnable.wait()).await;
    let crew = world.worker("w").await;
    let mut task = other.signals().task(&id);
    let held = world.claim_one(&crew, 1).await.held();
    woken("a task's log", task.wait()).await;
    let mut worker = other.signals().worker(&crew.id);
    world.store.cancel(id, None, world.now()).await.unwrap();
    woken("a worker's news", worker.wait()).await;
    assert!(world.end(&crew, held, Ending::Interrupted(Interruption::Cancelled)).await);
    woken("its end", async {
        while world.task(id).await.state != State::Cancelled {
            task.wait().await;
        }
    })
    .await;
    world.clean_up().await;
}

async fn woken(what: &str, wait: impl Future) {
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "not woken for {what}");
}

#[tokio::test]
async fn whoever_looks_finds_what_the_other_put_in_front() {
    let Some(options) = shared_options() else { return };
    // Nobody tells: it has to be found by looking.
    let options = ConnectOptions { redis: None, ..options };
    let world = World::connect(options.clone(), options.database).await;
    let other = world.beside().await;
    assert!(!world.store.wakes() && !other.store.wakes());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.submit(new_task()).await);
    }
    let (one, two) = (world.worker("one").await, world.worker("two").await);
    assert_eq!(other.claim_one(&one, 1).await.id, ids[0]);
    // Now the second knows how far it came: what is in front of that was taken.
    assert_eq!(other.claim_one(&two, 1).await.id, ids[1]);
    let cause = Interruption::WorkerEnded;
    let end = WorkerEnd { worker: one.id.clone(), nonce: None, cause, why: "gone".into() };
    world.store.worker_ended(end, 0.5, world.now()).await.unwrap();
    let found: Vec<_> = other.claim(&two, 2, 5).await.unwrap().iter().map(|task| task.id).collect();
    assert_eq!(found, [ids[0], ids[2]]);
    world.clean_up().await;
}

#[tokio::test]
async fn a_more_urgent_task_of_the_other_is_found_before_long() {
    let Some(options) = shared_options() else { return };
    let options = ConnectOptions { redis: None, ..options };
    let world = World::connect(options.clone(), options.database).await;
    let other = world.another().await;
    let many = (0..1000).map(|_| new_task()).collect();
    world.store.submit(many, None, world.now()).await.unwrap();
    let crew = world.worker("w").await;
    world.claim_one(&crew, 1).await;
    let urgent = NewTask { priority: 9, ..new_task() };
    let urgent = other.submit(vec![urgent], None, world.now()).await.unwrap().ids[0];
    let mut seq = 1;
    let before = until("the urgent one", async || {
        seq += 1;
        (world.claim_one(&crew, seq).await.id == urgent).then_some(seq)
    });
    assert!(before.await < 1000);
    world.clean_up().await;
}

#[tokio::test]
async fn one_key_at_both_makes_one_task() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    for round in 0..20 {
        let key = Idempotency { scope: "s".into(), key: format!("k{round}"), fingerprint: [1; 32] };
        let (one, two) = futures_util::join!(
            world.store.submit(vec![new_task()], Some(key.clone()), world.now()),
            other.submit(vec![new_task()], Some(key.clone()), world.now()),
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one.ids, two.ids);
        assert_ne!(one.replayed, two.replayed, "one made it, the other was told");
    }
    assert_eq!(everything(&world.store).await.len(), 20);
    world.clean_up().await;
}

#[tokio::test]
async fn two_declarations_at_once_are_one_of_them() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let declaration = |names: &[&str]| -> Vec<Fleet> {
        names.iter().map(|name| Fleet::new(fleet(name), vec!["true".into()], "/".into())).collect()
    };
    for _ in 0..10 {
        let (one, two) = futures_util::join!(
            world.store.put_fleets(declaration(&["a", "b", "c"]), world.now()),
            other.put_fleets(declaration(&["c", "d"]), world.now()),
        );
        one.unwrap();
        two.unwrap();
        let fleets = world.store.fleets().await.unwrap();
        let active: Vec<_> =
            fleets.iter().filter(|it| it.active).map(|it| it.declaration.name.as_str()).collect();
        assert!(active == ["a", "b", "c"] || active == ["c", "d"], "a mixture: {active:?}");
    }
    world.clean_up().await;
}
