use longshore_core::batch::{BatchId, Counts};
use longshore_core::task::{Ending, State};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

fn new_batch(more: bool) -> NewBatch {
    let labels = [("of".to_owned(), "march".to_owned())].into();
    NewBatch { id: BatchId(Uuid::now_v7()), name: "reports".into(), labels, more }
}

async fn submit(world: &World, batch: &NewBatch, tasks: usize) -> Submitted {
    let tasks = (0..tasks).map(|_| new_task()).collect();
    world.store.submit_batch(batch.clone(), tasks, None, world.now()).await.unwrap()
}

async fn look(world: &World, id: BatchId) -> BatchRecord {
    world.store.batch(id).await.unwrap().expect("it was submitted")
}

async fn kinds(world: &World, id: BatchId) -> Vec<String> {
    let events = world.store.batch_events(id, 0, 100).await.unwrap();
    events.into_iter().map(|event| event.kind).collect()
}

pub async fn a_batch_counts_its_tasks_and_ends_with_the_last(world: &World) {
    let batch = new_batch(false);
    let ids = submit(world, &batch, 3).await.ids;
    world.submit(new_task()).await;
    assert!(ids.len() == 3 && world.task(ids[0]).await.batch == Some(batch.id));
    let crew = world.worker("w").await;
    let tasks = world.claim(&crew, 1, 4).await.unwrap();
    let counts = Counts { running: 3, ..Counts::default() };
    assert_eq!(look(world, batch.id).await.counts, counts, "the fourth is of no batch");
    world.end(&crew, tasks[0].held(), Ending::Succeeded).await;
    world.end(&crew, tasks[1].held(), failed("timeout")).await;
    let counts = Counts { queued: 1, running: 1, succeeded: 1, ..Counts::default() };
    assert_eq!(look(world, batch.id).await.counts, counts, "a task that backs off is queued");
    world.store.cancel(tasks[1].id, None, world.now()).await.unwrap();
    assert_eq!(look(world, batch.id).await.finished_at, None);
    world.end(&crew, tasks[2].held(), Ending::Succeeded).await;
    let ended = look(world, batch.id).await;
    assert_eq!(ended.counts, Counts { succeeded: 2, cancelled: 1, ..Counts::default() });
    assert_eq!((ended.finished_at, ended.name.as_str()), (Some(world.now()), "reports"));
    assert_eq!(kinds(world, batch.id).await, ["created", "finished"]);
}

pub async fn the_end_of_a_batch_is_told_once_whatever_is_repeated(world: &World) {
    let batch = new_batch(false);
    submit(world, &batch, 2).await;
    let crew = world.worker("w").await;
    let held: Vec<_> = world.claim(&crew, 1, 2).await.unwrap().iter().map(LeasedTask::held).collect();
    let ends = held.iter().map(|held| EndAttempt {
        held: *held,
        events: Vec::new(),
        ending: Ending::Succeeded,
        result: None,
        roll: 0.5,
    });
    let ends: Vec<_> = ends.collect();
    // Both in one transaction, and again, as a worker does whose answer was lost.
    for _ in 0..3 {
        let ended = world.store.end_attempts(crew.id.clone(), crew.nonce, ends.clone(), world.now()).await;
        assert_eq!(ended.unwrap().accepted.len(), 2);
    }
    world.store.cancel_batch(batch.id, None, None, world.now()).await.unwrap().expect("it is known");
    assert_eq!(kinds(world, batch.id).await, ["created", "finished"]);
    let end = world.store.batch_events(batch.id, 1, 10).await.unwrap();
    assert_eq!(end[0].data.read::<Counts>().unwrap(), Counts { succeeded: 2, ..Counts::default() });
}

pub async fn a_batch_that_is_open_does_not_end_before_it_is_closed(world: &World) {
    let batch = new_batch(true);
    submit(world, &batch, 1).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, Ending::Succeeded).await;
    assert_eq!(look(world, batch.id).await.finished_at, None, "more may come");
    let last = NewBatch { more: false, ..batch.clone() };
    submit(world, &last, 1).await;
    let held = world.claim_one(&crew, 2).await.held();
    world.end(&crew, held, Ending::Succeeded).await;
    assert_eq!(look(world, batch.id).await.counts.succeeded, 2);
    assert_eq!(kinds(world, batch.id).await, ["created", "closed", "finished"]);
    let late = world.store.submit_batch(last, vec![new_task()], None, world.now()).await;
    assert!(matches!(late, Err(SubmitError::BatchClosed(id)) if id == batch.id));
    assert_eq!(look(world, batch.id).await.counts.total(), 2, "nothing of the late part was kept");
}

