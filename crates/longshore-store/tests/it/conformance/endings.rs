use std::time::Duration;

use longshore_core::task::{Ending, Failure, Hold, Interruption, State};
use longshore_store::*;

use crate::support::*;

pub async fn success_is_final_and_repeatable(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    let done = world.task(id).await;
    assert_eq!((done.state, done.result.clone()), (State::Succeeded, Some(json(r#"{"ok":true}"#))));
    assert!(world.end(&crew, held, Ending::Succeeded).await, "a repeated ending is told yes again");
    assert!(world.end(&crew, held, failed("timeout")).await);
    let cancelled = world.store.cancel(id, None, world.now()).await.unwrap();
    assert_eq!(cancelled, CancelOutcome::AlreadyTerminal(State::Succeeded));
    assert_eq!(world.task(id).await, done, "terminal once and for ever");
}

pub async fn a_stale_fence_changes_nothing(world: &World) {
    let id = world.submit(new_task()).await;
    let (slow, quick) = (world.worker("slow").await, world.worker("quick").await);
    let stale = world.claim_one(&slow, 1).await.held();
    world.tick(LEASE + Duration::from_secs(1)).await;
    let valid = world.claim_one(&quick, 1).await.held();
    let before = (world.task(id).await, world.kinds(id).await);
    let word = says(1, AgentEventKind::Progress, "1");
    assert!(!world.end_with(&slow, stale, Ending::Succeeded, vec![word.clone()]).await);
    let lost =
        world.store.append_events(slow.id.clone(), slow.nonce, vec![(stale, vec![word])], world.now()).await;
    assert_eq!(lost.unwrap(), [stale]);
    assert_eq!((world.task(id).await, world.kinds(id).await), before);
    assert!(world.end(&quick, valid, Ending::Succeeded).await);
}

pub async fn failures_back_off_then_fail(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    for (seq, wait) in [(1, 500), (2, 1000)] {
        let held = world.claim_one(&crew, seq).await.held();
        assert!(world.end(&crew, held, failed("exit_status")).await);
        let task = world.task(id).await;
        assert_eq!(
            (task.hold, task.due_at),
            (Some(Hold::Backoff), Some(world.now().after(Duration::from_millis(wait))))
        );
        world.tick(Duration::from_millis(wait)).await;
    }
    let held = world.claim_one(&crew, 3).await.held();
    world.end(&crew, held, failed("exit_status")).await;
    let task = world.task(id).await;
    assert_eq!((task.state, task.failed_attempts, task.attempts), (State::Failed, 3, 3));
    assert_eq!(task.failure.map(|failure| failure.code).as_deref(), Some("exit_status"));
    assert_eq!(world.kinds(id).await.last().map(String::as_str), Some("failed"));
    let attempts = world.store.attempts(id).await.unwrap();
    assert!(attempts.iter().all(|attempt| attempt.outcome == Some(Outcome::Failed)));
    assert_eq!(attempts[0].reason.as_deref(), Some("exit_status: no"));
}

pub async fn interruptions_cost_nothing(world: &World) {
    let id = world.submit(NewTask { max_attempts: 1, ..new_task() }).await;
    let crew = world.worker("w").await;
    for seq in 1..6 {
        let held = world.claim_one(&crew, seq).await.held();
        world.end(&crew, held, Ending::Interrupted(Interruption::HandedOver)).await;
    }
    let task = world.task(id).await;
    assert_eq!((task.state, task.failed_attempts, task.interrupted), (State::Queued, 0, 5));
}

pub async fn three_crashes_alone_are_poison(world: &World) {
    let id = world.submit(new_task()).await;
    for crash in 1..=3 {
        let crew = world.worker(&format!("w{crash}")).await;
        world.claim_one(&crew, 1).await;
        world.crash(&crew).await;
        assert_eq!(world.task(id).await.strikes, crash);
    }
    let task = world.task(id).await;
    assert_eq!(task.state, State::Failed);
    assert_eq!(task.failure.map(|failure| failure.code).as_deref(), Some("poison"));
}

pub async fn progress_is_no_strike(world: &World) {
    let id = world.submit(new_task()).await;
    for crash in 1..=4 {
        let crew = world.worker(&format!("w{crash}")).await;
        let held = world.claim_one(&crew, 1).await.held();
        let word = says(1, AgentEventKind::Progress, "1");
        let lost =
            world.store.append_events(crew.id.clone(), crew.nonce, vec![(held, vec![word])], world.now());
        assert_eq!(lost.await.unwrap(), []);
        world.crash(&crew).await;
    }
    let task = world.task(id).await;
    assert_eq!((task.state, task.strikes), (State::Queued, 0));
}

pub async fn cancelling_a_queued_task_ends_it(world: &World) {
    let id = world.submit(new_task()).await;
    let cancel = world.store.cancel(id, Some("why not".into()), world.now()).await.unwrap();
    assert_eq!(cancel, CancelOutcome::Cancelled);
    assert_eq!(world.task(id).await.state, State::Cancelled);
    let events = world.store.events(id, 2, 10).await.unwrap();
    assert!(events[0].kind == "cancelled" && events[0].data.text().contains("why not"));
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 1).await.unwrap(), []);
    let scheduled = NewTask { run_at: Some(world.now().after(LEASE)), ..new_task() };
    let scheduled = world.submit(scheduled).await;
    world.store.cancel(scheduled, None, world.now()).await.unwrap();
    world.tick(LEASE * 2).await;
    assert_eq!(world.task(scheduled).await.state, State::Cancelled);
    let nobody = new_task().id;
    assert_eq!(world.store.cancel(nobody, None, world.now()).await.unwrap(), CancelOutcome::NotFound);
}

pub async fn cancelling_a_running_task_tells_its_worker(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for _ in 0..2 {
        let cancel = world.store.cancel(id, None, world.now()).await.unwrap();
        assert_eq!(cancel, CancelOutcome::Requested);
    }
    assert_eq!(world.beat(&crew, vec![held], 1).await.unwrap().cancel, [held]);
    assert!(world.end(&crew, held, Ending::Interrupted(Interruption::Cancelled)).await);
    assert_eq!(world.task(id).await.state, State::Cancelled);
    let kinds = world.kinds(id).await;
    assert_eq!(kinds[3..], ["cancel_requested", "attempt_ended", "cancelled"]);
}

pub async fn a_result_that_was_there_beats_a_cancellation(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.store.cancel(id, None, world.now()).await.unwrap();
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    assert_eq!(world.task(id).await.state, State::Succeeded);
}

pub async fn repeated_events_change_nothing(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let say = async |numbers: &[u64]| {
        let words = numbers.iter().map(|n| says(*n, AgentEventKind::Progress, &n.to_string())).collect();
        world
            .store
            .append_events(crew.id.clone(), crew.nonce, vec![(held, words)], world.now())
            .await
            .unwrap()
    };
    say(&[2, 1, 2]).await;
    say(&[1, 2, 9]).await;
    let events = world.store.events(id, 3, 100).await.unwrap();
    let said: Vec<_> = events.iter().map(|event| event.data.text().to_owned()).collect();
    assert_eq!(said, [1, 2, 9].map(|n| format!(r#"{{"attempt":1,"n":{n},"data":{n}}}"#)));
    assert_eq!(world.task(id).await.last_event, 6);
}

pub async fn another_workers_fence_is_refused(world: &World) {
    let id = world.submit(new_task()).await;
    let (holder, thief) = (world.worker("holder").await, world.worker("thief").await);
    let held = world.claim_one(&holder, 1).await.held();
    assert!(!world.end(&thief, held, Ending::Succeeded).await);
    assert_eq!(world.beat(&thief, vec![held], 1).await.unwrap().lost, [held]);
    assert_eq!(world.task(id).await.state, State::Running);
}

pub async fn the_same_workers_older_fence_is_refused(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let stale = world.claim_one(&crew, 1).await.held();
    world.tick(LEASE + Duration::from_secs(1)).await;
    let valid = world.claim_one(&crew, 2).await.held();
    assert!(!world.end(&crew, stale, Ending::Succeeded).await);
    assert_eq!(world.beat(&crew, vec![stale, valid], 2).await.unwrap().lost, [stale]);
    let words = vec![(stale, vec![says(1, AgentEventKind::Progress, "1")])];
    let lost = world.store.append_events(crew.id.clone(), crew.nonce, words, world.now()).await;
    assert_eq!(lost.unwrap(), [stale]);
    assert_eq!(world.task(id).await.state, State::Running);
    assert!(world.end(&crew, valid, Ending::Succeeded).await);
}

pub async fn an_agent_says_when_to_try_again(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let busy = Failure { retry_after_ms: Some(40_000), ..Failure::new("agent_error", "busy") };
    let held = world.claim_one(&crew, 1).await.held();
    assert!(world.end(&crew, held, Ending::Failed(busy)).await);
    let task = world.task(id).await;
    assert_eq!(task.due_at, Some(world.now().after(Duration::from_secs(42))), "and half of a tenth more");
    assert_eq!(task.failure.unwrap().retry_after_ms, Some(40_000));
    world.tick(Duration::from_secs(42)).await;
    let held = world.claim_one(&crew, 2).await.held();
    assert!(world.end(&crew, held, Ending::Failed(Failure::lasting("no_access", "never"))).await);
    let task = world.task(id).await;
    assert_eq!((task.state, task.failed_attempts), (State::Failed, 2));
}

pub async fn poison_is_found_by_its_code(world: &World) {
    let poison = world.submit(new_task()).await;
    for crash in 1..=3 {
        let crew = world.worker(&format!("w{crash}")).await;
        world.claim_one(&crew, 1).await;
        world.crash(&crew).await;
    }
    let other = world.submit(NewTask { max_attempts: 1, ..new_task() }).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, failed("exit_status")).await;
    // It has a failure as well, but goes on.
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 2).await.held();
    world.end(&crew, held, failed("exit_status")).await;
    for (code, id) in [("poison", poison), ("exit_status", other)] {
        let states = vec![State::Failed];
        let filter = TaskFilter { code: Some(code.into()), states, ..TaskFilter::default() };
        let found = world.store.search(filter, 10).await.unwrap().tasks;
        assert_eq!(found.iter().map(|task| task.id).collect::<Vec<_>>(), [id], "{code}");
    }
}
