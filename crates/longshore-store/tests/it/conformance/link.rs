use std::time::Duration;

use longshore_core::fleet::DrainMode;
use longshore_core::task::{Ending, Interruption, State};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

pub async fn what_is_not_held_is_queued_again(world: &World) {
    let (kept, ghost) = (world.submit(new_task()).await, world.submit(new_task()).await);
    let crew = world.worker("w").await;
    let tasks = world.claim(&crew, 1, 2).await.unwrap();
    let news = world.beat(&crew, vec![tasks[0].held()], 1).await.unwrap();
    assert_eq!(news, HeartbeatNews::default());
    assert_eq!(world.task(kept).await.state, State::Running);
    let task = world.task(ghost).await;
    assert_eq!((task.state, task.interrupted, task.failed_attempts), (State::Queued, 1, 0));
    let attempts = world.store.attempts(ghost).await.unwrap();
    assert_eq!(attempts[0].reason.as_deref(), Some("not_held"));
}

pub async fn what_is_on_its_way_is_not_taken(world: &World) {
    let crew = world.worker("w").await;
    let id = world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    // The worker has not read the answer of claim 1 yet.
    world.beat(&crew, Vec::new(), 0).await.unwrap();
    assert_eq!(world.task(id).await.state, State::Running);
    assert!(world.end(&crew, held, Ending::Succeeded).await);
}

pub async fn lost_leases_are_told(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    world.tick(LEASE + Duration::from_secs(1)).await;
    let news = world.beat(&crew, vec![held], 1).await.unwrap();
    assert_eq!(news.lost, [held]);
    assert_eq!(world.store.news(crew.id.clone(), crew.nonce, vec![held]).await.unwrap().lost, [held]);
    assert!(!world.end(&crew, held, Ending::Succeeded).await);
}

pub async fn only_the_renewed_live_on(world: &World) {
    let (one, two) = (world.worker("one").await, world.worker("two").await);
    world.submit(new_task()).await;
    world.submit(new_task()).await;
    let (kept, lost) = (world.claim_one(&one, 1).await, world.claim_one(&two, 1).await);
    assert_eq!(world.tick(Duration::from_secs(20)).await, []);
    world.beat(&one, vec![kept.held()], 1).await.unwrap();
    assert_eq!(world.tick(Duration::from_secs(20)).await, [lost.held()]);
    assert_eq!(world.task(kept.id).await.state, State::Running);
    assert_eq!(world.task(lost.id).await.state, State::Queued);
    assert_eq!(world.tick(Duration::from_secs(20)).await, [kept.held()]);
}

/// Its answer was lost, and the worker lives on without it.
pub async fn a_claim_that_nobody_heard_of_expires_beside_what_is_renewed(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    world.submit(new_task()).await;
    let kept = world.claim_one(&crew, 1).await;
    assert_eq!(world.tick(Duration::from_secs(5)).await, []);
    let lost = world.claim_one(&crew, 2).await;
    assert_eq!(world.tick(Duration::from_secs(20)).await, []);
    world.beat(&crew, vec![kept.held()], 1).await.unwrap();
    assert_eq!(world.tick(Duration::from_secs(20)).await, [lost.held()]);
    world.beat(&crew, vec![kept.held()], 1).await.unwrap();
    assert_eq!(world.tick(Duration::from_secs(20)).await, []);
    assert_eq!(world.task(kept.id).await.state, State::Running);
    assert_eq!(world.task(lost.id).await.state, State::Queued);
}

pub async fn outages_do_not_expire_leases(world: &World) {
    let crew = world.worker("w").await;
    let id = world.submit(new_task()).await;
    world.claim_one(&crew, 1).await;
    let before = world.store.tick(world.epoch, None, true, world.now(), 0.5).await.unwrap().service;
    for (elapsed, seen) in [(None, true), (Some(Duration::from_secs(3600)), true), (Some(LEASE), false)] {
        let tick = world.store.tick(world.epoch, elapsed, seen, world.now(), 0.5).await.unwrap();
        assert!(tick.service.0 <= before.0 + 2000 && tick.expired.is_empty());
    }
    assert_eq!(world.task(id).await.state, State::Running);
}

pub async fn a_new_start_releases_what_the_old_one_held(world: &World) {
    let id = world.submit(new_task()).await;
    let old = world.worker("w").await;
    let held = world.claim_one(&old, 3).await.held();
    assert_eq!(world.register(&old).await.unwrap(), RegisterOutcome { last_claim: 3, released: Vec::new() });
    let new = Crew { nonce: Uuid::new_v4(), ..old.clone() };
    assert_eq!(world.register(&new).await.unwrap(), RegisterOutcome { last_claim: 0, released: vec![held] });
    assert_eq!(world.task(id).await.state, State::Queued);
    assert!(!world.end(&old, held, Ending::Succeeded).await);
    assert_eq!(world.claim_one(&new, 1).await.id, id);
}