pub async fn cancelling_a_batch_ends_it_in_steps(world: &World) {
    let batch = new_batch(true);
    submit(world, &batch, 450).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let (mut before, mut steps, mut cancelled, mut requested) = (None, 0, 0, 0);
    loop {
        let step = world.store.cancel_batch(batch.id, before, Some("enough".into()), world.now()).await;
        let step = step.unwrap().expect("it is known");
        (steps, cancelled, requested) = (steps + 1, cancelled + step.cancelled, requested + step.requested);
        before = step.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!((cancelled, requested), (449, 1));
    assert!(steps > 1, "no transaction holds all of them");
    assert!(look(world, batch.id).await.finished_at.is_none(), "one still runs");
    world.end(&crew, held, Ending::Interrupted(longshore_core::task::Interruption::Cancelled)).await;
    let ended = look(world, batch.id).await;
    assert_eq!((ended.counts.cancelled, ended.finished_at), (450, Some(world.now())));
    assert_eq!(kinds(world, batch.id).await, ["created", "closed", "cancel_requested", "finished"]);
    assert_eq!(
        world.store.cancel_batch(BatchId(Uuid::now_v7()), None, None, world.now()).await.unwrap(),
        None
    );
}

pub async fn an_open_batch_whose_tasks_have_ended_ends_when_it_is_cancelled(world: &World) {
    let batch = new_batch(true);
    submit(world, &batch, 1).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, Ending::Succeeded).await;
    world.store.cancel_batch(batch.id, None, None, world.now()).await.unwrap();
    assert_eq!(look(world, batch.id).await.finished_at, Some(world.now()));
}

pub async fn a_repeated_key_adds_nothing_to_a_batch(world: &World) {
    let batch = new_batch(true);
    let key = Idempotency { scope: "batch".into(), key: "k".into(), fingerprint: [1; 32] };
    for replayed in [false, true] {
        let again = world
            .store
            .submit_batch(batch.clone(), vec![new_task(), new_task()], Some(key.clone()), world.now())
            .await;
        assert_eq!(again.unwrap().replayed, replayed);
    }
    assert_eq!(look(world, batch.id).await.counts.queued, 2);
}

pub async fn batches_are_listed_from_new_to_old(world: &World) {
    let batches: Vec<_> = (0..3).map(|_| new_batch(false)).collect();
    for batch in &batches {
        submit(world, batch, 1).await;
    }
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.end(&crew, held, Ending::Succeeded).await;
    let list = async |filter: BatchFilter, limit| {
        let found = world.store.batches(filter, limit).await.unwrap();
        found.into_iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    let [first, second, third] = [0, 1, 2].map(|n| batches[n].id);
    assert_eq!(list(BatchFilter::default(), 2).await, [third, second]);
    assert_eq!(list(BatchFilter { before: Some(second), ..BatchFilter::default() }, 2).await, [first]);
    assert_eq!(list(BatchFilter { unfinished: true, before: None }, 9).await, [third, second]);
}

pub async fn who_waits_for_a_batch_is_woken(world: &World) {
    let batch = new_batch(false);
    submit(world, &batch, 1).await;
    let crew = world.worker("w").await;
    let mut wake = world.store.signals().batch(batch.id);
    let held = world.claim_one(&crew, 1).await.held();
    wake.wait().await;
    world.end(&crew, held, Ending::Succeeded).await;
    wake.wait().await;
    assert_eq!(look(world, batch.id).await.counts, Counts { succeeded: 1, ..Counts::default() });
    let state = world.task(held.task).await.state;
    assert_eq!(state, State::Succeeded);
}

pub async fn a_batch_has_one_tenant(world: &World) {
    let batch = new_batch(true);
    let of = |name: &str| NewTask { tenant: tenant(name), ..new_task() };
    let submit = async |tasks| world.store.submit_batch(batch.clone(), tasks, None, world.now()).await;
    let refused = |answer| {
        matches!(answer, Err(SubmitError::BatchOfSeveral { batch: id, tenant: whose })
        if id == batch.id && whose == tenant("acme"))
    };
    assert!(refused(submit(vec![of("acme"), of("other")]).await));
    assert_eq!(world.store.batch(batch.id).await.unwrap(), None, "nothing of it is stored");
    submit(vec![of("acme"), of("acme")]).await.unwrap();
    assert!(refused(submit(vec![of("other")]).await));
    assert_eq!(look(world, batch.id).await.counts.queued, 2);
}
