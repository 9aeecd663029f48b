use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::id::TaskId;
use longshore_core::retention::{Plan, Policy, plan};
use longshore_core::task::{Ending, State};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

const HOUR: u64 = 3_600_000;

fn policy() -> Policy {
    Policy { journal_ms: Some(HOUR), results_ms: Some(2 * HOUR), tasks_ms: Some(4 * HOUR), max_tasks: None }
}

/// Does what the policy asks for now, as housekeeping does.
async fn keep(world: &World, policy: &Policy) -> Forgotten {
    let mut sum = Forgotten::default();
    loop {
        let counts = world.store.counts().await.unwrap();
        let of_a = counts.iter().find(|counts| counts.fleet == fleet("a"));
        let ended = of_a.map_or(0, |counts| counts.succeeded + counts.failed + counts.cancelled);
        let plan: Plan = plan(policy, ended, world.now());
        let step = world.store.retain(fleet("a"), plan).await.unwrap();
        sum.journals += step.journals;
        sum.results += step.results;
        sum.tasks += step.tasks;
        if !step.more {
            return sum;
        }
    }
}

/// A task that ran a step and succeeded.
async fn done(world: &World, crew: &Crew, seq: u64, task: NewTask) -> TaskId {
    let id = world.submit(task).await;
    let held = world.claim_one(crew, seq).await.held();
    assert_eq!(held.task, id);
    world.store.begin_step(held, fleet("a"), "s".into(), world.now()).await.unwrap();
    world.store.end_step(held, fleet("a"), "s".into(), json("1"), world.now()).await.unwrap();
    world.end(crew, held, Ending::Succeeded).await;
    id
}

pub async fn journals_go_first_then_results_then_tasks(world: &World) {
    let crew = world.worker("w").await;
    let id = done(world, &crew, 1, new_task()).await;
    let unfinished = world.submit(new_task()).await;
    let hours = async |hours: u64| {
        world.pass(Duration::from_millis(hours * HOUR + 1));
        keep(world, &policy()).await
    };
    assert_eq!(keep(world, &policy()).await, Forgotten::default(), "nothing is old enough");
    assert_eq!(hours(1).await, Forgotten { journals: 1, ..Forgotten::default() });
    let task = world.task(id).await;
    assert!(task.journal_expired && !task.result_expired && task.result.is_some());
    assert!(world.store.journal(id).await.unwrap().expect("the task is there").steps.is_empty());
    assert_eq!(hours(1).await, Forgotten { results: 1, ..Forgotten::default() });
    let task = world.task(id).await;
    assert!(task.result_expired && task.result.is_none() && task.input.is_some());
    assert_eq!(world.kinds(id).await.len(), 5, "its events are there");
    assert_eq!(hours(2).await, Forgotten { tasks: 1, ..Forgotten::default() });
    assert_eq!(world.store.task(id).await.unwrap(), None);
    assert_eq!((world.kinds(id).await, world.store.attempts(id).await.unwrap()), (Vec::new(), Vec::new()));
    hours(10_000).await;
    assert_eq!(world.task(unfinished).await.state, State::Queued, "unfinished tasks are never touched");
    let counts = world.store.counts().await.unwrap();
    assert_eq!(counts.iter().map(|counts| counts.succeeded).sum::<u64>(), 0, "counts are what is there");
}

pub async fn a_task_without_result_or_journal_is_touched_once(world: &World) {
    let crew = world.worker("w").await;
    let id = world.submit(NewTask { max_attempts: 1, ..new_task() }).await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, failed("timeout")).await;
    world.pass(Duration::from_millis(3 * HOUR));
    assert_eq!(keep(world, &policy()).await, Forgotten::default());
    let task = world.task(id).await;
    assert!(!task.result_expired && !task.journal_expired, "what was never there has not expired");
    world.pass(Duration::from_millis(3 * HOUR));
    assert_eq!(keep(world, &policy()).await, Forgotten { tasks: 1, ..Forgotten::default() });
}

pub async fn the_newest_are_kept_when_there_are_too_many(world: &World) {
    let crew = world.worker("w").await;
    let mut ids = Vec::new();
    for seq in 1..=5 {
        ids.push(done(world, &crew, seq, new_task()).await);
        world.pass(Duration::from_secs(1));
    }
    let policy = Policy { max_tasks: Some(2), ..policy() };
    assert_eq!(keep(world, &policy).await.tasks, 3);
    let left = world.store.search(TaskFilter::default(), 10).await.unwrap().tasks;
    assert_eq!(left.into_iter().map(|task| task.id).collect::<Vec<_>>(), [ids[4], ids[3]]);
}

