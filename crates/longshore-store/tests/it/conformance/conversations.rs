use std::time::Duration;

use longshore_core::id::ConversationId;
use longshore_core::task::{Ending, Hold, Interruption, OnBusy, State};
use longshore_store::*;

use crate::support::*;

fn id() -> ConversationId {
    ConversationId::new("c").unwrap()
}

pub async fn tasks_run_one_by_one_in_order(world: &World) {
    let first = world.submit(talk("c")).await;
    let second = world.submit(NewTask { priority: 9, ..talk("c") }).await;
    let third = world.submit(talk("c")).await;
    let crew = world.worker("w").await;
    for (seq, expected) in [(1, first), (2, second), (3, third)] {
        let claimed = world.claim(&crew, seq, 5).await.unwrap();
        assert_eq!(claimed.iter().map(|task| task.id).collect::<Vec<_>>(), [expected]);
        let record = world.store.conversation(id()).await.unwrap().unwrap();
        assert_eq!((record.head, record.queue.len() as u64), (Some(expected), 4 - seq));
        world.end(&crew, claimed[0].held(), Ending::Succeeded).await;
    }
    assert_eq!(world.store.conversation(id()).await.unwrap().unwrap().head, None);
    assert_eq!(world.store.conversation(ConversationId::new("no").unwrap()).await.unwrap(), None);
}

