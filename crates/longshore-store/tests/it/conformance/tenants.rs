use std::collections::HashMap;

use longshore_core::fleet::Fleet;
use longshore_core::id::TenantName;
use longshore_core::share::jain;
use longshore_core::task::{Ending, Interruption};
use longshore_core::tenant::Tenant;
use longshore_store::*;

use crate::support::*;

pub fn of(name: &str) -> NewTask {
    NewTask { tenant: tenant(name), ..new_task() }
}

async fn submit_many(world: &World, name: &str, n: usize) {
    let tasks = (0..n).map(|_| of(name)).collect();
    world.store.submit(tasks, None, world.now()).await.unwrap();
}

/// Claims `n` tasks in claims of `each`, all of them succeed; returns how many each tenant got.
async fn serve(world: &World, crew: &Crew, seq: &mut u64, n: usize, each: u32) -> HashMap<String, usize> {
    let mut got = HashMap::new();
    let mut served = 0;
    while served < n {
        *seq += 1;
        let tasks = world.claim(crew, *seq, each).await.unwrap();
        assert!(!tasks.is_empty(), "there is more to do");
        for task in tasks {
            let name = world.task(task.id).await.tenant.to_string();
            *got.entry(name).or_default() += 1;
            served += 1;
            assert!(world.end(crew, task.held(), Ending::Succeeded).await);
        }
    }
    got
}

pub async fn a_tenant_is_stored_and_found(world: &World) {
    let (acme, other) = (world.submit(of("acme")).await, world.submit(new_task()).await);
    assert_eq!(world.task(acme).await.tenant, tenant("acme"));
    assert_eq!(world.task(other).await.tenant, TenantName::default());
    for (name, id) in [("acme", acme), ("default", other)] {
        let filter = TaskFilter { tenant: Some(tenant(name)), ..TaskFilter::default() };
        let found = world.store.search(filter, 10).await.unwrap().tasks;
        assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), [id], "{name}");
    }
}

pub async fn ten_times_as_many_tasks_get_no_more_turns(world: &World) {
    let crew = world.worker("w").await;
    for (name, n) in [("big", 400), ("s1", 40), ("s2", 40), ("s3", 40)] {
        submit_many(world, name, n).await;
    }
    for each in [1, 3, 7] {
        let mut seq = u64::from(each) * 1000;
        let got = serve(world, &crew, &mut seq, 40, each).await;
        let shares = ["big", "s1", "s2", "s3"].map(|name| got.get(name).copied().unwrap_or(0) as f64);
        assert!(jain(&shares) >= 0.95, "claims of {each}: {got:?}");
    }
}

pub async fn weights_are_shares(world: &World) {
    let heavy = Tenant { weight: 3, ..Tenant::new(tenant("heavy")) };
    world.store.put_tenants(vec![heavy.clone()]).await.unwrap();
    assert_eq!(world.store.tenants().await.unwrap(), [heavy]);
    let crew = world.worker("w").await;
    submit_many(world, "heavy", 100).await;
    submit_many(world, "light", 100).await;
    let got = serve(world, &crew, &mut 0, 80, 5).await;
    assert!((58..=62).contains(&got["heavy"]), "{got:?}");
}

pub async fn priorities_order_a_tenants_tasks_but_not_tenants(world: &World) {
    let crew = world.worker("w").await;
    let (modest, low) = (world.submit(of("modest")).await, world.submit(of("pushy")).await);
    let high = world.submit(NewTask { priority: 1000, ..of("pushy") }).await;
    let higher = world.submit(NewTask { priority: 1000, ..of("pushy") }).await;
    let order: Vec<_> = world.claim(&crew, 1, 9).await.unwrap().iter().map(|task| task.id).collect();
    assert_eq!(order, [modest, high, higher, low]);
}

pub async fn who_was_away_has_saved_no_turns_up(world: &World) {
    let crew = world.worker("w").await;
    submit_many(world, "steady", 200).await;
    let mut seq = 0;
    serve(world, &crew, &mut seq, 100, 10).await;
    submit_many(world, "late", 100).await;
    let got = serve(world, &crew, &mut seq, 40, 4).await;
    assert!(got["steady"] >= 19 && got["late"] >= 19, "{got:?}");
}

pub async fn a_suspect_of_one_tenant_does_not_stop_another(world: &World) {
    let bomb = world.submit(of("a")).await;
    world.submit(of("a")).await;
    let victim = world.worker("victim").await;
    assert_eq!(world.claim(&victim, 1, 2).await.unwrap().len(), 2);
    world.crash(&victim).await;
    for _ in 0..3 {
        world.submit(of("b")).await;
    }
    assert_eq!(world.load("a").await.runnable, 5, "suspects are runnable, too");
    let (one, two) = (world.worker("w1").await, world.worker("w2").await);
    for crew in [&one, &two] {
        world.beat(crew, Vec::new(), 0).await.unwrap();
    }
    // A worker that is busy takes tasks that need not run alone, unless it is the one that shall run dry.
    let taken = world.claim_busy(&two, 1, 2, 1).await.unwrap();
    assert!(taken.len() == 2 && taken.iter().all(|task| !task.alone));
    let alone = world.claim(&one, 1, 5).await.unwrap();
    assert_eq!(alone.iter().map(|task| (task.id, task.alone)).collect::<Vec<_>>(), [(bomb, true)]);
    let handed_over = Ending::Interrupted(Interruption::HandedOver);
    assert!(world.end(&one, alone[0].held(), handed_over).await);
    assert_eq!(world.load("a").await.running, 2);
}

pub async fn each_tenant_is_counted_by_itself(world: &World) {
    let crew = world.worker("w").await;
    submit_many(world, "a", 3).await;
    submit_many(world, "b", 1).await;
    world.submit(NewTask { run_at: Some(world.now().after(LEASE)), ..of("b") }).await;
    let tasks = world.claim(&crew, 1, 2).await.unwrap();
    world.end(&crew, tasks[0].held(), Ending::Succeeded).await;
    let counts = world.store.tenant_counts(fleet("a"), 10).await.unwrap();
    let told: Vec<_> = counts
        .iter()
        .map(|it| (it.tenant.as_str(), it.ready, it.delayed, it.running, it.succeeded))
        .collect();
    assert_eq!(told, [("a", 2, 0, 0, 1), ("b", 0, 1, 1, 0)]);
    assert_eq!(world.store.tenant_counts(fleet("a"), 1).await.unwrap().len(), 1);
}

pub async fn what_is_counted_and_claimed_at_once_is_exact(world: &World) {
    // Queued before any is awaited, so that they share commits: caps must hold inside of one, too.
    let capped = Fleet { max_running: Some(3), ..Fleet::new(fleet("a"), vec!["true".into()], "/".into()) };
    world.store.put_fleets(vec![capped], world.now()).await.unwrap();
    let mut crews = Vec::new();
    for n in 0..4 {
        crews.push(world.worker(&format!("w{n}")).await);
    }
    let submits = (0..8).map(|n| world.submit(of(&format!("t{}", n % 3))));
    let claims = crews.iter().map(|crew| world.claim(crew, 1, 2));
    let (_, claimed) =
        tokio::join!(futures_util::future::join_all(submits), futures_util::future::join_all(claims));
    let claimed: usize = claimed.into_iter().map(|tasks| tasks.unwrap().len()).sum();
    let load = world.load("a").await;
    assert!(claimed <= 3 && load.running == claimed as u64);
    assert_eq!(load.runnable + load.capped + load.running, 8);
}
