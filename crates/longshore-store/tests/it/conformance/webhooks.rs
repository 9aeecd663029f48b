use std::time::Duration;

use longshore_core::fleet::SecretSource;
use longshore_core::id::{FleetName, TaskId};
use longshore_core::task::{Ending, State};
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Next, STATES, Webhook, WebhookName};
use longshore_store::*;

use crate::support::*;

fn name(text: &str) -> WebhookName {
    WebhookName::new(text).unwrap()
}

fn declared(text: &str) -> Webhook {
    Webhook {
        name: name(text),
        url: "https://example.com/hooks".into(),
        secrets: vec![SecretSource::Env("S".into())],
        fleets: Vec::new(),
        states: STATES.to_vec(),
        allow_private: false,
    }
}

async fn put(world: &World, webhooks: &[Webhook]) {
    world.store.put_webhooks(webhooks.to_vec(), world.now()).await.unwrap();
}

/// Submits a task and cancels it while it is queued.
async fn ended(world: &World, in_fleet: &str) -> TaskId {
    let task = NewTask { fleet: FleetName::new(in_fleet).unwrap(), ..new_task() };
    let id = world.submit(task).await;
    world.store.cancel(id, None, world.now()).await.unwrap();
    id
}

async fn all(world: &World, text: &str) -> Vec<DeliveryRecord> {
    let filter = DeliveryFilter { webhook: name(text), state: None, before: None };
    world.store.deliveries(filter, 1000).await.unwrap()
}

async fn due(world: &World, text: &str) -> Vec<TaskId> {
    let due = world.store.due_deliveries(name(text), world.now(), 100).await.unwrap();
    due.into_iter().map(|it| it.task).collect()
}

async fn tried(world: &World, seq: u64, status: u16, next: Next) {
    let error = (next != Next::Delivered).then(|| format!("status {status}"));
    let tried = Tried { seq, at: world.now(), status: Some(status), error, next };
    world.store.delivery_tried(tried).await.unwrap();
}

pub async fn each_way_to_end_is_told_to_whom_it_concerns(world: &World) {
    let failures = Webhook { states: vec![State::Failed], ..declared("failures") };
    let other_fleet = Webhook { fleets: vec![fleet("b")], ..declared("b-only") };
    put(world, &[declared("every"), failures, other_fleet]).await;
    let crew = world.worker("w").await;
    let succeeds = world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    assert!(world.end(&crew, held, Ending::Succeeded).await);
    let fails = world.submit(NewTask { max_attempts: 1, ..new_task() }).await;
    let held = world.claim_one(&crew, 2).await.held();
    assert!(world.end(&crew, held, failed("x")).await);
    let cancelled = ended(world, "a").await;
    let elsewhere = ended(world, "b").await;
    let told = |records: Vec<DeliveryRecord>| -> Vec<(TaskId, State)> {
        records.into_iter().rev().map(|it| (it.task, it.ended_as)).collect()
    };
    let every = [
        (succeeds, State::Succeeded),
        (fails, State::Failed),
        (cancelled, State::Cancelled),
        (elsewhere, State::Cancelled),
    ];
    assert_eq!(told(all(world, "every").await), every);
    assert_eq!(told(all(world, "failures").await), [(fails, State::Failed)]);
    assert_eq!(told(all(world, "b-only").await), [(elsewhere, State::Cancelled)]);
    let one = &all(world, "every").await[0];
    assert_eq!(
        (one.state, one.at, one.next_at, one.tries),
        (DeliveryState::Pending, world.now(), Some(world.now()), 0)
    );
}

pub async fn a_retry_within_a_task_is_no_end(world: &World) {
    put(world, &[declared("every")]).await;
    let crew = world.worker("w").await;
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    assert!(world.end(&crew, held, failed("x")).await);
    assert_eq!(all(world, "every").await, []);
}

