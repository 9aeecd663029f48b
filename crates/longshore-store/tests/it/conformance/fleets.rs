use std::time::Duration;

use longshore_core::fleet::Fleet;
use longshore_core::task::Ending;
use longshore_store::*;

use crate::support::*;

fn declared(name: &str) -> Fleet {
    Fleet::new(fleet(name), vec!["true".into()], "/".into())
}

pub async fn changes_that_workers_must_know_restart_them(world: &World) {
    let mut one = declared("a");
    one.scaling.max = 3;
    let mut two = declared("b");
    two.concurrency = 4;
    let changes = world.store.put_fleets(vec![one, two, declared("new")], world.now()).await.unwrap();
    let seen: Vec<_> =
        changes.iter().map(|it| (it.name.as_str(), it.kind, it.restarts, it.release)).collect();
    use FleetChangeKind::{Added, Changed};
    assert_eq!(seen, [("a", Changed, false, 1), ("b", Changed, true, 2), ("new", Added, false, 1)]);
    let record = world.store.fleet(fleet("b")).await.unwrap().unwrap();
    assert_eq!((record.release, record.declaration.concurrency), (2, 4));
    let again = world.store.put_fleets(vec![declared("new")], world.now()).await.unwrap();
    assert_eq!(again[0].kind, FleetChangeKind::Unchanged);
}

pub async fn a_fleet_that_is_left_out_takes_no_tasks(world: &World) {
    let id = world.submit(new_task()).await;
    let changes = world.store.put_fleets(vec![declared("b")], world.now()).await.unwrap();
    assert!(changes.iter().any(|it| it.name == fleet("a") && it.kind == FleetChangeKind::Removed));
    let refused = world.store.submit(vec![new_task()], None, world.now()).await;
    assert!(matches!(refused, Err(SubmitError::UnknownFleet(_))));
    let crew = world.worker("w").await;
    assert_eq!(world.claim_one(&crew, 1).await.id, id, "what was accepted is still run");
    world.store.put_fleets(vec![declared("a")], world.now()).await.unwrap();
    world.submit(new_task()).await;
}

pub async fn decisions_are_kept_newest_first_up_to_a_limit(world: &World) {
    for n in 0..205 {
        let (kind, reason, inputs) = ("grow".into(), format!("{n}"), json("{}"));
        let decision = DecisionRecord { at: world.now(), from: n, to: n + 1, kind, reason, inputs };
        world.store.record_decision(fleet("a"), decision, world.epoch).await.unwrap();
    }
    let all = world.store.decisions(fleet("a"), 1000).await.unwrap();
    assert_eq!((all.len(), all[0].from, all[199].from), (200, 204, 5));
    assert_eq!(world.store.decisions(fleet("b"), 10).await.unwrap(), []);
}

pub async fn load_knows_the_oldest_wait(world: &World) {
    assert_eq!(world.load("a").await, Load::default());
    let since = world.now();
    world.submit(NewTask { priority: -5, ..new_task() }).await;
    world.pass(Duration::from_secs(5));
    world.submit(new_task()).await;
    let load = world.load("a").await;
    assert_eq!((load.runnable, load.oldest_runnable_since), (2, Some(since)));
    let crew = world.worker("w").await;
    let held = world.claim(&crew, 1, 5).await.unwrap()[0].held();
    world.end(&crew, held, Ending::Succeeded).await;
    let load = world.load("a").await;
    assert_eq!((load.runnable, load.oldest_runnable_since, load.running), (0, None, 1));
}

pub async fn replicas_are_set_and_given_back(world: &World) {
    assert!(world.store.set_replicas(fleet("a"), Some(3), world.now()).await.unwrap());
    assert_eq!(world.store.fleet(fleet("a")).await.unwrap().unwrap().replicas, Some(3));
    assert!(world.store.set_replicas(fleet("a"), None, world.now()).await.unwrap());
    assert_eq!(world.store.fleets().await.unwrap()[0].replicas, None);
    assert!(!world.store.set_replicas(fleet("nobody"), Some(1), world.now()).await.unwrap());
}

pub async fn small_things_are_kept(world: &World) {
    assert_eq!(world.store.meta_get("port".into()).await.unwrap(), None);
    world.store.meta_put("port".into(), "1".into()).await.unwrap();
    world.store.meta_put("port".into(), "2".into()).await.unwrap();
    assert_eq!(world.store.meta_get("port".into()).await.unwrap().as_deref(), Some("2"));
}

pub async fn ended_workers_are_forgotten(world: &World) {
    let crew = world.worker("w").await;
    world.worker("other").await;
    world.crash(&crew).await;
    assert_eq!(world.store.forget_workers(world.now()).await.unwrap(), 0);
    assert_eq!(world.store.forget_workers(world.now().after(LEASE)).await.unwrap(), 1);
    let left = world.store.workers(WorkerFilter { fleet: None, gone: true }).await.unwrap();
    assert_eq!(left.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["other"]);
}
