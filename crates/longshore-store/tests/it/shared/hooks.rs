//! Schedules and webhooks with several control planes: one task for a tick, one sender for a message.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::fleet::SecretSource;
use longshore_core::id::TaskId;
use longshore_core::schedule::{Missed, Overlap, Schedule, ScheduleName};
use longshore_core::task::Ending;
use longshore_core::time::Timestamp;
use longshore_core::webhook::{Next, STATES, Webhook, WebhookName};
use longshore_store::*;
use uuid::Uuid;

use super::{everything, until};
use crate::support::*;

fn hourly() -> Schedule {
    Schedule {
        name: ScheduleName::new("hourly").unwrap(),
        fleet: fleet("a"),
        cron: "0 * * * *".into(),
        timezone: "UTC".into(),
        missed: Missed::All,
        missed_limit: 100,
        overlap: Overlap::Allow,
        paused: false,
        input: json("{}"),
        conversation: None,
        priority: 0,
        timeout_ms: None,
        max_attempts: None,
        on_interrupt: None,
        labels: Default::default(),
    }
}

fn backend() -> Webhook {
    Webhook {
        name: WebhookName::new("backend").unwrap(),
        url: "https://example.com/hooks".into(),
        secrets: vec![SecretSource::Env("S".into())],
        fleets: Vec::new(),
        states: STATES.to_vec(),
        allow_private: false,
    }
}

/// Three hours after the cursor, each of which is a tick.
fn three(record: &ScheduleRecord) -> Fire {
    let tick = |hours: u64| record.cursor.after(Duration::from_secs(3600 * hours));
    let task = |hours| {
        let labels = BTreeMap::from([("tick".to_owned(), tick(hours).to_string())]);
        (tick(hours), NewTask { labels, ..new_task() })
    };
    Fire {
        name: record.name.clone(),
        generation: record.generation,
        cursor: record.cursor,
        next_cursor: tick(3),
        tasks: [1, 2, 3].map(task).into(),
        missed: 0,
        overlapped: 0,
        refused: None,
    }
}

/// Deals with ticks until so many are dealt with, by whomever; returns how many became tasks here.
async fn fire_all(store: Store, name: ScheduleName, end: Timestamp, now: Timestamp) -> usize {
    let mut made = 0;
    loop {
        let record = store.schedule(name.clone()).await.unwrap().unwrap();
        if record.cursor >= end {
            return made;
        }
        match store.fire_schedule(three(&record), now).await.unwrap() {
            Fired::Done(ids) => made += ids.len(),
            Fired::Lost => {}
        }
    }
}

#[tokio::test]
async fn each_tick_is_one_task_whoever_leads_and_whoever_thinks_so() {
    let Some(world) = World::shared().await else { return };
    let (other, now) = (world.another().await, world.now());
    world.store.put_schedules(vec![hourly()], now).await.unwrap();
    let (name, end) = (hourly().name, now.after(Duration::from_secs(3600 * 60)));
    // Two that take themselves for the leader at the same time, both to the end.
    let (one, two) = futures_util::join!(
        fire_all(world.store.clone(), name.clone(), end, now),
        fire_all(other.clone(), name.clone(), end, now)
    );
    assert_eq!(one + two, 60, "{one} and {two}");
    let mut ticks: Vec<String> =
        everything(&world.store).await.into_iter().map(|task| task.labels["tick"].clone()).collect();
    ticks.sort();
    let expected: Vec<String> =
        (1..=60).map(|hours| now.after(Duration::from_secs(3600 * hours)).to_string()).collect();
    assert_eq!(ticks, expected);
    let record = other.schedule(name.clone()).await.unwrap().unwrap();
    assert_eq!((record.fired, record.cursor), (60, end));
    assert_eq!(world.store.schedule_events(name, 1000).await.unwrap().len(), 61);
    world.clean_up().await;
}

#[tokio::test]
async fn a_plan_from_before_a_change_of_the_leader_makes_no_second_task() {
    let Some(world) = World::shared().await else { return };
    let (other, now) = (world.another().await, world.now());
    world.store.put_schedules(vec![hourly()], now).await.unwrap();
    let record = world.store.schedule(hourly().name).await.unwrap().unwrap();
    // The old leader has decided, and stands still; the new one decides the same and acts.
    let plan = three(&record);
    assert!(matches!(other.fire_schedule(three(&record), now).await.unwrap(), Fired::Done(_)));
    assert_eq!(world.store.fire_schedule(plan, now).await.unwrap(), Fired::Lost);
    // Neither does one that was declared anew meanwhile, by a third replica that has just started.
    let record = world.store.schedule(hourly().name).await.unwrap().unwrap();
    other.put_schedules(vec![Schedule { priority: 3, ..hourly() }], now).await.unwrap();
    assert_eq!(world.store.fire_schedule(three(&record), now).await.unwrap(), Fired::Lost);
    assert_eq!(everything(&world.store).await.len(), 3);
    world.clean_up().await;
}