pub async fn a_batch_keeps_its_results_until_it_has_ended(world: &World) {
    let batch = NewBatch {
        id: BatchId(Uuid::now_v7()),
        name: String::new(),
        labels: Default::default(),
        more: false,
    };
    let tasks = vec![new_task(), new_task()];
    let ids = world.store.submit_batch(batch.clone(), tasks, None, world.now()).await.unwrap().ids;
    let crew = world.worker("w").await;
    let tasks = world.claim(&crew, 1, 2).await.unwrap();
    world.end(&crew, tasks[0].held(), Ending::Succeeded).await;
    world.pass(Duration::from_millis(100 * HOUR));
    assert_eq!(keep(world, &policy()).await, Forgotten::default());
    assert!(world.task(ids[0]).await.result.is_some());
    world.end(&crew, tasks[1].held(), Ending::Succeeded).await;
    assert_eq!(world.store.forget_batches(None).await.unwrap(), None, "all were looked at");
    assert!(world.store.batch(batch.id).await.unwrap().is_some(), "its tasks are still there");
    world.pass(Duration::from_millis(100 * HOUR));
    assert_eq!(keep(world, &policy()).await.tasks, 2);
    let counts = world.store.batch(batch.id).await.unwrap().expect("it is there").counts;
    assert_eq!(counts.succeeded, 2, "what was forgotten stays counted");
    world.store.forget_batches(None).await.unwrap();
    assert_eq!(world.store.batch(batch.id).await.unwrap(), None);
    assert!(world.store.batch_events(batch.id, 0, 10).await.unwrap().is_empty());
}

pub async fn messages_outlive_their_tasks(world: &World) {
    let crew = world.worker("w").await;
    let spoken = NewTask { publish_input: true, ..talk("c") };
    let first = done(world, &crew, 1, spoken.clone()).await;
    world.pass(Duration::from_millis(100 * HOUR));
    assert_eq!(keep(world, &policy()).await.tasks, 1);
    let id = spoken.conversation.clone().expect("it talks");
    let messages = world.store.messages(id.clone(), 0, 10).await.unwrap();
    assert_eq!(messages.iter().map(|message| message.task).collect::<Vec<_>>(), [first]);
    world.submit(spoken).await;
    let next = world.claim_one(&crew, 2).await;
    assert_eq!(next.conversation.as_ref().expect("it talks").messages, messages, "the next task is told");
    assert!(!world.store.forget_conversation(world.now().after(Duration::from_secs(1))).await.unwrap());
    world.end(&crew, next.held(), Ending::Succeeded).await;
    assert!(!world.store.forget_conversation(world.now()).await.unwrap(), "it was used just now");
    assert!(world.store.forget_conversation(world.now().after(Duration::from_secs(1))).await.unwrap());
    assert_eq!(world.store.conversation(id.clone()).await.unwrap(), None);
    assert!(world.store.messages(id, 0, 10).await.unwrap().is_empty());
}

pub async fn keys_of_tasks_that_are_gone_are_forgotten(world: &World) {
    let key = |key: &str| Some(Idempotency { scope: "submit".into(), key: key.into(), fingerprint: [1; 32] });
    let kept = world.store.submit(vec![new_task()], key("b"), world.now()).await.unwrap();
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.store.submit(vec![new_task()], key("a"), world.now()).await.unwrap();
    world.end(&crew, held, Ending::Succeeded).await;
    world.pass(Duration::from_millis(5 * HOUR));
    assert_eq!(keep(world, &policy()).await.tasks, 1);
    assert_eq!(world.store.forget_orphaned_keys(None).await.unwrap(), None, "all were looked at");
    let again = world.store.submit(vec![new_task()], key("a"), world.now()).await.unwrap();
    assert!(again.replayed, "its task is there");
    let anew = world.store.submit(vec![new_task()], key("b"), world.now()).await.unwrap();
    assert!(!anew.replayed && anew.ids != kept.ids);
}

pub async fn what_ends_while_its_tenant_is_erased_is_erased_too(world: &World) {
    let crew = world.worker("w").await;
    for round in 1..=40 {
        let id = world.submit(NewTask { tenant: tenant("acme"), ..new_task() }).await;
        let held = world.claim_one(&crew, round).await.held();
        let erase = async {
            loop {
                let step =
                    world.store.erase_tenant(tenant("acme"), "asked".into(), world.now()).await.unwrap();
                if !step.more && step.running == 0 {
                    break;
                }
            }
        };
        tokio::join!(erase, world.end(&crew, held, Ending::Succeeded));
        assert!(
            world.store.task(id).await.unwrap().is_none(),
            "round {round}: it was said that nothing is left"
        );
    }
}
