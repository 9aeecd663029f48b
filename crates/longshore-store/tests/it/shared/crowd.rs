//! A crowd of parents, children and people at two control planes: whatever comes together, the tables agree with each other,
//! nobody waits for what is there, and everything comes to an end.

use std::time::Duration;

use futures_util::future::join_all;
use longshore_core::id::{ConversationId, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Ending, Failure, State};
use longshore_core::wait::{Ask, Awaits, OnExpiry, Which};
use longshore_store::*;
use longshore_testkit::Postgres;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use super::everything;
use crate::properties::shared_tables::SharedTables;
use crate::support::*;

/// Steps of each actor until the tables are looked at, and how often that is.
const STEPS: usize = 25;
const ROUNDS: usize = 4;

/// A worker with an agent that does anything.
struct Actor<'a> {
    world: &'a World,
    /// Its claims go to the one and its reports to the other.
    stores: [&'a Store; 2],
    crew: Crew,
    seq: u64,
    holds: Vec<LeasedTask>,
    dice: StdRng,
}

impl Actor<'_> {
    fn task(&mut self) -> NewTask {
        let conversation = self.dice.random_bool(0.3).then(|| format!("c{}", self.dice.random_range(0..4)));
        let late = Duration::from_secs(self.dice.random_range(1..60));
        NewTask {
            id: TaskId(Uuid::now_v7()),
            conversation: conversation.map(|name| ConversationId::new(name).unwrap()),
            deadline_at: self.dice.random_bool(0.1).then(|| self.world.now().after(late)),
            tenant: tenant(if self.dice.random_bool(0.3) { "x" } else { "default" }),
            max_attempts: 1,
            ..new_task()
        }
    }

    async fn claim(&mut self, most: u32) {
        let (worker, nonce, seq) = (self.crew.id.clone(), self.crew.nonce, self.seq + 1);
        let request = ClaimRequest { worker, nonce, seq, max: most, in_flight: 0, lease: LEASE * 100 };
        let tasks = self.stores[0].claim(request, self.world.now()).await.unwrap();
        self.seq += u64::from(!tasks.is_empty());
        self.holds.extend(tasks);
    }

    async fn end(&mut self, endings: Vec<(LeasedTask, Ending)>) {
        let endings = endings.into_iter().map(|(task, ending)| EndAttempt {
            held: task.held(),
            events: Vec::new(),
            ending,
            result: None,
            roll: 0.5,
        });
        let (id, nonce) = (self.crew.id.clone(), self.crew.nonce);
        self.stores[1].end_attempts(id, nonce, endings.collect(), self.world.now()).await.unwrap();
    }

    /// Some new children of a task that it holds, and some that are there already.
    async fn beget(&mut self) {
        if self.holds.is_empty() {
            return;
        }
        let held = self.holds[self.dice.random_range(0..self.holds.len())].held();
        let mut children = Vec::new();
        for _ in 0..self.dice.random_range(1..5) {
            let name = self.dice.random_range(0..6).to_string();
            children.push(NewChild { name, detach: self.dice.random_bool(0.2), task: self.task() });
        }
        match self.stores[0].submit_children(held, fleet("a"), children, self.world.now()).await {
            Ok(_) | Err(ChildError::Refused(_) | ChildError::Call(CallError::StaleFence)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn ending(&mut self) -> Ending {
        let timeout = self.dice.random_bool(0.1).then_some(20_000);
        match self.dice.random_range(0..10) {
            0..3 => Ending::Succeeded,
            3 => Ending::Failed(Failure::lasting("no", "no")),
            4..7 => {
                let which = if self.dice.random_bool(0.5) { Which::All } else { Which::Any };
                let of = if self.dice.random_bool(0.3) {
                    vec!["0".to_owned(), "1".to_owned()]
                } else {
                    Vec::new()
                };
                Ending::Waited(Awaits::Children { which, of, timeout_ms: timeout })
            }
            _ => Ending::Waited(Awaits::Ask(Ask {
                name: self.dice.random_bool(0.5).then(|| "q".to_owned()),
                question: Json::string("?"),
                schema: None,
                expires_ms: timeout,
                on_expiry: OnExpiry::Resume,
            })),
        }
    }

    /// At its own pace, beside all others.
    async fn steps(&mut self) {
        for _ in 0..STEPS {
            self.step().await;
        }
    }

    async fn step(&mut self) {
        match self.dice.random_range(0..10) {
            0..2 => {
                let task = self.task();
                self.world.submit(task).await;
            }
            2..4 => self.claim(3).await,
            4..6 => self.beget().await,
            6..8 => {
                let some = self.holds.len().div_ceil(2);
                let ending: Vec<LeasedTask> = self.holds.drain(..some).collect();
                let ending = ending.into_iter().map(|task| (task, self.ending())).collect();
                self.end(ending).await;
            }
            _ => self.meddle().await,
        }
    }

    /// A person cancels something, or answers whatever is asked.
    async fn meddle(&mut self) {
        let tasks = self.stores[0].search(TaskFilter::default(), 30).await.unwrap().tasks;
        if tasks.is_empty() {
            return;
        }
        let id = tasks[self.dice.random_range(0..tasks.len())].id;
        if self.dice.random_bool(0.3) {
            self.stores[1].cancel(id, None, self.world.now()).await.unwrap();
        } else {
            self.stores[1].input(id, None, json("\"resume\""), self.world.now()).await.unwrap();
        }
    }
}

async fn tick(world: &World, seconds: u64) {
    world.tick(Duration::from_secs(seconds)).await;
}

#[tokio::test]
async fn whatever_families_do_at_once_comes_to_an_end() {
    let Some(server) = Postgres::start() else { return };
    let world = World::on(&server).await;
    let other = world.another().await;
    let tables = SharedTables::of(&world).await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut actors = Vec::new();
    for number in 0..12_u64 {
        let crew = world.worker(&format!("w{number}")).await;
        let stores = if number % 2 == 0 { [&world.store, &other] } else { [&other, &world.store] };
        let dice = StdRng::seed_from_u64(seed.wrapping_add(number));
        actors.push(Actor { world: &world, stores, crew, seq: 0, holds: Vec::new(), dice });
    }
    for _ in 0..ROUNDS {
        let ticks = async { tick(&world, 20).await };
        futures_util::future::join(join_all(actors.iter_mut().map(Actor::steps)), ticks).await;
        tables.check().await;
    }
    for _ in 0..200 {
        for task in everything(&world.store).await.iter().filter(|task| task.state == State::Waiting) {
            world.store.input(task.id, None, json("\"resume\""), world.now()).await.unwrap();
        }
        for actor in &mut actors {
            actor.claim(50).await;
            let ending = actor.holds.drain(..).map(|task| (task, Ending::Succeeded)).collect();
            actor.end(ending).await;
        }
        tick(&world, 1).await;
        tables.check().await;
        if everything(&world.store).await.iter().all(|task| task.state.is_terminal()) {
            break;
        }
    }
    let left: Vec<_> =
        everything(&world.store).await.into_iter().filter(|it| !it.state.is_terminal()).collect();
    assert!(left.is_empty(), "seed {seed}: {left:#?}");
    let deadlocks = "SELECT deadlocks::text FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(world.ask_server(deadlocks).await, ["0"], "seed {seed}");
    world.clean_up().await;
}