pub async fn a_drain_order_is_repeated_until_it_is_obeyed(world: &World) {
    let crew = world.worker("w").await;
    world.store.order_drain(crew.id.clone(), DrainMode::Handover, 500, world.now()).await.unwrap();
    let order = Some(DrainOrder { mode: DrainMode::Handover, timeout_ms: 500 });
    assert_eq!(world.beat(&crew, Vec::new(), 0).await.unwrap().drain, order);
    assert_eq!(world.beat(&crew, Vec::new(), 0).await.unwrap().drain, order);
    let condition = Condition { state: WorkerState::Draining, reason: String::new(), memory: 0 };
    let (worker, nonce) = (crew.id.clone(), crew.nonce);
    let beat = Heartbeat { worker, nonce, held: Vec::new(), last_claim: 0, condition, lease: LEASE };
    assert_eq!(world.store.heartbeat(beat, world.now()).await.unwrap().drain, None);
    world.register(&crew).await.unwrap();
    assert_eq!(world.beat(&crew, Vec::new(), 0).await.unwrap().drain, order, "the same start");
    let anew = Crew { nonce: Uuid::new_v4(), ..crew.clone() };
    world.register(&anew).await.unwrap();
    assert_eq!(world.beat(&anew, Vec::new(), 0).await.unwrap().drain, None, "the next start");
    assert!(
        !world.store.order_drain("nobody".parse().unwrap(), DrainMode::Wait, 1, world.now()).await.unwrap()
    );
}

pub async fn waiters_are_woken(world: &World) {
    let crew = world.worker("w").await;
    let task = new_task();
    let mut runnable = world.store.signals().runnable(&task.fleet);
    let mut events = world.store.signals().task(&task.id);
    let mut worker = world.store.signals().worker(&crew.id);
    let id = world.submit(task).await;
    let soon = Duration::from_secs(5);
    let woken = tokio::time::timeout(soon, async { (runnable.wait().await, events.wait().await) }).await;
    assert_eq!(woken.unwrap(), (Woken::Called, ()));
    world.claim_one(&crew, 1).await;
    world.store.cancel(id, None, world.now()).await.unwrap();
    tokio::time::timeout(soon, worker.wait()).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(20), runnable.wait()).await;
    assert!(quiet.is_err(), "neither a claim nor a cancellation makes anything runnable");
}

pub async fn a_late_goodbye_does_not_end_the_next_start(world: &World) {
    let old = world.worker("w").await;
    let new = Crew { nonce: Uuid::new_v4(), ..old.clone() };
    world.register(&new).await.unwrap();
    let end = |nonce| WorkerEnd {
        worker: old.id.clone(),
        nonce,
        cause: Interruption::WorkerEnded,
        why: "bye".into(),
    };
    world.store.worker_ended(end(Some(old.nonce)), 0.5, world.now()).await.unwrap();
    assert_eq!(world.store.worker(old.id.clone()).await.unwrap().unwrap().state, WorkerState::Starting);
    world.store.worker_ended(end(Some(new.nonce)), 0.5, world.now()).await.unwrap();
    let gone = world.store.worker(old.id.clone()).await.unwrap().unwrap();
    assert_eq!((gone.state, gone.end.as_deref()), (WorkerState::Gone, Some("bye")));
}

pub async fn a_gone_worker_can_register_again(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(world.crash(&crew).await, [held]);
    assert_eq!(world.crash(&crew).await, [], "gone is gone");
    assert!(matches!(world.claim(&crew, 2, 1).await, Err(ClaimError::UnknownWorker(_))));
    assert_eq!(world.register(&crew).await.unwrap().last_claim, 1);
    world.claim_one(&crew, 2).await;
}

pub async fn a_planned_worker_is_found_again(world: &World) {
    let planned = PlannedWorker {
        id: "a-1".parse().unwrap(),
        fleet: fleet("a"),
        release: 4,
        platform: "process".into(),
    };
    assert!(world.store.plan_worker(planned.clone(), world.epoch, world.now()).await.unwrap());
    assert!(
        !world.store.plan_worker(planned.clone(), world.epoch, world.now()).await.unwrap(),
        "a plan is made once"
    );
    assert!(world.store.save_identity(planned.id.clone(), json(r#"{"pid":7}"#), world.now()).await.unwrap());
    let crew = Crew { id: planned.id.clone(), nonce: Uuid::new_v4() };
    assert!(matches!(world.claim(&crew, 1, 1).await, Err(ClaimError::UnknownWorker(_))));
    world.register(&crew).await.unwrap();
    let all = world.store.workers(WorkerFilter { fleet: Some(fleet("a")), gone: false }).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].release, all[0].platform.as_str(), all[0].nonce), (4, "process", Some(crew.nonce)));
    assert_eq!(all[0].identity, Some(json(r#"{"pid":7}"#)));
}

pub async fn a_worker_that_came_before_its_plan_becomes_one_of_it(world: &World) {
    let crew = world.worker("a-1").await;
    let mut plan =
        PlannedWorker { id: crew.id.clone(), fleet: fleet("b"), release: 4, platform: "kubernetes@x".into() };
    assert!(
        !world.store.plan_worker(plan.clone(), world.epoch, world.now()).await.unwrap(),
        "of another fleet"
    );
    plan.fleet = fleet("a");
    assert!(world.store.plan_worker(plan.clone(), world.epoch, world.now()).await.unwrap());
    assert!(
        !world.store.plan_worker(plan.clone(), world.epoch, world.now()).await.unwrap(),
        "a plan is made once"
    );
    let it = world.store.worker(crew.id.clone()).await.unwrap().expect("it is there");
    assert_eq!((it.release, it.platform.as_str(), it.nonce), (4, "kubernetes@x", Some(crew.nonce)));
    assert!(it.planned_at.is_some() && it.registered_at.is_some());
    // It turned out to run another release.
    plan.release = 5;
    assert!(world.store.plan_worker(plan.clone(), world.epoch, world.now()).await.unwrap());
    let again = world.store.worker(crew.id.clone()).await.unwrap().expect("it is there");
    assert_eq!((again.release, again.planned_at, again.nonce), (5, Some(world.now()), Some(crew.nonce)));
    plan.platform = "docker@y".into();
    assert!(!world.store.plan_worker(plan, world.epoch, world.now()).await.unwrap(), "it is another's");
}
