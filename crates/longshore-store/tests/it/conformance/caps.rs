use std::time::Duration;

use longshore_core::fleet::{Fleet, TenantCaps};
use longshore_core::rate::Rate;
use longshore_core::task::{Ending, State};
use longshore_core::tenant::Tenant;
use longshore_store::*;

use super::tenants::of;
use crate::support::*;

async fn declare(world: &World, change: impl Fn(&mut Fleet)) {
    let fleets = ["a", "b"].map(|name| {
        let mut fleet = Fleet::new(fleet(name), vec!["true".into()], "/".into());
        change(&mut fleet);
        fleet
    });
    world.store.put_fleets(fleets.to_vec(), world.now()).await.unwrap();
}

/// Runnable now, held by caps, held by a pause, running.
async fn depth(world: &World) -> (u64, u64, u64, u64) {
    let load = world.load("a").await;
    (load.runnable, load.capped, load.paused, load.running)
}

pub async fn a_fleet_runs_no_more_than_it_may(world: &World) {
    declare(world, |fleet| fleet.max_running = Some(2)).await;
    let crew = world.worker("w").await;
    for _ in 0..5 {
        world.submit(new_task()).await;
    }
    assert_eq!(depth(world).await, (2, 3, 0, 0));
    let tasks = world.claim(&crew, 1, 9).await.unwrap();
    assert_eq!((tasks.len(), depth(world).await), (2, (0, 3, 0, 2)));
    assert_eq!(
        world.load("a").await.oldest_runnable_since,
        None,
        "nothing could start, so nothing waits for a worker"
    );
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap(), []);
    let mut waiter = world.store.signals().runnable(&fleet("a"));
    assert!(world.end(&crew, tasks[0].held(), Ending::Succeeded).await);
    tokio::time::timeout(Duration::from_secs(20), waiter.wait())
        .await
        .expect("the room wakes who waits for it");
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap().len(), 1);
    declare(world, |fleet| fleet.max_running = Some(1)).await;
    assert_eq!(depth(world).await, (0, 2, 0, 2), "a lower cap stops nothing");
    declare(world, |_| ()).await;
    assert_eq!(world.claim(&crew, 3, 9).await.unwrap().len(), 2, "without a cap they all run");
}

pub async fn a_tenants_cap_in_a_fleet_leaves_the_others_alone(world: &World) {
    declare(world, |fleet| fleet.tenants = TenantCaps { max_running: Some(1) }).await;
    let crew = world.worker("w").await;
    let since = world.now();
    for name in ["x", "x", "x"] {
        world.submit(of(name)).await;
    }
    world.claim_one(&crew, 1).await;
    world.pass(Duration::from_secs(1));
    let other = world.submit(of("y")).await;
    assert_eq!(depth(world).await, (1, 2, 0, 1));
    let oldest = world.load("a").await.oldest_runnable_since;
    assert_eq!(oldest, Some(since.after(Duration::from_secs(1))), "older ones are held by the cap");
    let tasks = world.claim(&crew, 2, 9).await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [other]);
    assert_eq!(depth(world).await, (0, 2, 0, 2));
}

pub async fn a_tenants_own_cap_holds_over_all_fleets(world: &World) {
    let small = Tenant { max_running: Some(2), ..Tenant::new(tenant("x")) };
    world.store.put_tenants(vec![small]).await.unwrap();
    let (here, there) = (world.worker("w").await, world.worker_of("v", "b").await);
    for _ in 0..3 {
        world.submit(of("x")).await;
        world.submit(NewTask { fleet: fleet("b"), ..of("x") }).await;
    }
    let first = world.claim_one(&here, 1).await;
    let second = world.claim(&there, 1, 9).await.unwrap();
    assert_eq!(second.len(), 1, "one runs in the other fleet");
    assert_eq!(depth(world).await, (0, 2, 0, 1));
    let mut waiter = world.store.signals().runnable(&fleet("b"));
    assert!(world.end(&here, first.held(), Ending::Succeeded).await);
    tokio::time::timeout(Duration::from_secs(20), waiter.wait())
        .await
        .expect("another fleet's end makes room");
    assert_eq!(world.claim(&there, 2, 9).await.unwrap().len(), 1);
    world.submit(of("y")).await;
    assert_eq!(world.claim(&here, 2, 9).await.unwrap().len(), 1, "others are not held");
    world.store.put_tenants(Vec::new()).await.unwrap();
    assert_eq!(world.claim(&here, 3, 9).await.unwrap().len(), 2);
}

