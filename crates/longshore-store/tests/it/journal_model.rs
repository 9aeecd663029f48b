//! The store's journal beside the protocol's own state machine: the same events, the same answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_core::id::{Held, TaskId};
use longshore_core::journal::{self, Journal};
use longshore_core::task::Interruption;
use longshore_store::*;
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::*;

/// One step; numbers choose among what there is at that moment.
#[derive(Clone, Debug)]
enum Step {
    Ask { attempt: u8, request: u8, retry: bool },
    Repeat { ask: u8 },
    MaySend { flight: u8 },
    Answer { flight: u8 },
    Refuse { flight: u8, billed: bool },
    Ended { ask: u8, whole: bool },
    Restart,
    Interrupt,
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (any::<u8>(), 0..3u8, prop::bool::weighted(0.3))
            .prop_map(|(attempt, request, retry)| Step::Ask { attempt, request, retry }),
        3 => any::<u8>().prop_map(|ask| Step::Repeat { ask }),
        2 => any::<u8>().prop_map(|flight| Step::MaySend { flight }),
        8 => any::<u8>().prop_map(|flight| Step::Answer { flight }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(flight, billed)| Step::Refuse { flight, billed }),
        6 => (any::<u8>(), prop::bool::weighted(0.7)).prop_map(|(ask, whole)| Step::Ended { ask, whole }),
        1 => Just(Step::Restart),
        2 => Just(Step::Interrupt),
        2 => Just(Step::Fail),
    ]
}

#[derive(Clone)]
struct Ask {
    call: Arc<NewCall>,
    key: CallKey,
    mirror: (journal::Key, u64, u64),
    request: u8,
}

/// A call that a gateway makes: its key on both sides, and who owns it.
struct Flight {
    ask: Ask,
    owner: (Uuid, u64),
}

struct Pair {
    world: World,
    crew: Crew,
    task: TaskId,
    mirror: Journal,
    seq: u64,
    attempts: Vec<Held>,
    asks: Vec<Ask>,
    flights: Vec<Flight>,
    owner: (Uuid, u64),
    calls: u64,
    answers: u64,
}

fn nonce(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n) + 1)
}

fn request(n: u8) -> Arc<NewRequest> {
    let items = (0..=n).map(|n| format!("\"message {n}\"")).collect();
    Arc::new(NewRequest::new(&[&[n]], "{\"messages\":null}".into(), Some("messages".into()), items))
}

impl Pair {
    async fn new(world: World) -> Pair {
        let task = world.submit(NewTask { max_attempts: 1000, ..new_task() }).await;
        let crew = world.worker("w").await;
        let owner = (nonce(1), 1);
        world.store.gateway_starts("one".into(), owner.0).await.unwrap();
        let mut mirror = Journal::default();
        mirror.owner_starts(1);
        let mut pair = Pair {
            world,
            crew,
            task,
            mirror,
            seq: 0,
            attempts: Vec::new(),
            asks: Vec::new(),
            flights: Vec::new(),
            owner,
            calls: 0,
            answers: 0,
        };
        pair.claim().await;
        pair
    }