pub async fn only_the_succeeding_attempts_words_are_published(world: &World) {
    let task = world.submit(NewTask { publish_input: true, input: json("[1e400]"), ..talk("c") }).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let words = vec![says(1, AgentEventKind::Message, r#""lost""#)];
    world.end_with(&crew, held, Ending::Interrupted(Interruption::HandedOver), words).await;
    assert_eq!(world.store.messages(id(), 0, 10).await.unwrap(), []);
    let held = world.claim_one(&crew, 2).await.held();
    let words = vec![says(1, AgentEventKind::Message, r#""kept""#), says(2, AgentEventKind::Progress, "0")];
    world.end_with(&crew, held, Ending::Succeeded, words).await;
    let messages = world.store.messages(id(), 0, 10).await.unwrap();
    let data: Vec<_> = messages.iter().map(|message| (message.seq, message.data.text())).collect();
    assert_eq!(data, [(1, r#"{"role":"user","content":[1e400]}"#), (2, r#""kept""#)]);
    assert!(messages.iter().all(|message| message.task == task));
    assert_eq!(world.store.messages(id(), 1, 10).await.unwrap(), messages[1..]);
    assert!(world.kinds(task).await.contains(&"message".to_owned()));
    world.submit(talk("c")).await;
    let history = world.claim_one(&crew, 3).await.conversation.unwrap();
    assert_eq!((history.messages, history.truncated), (messages, false));
}

pub async fn cancelling_the_head_moves_on(world: &World) {
    let (head, next) = (world.submit(talk("c")).await, world.submit(talk("c")).await);
    assert_eq!(world.task(next).await.hold, Some(Hold::Conversation));
    world.store.cancel(head, None, world.now()).await.unwrap();
    assert_eq!(world.task(next).await.hold, Some(Hold::Ready));
}

pub async fn cancelling_in_the_middle_keeps_the_head(world: &World) {
    let (head, middle, last) =
        (world.submit(talk("c")).await, world.submit(talk("c")).await, world.submit(talk("c")).await);
    world.store.cancel(middle, None, world.now()).await.unwrap();
    assert_eq!(world.task(last).await.hold, Some(Hold::Conversation));
    assert_eq!(world.store.conversation(id()).await.unwrap().unwrap().queue, [head, last]);
}

pub async fn a_retry_keeps_its_place(world: &World) {
    let (head, next) = (world.submit(talk("c")).await, world.submit(talk("c")).await);
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, failed("timeout")).await;
    assert_eq!(world.claim(&crew, 2, 5).await.unwrap(), [], "neither the head nor one behind it");
    world.tick(Duration::from_secs(1)).await;
    assert_eq!(world.claim_one(&crew, 2).await.id, head);
    assert_eq!(world.task(next).await.state, State::Queued);
}

pub async fn a_scheduled_head_holds_the_others(world: &World) {
    let later = Some(world.now().after(Duration::from_secs(4)));
    let head = world.submit(NewTask { run_at: later, ..talk("c") }).await;
    let next = world.submit(NewTask { run_at: later.map(|at| at.after(LEASE)), ..talk("c") }).await;
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 5).await.unwrap(), []);
    world.tick(Duration::from_secs(4)).await;
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(held.task, head);
    world.end(&crew, held, Ending::Succeeded).await;
    assert_eq!(world.task(next).await.hold, Some(Hold::Scheduled), "its own time has not come");
}

pub async fn history_is_cut_to_the_newest(world: &World) {
    let crew = world.worker("w").await;
    world.submit(talk("c")).await;
    let held = world.claim_one(&crew, 1).await.held();
    let words = (1..=250).map(|n| says(n, AgentEventKind::Message, &n.to_string())).collect();
    world.end_with(&crew, held, Ending::Succeeded, words).await;
    world.submit(talk("c")).await;
    let task = world.claim_one(&crew, 2).await;
    let history = task.conversation.clone().unwrap();
    let (first, last) = (history.messages[0].seq, history.messages[199].seq);
    assert_eq!((first, last, history.messages.len(), history.truncated), (51, 250, 200, true));
    let big = format!("\"{}\"", "x".repeat(200 * 1024));
    let words = vec![says(1, AgentEventKind::Message, &big), says(2, AgentEventKind::Message, &big)];
    world.end_with(&crew, task.held(), Ending::Succeeded, words).await;
    world.submit(talk("c")).await;
    let history = world.claim_one(&crew, 3).await.conversation.unwrap();
    assert_eq!((history.messages.len(), history.truncated), (1, true), "256 KiB at most");
}

pub async fn a_task_that_would_have_to_wait_is_refused(world: &World) {
    let polite = NewTask { on_busy: OnBusy::Reject, ..talk("c") };
    let first = world.submit(polite.clone()).await;
    let crew = world.worker("w").await;
    for seq in 1..3 {
        let bystander = new_task();
        let both = vec![bystander.clone(), NewTask { id: new_task().id, ..polite.clone() }];
        let refused = world.store.submit(both, None, world.now()).await;
        assert!(matches!(refused, Err(SubmitError::ConversationBusy(_))), "{refused:?}");
        assert_eq!(world.store.task(bystander.id).await.unwrap(), None, "all or none");
        if seq == 1 {
            // Running is busy as well.
            assert_eq!(world.claim_one(&crew, seq).await.id, first);
        }
    }
    let lease = world.store.leases(None).await.unwrap().remove(0);
    world.end(&crew, lease.held, Ending::Succeeded).await;
    world.submit(NewTask { id: new_task().id, ..polite }).await;
}

pub async fn a_newcomer_stops_all_before_it(world: &World) {
    let running = world.submit(talk("c")).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let queued = [world.submit(talk("c")).await, world.submit(talk("c")).await];
    let newcomer = world.submit(NewTask { on_busy: OnBusy::Interrupt, ..talk("c") }).await;
    for id in queued {
        assert_eq!(world.task(id).await.state, State::Cancelled);
        let last = world.store.events(id, 2, 9).await.unwrap().pop().unwrap();
        assert!(last.data.text().contains(&newcomer.to_string()), "{last:?}");
    }
    assert_eq!(world.task(newcomer).await.hold, Some(Hold::Conversation), "the agent has not stopped yet");
    assert_eq!(world.beat(&crew, vec![held], 1).await.unwrap().cancel, [held]);
    assert!(world.end(&crew, held, Ending::Interrupted(Interruption::Cancelled)).await);
    assert_eq!(world.task(running).await.state, State::Cancelled);
    assert_eq!(world.claim_one(&crew, 2).await.id, newcomer);
    let conversation = world.store.conversation(ConversationId::new("c").unwrap()).await.unwrap().unwrap();
    assert_eq!(conversation.queue, [newcomer]);
}

pub async fn a_newcomer_gets_its_turn_from_a_lost_worker(world: &World) {
    world.submit(talk("c")).await;
    let (lost, crew) = (world.worker("lost").await, world.worker("w").await);
    world.claim_one(&lost, 1).await;
    let newcomer = world.submit(NewTask { on_busy: OnBusy::Interrupt, ..talk("c") }).await;
    assert_eq!(world.claim(&crew, 1, 9).await.unwrap(), []);
    world.tick(LEASE + Duration::from_secs(1)).await;
    assert_eq!(world.claim_one(&crew, 1).await.id, newcomer);
    let alone = world.submit(NewTask { on_busy: OnBusy::Interrupt, ..talk("idle") }).await;
    assert_eq!(
        world.claim_one(&crew, 2).await.id,
        alone,
        "a conversation that is not busy is not interrupted"
    );
}