pub async fn no_more_start_than_the_rate_lets(world: &World) {
    declare(world, |fleet| fleet.rate = Some(Rate { tasks: 3, per_ms: 30_000 })).await;
    let crew = world.worker("w").await;
    for _ in 0..6 {
        world.submit(new_task()).await;
    }
    assert_eq!(depth(world).await, (3, 3, 0, 0));
    for task in world.claim(&crew, 1, 9).await.unwrap() {
        world.end(&crew, task.held(), Ending::Succeeded).await;
    }
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap(), [], "ended ones count as well");
    let next = world.store.tick(world.epoch, None, true, world.now(), 0.5).await.unwrap().next_due;
    assert_eq!(next, Some(world.now().after(Duration::from_secs(10))));
    let mut waiter = world.store.signals().runnable(&fleet("a"));
    world.tick(Duration::from_secs(10)).await;
    tokio::time::timeout(Duration::from_secs(20), waiter.wait()).await.expect("the clock wakes who waits");
    assert_eq!(depth(world).await, (1, 2, 0, 0));
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap().len(), 1);
    world.tick(Duration::from_secs(20)).await;
    assert_eq!(world.claim(&crew, 3, 9).await.unwrap().len(), 2);
}

pub async fn a_paused_fleet_starts_nothing_and_finishes_what_runs(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    let running = world.claim_one(&crew, 1).await;
    assert!(world.store.set_paused(fleet("a"), true, world.now()).await.unwrap());
    assert!(world.store.fleet(fleet("a")).await.unwrap().unwrap().paused);
    let waiting = world.submit(new_task()).await;
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap(), []);
    assert_eq!(depth(world).await, (0, 0, 1, 1));
    assert!(world.end(&crew, running.held(), Ending::Succeeded).await);
    // Declared anew it stays as the operator left it.
    declare(world, |fleet| fleet.max_running = Some(9)).await;
    assert_eq!(world.claim(&crew, 2, 9).await.unwrap(), []);
    let mut waiter = world.store.signals().runnable(&fleet("a"));
    assert!(world.store.set_paused(fleet("a"), false, world.now()).await.unwrap());
    tokio::time::timeout(Duration::from_secs(20), waiter.wait()).await.expect("going on wakes who waits");
    assert_eq!(world.claim_one(&crew, 2).await.id, waiting);
    assert!(!world.store.set_paused(fleet("nobody"), true, world.now()).await.unwrap());
}

pub async fn every_unfinished_task_is_counted_in_one_number(world: &World) {
    declare(world, |fleet| fleet.max_running = Some(3)).await;
    let crew = world.worker("w").await;
    let ask = NewTask { on_interrupt: longshore_core::task::OnInterrupt::Ask, ..new_task() };
    let asked = world.submit(ask).await;
    let held = world.claim_one(&crew, 1).await.held();
    let handed_over = Ending::Interrupted(longshore_core::task::Interruption::HandedOver);
    assert!(world.end(&crew, held, handed_over).await);
    assert_eq!(world.task(asked).await.state, State::Waiting);
    for _ in 0..5 {
        world.submit(new_task()).await;
    }
    world.claim(&crew, 2, 2).await.unwrap();
    world.submit(NewTask { run_at: Some(world.now().after(LEASE)), ..talk("c") }).await;
    world.submit(talk("c")).await;
    let load = world.load("a").await;
    let numbers =
        (load.runnable, load.capped, load.paused, load.running, load.waiting, load.delayed, load.held);
    assert_eq!(numbers, (1, 2, 0, 2, 1, 1, 1));
}
