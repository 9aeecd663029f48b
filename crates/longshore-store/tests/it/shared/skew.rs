//! Control planes whose clocks are minutes apart.

use std::time::Duration;

use longshore_core::task::{Ending, Hold, State};
use longshore_store::*;

use crate::support::*;

const AHEAD: Duration = Duration::from_secs(7 * 60);

/// One that leads, and another whose clock is ahead of it.
async fn apart() -> Option<(World, World)> {
    let world = World::shared().await?;
    let other = world.beside().await;
    other.pass(AHEAD);
    Some((world, other))
}

#[tokio::test]
async fn leases_live_by_service_time() {
    let Some((leader, ahead)) = apart().await else { return };
    leader.submit(new_task()).await;
    ahead.submit(new_task()).await;
    let crew = leader.worker("w").await;
    let mut held = vec![leader.claim_one(&crew, 1).await.held(), ahead.claim_one(&crew, 2).await.held()];
    let until = leader.store.leases(None).await.unwrap();
    assert_eq!(until[0].expires, until[1].expires, "whichever clock they were claimed by");
    for (world, wait) in [(&ahead, 20), (&leader, 20), (&ahead, 20)] {
        assert_eq!(leader.tick(Duration::from_secs(wait)).await, []);
        assert_eq!(world.beat(&crew, held.clone(), 2).await.unwrap().lost, []);
    }
    assert_eq!(leader.tick(Duration::from_secs(28)).await, []);
    let mut expired = leader.tick(Duration::from_secs(4)).await;
    expired.sort_by_key(|held| held.fence);
    held.sort_by_key(|held| held.fence);
    assert_eq!(expired, held);
    leader.clean_up().await;
}

#[tokio::test]
async fn conversations_keep_the_order_of_submission() {
    let Some((leader, ahead)) = apart().await else { return };
    let ids = [
        ahead.submit(talk("c")).await,
        leader.submit(talk("c")).await,
        ahead.submit(talk("c")).await,
        leader.submit(talk("c")).await,
    ];
    let crew = leader.worker("w").await;
    for (at, (id, world)) in ids.iter().zip([&leader, &ahead, &ahead, &leader]).enumerate() {
        let task = world.claim_one(&crew, at as u64 + 1).await;
        assert_eq!(task.id, *id);
        assert!(world.end(&crew, task.held(), Ending::Succeeded).await);
    }
    leader.clean_up().await;
}

#[tokio::test]
async fn nobody_has_waited_for_less_than_nothing() {
    let Some((leader, ahead)) = apart().await else { return };
    ahead.submit(new_task()).await;
    let oldest = leader.store.load(fleet("a"), leader.now()).await.unwrap().oldest_runnable_since.unwrap();
    assert!(oldest > leader.now(), "it is told as it was written");
    assert_eq!(leader.now().since(oldest), Duration::ZERO);
    leader.submit(new_task()).await;
    let oldest = ahead.store.load(fleet("a"), ahead.now()).await.unwrap().oldest_runnable_since.unwrap();
    assert_eq!(ahead.now().since(oldest), AHEAD);
    leader.clean_up().await;
}

#[tokio::test]
async fn what_is_due_is_due_by_the_leaders_clock() {
    let Some((leader, ahead)) = apart().await else { return };
    let minute = Duration::from_secs(60);
    let soon = |world: &World| NewTask { run_at: Some(world.now().after(minute)), ..new_task() };
    let (early, late) = (leader.submit(soon(&leader)).await, leader.submit(soon(&ahead)).await);
    let past = NewTask { run_at: Some(ahead.now().before(minute)), ..new_task() };
    let past = ahead.submit(past).await;
    let hold = async |id| leader.task(id).await.hold;
    assert_eq!(hold(past).await, Some(Hold::Ready), "by the clock of whoever takes it");
    leader.tick(minute * 2).await;
    assert_eq!((hold(early).await, hold(late).await), (Some(Hold::Ready), Some(Hold::Scheduled)));
    leader.tick(minute * 6).await;
    assert_eq!(hold(late).await, Some(Hold::Ready));
    // A retry waits for as much longer as the clock that wrote it down is ahead.
    let crew = leader.worker("w").await;
    let held = leader.claim_one(&crew, 1).await.held();
    ahead.pass(minute * 8);
    assert!(ahead.end(&crew, held, failed("exit_status")).await);
    leader.tick(minute).await;
    assert_eq!(hold(held.task).await, Some(Hold::Backoff));
    leader.tick(AHEAD).await;
    assert_eq!(
        (hold(held.task).await, leader.task(held.task).await.state),
        (Some(Hold::Ready), State::Queued)
    );
    leader.clean_up().await;
}
