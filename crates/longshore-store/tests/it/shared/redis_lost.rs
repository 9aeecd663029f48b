//! Redis goes away, comes back with what is old, or with nothing: no task and no word of a conversation is missed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore_core::task::Ending;
use longshore_store::*;
use longshore_testkit::Redis;

use super::until;
use crate::support::*;

async fn outside(server: &Arc<Redis>, act: fn(&Redis)) {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || act(&server)).await.unwrap();
}

/// One more turn of the conversation; returns what its task was told of those before it.
async fn turn(world: &World, crew: &Crew, seq: u64) -> Vec<String> {
    world.submit(NewTask { input: json(&seq.to_string()), publish_input: true, ..talk("c") }).await;
    let begin = Instant::now();
    let task = world.claim_one(crew, seq).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "a claim waited for Redis");
    assert!(world.end(crew, task.held(), Ending::Succeeded).await);
    let history = task.conversation.unwrap();
    assert!(!history.truncated);
    history.messages.iter().map(|message| message.data.text().to_owned()).collect()
}

fn said(turns: u64) -> Vec<String> {
    (1..=turns).map(|turn| format!("{{\"role\":\"user\",\"content\":{turn}}}")).collect()
}

#[tokio::test]
async fn histories_are_right_whatever_redis_knows() {
    let Some(options) = shared_options() else { return };
    let Some(server) = Redis::start() else { return };
    let server = Arc::new(server);
    let redis = Some(redis_options(server.url(), "p:"));
    let options = ConnectOptions { redis, ..options };
    let world = World::connect(options.clone(), options.database).await;
    let other = world.beside().await;
    let up = async || (world.store.wakes() && other.store.wakes()).then_some(());
    let down = async || (!world.store.wakes() && !other.store.wakes()).then_some(());
    until("Redis", up).await;
    let crew = world.worker("w").await;
    let mut seq = 0;
    let mut turns = async |times: u64| {
        for at in seq..seq + times {
            let store = if at % 2 == 0 { &world } else { &other };
            assert_eq!(turn(store, &crew, at + 1).await, said(at));
        }
        seq += times;
    };
    turns(4).await;
    outside(&server, Redis::kill).await;
    until("both to miss it", down).await;
    turns(4).await;
    let told = async || Some(world.store.redis().unwrap()).filter(|redis| !redis.up);
    assert!(!until("it to be told", told).await.why.is_empty());
    // It comes back with copies that end where it was killed.
    outside(&server, Redis::start_again).await;
    until("Redis again", up).await;
    turns(4).await;
    until("it to be told", async || world.store.redis().unwrap().up.then_some(())).await;
    outside(&server, |server| drop(server.cli(&["FLUSHALL"]))).await;
    turns(4).await;
    // Neither there nor gone.
    outside(&server, Redis::pause).await;
    turns(2).await;
    outside(&server, Redis::resume).await;
    turns(2).await;
    world.clean_up().await;
}

#[tokio::test]
async fn waiters_look_again_when_redis_is_back() {
    let Some(options) = shared_options() else { return };
    let Some(server) = Redis::options().memory_only().start() else { return };
    let server = Arc::new(server);
    let redis = Some(redis_options(server.url(), "p:"));
    let options = ConnectOptions { redis, ..options };
    let world = World::connect(options.clone(), options.database).await;
    let other = world.beside().await;
    until("Redis", async || (world.store.wakes() && other.store.wakes()).then_some(())).await;
    let mut wake = other.store.signals().runnable(&fleet("a"));
    outside(&server, Redis::kill).await;
    until("both to miss it", async || (!world.store.wakes() && !other.store.wakes()).then_some(())).await;
    // Nobody hears of it now; whoever looks finds it all the same.
    let first = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    assert_eq!(other.claim_one(&crew, 1).await.id, first);
    let second = world.submit(new_task()).await;
    outside(&server, Redis::start_again).await;
    tokio::time::timeout(Duration::from_secs(30), wake.wait()).await.expect("told to look again");
    assert_eq!(other.claim_one(&crew, 2).await.id, second);
    world.clean_up().await;
}
