use longshore_core::fleet::DrainMode;
use longshore_core::id::Held;
use longshore_core::task::Ending;
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

pub async fn higher_priority_first_then_order_of_submission(world: &World) {
    let mut ids = Vec::new();
    for priority in [0, 5, 0, 5, -1] {
        ids.push(world.submit(NewTask { priority, ..new_task() }).await);
    }
    let crew = world.worker("w").await;
    let claimed = world.claim(&crew, 1, 10).await.unwrap();
    let order: Vec<_> = claimed.iter().map(|task| task.id).collect();
    assert_eq!(order, [ids[1], ids[3], ids[0], ids[2], ids[4]]);
}

pub async fn a_repeated_claim_gets_the_same_leases(world: &World) {
    let crew = world.worker("w").await;
    for _ in 0..3 {
        world.submit(new_task()).await;
    }
    let first = world.claim(&crew, 1, 2).await.unwrap();
    assert_eq!(world.claim(&crew, 1, 2).await.unwrap(), first);
    world.end(&crew, first[0].held(), Ending::Succeeded).await;
    assert_eq!(world.claim(&crew, 1, 2).await.unwrap(), first[1..], "what has ended is not given again");
    assert_eq!(world.store.load(fleet("a")).await.unwrap().runnable, 1);
}

pub async fn an_older_claim_is_refused(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    world.submit(new_task()).await;
    world.claim_one(&crew, 5).await;
    let refused = world.claim(&crew, 4, 1).await;
    assert!(matches!(refused, Err(ClaimError::OutOfOrder { newest: 5 })), "{refused:?}");
    assert_eq!(world.store.load(fleet("a")).await.unwrap().runnable, 1);
}

pub async fn an_empty_claim_uses_up_no_number(world: &World) {
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 1).await.unwrap(), []);
    world.submit(new_task()).await;
    world.claim_one(&crew, 1).await;
    assert_eq!(world.register(&crew).await.unwrap().last_claim, 1);
}

pub async fn fences_only_grow(world: &World) {
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    let mut last = None;
    for seq in 1..5 {
        let task = world.claim_one(&crew, seq).await;
        assert!(Some(task.fence) > last);
        assert_eq!(u64::from(task.attempt), seq);
        last = Some(task.fence);
        let handed_over = longshore_core::task::Interruption::HandedOver;
        assert!(world.end(&crew, task.held(), Ending::Interrupted(handed_over)).await);
    }
}

pub async fn strangers_and_stale_starts_get_nothing(world: &World) {
    world.submit(new_task()).await;
    let old = world.worker("w").await;
    let stranger = Crew { nonce: Uuid::new_v4(), ..old.clone() };
    assert!(matches!(world.claim(&stranger, 1, 1).await, Err(ClaimError::UnknownWorker(_))));
    world.register(&stranger).await.unwrap();
    assert!(matches!(world.claim(&old, 1, 1).await, Err(ClaimError::StaleNonce(_))));
    assert!(matches!(world.beat(&old, Vec::new(), 0).await, Err(LinkError::StaleNonce(_))));
    assert!(matches!(world.register(&old).await, Err(RegisterError::StaleNonce(_))));
    world.claim_one(&stranger, 1).await;
}

pub async fn a_draining_worker_gets_nothing(world: &World) {
    world.submit(new_task()).await;
    let crew = world.worker("w").await;
    assert!(world.store.order_drain(crew.id.clone(), DrainMode::Wait, 1000, world.now()).await.unwrap());
    assert_eq!(world.claim(&crew, 1, 1).await.unwrap(), []);
}

pub async fn a_suspect_runs_alone(world: &World) {
    let (bomb, bystander) = (world.submit(new_task()).await, world.submit(new_task()).await);
    let victim = world.worker("victim").await;
    assert_eq!(world.claim(&victim, 1, 2).await.unwrap().len(), 2);
    world.crash(&victim).await;
    assert_eq!(world.task(bomb).await.strikes, 0, "with others in flight nobody knows who it was");
    let crew = world.worker("w").await;
    let other = world.submit(new_task()).await;
    let busy = world.claim_busy(&crew, 1, 5, 1).await.unwrap();
    assert_eq!(busy.iter().map(|task| task.id).collect::<Vec<_>>(), [other], "busy: no suspect");
    assert_eq!(world.claim_busy(&crew, 2, 5, 0).await.unwrap(), [], "the store knows that it is busy");
    ends_and_wakes(world, &crew, busy[0].held()).await;
    let alone = world.claim(&crew, 2, 5).await.unwrap();
    assert_eq!(alone.iter().map(|task| (task.id, task.alone)).collect::<Vec<_>>(), [(bomb, true)]);
    world.submit(new_task()).await;
    assert_eq!(world.claim_busy(&crew, 3, 5, 1).await.unwrap(), [], "nothing beside a suspect");
    ends_and_wakes(world, &crew, alone[0].held()).await;
    assert_eq!(world.claim_one(&crew, 3).await.id, bystander);
}

/// Whoever waited beside this attempt has to look again: it kept a suspect away, or others from a suspect.
async fn ends_and_wakes(world: &World, crew: &Crew, held: Held) {
    let mut waiting = world.store.signals().runnable(&fleet("a"));
    world.end(crew, held, Ending::Succeeded).await;
    assert_eq!(waiting.wait().await, Woken::Called);
}

pub async fn the_least_busy_worker_runs_dry_for_a_suspect(world: &World) {
    let bomb = world.submit(new_task()).await;
    world.submit(new_task()).await;
    let victim = world.worker("victim").await;
    world.claim(&victim, 1, 2).await.unwrap();
    let (free, full) = (world.worker("free").await, world.worker("full").await);
    let mut held = Vec::new();
    for (crew, tasks) in [(&free, 1), (&full, 2)] {
        for _ in 0..tasks {
            world.submit(new_task()).await;
        }
        let leased = world.claim(crew, 1, tasks).await.unwrap();
        held.push(leased.iter().map(|task| task.held()).collect::<Vec<_>>());
        world.beat(crew, held.last().cloned().unwrap(), 1).await.unwrap();
    }
    world.crash(&victim).await;
    let other = world.submit(new_task()).await;
    assert_eq!(world.claim_busy(&free, 2, 1, 1).await.unwrap(), [], "it keeps its slots free");
    let taken = world.claim_busy(&full, 2, 1, 2).await.unwrap();
    assert_eq!(taken.iter().map(|task| task.id).collect::<Vec<_>>(), [other], "the others go on");
    world.end(&free, held[0][0], Ending::Succeeded).await;
    assert_eq!(world.claim_one(&free, 2).await.id, bomb);
}

pub async fn a_claim_of_large_inputs_ends_early(world: &World) {
    for _ in 0..12 {
        let input = json(&format!("\"{}\"", "x".repeat(1 << 20)));
        world.submit(NewTask { input, ..new_task() }).await;
    }
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 100).await.unwrap().len(), 8);
    assert_eq!(world.claim(&crew, 2, 100).await.unwrap().len(), 4);
}
