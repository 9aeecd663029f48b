//! Days, and what lies in none of them.

use std::time::Duration;

use longshore_core::id::TaskId;
use longshore_core::task::{Ending, State};
use longshore_core::time::Timestamp;
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A task that is submitted at this time.
fn task_of(at: Timestamp) -> NewTask {
    let (s, ns) = ((at.0 / 1000) as u64, (at.0 % 1000) as u32 * 1_000_000);
    let id = TaskId(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, s, ns)));
    NewTask { id, ..new_task() }
}

/// Where rows of a task lie.
async fn places(client: &tokio_postgres::Client, id: TaskId) -> Vec<String> {
    let select = "SELECT tableoid::regclass::text FROM task WHERE id = $1
        UNION SELECT tableoid::regclass::text FROM done WHERE id = $1
        UNION SELECT tableoid::regclass::text FROM event WHERE task = $1
        UNION SELECT tableoid::regclass::text FROM step WHERE task = $1 ORDER BY 1";
    client.query(select, &[&id.0]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn in_day(at: Timestamp) -> Vec<String> {
    let day = at.0.div_euclid(DAY.as_millis() as i64);
    ["done", "event", "step", "task"].map(|table| format!("{table}_d{day}")).to_vec()
}

fn in_rest() -> Vec<String> {
    ["done", "event", "step", "task"].map(|table| format!("{table}_rest")).to_vec()
}

/// A task that is submitted, takes a step and ends.
async fn run(world: &World, crew: &Crew, seq: u64, task: NewTask) -> TaskId {
    let id = world.submit(task).await;
    let held = world.claim_one(crew, seq).await.held();
    assert_eq!(held.task, id);
    world.store.begin_step(held, fleet("a"), "s".into(), world.now()).await.unwrap();
    assert!(world.end(crew, held, Ending::Succeeded).await);
    id
}

async fn is_whole(world: &World, id: TaskId) {
    assert_eq!(world.task(id).await.state, State::Succeeded);
    assert_eq!(world.kinds(id).await.len(), 5);
    assert_eq!(world.store.attempts(id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn tasks_of_any_day_find_a_place_and_move_when_theirs_is_made() {
    let Some(world) = World::shared().await else { return };
    let client = world.client().await;
    let crew = world.worker("w").await;
    let begin = world.now();
    let day = |days: u32| begin.after(DAY * days);
    let ids = [
        run(&world, &crew, 1, task_of(day(1))).await,
        run(&world, &crew, 2, task_of(day(2))).await,
        run(&world, &crew, 3, task_of(day(10))).await,
        run(&world, &crew, 4, task_of(day(11))).await,
    ];
    assert_eq!(places(&client, ids[0]).await, in_day(day(1)));
    assert_eq!(places(&client, ids[1]).await, in_day(day(2)));
    assert_eq!(places(&client, ids[2]).await, in_rest(), "nobody made room");
    // All control planes were away for days; then two of them make room at once.
    let other = world.another().await;
    let (one, two) = futures_util::join!(world.store.make_room(day(10)), other.make_room(day(10)));
    one.unwrap();
    two.unwrap();
    assert_eq!(places(&client, ids[2]).await, in_day(day(10)));
    assert_eq!(places(&client, ids[3]).await, in_day(day(11)));
    for id in ids {
        is_whole(&world, id).await;
    }
    // And another starts with tasks of today among the rest.
    let late = run(&world, &crew, 5, task_of(day(20))).await;
    Store::connect(world.options(), day(20)).await.unwrap();
    assert_eq!(places(&client, late).await, in_day(day(20)));
    is_whole(&world, late).await;
    world.clean_up().await;
}

#[tokio::test]
async fn ids_of_any_kind_find_a_place() {
    let Some(world) = World::shared().await else { return };
    let client = world.client().await;
    let crew = world.worker("w").await;
    for (seq, id) in [Uuid::new_v4(), Uuid::max(), Uuid::from_u128(1)].into_iter().enumerate() {
        let id = run(&world, &crew, seq as u64 + 1, NewTask { id: TaskId(id), ..new_task() }).await;
        assert_eq!(places(&client, id).await, in_rest());
        is_whole(&world, id).await;
    }
    world.store.make_room(world.now().after(DAY)).await.unwrap();
    world.clean_up().await;
}

#[tokio::test]
async fn room_is_made_while_others_read_and_write() {
    let Some(world) = World::shared().await else { return };
    let client = world.client().await;
    let crew = world.worker("w").await;
    let soon = world.now().after(DAY * 5);
    let id = run(&world, &crew, 1, task_of(soon)).await;
    // Such as a backup, which reads for hours.
    let reader = world.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM task; SELECT count(*) FROM event").await.unwrap();
    let (made, run) = futures_util::join!(world.store.make_room(soon), async {
        for seq in 2..12 {
            run(&world, &crew, seq, new_task()).await;
        }
    });
    made.unwrap();
    let () = run;
    assert!(places(&client, id).await.contains(&"task_rest".into()), "it waits for the reader");
    reader.batch_execute("COMMIT").await.unwrap();
    world.store.make_room(soon).await.unwrap();
    assert_eq!(places(&client, id).await, in_day(soon));
    world.clean_up().await;
}