pub async fn what_is_due_comes_in_order_of_time(world: &World) {
    put(world, &[declared("every")]).await;
    let first = ended(world, "a").await;
    world.pass(Duration::from_secs(1));
    let second = ended(world, "a").await;
    assert_eq!(due(world, "every").await, [first, second]);
    let seq = all(world, "every").await[1].seq;
    let later = world.now().after(Duration::from_secs(10));
    tried(world, seq, 500, Next::RetryAt(later)).await;
    assert_eq!(due(world, "every").await, [second]);
    assert_eq!(world.store.next_delivery(name("every")).await.unwrap(), Some(world.now()));
    world.pass(Duration::from_secs(10));
    assert_eq!(due(world, "every").await, [second, first]);
    let record = &all(world, "every").await[1];
    assert_eq!((record.tries, record.status, record.error.as_deref()), (1, Some(500), Some("status 500")));
}

pub async fn a_delivered_or_given_up_message_is_not_sent_again_unless_somebody_asks(world: &World) {
    put(world, &[declared("every")]).await;
    let (one, two) = (ended(world, "a").await, ended(world, "a").await);
    let seqs: Vec<u64> = all(world, "every").await.iter().rev().map(|it| it.seq).collect();
    tried(world, seqs[0], 204, Next::Delivered).await;
    tried(world, seqs[1], 500, Next::GiveUp).await;
    // A try that comes to its end after another one did changes nothing.
    tried(world, seqs[0], 500, Next::RetryAt(world.now())).await;
    assert_eq!(due(world, "every").await, []);
    let backlog = world.store.webhook_backlog(name("every")).await.unwrap();
    assert_eq!((backlog.pending, backlog.oldest, backlog.failed), (0, None, 1));
    world.pass(Duration::from_secs(5));
    let again = world.store.redeliver(name("every"), Redeliver::Failed, world.now()).await.unwrap();
    assert_eq!((again, due(world, "every").await), (1, vec![two]));
    let again = world.store.redeliver(name("every"), Redeliver::One(one), world.now()).await.unwrap();
    assert_eq!((again, due(world, "every").await.len()), (1, 2));
    let record = all(world, "every").await.into_iter().find(|it| it.task == two).unwrap();
    assert_eq!((record.since, record.tries), (world.now(), 0), "it has all its tries again");
    let none =
        world.store.redeliver(name("every"), Redeliver::One(new_task().id), world.now()).await.unwrap();
    assert_eq!(none, 0);
}

pub async fn a_receiver_that_is_gone_is_owed_nothing_until_it_is_back(world: &World) {
    put(world, &[declared("every")]).await;
    ended(world, "a").await;
    tried(world, all(world, "every").await[0].seq, 410, Next::Disable).await;
    let record = world.store.webhook(name("every")).await.unwrap().unwrap();
    assert_eq!(record.disabled.map(|(_, since)| since), Some(world.now()));
    ended(world, "a").await;
    assert_eq!(all(world, "every").await.len(), 1);
    put(world, &[Webhook { states: vec![State::Cancelled], ..declared("every") }]).await;
    assert!(
        world.store.webhook(name("every")).await.unwrap().unwrap().disabled.is_some(),
        "the same address"
    );
    assert!(world.store.enable_webhook(name("every"), world.now()).await.unwrap());
    assert!(!world.store.enable_webhook(name("nobody"), world.now()).await.unwrap());
    ended(world, "a").await;
    let newest = all(world, "every").await[0].clone();
    assert_eq!((newest.state, due(world, "every").await), (DeliveryState::Pending, vec![newest.task]));
    tried(world, newest.seq, 410, Next::Disable).await;
    put(world, &[Webhook { url: "https://example.org/".into(), ..declared("every") }]).await;
    assert!(world.store.webhook(name("every")).await.unwrap().unwrap().disabled.is_none());
}

pub async fn what_a_removed_webhook_was_owed_waits_for_it(world: &World) {
    put(world, &[declared("every")]).await;
    let owed = ended(world, "a").await;
    put(world, &[]).await;
    ended(world, "a").await;
    assert!(!world.store.webhooks().await.unwrap()[0].active);
    put(world, &[declared("every")]).await;
    assert_eq!(due(world, "every").await, [owed]);
}

