use std::time::Duration;

use longshore_core::id::ConversationId;
use longshore_core::schedule::{Missed, Overlap, Schedule, ScheduleName};
use longshore_core::task::{Hold, OnBusy, State};
use longshore_core::time::Timestamp;
use longshore_store::*;

use crate::support::*;

fn name(text: &str) -> ScheduleName {
    ScheduleName::new(text).unwrap()
}

fn declared(text: &str) -> Schedule {
    Schedule {
        name: name(text),
        fleet: fleet("a"),
        cron: "0 * * * *".into(),
        timezone: "UTC".into(),
        missed: Missed::Skip,
        missed_limit: 100,
        overlap: Overlap::Allow,
        paused: false,
        input: json(r#"{"n":1e400}"#),
        conversation: None,
        priority: 0,
        timeout_ms: None,
        max_attempts: None,
        on_interrupt: None,
        labels: Default::default(),
    }
}

async fn put(world: &World, schedules: &[Schedule]) {
    world.store.put_schedules(schedules.to_vec(), world.now()).await.unwrap();
}

async fn record(world: &World, text: &str) -> ScheduleRecord {
    world.store.schedule(name(text)).await.unwrap().expect("it was declared")
}

/// One task for a tick `ahead` of the cursor, as the schedule stands.
fn fire(record: &ScheduleRecord, ahead: u64) -> Fire {
    let tick = record.cursor.after(Duration::from_secs(ahead));
    Fire {
        name: record.name.clone(),
        generation: record.generation,
        cursor: record.cursor,
        next_cursor: tick,
        tasks: vec![(tick, new_task())],
        missed: 0,
        overlapped: 0,
        refused: None,
    }
}

async fn kinds(world: &World, text: &str) -> Vec<String> {
    let events = world.store.schedule_events(name(text), 1000).await.unwrap();
    events.into_iter().rev().map(|event| event.kind).collect()
}

pub async fn a_schedule_is_kept_as_it_was_declared_and_begins_now(world: &World) {
    let one = Schedule { paused: true, ..declared("one") };
    put(world, &[one.clone(), declared("two")]).await;
    let all = world.store.schedules().await.unwrap();
    let seen: Vec<_> = all.iter().map(|it| (it.name.as_str(), it.paused, it.active, it.cursor)).collect();
    assert_eq!(seen, [("one", true, true, world.now()), ("two", false, true, world.now())]);
    assert_eq!((&all[0].declaration, all[0].generation), (&one, 1));
    assert_eq!(world.store.schedule(name("three")).await.unwrap(), None);
}

pub async fn a_tick_becomes_a_task_together_with_the_move_of_the_cursor(world: &World) {
    put(world, &[declared("one")]).await;
    let before = record(world, "one").await;
    let it = fire(&before, 60);
    let (tick, task) = it.tasks[0].clone();
    assert_eq!(world.store.fire_schedule(it, world.now()).await.unwrap(), Fired::Done(vec![task.id]));
    let after = record(world, "one").await;
    assert_eq!((after.cursor, after.last_task, after.last_tick), (tick, Some(task.id), Some(tick)));
    assert_eq!((after.fired, world.task(task.id).await.state), (1, State::Queued));
    assert_eq!(kinds(world, "one").await, ["changed", "fired"]);
}

pub async fn only_the_first_of_many_fires_a_tick(world: &World) {
    put(world, &[declared("one")]).await;
    let before = record(world, "one").await;
    let all = (0..20).map(|_| world.store.fire_schedule(fire(&before, 60), world.now()));
    let mut done = 0;
    for fired in futures_util::future::join_all(all).await {
        done += u32::from(matches!(fired.unwrap(), Fired::Done(_)));
    }
    assert_eq!((done, world.store.counts().await.unwrap()[0].runnable), (1, 1));
}

pub async fn one_tick_is_one_task_even_if_its_cursor_comes_back(world: &World) {
    put(world, &[declared("one")]).await;
    let first = fire(&record(world, "one").await, 60);
    let tick = first.tasks[0].0;
    let made = world.store.fire_schedule(first, world.now()).await.unwrap();
    // As a plan whose ticks overlap with those of one that was carried out.
    let again = Fire { tasks: vec![(tick, new_task())], ..fire(&record(world, "one").await, 60) };
    assert_eq!(world.store.fire_schedule(again, world.now()).await.unwrap(), made);
    assert_eq!(world.store.counts().await.unwrap()[0].runnable, 1);
}

pub async fn what_is_not_accepted_leaves_the_cursor_where_it_was(world: &World) {
    put(world, &[declared("one")]).await;
    let before = record(world, "one").await;
    let mut it = fire(&before, 60);
    let stranger = NewTask { fleet: fleet("nobody"), ..new_task() };
    it.next_cursor = it.next_cursor.after(Duration::from_secs(60));
    it.tasks.push((it.next_cursor, stranger));
    let refused = world.store.fire_schedule(it, world.now()).await;
    assert!(matches!(refused, Err(SubmitError::UnknownFleet(_))));
    assert_eq!(record(world, "one").await, before);
    assert_eq!(world.store.counts().await.unwrap()[0].runnable, 0, "neither of the two tasks");
}

/// As [`fire`], for a task of a conversation that does so when somebody else is in it.
fn fire_in_conversation(record: &ScheduleRecord, on_busy: OnBusy) -> Fire {
    let mut fire = fire(record, 60);
    fire.tasks[0].1.conversation = Some(ConversationId::new("c").unwrap());
    fire.tasks[0].1.on_busy = on_busy;
    fire
}

pub async fn a_tick_finds_its_conversation_busy(world: &World) {
    put(world, &[declared("one")]).await;
    let begin = record(world, "one").await;
    let Fired::Done(first) =
        world.store.fire_schedule(fire_in_conversation(&begin, OnBusy::Reject), world.now()).await.unwrap()
    else {
        panic!("nobody is there")
    };
    let before = record(world, "one").await;
    let polite = fire_in_conversation(&before, OnBusy::Reject);
    let refused = world.store.fire_schedule(polite.clone(), world.now()).await;
    assert!(matches!(refused, Err(SubmitError::ConversationBusy(_))), "{refused:?}");
    let by_hand = world.store.run_schedule(name("one"), polite.tasks[0].1.clone(), None, world.now()).await;
    assert!(matches!(by_hand, Err(SubmitError::ConversationBusy(_))), "{by_hand:?}");
    assert_eq!(record(world, "one").await, before);
    let urgent = fire_in_conversation(&before, OnBusy::Interrupt);
    let fired = world.store.fire_schedule(urgent.clone(), world.now()).await.unwrap();
    assert_eq!(fired, Fired::Done(vec![urgent.tasks[0].1.id]));
    assert_eq!(world.task(first[0]).await.state, State::Cancelled);
    // Of two ticks at once the later one stops the earlier.
    let mut two = fire_in_conversation(&record(world, "one").await, OnBusy::Interrupt);
    let later = NewTask { id: new_task().id, ..two.tasks[0].1.clone() };
    two.next_cursor = two.next_cursor.after(Duration::from_secs(60));
    two.tasks.push((two.next_cursor, later.clone()));
    let ids = vec![two.tasks[0].1.id, later.id];
    assert_eq!(world.store.fire_schedule(two, world.now()).await.unwrap(), Fired::Done(ids.clone()));
    assert_eq!(world.task(urgent.tasks[0].1.id).await.state, State::Cancelled);
    assert_eq!(world.task(ids[0]).await.state, State::Cancelled);
    assert_eq!(world.task(ids[1]).await.hold, Some(Hold::Ready));
    let counts = &world.store.counts().await.unwrap()[0];
    assert_eq!((counts.runnable, counts.held), (1, 0));
}

pub async fn losses_are_counted_and_told(world: &World) {
    put(world, &[declared("one")]).await;
    let it = Fire {
        tasks: Vec::new(),
        missed: 3,
        overlapped: 2,
        refused: Some((1, "fleet `a` is not declared".into())),
        ..fire(&record(world, "one").await, 60)
    };
    assert_eq!(world.store.fire_schedule(it, world.now()).await.unwrap(), Fired::Done(Vec::new()));
    let after = record(world, "one").await;
    assert_eq!((after.fired, after.missed, after.overlapped, after.refused), (0, 3, 2, 1));
    assert_eq!(kinds(world, "one").await, ["changed", "missed", "overlapped", "refused"]);
}

pub async fn another_rhythm_begins_anew_and_another_input_does_not(world: &World) {
    put(world, &[declared("one")]).await;
    let begun = record(world, "one").await.cursor;
    world.pass(Duration::from_secs(7200));
    put(world, &[declared("one")]).await;
    assert_eq!(record(world, "one").await.generation, 1, "the same declaration again");
    let input = Schedule { input: json("2"), ..declared("one") };
    put(world, &[input]).await;
    assert_eq!((record(world, "one").await.cursor, record(world, "one").await.generation), (begun, 2));
    let old = record(world, "one").await;
    let rhythm = Schedule { cron: "*/5 * * * *".into(), ..declared("one") };
    put(world, std::slice::from_ref(&rhythm)).await;
    assert_eq!(record(world, "one").await.cursor, world.now());
    assert_eq!(world.store.fire_schedule(fire(&old, 60), world.now()).await.unwrap(), Fired::Lost);
    put(world, &[]).await;
    let gone = record(world, "one").await;
    assert!(!gone.active);
    assert_eq!(world.store.fire_schedule(fire(&gone, 60), world.now()).await.unwrap(), Fired::Lost);
    world.pass(Duration::from_secs(7200));
    put(world, &[rhythm]).await;
    assert_eq!(record(world, "one").await.cursor, world.now(), "not since it was left out");
}

pub async fn ticks_of_a_pause_are_not_made_up_for(world: &World) {
    put(world, &[declared("one")]).await;
    assert!(!world.store.pause_schedule(name("two"), true, world.now()).await.unwrap());
    assert!(world.store.pause_schedule(name("one"), true, world.now()).await.unwrap());
    let paused = record(world, "one").await;
    assert!(paused.paused);
    assert_eq!(world.store.fire_schedule(fire(&paused, 60), world.now()).await.unwrap(), Fired::Lost);
    world.pass(Duration::from_secs(7200));
    put(world, &[Schedule { priority: 3, ..declared("one") }]).await;
    assert!(record(world, "one").await.paused, "the operator's word stands");
    assert!(world.store.pause_schedule(name("one"), false, world.now()).await.unwrap());
    let resumed = record(world, "one").await;
    assert_eq!((resumed.paused, resumed.cursor), (false, world.now()));
    // The file's word is newer than the operator's.
    put(world, &[Schedule { paused: true, ..declared("one") }]).await;
    assert!(record(world, "one").await.paused);
    assert!(world.store.pause_schedule(name("one"), false, world.now()).await.unwrap());
    assert!(!record(world, "one").await.paused);
    put(world, &[Schedule { paused: true, priority: 4, ..declared("one") }]).await;
    assert!(!record(world, "one").await.paused, "it says nothing new about that");
}

pub async fn a_run_by_hand_moves_no_cursor_and_is_repeatable(world: &World) {
    put(world, &[declared("one")]).await;
    let before = record(world, "one").await;
    let key = Idempotency { scope: "run".into(), key: "k".into(), fingerprint: [1; 32] };
    let run = || world.store.run_schedule(name("one"), new_task(), Some(key.clone()), world.now());
    let made = run().await.unwrap();
    let again = run().await.unwrap();
    assert_eq!((&again.ids, again.replayed, made.replayed), (&made.ids, true, false));
    let after = record(world, "one").await;
    assert_eq!((after.cursor, after.last_tick, after.fired), (before.cursor, None, 0));
    assert_eq!(after.last_task, Some(made.ids[0]));
    assert_eq!(kinds(world, "one").await, ["changed", "run"]);
}

pub async fn the_newest_events_of_a_schedule_are_kept(world: &World) {
    put(world, &[declared("one")]).await;
    for _ in 0..110 {
        for paused in [true, false] {
            world.store.pause_schedule(name("one"), paused, world.now()).await.unwrap();
        }
    }
    let events = world.store.schedule_events(name("one"), 1000).await.unwrap();
    assert_eq!((events.len(), events[0].kind.as_str()), (200, "resumed"));
    assert_eq!(events[0].at, Timestamp(world.now().0));
}

pub async fn whoever_waits_for_schedules_is_woken(world: &World) {
    let mut wake = world.store.signals().schedules();
    let woken = async |wake: &mut Wake| {
        tokio::time::timeout(Duration::from_secs(10), wake.wait()).await.expect("woken");
    };
    put(world, &[declared("one")]).await;
    woken(&mut wake).await;
    world.store.pause_schedule(name("one"), true, world.now()).await.unwrap();
    woken(&mut wake).await;
}
