//! LLM calls that begin at one control plane and go on at another.

use std::sync::Arc;
use std::time::Duration;

use longshore_core::id::Held;
use longshore_store::*;
use uuid::Uuid;

use super::until;
use crate::support::*;

/// A control plane with its gateway.
struct Plane {
    store: Store,
    gateway: Uuid,
    name: &'static str,
}

impl Plane {
    async fn start(store: Store, name: &'static str) -> Plane {
        let gateway = Uuid::new_v4();
        store.gateway_starts(name.into(), gateway).await.unwrap();
        Plane { store, gateway, name }
    }

    async fn shows_itself(&self) {
        assert!(self.store.gateway_seen(self.name.into(), self.gateway).await.unwrap());
    }

    /// The agent's ask, repeated by its relay at this gateway.
    fn call(&self, held: Held, call: Uuid) -> NewCall {
        let items = vec!["{\"content\":\"hi\"}".into()];
        let request = NewRequest::new(&[b"hi"], "{\"messages\":null}".into(), Some("messages".into()), items);
        NewCall {
            held,
            fleet: fleet("a"),
            call,
            owner: self.gateway,
            provider: "openai".into(),
            path: "/v1/chat/completions".into(),
            model: Some("m".into()),
            currency: "USD".into(),
            request: Arc::new(request),
            retry: false,
            undelivered: Vec::new(),
        }
    }

    async fn begin(&self, world: &World, held: Held, call: Uuid) -> Begun {
        self.store.begin_call(self.call(held, call), world.now()).await.unwrap()
    }

    async fn answer(
        &self,
        world: &World,
        begun: &Begun,
        held: Held,
        call: Uuid,
        text: &str,
    ) -> AnswerOutcome {
        let call = Arc::new(self.call(held, call));
        self.store.answer_call(begun.key, call, answer(text), world.now()).await.unwrap()
    }
}

fn answer(text: &str) -> NewAnswer {
    NewAnswer {
        status: 200,
        headers: json("[]"),
        body: Packed::new(text.as_bytes()),
        used: Some(Used { input: 100, cached: 0, output: 20 }),
        cost_nano: 1_500,
        waited_ms: 0,
        first_ms: 1,
        total_ms: 2,
        maybe_billed: 0,
        deliver: false,
    }
}

fn replayed(begun: Begun) -> Option<String> {
    match begun.what {
        BegunCall::Replay(answer) => Some(String::from_utf8(answer.body.unpack().unwrap()).unwrap()),
        _ => None,
    }
}

async fn two_planes(world: &World) -> (Plane, Plane, Held) {
    let one = Plane::start(world.store.clone(), "one").await;
    let two = Plane::start(world.another().await, "two").await;
    world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    (one, two, held)
}

#[tokio::test]
async fn a_call_of_the_other_is_joined_and_answered_once() {
    let Some(world) = World::shared().await else { return };
    let (one, two, held) = two_planes(&world).await;
    let ask = Uuid::new_v4();
    let begun = one.begin(&world, held, ask).await;
    assert!(matches!(begun.what, BegunCall::Live));
    if world.options().redis.is_some() {
        until("the other to hear", async || two.store.wakes().then_some(())).await;
    }
    let mut wake = two.store.signals().journal(&held.task);
    assert!(matches!(two.begin(&world, held, ask).await.what, BegunCall::Join), "its gateway is there");
    assert_eq!(one.answer(&world, &begun, held, ask, "it").await, AnswerOutcome::Stored);
    if world.options().redis.is_some() {
        tokio::time::timeout(Duration::from_secs(20), wake.wait()).await.expect("woken through Redis");
    }
    assert_eq!(replayed(two.begin(&world, held, ask).await).as_deref(), Some("it"));
    let counts = world.store.call_counts(held.task).await.unwrap();
    assert_eq!((counts.live, counts.maybe_billed), (1, 0));
    world.clean_up().await;
}

#[tokio::test]
async fn a_call_of_one_that_fell_silent_is_taken_over_and_its_late_answer_is_not_taken() {
    let Some(world) = World::shared().await else { return };
    let (one, two, held) = two_planes(&world).await;
    let ask = Uuid::new_v4();
    let late = one.begin(&world, held, ask).await;
    // Service time, so that an outage of the database makes nobody silent.
    for _ in 0..2 {
        world.tick(Duration::from_secs(2)).await;
        two.shows_itself().await;
    }
    assert!(matches!(two.begin(&world, held, ask).await.what, BegunCall::Join), "silent for 4 s");
    world.tick(Duration::from_secs(2)).await;
    two.shows_itself().await;
    let taken = two.begin(&world, held, ask).await;
    assert!(matches!(taken.what, BegunCall::Live), "silent for 6 s");
    assert_eq!(taken.key, late.key);
    assert_eq!(one.answer(&world, &late, held, ask, "late").await, AnswerOutcome::Superseded);
    assert!(!one.store.may_send(late.key, one.gateway).await.unwrap());
    one.store.fail_call(late.key, one.gateway, 1).await.unwrap();
    assert_eq!(two.answer(&world, &taken, held, ask, "it").await, AnswerOutcome::Stored);
    assert_eq!(replayed(one.begin(&world, held, ask).await).as_deref(), Some("it"));
    let counts = world.store.call_counts(held.task).await.unwrap();
    assert_eq!((counts.live, counts.maybe_billed), (1, 1), "the first try may have been billed");
    world.clean_up().await;
}

#[tokio::test]
async fn a_gateway_that_started_anew_elsewhere_has_lost_its_calls() {
    let Some(world) = World::shared().await else { return };
    let (one, two, held) = two_planes(&world).await;
    let ask = Uuid::new_v4();
    one.begin(&world, held, ask).await;
    let again = Plane::start(two.store.clone(), "one").await;
    assert!(!one.store.gateway_seen("one".into(), one.gateway).await.unwrap(), "its name is another's");
    assert!(matches!(two.begin(&world, held, ask).await.what, BegunCall::Live));
    again.shows_itself().await;
    world.clean_up().await;
}

#[tokio::test]
async fn asks_at_both_at_once_make_one_call() {
    let Some(world) = World::shared().await else { return };
    let (one, two, held) = two_planes(&world).await;
    for _ in 0..10 {
        let ask = Uuid::new_v4();
        let (first, second) = futures_util::join!(one.begin(&world, held, ask), two.begin(&world, held, ask));
        assert_eq!(first.key, second.key);
        let live = [&first, &second].map(|begun| matches!(begun.what, BegunCall::Live));
        assert_ne!(live[0], live[1], "one makes the call, the other joins");
        let owner = if live[0] { &one } else { &two };
        assert_eq!(owner.answer(&world, &first, held, ask, "it").await, AnswerOutcome::Stored);
        owner.store.call_ended(first.key, held, ask, true).await.unwrap();
    }
    assert_eq!(world.store.call_counts(held.task).await.unwrap().live, 10);
    world.clean_up().await;
}
