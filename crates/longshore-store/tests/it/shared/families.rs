//! Children and questions, as two control planes see them end and be answered at the same time; the agents' cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use longshore_core::id::{Held, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Ending, State};
use longshore_core::wait::{Ask, Awaits, InputRefused, OnExpiry, Which};
use longshore_store::*;
use longshore_testkit::{Postgres, Redis};
use uuid::Uuid;

use super::until;
use crate::support::*;

fn child(name: &str, of: &str) -> NewChild {
    let task = NewTask { id: TaskId(Uuid::now_v7()), fleet: fleet(of), ..new_task() };
    NewChild { name: name.into(), detach: false, task }
}

fn waits(which: Which, of: &[&str]) -> Ending {
    let of = of.iter().map(|name| (*name).to_owned()).collect();
    Ending::Waited(Awaits::Children { which, of, timeout_ms: None })
}

async fn beget(world: &World, held: Held, names: &[String]) {
    let children = names.iter().map(|name| child(name, "b")).collect();
    world.store.submit_children(held, fleet("a"), children, world.now()).await.unwrap();
}

/// A worker's word to one of the control planes.
async fn end(store: &Store, crew: &Crew, held: Held, ending: Ending, world: &World) {
    let end = EndAttempt { held, events: Vec::new(), ending, result: None, roll: 0.5 };
    let ended = store.end_attempts(crew.id.clone(), crew.nonce, vec![end], world.now()).await.unwrap();
    assert_eq!(ended.accepted, [held]);
}

/// How often its task was queued.
async fn queued(world: &World, task: TaskId) -> usize {
    world.kinds(task).await.iter().filter(|kind| *kind == "queued").count()
}

/// A worker of fleet `b`, and what it holds, to be ended one after the other at one of the control planes.
struct Hand<'a> {
    store: &'a Store,
    crew: Crew,
    holds: Vec<Held>,
}

/// Twenty of them at each control plane, all of which spoke there before.
async fn hands<'a>(world: &'a World, other: &'a Store, tasks: usize) -> Vec<Hand<'a>> {
    let mut hands = Vec::new();
    for number in 0..40 {
        let store = if number % 2 == 0 { &world.store } else { other };
        let crew = world.worker_of(&format!("h{number}"), "b").await;
        let most = tasks.div_ceil(40) as u32;
        let (worker, nonce) = (crew.id.clone(), crew.nonce);
        let request = ClaimRequest { worker, nonce, seq: 1, max: most, in_flight: 0, lease: LEASE };
        let holds = store.claim(request, world.now()).await.unwrap().iter().map(LeasedTask::held).collect();
        hands.push(Hand { store, crew, holds });
    }
    assert_eq!(hands.iter().map(|hand| hand.holds.len()).sum::<usize>(), tasks);
    // Each control plane has its connections, and none begins late for want of them.
    for store in [&world.store, other] {
        join_all((0..4).map(|_| store.children(TaskId(Uuid::nil())))).await;
    }
    hands
}

impl Hand<'_> {
    async fn end_all(&self, world: &World) {
        for held in &self.holds {
            end(self.store, &self.crew, *held, Ending::Succeeded, world).await;
        }
    }
}

/// Makes endings slow between their decision and their commit: so they meet.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
     CREATE TRIGGER slow AFTER DELETE ON live FOR EACH STATEMENT EXECUTE FUNCTION slow()";

async fn all_end_at_once(which: Which, of: &[&str]) {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let crew = world.worker("p").await;
    let id = world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    let names: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    beget(&world, held, &names).await;
    let hands = hands(&world, &other, 200).await;
    assert!(world.end(&crew, held, waits(which, of)).await);
    world.on_server(SLOW).await;
    join_all(hands.iter().map(|hand| hand.end_all(&world))).await;
    assert_eq!(world.task(id).await.state, State::Queued);
    assert_eq!(queued(&world, id).await, 2, "when it came, and once again");
    let again = world.claim_one(&crew, 2).await;
    assert!(world.end(&crew, again.held(), Ending::Succeeded).await);
    world.clean_up().await;
}

#[tokio::test]
async fn two_hundred_children_that_end_at_once_wake_their_parent_once() {
    all_end_at_once(Which::All, &[]).await;
}

#[tokio::test]
async fn the_last_of_those_that_are_named_wakes_it_once() {
    all_end_at_once(Which::All, &["7", "77", "177"]).await;
}

#[tokio::test]
async fn the_first_of_two_hundred_wakes_it_once() {
    all_end_at_once(Which::Any, &[]).await;
}

