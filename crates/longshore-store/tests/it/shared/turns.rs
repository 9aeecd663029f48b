//! Turns, caps and a rate, as two control planes keep them that claim at the same time.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use longshore_core::fleet::{Fleet, TenantCaps};
use longshore_core::id::FleetName;
use longshore_core::rate::Rate;
use longshore_core::share::jain;
use longshore_core::task::Ending;
use longshore_core::tenant::Tenant;
use longshore_core::time::Timestamp;
use longshore_store::*;

use super::until;
use crate::support::*;

fn of(name: &str, tenant_name: &str) -> NewTask {
    NewTask { fleet: fleet(name), tenant: tenant(tenant_name), ..new_task() }
}

fn declared(name: &str) -> Fleet {
    Fleet::new(fleet(name), vec!["true".into()], "/".into())
}

/// A worker of a fleet, whose claims go to one of the control planes.
struct Hand {
    store: Store,
    crew: Crew,
    seq: u64,
    holds: Vec<LeasedTask>,
}

impl Hand {
    async fn claim(&mut self, max: u32, now: Timestamp) {
        let (worker, nonce) = (self.crew.id.clone(), self.crew.nonce);
        let request = ClaimRequest { worker, nonce, seq: self.seq + 1, max, in_flight: 0, lease: LEASE };
        let tasks = self.store.claim(request, now).await.unwrap();
        self.seq += u64::from(!tasks.is_empty());
        self.holds.extend(tasks);
    }

    /// Ends the older half of what it holds, at least one.
    async fn end_some(&mut self, now: Timestamp) {
        let some = self.holds.len().div_ceil(2);
        let ended = self.holds.drain(..some).map(|task| EndAttempt {
            held: task.held(),
            events: Vec::new(),
            ending: Ending::Succeeded,
            result: None,
            roll: 0.5,
        });
        let endings = ended.collect();
        self.store.end_attempts(self.crew.id.clone(), self.crew.nonce, endings, now).await.unwrap();
    }
}

async fn four(world: &World, other: &Store, fleets: [&str; 4]) -> Vec<Hand> {
    let mut hands = Vec::new();
    for (at, of) in fleets.into_iter().enumerate() {
        let store = if at % 2 == 0 { &world.store } else { other };
        let crew = world.worker_of(&format!("h{at}"), of).await;
        hands.push(Hand { store: store.clone(), crew, seq: 0, holds: Vec::new() });
    }
    hands
}

async fn done(world: &World) -> u64 {
    world.store.counts().await.unwrap().iter().map(|counts| counts.succeeded).sum()
}

/// How many run, by fleet and tenant.
async fn running(world: &World, names: &[&str]) -> BTreeMap<(FleetName, String), u64> {
    let mut running = BTreeMap::new();
    for name in names {
        for counts in world.store.tenant_counts(fleet(name), 10).await.unwrap() {
            running.insert((fleet(name), counts.tenant.to_string()), counts.running);
        }
    }
    running
}

#[tokio::test]
async fn no_cap_is_exceeded_whoever_claims() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let a = Fleet { max_running: Some(5), tenants: TenantCaps { max_running: Some(2) }, ..declared("a") };
    world.store.put_fleets(vec![a, declared("b")], world.now()).await.unwrap();
    let x = Tenant { max_running: Some(3), ..Tenant::new(tenant("x")) };
    let default = Tenant { max_running: Some(2), ..Tenant::new(tenant("default")) };
    world.store.put_tenants(vec![x, default]).await.unwrap();
    for (at, name) in ["x", "y", "z", "default"].iter().cycle().take(60).enumerate() {
        let store = if at % 3 == 0 { &world.store } else { &other };
        let tasks = vec![of(if at % 2 == 0 { "b" } else { "a" }, name), of("a", name)];
        store.submit(tasks, None, world.now()).await.unwrap();
    }
    let mut hands = four(&world, &other, ["a", "a", "b", "b"]).await;
    for _ in 0..100 {
        join_all(hands.iter_mut().map(|hand| hand.claim(4, world.now()))).await;
        let running = running(&world, &["a", "b"]).await;
        let sum = |wanted: &dyn Fn(&FleetName, &str) -> bool| -> u64 {
            running.iter().filter(|((of, tenant), _)| wanted(of, tenant)).map(|(_, n)| n).sum()
        };
        assert!(sum(&|of, _| of.as_str() == "a") <= 5, "{running:?}");
        for name in ["x", "y", "z", "default"] {
            assert!(sum(&|of, tenant| of.as_str() == "a" && tenant == name) <= 2, "{running:?}");
        }
        assert!(
            sum(&|_, tenant| tenant == "x") <= 3 && sum(&|_, tenant| tenant == "default") <= 2,
            "{running:?}"
        );
        assert_eq!(sum(&|_, _| true), hands.iter().map(|hand| hand.holds.len() as u64).sum::<u64>());
        join_all(hands.iter_mut().map(|hand| hand.end_some(world.now()))).await;
        if done(&world).await == 120 {
            break;
        }
    }
    assert_eq!(done(&world).await, 120, "a cap holds tasks back and keeps none for ever");
    world.clean_up().await;
}

