//! Postgres goes away, stands still, has no room: what was acknowledged is kept, nobody hangs, and all goes on by itself.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longshore_core::id::TaskId;
use longshore_core::task::{Ending, State};
use longshore_store::*;
use longshore_testkit::Postgres;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{everything, until};
use crate::support::*;

/// What an outage may take to be told: five seconds, and some for a busy machine.
const TOLD: Duration = Duration::from_secs(15);

/// The answer, or nothing in an outage, which must be told as such and soon.
async fn answered<T, E: Into<Refused>>(asked: impl Future<Output = Result<T, E>>) -> Option<T> {
    let begin = Instant::now();
    let answer = asked.await;
    assert!(begin.elapsed() < TOLD, "it hung for {:?}", begin.elapsed());
    match answer.map_err(Into::into) {
        Ok(answer) => Some(answer),
        Err(Refused::Outage) => None,
        Err(Refused::Otherwise(why)) => panic!("no outage: {why}"),
    }
}

enum Refused {
    Outage,
    Otherwise(String),
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Refused {
        match error {
            StoreError::Unavailable { .. } => Refused::Outage,
            other => Refused::Otherwise(format!("{other:?}")),
        }
    }
}

macro_rules! refused {
    ($($error:ident),*) => {
        $(impl From<$error> for Refused {
            fn from(error: $error) -> Refused {
                match error {
                    $error::Store(error) => error.into(),
                    other => Refused::Otherwise(format!("{other:?}")),
                }
            }
        })*
    };
}
refused!(SubmitError, ClaimError, LinkError);

async fn outside(server: &Arc<Postgres>, act: fn(&Postgres)) {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || act(&server)).await.unwrap();
}

/// What clients and workers know, whatever becomes of the server.
#[derive(Default)]
struct Known {
    submitted: Mutex<Vec<TaskId>>,
    ended: Mutex<HashSet<TaskId>>,
    acknowledged: AtomicUsize,
    outages: AtomicUsize,
    enough: AtomicBool,
}

impl Known {
    /// The answer, and a note if there was none.
    fn told<T>(&self, answer: Option<T>) -> Option<T> {
        self.outages.fetch_add(usize::from(answer.is_none()), Ordering::Relaxed);
        answer
    }

    /// Submits one task after the other, each until it is acknowledged.
    async fn submits(&self, world: &World, client: usize) {
        for number in 0.. {
            if self.enough.load(Ordering::Relaxed) {
                return;
            }
            let key =
                Idempotency { scope: "s".into(), key: format!("{client}-{number}"), fingerprint: [0; 32] };
            let task = until("a submission to be acknowledged", async || {
                // Each try is a new task to whoever does not know the key.
                let tasks = vec![new_task()];
                let submit = world.store.submit(tasks, Some(key.clone()), world.now());
                self.told(answered(submit).await)
            });
            self.submitted.lock().await.extend(task.await.ids);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Claims and ends until there is nothing more to come.
    async fn works(&self, world: &World, crew: &Crew) {
        for seq in 1.. {
            let tasks = until("tasks, or the end", async || {
                let done = self.enough.load(Ordering::Relaxed)
                    && self.ended.lock().await.len() == self.submitted.lock().await.len();
                let tasks = self.told(answered(world.claim(crew, seq, 3)).await);
                tasks.filter(|tasks| done || !tasks.is_empty())
            })
            .await;
            if tasks.is_empty() {
                return;
            }
            let endings: Vec<_> = tasks.iter().map(succeeded).collect();
            let ended = until("an ending to be acknowledged", async || {
                let (worker, nonce) = (crew.id.clone(), crew.nonce);
                let end = world.store.end_attempts(worker, nonce, endings.clone(), world.now());
                self.told(answered(end).await)
            })
            .await;
            assert_eq!(ended.refused, [], "it is still its own");
            self.ended.lock().await.extend(ended.accepted.iter().map(|held| held.task));
        }
    }

    async fn more(&self, than: usize) {
        until("more submissions", async || (self.acknowledged.load(Ordering::Relaxed) > than).then_some(()))
            .await;
    }
}

fn succeeded(task: &LeasedTask) -> EndAttempt {
    let (held, ending) = (task.held(), Ending::Succeeded);
    EndAttempt { held, events: Vec::new(), ending, result: Some(json("1")), roll: 0.5 }
}

#[tokio::test]
async fn postgres_killed_in_the_middle_loses_and_doubles_nothing() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let world = World::on(&server).await;
    let crews = [world.worker("w0").await, world.worker("w1").await, world.worker("w2").await];
    let known = Known::default();
    let work = futures_util::future::join_all(crews.iter().map(|crew| known.works(&world, crew)));
    let submit = futures_util::future::join_all((0..4).map(|client| known.submits(&world, client)));
    let harm = async {
        for _ in 0..3 {
            let (before, outages) = (known.acknowledged.load(Ordering::Relaxed), &known.outages);
            known.more(before + 20).await;
            let told = outages.load(Ordering::Relaxed);
            outside(&server, Postgres::kill).await;
            until("all to be told", async || (outages.load(Ordering::Relaxed) > told + 7).then_some(()))
                .await;
            outside(&server, Postgres::start_again).await;
        }
        known.more(known.acknowledged.load(Ordering::Relaxed) + 20).await;
        known.enough.store(true, Ordering::Relaxed);
    };
    futures_util::join!(work, submit, harm);
    let submitted = known.submitted.into_inner();
    let ids: HashSet<TaskId> = submitted.iter().copied().collect();
    assert_eq!(ids.len(), submitted.len());
    let stored = everything(&world.store).await;
    assert_eq!(stored.iter().map(|task| task.id).collect::<HashSet<_>>(), ids, "none lost, none twice");
    assert_eq!(known.ended.into_inner(), ids);
    for task in &stored {
        // Nobody's lease expired for the time that the server was away.
        assert_eq!((task.state, task.attempts, task.interrupted), (State::Succeeded, 1, 0));
    }
    assert_eq!(world.store.counts().await.unwrap()[0].succeeded, ids.len() as u64);
}

#[tokio::test]
async fn leases_do_not_expire_for_the_time_that_postgres_was_away() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let world = World::on(&server).await;
    world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    world.tick(LEASE - Duration::from_secs(5)).await;
    outside(&server, Postgres::kill).await;
    let hour = Some(Duration::from_secs(3600));
    world.pass(Duration::from_secs(3600));
    let tick = world.store.tick(world.epoch, hour, true, world.now(), 0.5);
    assert!(answered(tick).await.is_none());
    outside(&server, Postgres::start_again).await;
    let ticked = until("it to be back", async || {
        answered(world.store.tick(world.epoch, hour, true, world.now(), 0.5)).await
    });
    assert_eq!(ticked.await.expired, []);
    world.beat(&crew, vec![held], 1).await.unwrap();
    assert_eq!(world.tick(LEASE - Duration::from_secs(2)).await, []);
    assert!(world.end(&crew, held, Ending::Succeeded).await);
}