    async fn claim(&mut self) {
        self.seq += 1;
        self.world.tick(std::time::Duration::from_secs(400)).await;
        let held = self.world.claim_one(&self.crew, self.seq).await.held();
        self.mirror.grant(held.fence.0);
        self.attempts.push(held);
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Ask { attempt, request: n, retry } => {
                let held =
                    self.attempts[self.attempts.len() - 1 - usize::from(attempt) % self.attempts.len()];
                self.calls += 1;
                let call = NewCall {
                    held,
                    fleet: fleet("a"),
                    call: nonce(1000 + self.calls),
                    owner: self.owner.0,
                    provider: "openai".into(),
                    path: "/v1/chat/completions".into(),
                    model: Some("m".into()),
                    currency: "USD".into(),
                    request: request(n),
                    retry,
                    undelivered: Vec::new(),
                };
                self.ask(Arc::new(call), n, self.calls).await;
            }
            Step::Repeat { ask } => {
                if let Some(ask) = pick(&self.asks, ask).cloned() {
                    let call = NewCall { owner: self.owner.0, ..(*ask.call).clone() };
                    self.ask(Arc::new(call), ask.request, ask.mirror.2).await;
                }
            }
            Step::MaySend { flight } => {
                let Some(at) = index(&self.flights, flight) else { return };
                let it = &self.flights[at];
                let ours = self.world.store.may_send(it.ask.key, it.owner.0).await.unwrap();
                assert_eq!(ours, self.mirror.may_send(it.ask.mirror.0, it.owner.1));
                if !ours {
                    self.flights.remove(at);
                }
            }
            Step::Answer { flight } => {
                let Some(at) = index(&self.flights, flight) else { return };
                let it = self.flights.remove(at);
                self.answers += 1;
                let outcome = self.world.store.answer_call(
                    it.ask.key,
                    Arc::new(NewCall { owner: it.owner.0, ..(*it.ask.call).clone() }),
                    answer(self.answers),
                    self.world.now(),
                );
                let stored = outcome.await.unwrap() == AnswerOutcome::Stored;
                let (key, fence, _) = it.ask.mirror;
                assert_eq!(stored, self.mirror.answer(key, it.owner.1, fence, self.answers));
            }
            Step::Refuse { flight, billed } => {
                let Some(at) = index(&self.flights, flight) else { return };
                let it = self.flights.remove(at);
                self.world.store.fail_call(it.ask.key, it.owner.0, billed.into()).await.unwrap();
                self.mirror.fail(it.ask.mirror.0, it.owner.1, billed.into());
            }
            Step::Ended { ask, whole } => {
                let Some(ask) = pick(&self.asks, ask).cloned() else { return };
                let ended = self.world.store.call_ended(ask.key, ask.call.held, ask.call.call, whole);
                ended.await.unwrap();
                self.mirror.ended((ask.mirror.1, ask.mirror.2), whole);
            }
            Step::Restart => {
                self.mirror.owner_is_gone(self.owner.1);
                self.owner = (nonce(self.owner.1 + 1), self.owner.1 + 1);
                self.mirror.owner_starts(self.owner.1);
                self.world.store.gateway_starts("one".into(), self.owner.0).await.unwrap();
            }
            Step::Interrupt => {
                // No crash: three of those would be poison.
                let end = WorkerEnd {
                    worker: self.crew.id.clone(),
                    nonce: None,
                    cause: Interruption::WorkerEnded,
                    why: "gone".into(),
                };
                self.world.store.worker_ended(end, 0.5, self.world.now()).await.unwrap();
                self.mirror.interrupt();
                self.crew = self.world.worker(&format!("w{}", self.calls + self.seq + 1)).await;
                self.seq = 0;
                self.claim().await;
            }
            Step::Fail => {
                let held = *self.attempts.last().unwrap();
                assert!(self.world.end(&self.crew, held, failed("exit_status")).await);
                self.mirror.fail_attempt();
                self.claim().await;
            }
        }
    }

    async fn ask(&mut self, call: Arc<NewCall>, request: u8, number: u64) {
        let fence = call.held.fence.0;
        let begun = self.world.store.begin_call((*call).clone(), self.world.now()).await;
        let mirrored = self.mirror.begin((fence, number), request.into(), call.retry, self.owner.1);
        let (begun, mirrored) = match (begun, mirrored) {
            (Err(CallError::StaleFence), None) => return,
            (Ok(begun), Some(mirrored)) => (begun, mirrored),
            (begun, mirrored) => panic!("{begun:?} but {mirrored:?}"),
        };
        let key = mirrored.key();
        assert_eq!((begun.key.generation, begun.key.occurrence), (key.generation, key.occurrence));
        let ask = Ask { call, key: begun.key, mirror: (key, fence, number), request };
        self.asks.retain(|known| known.mirror.2 != number);
        self.asks.push(ask.clone());
        match (begun.what, mirrored) {
            (BegunCall::Replay(answer), journal::Begun::Replay { answer: expected, .. }) => {
                assert_eq!(answer.body.unpack().unwrap(), body(expected));
                self.mirror.ended((fence, number), true);
            }
            (BegunCall::Join, journal::Begun::Join { .. }) => {}
            (BegunCall::Live, journal::Begun::Live { .. }) => {
                self.flights.push(Flight { ask, owner: self.owner });
            }
            (what, expected) => panic!("{what:?} but {expected:?}"),
        }
    }

    /// Everything that is shown agrees.
    async fn check(&self) {
        let record = self.world.store.journal(self.task).await.unwrap().unwrap();
        assert_eq!(record.generation, self.mirror.generation());
        let calls: BTreeMap<_, _> = record
            .calls
            .iter()
            .map(|call| {
                let n = (0..3).find(|n| request(*n).digest == call.digest).unwrap();
                let key = (call.generation, u64::from(n), call.occurrence);
                (key, (call.open, call.status.is_some(), call.maybe_billed, call.inherited))
            })
            .collect();
        let mirrored: BTreeMap<_, _> = self
            .mirror
            .entries()
            .map(|(key, entry)| {
                let it = (entry.owner.is_some(), entry.answer.is_some(), entry.maybe_billed, entry.inherited);
                ((key.generation, key.request, key.occurrence), it)
            })
            .collect();
        let without_marks = |all: &BTreeMap<Shown, Stands>| {
            all.iter().map(|(key, it)| (*key, (it.0, it.1, it.3))).collect::<Vec<_>>()
        };
        assert_eq!(without_marks(&calls), without_marks(&mirrored));
        let own =
            |all: &BTreeMap<Shown, Stands>| -> u32 { all.values().filter(|it| !it.3).map(|it| it.2).sum() };
        assert_eq!(own(&calls), own(&mirrored), "marks");
    }
}

/// Generation, request, occurrence.
type Shown = (u32, u64, u32);

/// Somebody is at it, answered, marks, inherited.
type Stands = (bool, bool, u32, bool);

fn body(answer: u64) -> Vec<u8> {
    format!("answer {answer}").into_bytes()
}

fn answer(n: u64) -> NewAnswer {
    NewAnswer {
        status: 200,
        headers: json("[]"),
        body: Packed::new(&body(n)),
        used: Some(Used { input: 10, cached: 0, output: 5 }),
        cost_nano: 7,
        waited_ms: 0,
        first_ms: 1,
        total_ms: 2,
        maybe_billed: 0,
        deliver: false,
    }
}

fn index<T>(all: &[T], choice: u8) -> Option<usize> {
    (!all.is_empty()).then(|| usize::from(choice) % all.len())
}

fn pick<T>(all: &[T], choice: u8) -> Option<&T> {
    index(all, choice).map(|at| &all[at])
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step(), 1..60)
}

async fn follow(world: World, steps: &[Step]) {
    let mut pair = Pair::new(world).await;
    for step in steps {
        pair.take(step).await;
        pair.check().await;
    }
    pair.world.clean_up().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_store_follows_the_protocol(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { follow(World::embedded().await, &steps).await });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn the_shared_store_follows_the_protocol(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let Some(world) = World::shared().await else { return };
            follow(world, &steps).await;
        });
    }
}