/// Parents begin to wait while their children end: nobody is forgotten, and no two transactions wait crosswise.
#[tokio::test]
async fn parents_and_children_that_end_at_once_never_wait_crosswise() {
    let Some(server) = Postgres::start() else { return };
    let world = World::on(&server).await;
    let other = world.another().await;
    let crew = world.worker("p").await;
    // Parents of parents, too: they wait at the top while those in the middle end by waiting.
    let tops: Vec<TaskId> = world
        .store
        .submit((0..5).map(|_| new_task()).map(fresh).collect(), None, world.now())
        .await
        .unwrap()
        .ids;
    let tops: Vec<Held> = world
        .claim(&crew, 1, 5)
        .await
        .unwrap()
        .iter()
        .filter(|task| tops.contains(&task.id))
        .map(LeasedTask::held)
        .collect();
    for top in &tops {
        let middle = ["m0", "m1", "m2", "m3"].map(|name| child(name, "a")).to_vec();
        world.store.submit_children(*top, fleet("a"), middle, world.now()).await.unwrap();
    }
    let middle: Vec<Held> = world.claim(&crew, 2, 20).await.unwrap().iter().map(LeasedTask::held).collect();
    assert_eq!(middle.len(), 20);
    let names: Vec<String> = (0..6).map(|n| n.to_string()).collect();
    for held in &middle {
        beget(&world, *held, &names).await;
    }
    let hands = hands(&world, &other, 120).await;
    // Some of them in one report, parents beside children of others.
    let parents = tops.iter().chain(&middle).enumerate().map(|(at, held)| {
        let store = if at.is_multiple_of(2) { &world.store } else { &other };
        let which = if at.is_multiple_of(3) { Which::Any } else { Which::All };
        end(store, &crew, *held, waits(which, &[]), &world)
    });
    let children = hands.iter().map(|hand| hand.end_all(&world));
    futures_util::future::join(join_all(children), join_all(parents)).await;
    for held in &middle {
        assert_eq!(world.task(held.task).await.state, State::Queued, "all of its children have ended");
        assert_eq!(queued(&world, held.task).await, 2);
    }
    let mut seq = 3;
    let mut left: Vec<Held> =
        world.claim(&crew, seq, 20).await.unwrap().iter().map(LeasedTask::held).collect();
    assert_eq!(left.len(), 20);
    left.reverse();
    join_all(left.iter().enumerate().map(|(at, held)| {
        let store = if at.is_multiple_of(2) { &world.store } else { &other };
        end(store, &crew, *held, Ending::Succeeded, &world)
    }))
    .await;
    seq += 1;
    assert_eq!(world.claim(&crew, seq, 20).await.unwrap().len(), 5, "those at the top");
    let deadlocks = "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(world.ask_server(deadlocks).await, ["0"]);
    world.clean_up().await;
}

fn fresh(task: NewTask) -> NewTask {
    NewTask { id: TaskId(Uuid::now_v7()), ..task }
}

#[tokio::test]
async fn children_that_are_submitted_twice_at_once_are_the_same() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let crew = world.worker("p").await;
    world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    let submit = async |at: usize| {
        let store = if at.is_multiple_of(2) { &world.store } else { &other };
        let children = ["x", "y", "z"].map(|name| child(name, "b")).to_vec();
        store.submit_children(held, fleet("a"), children, world.now()).await.unwrap()
    };
    let answers = join_all((0..8).map(submit)).await;
    let ids: Vec<Vec<TaskId>> =
        answers.iter().map(|answer| answer.iter().map(|(child, _)| child.id).collect()).collect();
    assert!(ids.iter().all(|one| *one == ids[0]), "{ids:?}");
    let created = answers.iter().flatten().filter(|(_, created)| *created).count();
    assert_eq!((created, world.store.children(held.task).await.unwrap().len()), (3, 3));
    assert_eq!(world.kinds(held.task).await.iter().filter(|kind| *kind == "children_submitted").count(), 1);
    world.clean_up().await;
}

#[tokio::test]
async fn a_question_that_two_people_answer_at_once_has_one_answer() {
    let Some(world) = World::shared().await else { return };
    let other = world.another().await;
    let crew = world.worker("w").await;
    let id = world.submit(new_task()).await;
    let held = world.claim_one(&crew, 1).await.held();
    let ask = Ask {
        name: Some("q".into()),
        question: Json::string("really?"),
        schema: None,
        expires_ms: None,
        on_expiry: OnExpiry::Fail,
    };
    assert!(world.end(&crew, held, Ending::Waited(Awaits::Ask(ask))).await);
    let say = async |at: usize| {
        let store = if at.is_multiple_of(2) { &world.store } else { &other };
        store.input(id, Some("q".into()), json(&at.to_string()), world.now()).await.unwrap()
    };
    let said = join_all((0..10).map(say)).await;
    let taken: Vec<usize> = (0..10).filter(|at| said[*at] == InputOutcome::Taken).collect();
    assert_eq!(taken.len(), 1, "{said:?}");
    let late = InputOutcome::Refused(State::Queued, InputRefused::AlreadyAnswered("q".into()));
    assert_eq!(said.iter().filter(|it| **it == late).count(), 9, "{said:?}");
    let again = world.claim_one(&crew, 2).await;
    assert_eq!(again.questions[0].answer, Some(json(&taken[0].to_string())));
    assert_eq!(queued(&world, id).await, 2);
    world.clean_up().await;
}

