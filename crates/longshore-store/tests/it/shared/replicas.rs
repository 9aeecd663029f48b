//! What several control planes on one database do, and what only that store has.

use longshore_core::id::WorkerId;
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

fn replica(name: &str) -> Replica {
    Replica {
        id: Uuid::new_v4(),
        name: name.into(),
        roles: vec!["api".into(), "link".into()],
        link: Some(format!("http://{name}:7118")),
        version: "0.1.0".into(),
        seen_ago_ms: 0,
    }
}

fn planned(id: &str) -> PlannedWorker {
    PlannedWorker {
        id: WorkerId::new(id).unwrap(),
        fleet: fleet("a"),
        release: 1,
        platform: "process".into(),
    }
}

#[tokio::test]
async fn one_replica_leads_and_the_plans_of_the_one_before_are_refused() {
    let Some(world) = World::shared().await else { return };
    let (store, old) = (&world.store, world.epoch);
    let other = Uuid::new_v4();
    assert_eq!(store.lead(other).await.unwrap(), None, "the first one leads");
    assert!(store.plan_worker(planned("w-1"), old, world.now()).await.unwrap());
    // The first one falls silent: its time is the database's, so it is waited for.
    let new = loop {
        match store.lead(other).await.unwrap() {
            Some(epoch) => break epoch,
            None => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
        }
    };
    assert!(new > old);
    assert!(!store.plan_worker(planned("w-2"), old, world.now()).await.unwrap(), "another one leads");
    assert!(store.plan_worker(planned("w-2"), new, world.now()).await.unwrap());
    let decision = DecisionRecord {
        at: world.now(),
        from: 1,
        to: 2,
        kind: "grow".into(),
        reason: "old".into(),
        inputs: json("{}"),
    };
    store.record_decision(fleet("a"), decision, old).await.unwrap();
    assert_eq!(store.decisions(fleet("a"), 10).await.unwrap(), []);
    store.resign(other).await.unwrap();
    assert!(store.lead(Uuid::new_v4()).await.unwrap() > Some(new), "room was made at once");
    world.clean_up().await;
}

#[tokio::test]
async fn a_tick_of_one_that_no_longer_leads_changes_nothing() {
    let Some(world) = World::shared().await else { return };
    let old = world.epoch;
    let later = world.now().after(LEASE);
    let scheduled = world.submit(NewTask { run_at: Some(later), ..new_task() }).await;
    let running = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    world.claim_one(&crew, 1).await;
    let client = world.client().await;
    // As if it had been silent for long, and its lease's time was over already.
    client.batch_execute("UPDATE leader SET until = clock_timestamp() - interval '1 minute'").await.unwrap();
    client.batch_execute("UPDATE live SET expires_ms = -1 WHERE expires_ms IS NOT NULL").await.unwrap();
    let new = world.store.lead(Uuid::new_v4()).await.unwrap().expect("nobody else leads");
    for (epoch, value) in [(new, "of the new"), (old, "of the old")] {
        world.store.meta_put_leading("led".into(), value.into(), epoch).await.unwrap();
    }
    assert_eq!(world.store.meta_get("led".into()).await.unwrap().as_deref(), Some("of the new"));
    let step = std::time::Duration::from_secs(1);
    let ticked = world.store.tick(old, Some(step), true, later, 0.5).await.unwrap();
    assert_eq!((ticked.service.0, ticked.expired.len(), ticked.promoted), (0, 0, 0));
    assert_eq!(world.task(running).await.state, longshore_core::task::State::Running);
    assert_eq!(world.task(scheduled).await.hold, Some(longshore_core::task::Hold::Scheduled));
    assert_eq!(world.store.leases(None).await.unwrap().len(), 1);
    let ticked = world.store.tick(new, Some(step), true, later, 0.5).await.unwrap();
    assert_eq!((ticked.expired.len(), ticked.promoted), (1, 1), "the one that leads does both");
    world.clean_up().await;
}

#[tokio::test]
async fn replicas_see_each_other() {
    let Some(world) = World::shared().await else { return };
    let (one, two) = (replica("one"), replica("two"));
    world.store.replica_seen(one.clone()).await.unwrap();
    let seen = world.store.replica_seen(two.clone()).await.unwrap();
    let names: Vec<_> = seen.iter().map(|it| (it.id, it.link.clone())).collect();
    assert_eq!(names, [(one.id, one.link.clone()), (two.id, two.link.clone())]);
    world.store.replica_gone(one.id).await.unwrap();
    let seen = world.store.replica_seen(two.clone()).await.unwrap();
    assert_eq!(seen.iter().map(|it| it.id).collect::<Vec<_>>(), [two.id]);
    world.clean_up().await;
}

#[tokio::test]
async fn the_first_value_of_a_name_counts_for_all() {
    let Some(world) = World::shared().await else { return };
    let first = world.store.meta_first("secret".into(), "one".into()).await.unwrap();
    let second = world.store.meta_first("secret".into(), "two".into()).await.unwrap();
    assert_eq!((first.as_str(), second.as_str()), ("one", "one"));
    world.clean_up().await;
}