#[tokio::test]
async fn a_server_that_stands_still_is_told_and_goes_on() {
    let Some(server) = Postgres::start() else { return };
    let server = Arc::new(server);
    let world = World::on(&server).await;
    let crew = world.worker("w").await;
    // For a moment: whoever asked meanwhile is answered.
    outside(&server, Postgres::pause).await;
    let (submitted, _) = futures_util::join!(
        world.store.submit(vec![new_task()], None, world.now()),
        outside(&server, Postgres::resume),
    );
    let first = submitted.unwrap().ids[0];
    // For longer: everybody is told, whatever they ask.
    outside(&server, Postgres::pause).await;
    let (submitted, claimed, seen, listed) = futures_util::join!(
        answered(world.store.submit(vec![new_task()], None, world.now())),
        answered(world.claim(&crew, 1, 1)),
        answered(world.beat(&crew, Vec::new(), 0)),
        answered(world.store.lead(Uuid::new_v4())),
    );
    assert!(submitted.is_none() && claimed.is_none() && seen.is_none() && listed.is_none());
    outside(&server, Postgres::resume).await;
    let claimed = until("it to go on", async || answered(world.claim(&crew, 1, 1)).await).await;
    assert_eq!(claimed[0].id, first);
    world.submit(new_task()).await;
}

#[tokio::test]
async fn too_few_connections_are_shared_and_none_at_all_is_an_outage() {
    let server = Postgres::options().setting("max_connections", "8").setting("max_wal_senders", "0");
    let Some(server) = server.start() else { return };
    let world = World::on(&server).await;
    let many = ConnectOptions { connections: 16, ..world.options().clone() };
    let other = Store::connect(&many, world.now()).await.unwrap();
    let counted = (0..100).map(|_| answered(other.counts()));
    let counted = futures_util::future::join_all(counted).await;
    assert!(counted.iter().all(Option::is_some), "they wait for each other");
    drop(other);
    // Now others have them all.
    let first = world.client().await;
    let mut taken: BTreeMap<usize, tokio_postgres::Client> = BTreeMap::new();
    until("all connections to be taken", async || {
        let end =
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'longshore'";
        first.batch_execute(end).await.unwrap();
        match tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                taken.insert(taken.len(), client);
                (taken.len() == 7).then_some(())
            }
            Err(_) => None,
        }
    })
    .await;
    assert!(answered(world.store.submit(vec![new_task()], None, world.now())).await.is_none());
    drop(taken);
    let submit = async || answered(world.store.submit(vec![new_task()], None, world.now())).await;
    until("room", submit).await;
}

#[tokio::test]
async fn tasks_run_again_whose_workers_row_was_lost() {
    let Some(world) = World::shared().await else { return };
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(world.client().await.execute("DELETE FROM worker", &[]).await.unwrap(), 1);
    let mut expired = Vec::new();
    for _ in 0..5 {
        expired.extend(world.tick(Duration::from_secs(20)).await);
    }
    assert_eq!(expired, [held], "at the latest a minute after its lease has ended");
    assert_eq!(world.task(id).await.state, State::Queued);
    world.clean_up().await;
}