/// A world whose Redis is its own.
async fn with_redis() -> Option<(World, Arc<Redis>)> {
    let (options, server) = (shared_options()?, Arc::new(Redis::start()?));
    let options = ConnectOptions { redis: Some(redis_options(server.url(), "p:")), ..options };
    let database = options.database.clone();
    let world = World::connect(options, database).await;
    until("Redis", async || world.store.redis().unwrap().up.then_some(())).await;
    Some((world, server))
}

async fn outside(server: &Arc<Redis>, act: fn(&Redis)) {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || act(&server)).await.unwrap();
}

fn entry(value: &[u8]) -> NewCached {
    let cached = Cached { kind: Some("text/plain".into()), value: value.to_vec() };
    NewCached { fleet: fleet("a"), key: "k".into(), ttl_ms: 3_600_000, cached }
}

#[tokio::test]
async fn agents_share_a_cache_over_all_control_planes() {
    let Some((world, _server)) = with_redis().await else { return };
    let other = world.beside().await;
    until("Redis", async || other.store.redis().unwrap().up.then_some(())).await;
    world.store.cache_put(entry(b"\x00\xff"), world.now()).await.unwrap();
    let get = async |of| other.store.cache_get(fleet(of), "k".into(), world.now()).await.unwrap();
    assert_eq!((get("a").await, get("b").await), (Some(entry(b"\x00\xff").cached), None));
    assert!(other.store.cache_delete(fleet("a"), "k".into(), world.now()).await.unwrap());
    let found = world.store.cache_get(fleet("a"), "k".into(), world.now()).await.unwrap();
    assert_eq!(found, None);
    world.clean_up().await;
}

/// Reading finds nothing, and costs nothing; what is put or deleted is refused, so that nothing older comes back instead.
#[tokio::test]
async fn while_redis_is_away_the_cache_is_empty_and_takes_nothing() {
    let Some((world, server)) = with_redis().await else { return };
    let get = async || world.store.cache_get(fleet("a"), "k".into(), world.now()).await.unwrap();
    world.store.cache_put(entry(b"1"), world.now()).await.unwrap();
    outside(&server, Redis::kill).await;
    until("it to be missed", async || (!world.store.redis().unwrap().up).then_some(())).await;
    let begin = Instant::now();
    assert_eq!(get().await, None);
    let put = world.store.cache_put(entry(b"2"), world.now()).await;
    assert!(matches!(put, Err(StoreError::RedisUnavailable { .. })), "{put:?}");
    let deleted = world.store.cache_delete(fleet("a"), "k".into(), world.now()).await;
    assert!(matches!(deleted, Err(StoreError::RedisUnavailable { .. })), "{deleted:?}");
    assert!(begin.elapsed() < Duration::from_secs(2), "nobody waits for it");
    // What its agents may have cached of a tenant has to go with the tenant.
    world.submit(NewTask { tenant: tenant("acme"), ..new_task() }).await;
    let erase = async || world.store.erase_tenant(tenant("acme"), "gone".into(), world.now()).await;
    while erase().await.is_ok_and(|erased| erased.more) {}
    let refused = erase().await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    outside(&server, Redis::start_again).await;
    until("Redis again", async || world.store.redis().unwrap().up.then_some(())).await;
    world.store.cache_put(entry(b"3"), world.now()).await.unwrap();
    assert_eq!(get().await.unwrap().value, b"3");
    while erase().await.unwrap().more {}
    assert_eq!(get().await, None, "it may have been the tenant's");
    world.clean_up().await;
}

#[tokio::test]
async fn without_redis_there_is_no_cache_and_that_is_said() {
    let Some(options) = shared_options() else { return };
    let database = options.database.clone();
    let world = World::connect(ConnectOptions { redis: None, ..options }, database).await;
    let got = world.store.cache_get(fleet("a"), "k".into(), world.now()).await;
    assert!(matches!(got, Err(StoreError::NoRedis)), "{got:?}");
    world.clean_up().await;
}