pub async fn old_deliveries_are_forgotten_and_pending_ones_are_not(world: &World) {
    put(world, &[declared("every"), declared("gone")]).await;
    ended(world, "a").await;
    let pending = ended(world, "a").await;
    let delivered = all(world, "every").await[1].seq;
    tried(world, delivered, 200, Next::Delivered).await;
    put(world, &[declared("every")]).await;
    let before = world.now();
    assert_eq!(world.store.forget_deliveries(before).await.unwrap(), 0);
    let forgotten = world.store.forget_deliveries(Timestamp(before.0 + 1)).await.unwrap();
    assert_eq!(forgotten, 3, "the delivered one, and two that nobody will ask for");
    let left: Vec<TaskId> = all(world, "every").await.iter().map(|it| it.task).collect();
    assert_eq!((left, all(world, "gone").await.len()), (vec![pending], 0));
}

pub async fn whoever_waits_for_messages_is_woken(world: &World) {
    put(world, &[declared("every")]).await;
    let mut wake = world.store.signals().webhooks();
    ended(world, "a").await;
    tokio::time::timeout(Duration::from_secs(10), wake.wait()).await.expect("woken");
}

pub async fn a_message_is_held_by_whoever_leads(world: &World) {
    put(world, &[declared("every")]).await;
    let (first, second) = (ended(world, "a").await, ended(world, "a").await);
    let record =
        |task| async move { all(world, "every").await.into_iter().find(|it| it.task == task).unwrap() };
    let (one, two) = (record(first).await.seq, record(second).await.seq);
    let until = world.now().after(Duration::from_secs(30));
    let held = world.store.hold_deliveries(vec![one], world.epoch, world.now(), until).await.unwrap();
    assert_eq!(held, [one]);
    // Whoever sends knows what it has under way; with several control planes all know it.
    assert!(due(world, "every").await.contains(&second));
    tried(world, one, 500, Next::RetryAt(world.now())).await;
    assert_eq!(due(world, "every").await.len(), 2, "it is nobody's any more");
    world.store.hold_deliveries(vec![one, two], world.epoch, world.now(), until).await.unwrap();
    world.pass(Duration::from_secs(31));
    assert_eq!(due(world, "every").await.len(), 2, "whoever had them was killed");
    let until = world.now().after(Duration::from_secs(30));
    let held = world.store.hold_deliveries(vec![one, two], world.epoch, world.now(), until).await.unwrap();
    assert_eq!(held, [one, two]);
}

pub async fn an_erased_tenants_messages_go_with_it(world: &World) {
    put(world, &[declared("every")]).await;
    let others = ended(world, "a").await;
    for _ in 0..3 {
        let id = world.submit(NewTask { tenant: tenant("gone"), ..new_task() }).await;
        world.store.cancel(id, None, world.now()).await.unwrap();
    }
    world.submit(NewTask { tenant: tenant("gone"), ..new_task() }).await;
    let erase = || world.store.erase_tenant(tenant("gone"), "erased".into(), world.now());
    while erase().await.unwrap().more {}
    let left: Vec<TaskId> = all(world, "every").await.iter().map(|it| it.task).collect();
    assert_eq!(left, [others]);
    while world.store.erase_tenant(tenant("default"), "erased".into(), world.now()).await.unwrap().more {}
    assert_eq!(all(world, "every").await, []);
}

pub async fn whatever_ends_at_once_is_told_once(world: &World) {
    let failures = Webhook { states: vec![State::Failed], ..declared("failures") };
    put(world, &[declared("every"), failures]).await;
    let crew = world.worker("w").await;
    let tasks = (0..40).map(|_| NewTask { max_attempts: 1, ..new_task() }).collect();
    let ids = world.store.submit(tasks, None, world.now()).await.unwrap().ids;
    let mut ends = Vec::new();
    for (at, task) in world.claim(&crew, 1, 40).await.unwrap().into_iter().enumerate() {
        let ending = if at % 4 == 0 { failed("x") } else { Ending::Succeeded };
        ends.push(EndAttempt { held: task.held(), events: Vec::new(), ending, result: None, roll: 0.5 });
    }
    // A worker that lost its answers reports the same again.
    for _ in 0..2 {
        let (worker, nonce) = (crew.id.clone(), crew.nonce);
        let ended = world.store.end_attempts(worker, nonce, ends.clone(), world.now()).await.unwrap();
        assert_eq!(ended.accepted.len(), 40);
    }
    let mut told: Vec<TaskId> = all(world, "every").await.iter().map(|it| it.task).collect();
    told.sort();
    assert_eq!((told, all(world, "failures").await.len()), (ids, 10));
}