#[tokio::test]
async fn declarations_pauses_and_ticks_at_once_do_not_stop_each_other() {
    let Some(world) = World::shared().await else { return };
    let (other, now) = (world.another().await, world.now());
    let (name, end) = (hourly().name, now.after(Duration::from_secs(3600 * 30)));
    let declared = |priority| vec![Schedule { priority, ..hourly() }];
    world.store.put_schedules(declared(0), now).await.unwrap();
    let declare = async {
        for priority in 1..15 {
            world.store.put_schedules(declared(priority), now).await.unwrap();
            other.pause_schedule(name.clone(), priority % 2 == 0, now).await.unwrap();
        }
        other.pause_schedule(name.clone(), false, now).await.unwrap();
    };
    let run = async {
        for _ in 0..10 {
            world.store.run_schedule(name.clone(), new_task(), None, now).await.unwrap();
        }
    };
    let (made, ..) = futures_util::join!(fire_all(other.clone(), name.clone(), end, now), declare, run);
    assert_eq!((made, everything(&world.store).await.len()), (30, 40));
    world.clean_up().await;
}

async fn ended(world: &World) -> TaskId {
    let id = world.submit(new_task()).await;
    world.store.cancel(id, None, world.now()).await.unwrap();
    id
}

#[tokio::test]
async fn what_ends_at_one_replica_is_sent_by_the_other_that_leads_and_by_no_third() {
    let Some(world) = World::shared().await else { return };
    let beside = world.beside().await;
    let (name, now) = (backend().name, world.now());
    world.store.put_webhooks(vec![backend()], now).await.unwrap();
    let mut wake = world.store.signals().webhooks();
    if world.options().redis.is_some() {
        until("both to hear", async || (world.store.wakes() && beside.store.wakes()).then_some(())).await;
    }
    let crew = beside.worker("w").await;
    let task = beside.submit(new_task()).await;
    let held = beside.claim_one(&crew, 1).await.held();
    assert!(beside.end(&crew, held, Ending::Succeeded).await);
    let cancelled = ended(&beside).await;
    if world.options().redis.is_some() {
        tokio::time::timeout(Duration::from_secs(20), wake.wait()).await.expect("woken by the other");
    }
    let due = world.store.due_deliveries(name.clone(), now, 10).await.unwrap();
    assert_eq!(due.iter().map(|it| it.task).collect::<Vec<_>>(), [task, cancelled]);
    let numbers: Vec<u64> = due.iter().map(|it| it.seq).collect();
    let hold = async |store: &Store, of| {
        let until = now.after(Duration::from_secs(30));
        store.hold_deliveries(numbers.clone(), of, now, until).await.unwrap()
    };
    let old = world.epoch;
    assert_eq!(hold(&world.store, old).await, numbers);
    // It is replaced while it sends.
    let expire = "UPDATE leader SET until = clock_timestamp() - interval '1 minute'";
    world.on_server(expire).await;
    let new = beside.store.lead(Uuid::new_v4()).await.unwrap().expect("nobody else leads");
    assert_eq!(beside.store.due_deliveries(name.clone(), now, 10).await.unwrap(), []);
    assert_eq!(beside.store.next_delivery(name.clone()).await.unwrap(), None);
    assert_eq!(hold(&beside.store, new).await, [0; 0], "the old one is still at it");
    // What it finishes counts; what it was killed with is sent again.
    let tried = Tried { seq: numbers[0], at: now, status: Some(200), error: None, next: Next::Delivered };
    world.store.delivery_tried(tried).await.unwrap();
    let later = now.after(Duration::from_secs(31));
    let due = beside.store.due_deliveries(name.clone(), later, 10).await.unwrap();
    assert_eq!(due.iter().map(|it| it.task).collect::<Vec<_>>(), [cancelled]);
    let until = later.after(Duration::from_secs(30));
    let again =
        async |store: &Store, of| store.hold_deliveries(numbers.clone(), of, later, until).await.unwrap();
    assert_eq!(again(&world.store, old).await, [0; 0], "it does not lead any more");
    assert_eq!(again(&beside.store, new).await, [numbers[1]]);
    world.clean_up().await;
}

#[tokio::test]
async fn of_many_that_take_the_same_messages_each_message_has_one() {
    let Some(world) = World::shared().await else { return };
    let (other, now) = (world.another().await, world.now());
    world.store.put_webhooks(vec![backend()], now).await.unwrap();
    for _ in 0..20 {
        ended(&world).await;
    }
    let due = world.store.due_deliveries(backend().name, now, 100).await.unwrap();
    let numbers: Vec<u64> = due.iter().map(|it| it.seq).collect();
    let until = now.after(Duration::from_secs(30));
    let mut wanted = numbers.clone();
    let mut takes = Vec::new();
    for at in 0..8 {
        wanted.rotate_left(3);
        let store = if at % 2 == 0 { &world.store } else { &other };
        takes.push(store.hold_deliveries(wanted.clone(), world.epoch, now, until));
    }
    let mut held = Vec::new();
    for took in futures_util::future::join_all(takes).await {
        held.extend(took.unwrap());
    }
    held.sort();
    assert_eq!(held, numbers);
    world.clean_up().await;
}

#[tokio::test]
async fn two_declarations_of_webhooks_at_once_are_one_of_them() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let named = |name: &str| Webhook { name: WebhookName::new(name).unwrap(), ..backend() };
    for _ in 0..10 {
        let (one, two) = futures_util::join!(
            world.store.put_webhooks(vec![named("a"), named("b")], world.now()),
            other.put_webhooks(vec![named("b"), named("c"), named("d")], world.now()),
        );
        one.unwrap();
        two.unwrap();
        let all = world.store.webhooks().await.unwrap();
        let active: Vec<&str> = all.iter().filter(|it| it.active).map(|it| it.name.as_str()).collect();
        assert!(active == ["a", "b"] || active == ["b", "c", "d"], "a mixture: {active:?}");
        ended(&world).await;
    }
    world.clean_up().await;
}