#[tokio::test]
async fn turns_are_shared_whoever_claims() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    for (at, (name, n)) in [("big", 400), ("s1", 40), ("s2", 40), ("default", 40)].into_iter().enumerate() {
        let store = if at % 2 == 0 { &world.store } else { &other };
        store.submit((0..n).map(|_| of("a", name)).collect(), None, world.now()).await.unwrap();
    }
    let mut hands = four(&world, &other, ["a"; 4]).await;
    let mut got: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..10 {
        join_all(hands.iter_mut().map(|hand| hand.claim(3, world.now()))).await;
        for ((_, tenant), n) in running(&world, &["a"]).await {
            *got.entry(tenant).or_default() += n;
        }
        for hand in &mut hands {
            assert_eq!(hand.holds.len(), 3);
            hand.end_some(world.now()).await;
            hand.end_some(world.now()).await;
        }
    }
    let shares: Vec<f64> = got.values().map(|n| *n as f64).collect();
    assert!(shares.len() == 4 && jain(&shares) >= 0.95, "{got:?}");
    world.clean_up().await;
}

#[tokio::test]
async fn a_rate_is_one_for_all() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let limited = Fleet { rate: Some(Rate { tasks: 10, per_ms: 60_000 }), ..declared("a") };
    world.store.put_fleets(vec![limited], world.now()).await.unwrap();
    world.store.submit((0..40).map(|_| new_task()).collect(), None, world.now()).await.unwrap();
    let mut hands = four(&world, &other, ["a"; 4]).await;
    for _ in 0..2 {
        join_all(hands.iter_mut().map(|hand| hand.claim(7, world.now()))).await;
        assert_eq!(hands.iter().map(|hand| hand.holds.len()).sum::<usize>(), 10);
    }
    let load = world.load("a").await;
    assert_eq!((load.runnable, load.capped, load.running), (0, 30, 10));
    world.clean_up().await;
}

#[tokio::test]
async fn claims_wait_for_one_another_only_where_something_is_counted() {
    let Some(world) = World::shared().await else { return };
    let (locks, crew) = (world.client().await, world.worker("w").await);
    for _ in 0..3 {
        world.submit(new_task()).await;
    }
    locks.batch_execute("BEGIN; SELECT * FROM gate FOR UPDATE").await.unwrap();
    world.claim_one(&crew, 1).await;
    world.submit(of("a", "x")).await;
    let claim = world.claim(&crew, 2, 2);
    let look = world.client().await;
    let waits = format!(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%gate%FOR NO KEY UPDATE'",
        world.options().schema
    );
    let seen = async {
        until("a claim that waits", async || {
            (!look.query(&waits, &[]).await.unwrap().is_empty()).then_some(())
        })
        .await;
        locks.batch_execute("COMMIT").await.unwrap();
    };
    let (tasks, ()) = tokio::join!(claim, seen);
    assert_eq!(tasks.unwrap().len(), 2, "and then it goes on");
    world.clean_up().await;
}
