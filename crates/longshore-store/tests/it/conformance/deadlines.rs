use std::time::Duration;

use longshore_core::task::{Ending, Interruption, OnInterrupt, State};
use longshore_store::*;

use crate::support::*;

const SOON: Duration = Duration::from_secs(10);

fn due_soon(world: &World) -> NewTask {
    NewTask { deadline_at: Some(world.now().after(SOON)), ..new_task() }
}

async fn code(world: &World, id: longshore_core::id::TaskId) -> Option<String> {
    world.task(id).await.failure.map(|failure| failure.code)
}

pub async fn what_waits_fails_when_its_deadline_passes(world: &World) {
    let ready = world.submit(due_soon(world)).await;
    let later = Some(world.now().after(SOON * 3));
    let scheduled = world.submit(NewTask { run_at: later, ..due_soon(world) }).await;
    let ask = NewTask { on_interrupt: OnInterrupt::Ask, priority: 9, ..due_soon(world) };
    let waiting = world.submit(ask).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, Ending::Interrupted(Interruption::HandedOver)).await;
    let head = world.submit(NewTask { deadline_at: Some(world.now().after(SOON)), ..talk("c") }).await;
    let next = world.submit(talk("c")).await;
    let tick = world.store.tick(world.epoch, None, true, world.now(), 0.5).await.unwrap();
    assert_eq!(
        (tick.overdue.len(), tick.next_due),
        (0, Some(world.now().after(SOON))),
        "the clock knows when"
    );
    world.tick(SOON).await;
    for id in [ready, scheduled, waiting, head] {
        assert_eq!(world.task(id).await.state, State::Failed);
        assert_eq!(code(world, id).await.as_deref(), Some("deadline_exceeded"));
    }
    assert_eq!(world.claim_one(&crew, 2).await.id, next, "its conversation goes on");
    assert_eq!(world.claim(&crew, 3, 9).await.unwrap(), []);
}

pub async fn what_runs_is_stopped_and_fails(world: &World) {
    let id = world.submit(due_soon(world)).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for _ in 0..2 {
        world.store.tick(world.epoch, None, true, world.now().after(SOON), 0.5).await.unwrap();
    }
    let told = world.kinds(id).await.into_iter().filter(|kind| kind == "deadline_passed").count();
    assert_eq!(told, 1, "once");
    assert_eq!(world.beat(&crew, vec![held], 1).await.unwrap().cancel, [held]);
    // The clock that it was told by need not be that of its end.
    assert!(world.end(&crew, held, Ending::Interrupted(Interruption::Cancelled)).await);
    let task = world.task(id).await;
    assert_eq!((task.state, task.attempts), (State::Failed, 1));
    assert_eq!(code(world, id).await.as_deref(), Some("deadline_exceeded"));
}

pub async fn a_result_that_was_there_beats_a_deadline(world: &World) {
    let id = world.submit(due_soon(world)).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.tick(SOON).await;
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    assert_eq!(world.task(id).await.state, State::Succeeded);
    assert_eq!(world.store.tick(world.epoch, None, true, world.now(), 0.5).await.unwrap().next_due, None);
}

pub async fn no_attempt_follows_a_deadline(world: &World) {
    let crew = world.worker("w").await;
    for (seq, ending) in [(1, failed("exit_status")), (2, Ending::Interrupted(Interruption::HandedOver))] {
        let id = world.submit(due_soon(world)).await;
        let held = world.claim_one(&crew, seq).await.held();
        // No tick has seen it yet.
        world.pass(SOON);
        assert!(world.end(&crew, held, ending).await);
        assert_eq!(code(world, id).await.as_deref(), Some("deadline_exceeded"));
    }
}

pub async fn a_lost_workers_task_fails_at_its_deadline(world: &World) {
    let id = world.submit(NewTask { deadline_at: Some(world.now().after(LEASE / 2)), ..new_task() }).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(world.tick(LEASE + SOON).await, [held], "it was told, and silent");
    assert_eq!(code(world, id).await.as_deref(), Some("deadline_exceeded"));
}
