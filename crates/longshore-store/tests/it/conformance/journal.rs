use std::sync::Arc;

use longshore_core::id::Held;
use longshore_core::task::{Ending, OnInterrupt, State};
use longshore_core::wait::{Awaits, InputRefused, Which};
use longshore_store::*;
use uuid::Uuid;

use crate::support::*;

const OWNER: Uuid = Uuid::from_u128(7);

async fn gateway(world: &World, nonce: Uuid) {
    world.store.gateway_starts("one".into(), nonce).await.unwrap();
}

fn call(held: Held, text: &str, history: usize) -> NewCall {
    let items = (0..history).map(|n| format!("{{\"content\":\"{text} {n}\"}}")).collect();
    let request = NewRequest::new(
        &[text.as_bytes(), &history.to_be_bytes()],
        "{\"messages\":null,\"model\":\"m\"}".into(),
        Some("messages".into()),
        items,
    );
    NewCall {
        held,
        fleet: fleet("a"),
        call: Uuid::new_v4(),
        owner: OWNER,
        provider: "openai".into(),
        path: "/v1/chat/completions".into(),
        model: Some("m".into()),
        currency: "USD".into(),
        request: Arc::new(request),
        retry: false,
        undelivered: Vec::new(),
    }
}

fn answer(text: &str) -> NewAnswer {
    NewAnswer {
        status: 200,
        headers: json(r#"[["content-type","application/json"]]"#),
        body: Packed::new(text.as_bytes()),
        used: Some(Used { input: 100, cached: 10, output: 20 }),
        cost_nano: 1_500,
        waited_ms: 1,
        first_ms: 2,
        total_ms: 3,
        maybe_billed: 0,
        deliver: true,
    }
}

/// Asks, and answers if there was no answer; returns what the agent gets.
async fn ask(world: &World, call: NewCall, would_be: &str) -> String {
    let begun = world.store.begin_call(call.clone(), world.now()).await.unwrap();
    match begun.what {
        BegunCall::Replay(stored) => String::from_utf8(stored.body.unpack().unwrap()).unwrap(),
        BegunCall::Join => panic!("nobody else is at it"),
        BegunCall::Live => {
            let stored =
                world.store.answer_call(begun.key, Arc::new(call), answer(would_be), world.now()).await;
            assert_eq!(stored.unwrap(), AnswerOutcome::Stored);
            would_be.to_owned()
        }
    }
}

pub async fn an_interrupted_task_gets_its_answers_again(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for n in 0..3 {
        ask(world, call(held, "hi", n), &format!("first {n}")).await;
    }
    world.crash(&crew).await;
    let again = world.worker("v").await;
    let held = world.claim_one(&again, 1).await.held();
    for n in 0..3 {
        assert_eq!(ask(world, call(held, "hi", n), "bought again").await, format!("first {n}"));
    }
    assert_eq!(ask(world, call(held, "hi", 9), "new").await, "new");
    let counts = world.store.call_counts(id).await.unwrap();
    assert_eq!((counts.live, counts.replayed, counts.maybe_billed), (4, 3, 0));
    assert_eq!((counts.used.input, counts.saved_tokens, counts.saved_nano), (400, 360, 4_500));
    let usage = world.store.usage(Some(fleet("a"))).await.unwrap();
    assert_eq!((usage.len(), usage[0].live, usage[0].replayed, usage[0].saved_nano), (1, 4, 3, 4_500));
    world.end(&again, held, Ending::Succeeded).await;
    let replays = world.store.replays().await.unwrap();
    assert_eq!((replays[0].replayed, replays[0].bought_again, replays[0].diverged), (3, 0, 0));
}

pub async fn a_task_that_waited_gets_its_answers_again(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    assert_eq!(ask(world, call(held, "one", 1), "bought").await, "bought");
    let child =
        NewChild { name: "x".into(), detach: false, task: NewTask { fleet: fleet("b"), ..new_task() } };
    let children = world.store.submit_children(held, fleet("a"), vec![child], world.now()).await.unwrap();
    let all = Awaits::Children { which: Which::All, of: Vec::new(), timeout_ms: None };
    world.end(&crew, held, Ending::Waited(all)).await;
    world.store.cancel(children[0].0.id, None, world.now()).await.unwrap();
    let held = world.claim_one(&crew, 2).await.held();
    assert_eq!(ask(world, call(held, "one", 1), "bought again").await, "bought");
    assert_eq!(ask(world, call(held, "two", 1), "new").await, "new");
    world.end(&crew, held, Ending::Succeeded).await;
    let counts = world.store.call_counts(id).await.unwrap();
    assert_eq!((counts.live, counts.replayed, counts.bought_again), (2, 1, 0));
    assert!(!world.kinds(id).await.contains(&"diverged".into()));
}

pub async fn a_failed_task_asks_anew_for_the_last_answer(world: &World) {
    gateway(world, OWNER).await;
    world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for n in 0..3 {
        ask(world, call(held, "hi", n), &format!("first {n}")).await;
    }
    world.end(&crew, held, failed("exit_status")).await;
    world.tick(std::time::Duration::from_secs(2)).await;
    let held = world.claim_one(&crew, 2).await.held();
    let mut got = Vec::new();
    for n in 0..3 {
        got.push(ask(world, call(held, "hi", n), "anew").await);
    }
    assert_eq!(got, ["first 0", "first 1", "anew"]);
}

pub async fn a_growing_history_is_stored_once(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let mut sizes = Vec::new();
    for n in 1..=40 {
        let call = call(held, &"a long message that says much ".repeat(20), n * 2);
        ask(world, call, &format!("answer {n}")).await;
        sizes.push(world.store.journal(id).await.unwrap().unwrap().stored_bytes);
    }
    let (early, late) = (sizes[10] - sizes[5], sizes[39] - sizes[34]);
    assert!(late < early * 2, "the journal grows faster than the history: {early} then {late}");
    let record = world.store.journal(id).await.unwrap().unwrap();
    let digest = record.calls[39].digest;
    let (head, field, items) = world.store.call_request(id, digest).await.unwrap().unwrap();
    assert_eq!((head.as_str(), field.as_deref()), ("{\"messages\":null,\"model\":\"m\"}", Some("messages")));
    assert_eq!(items, call(held, &"a long message that says much ".repeat(20), 80).request.items);
}

pub async fn another_way_is_told_with_its_first_difference(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    for n in 0..3 {
        ask(world, call(held, "old", n), "a").await;
    }
    world.crash(&crew).await;
    let again = world.worker("v").await;
    let held = world.claim_one(&again, 1).await.held();
    ask(world, call(held, "old", 0), "a").await;
    for n in 1..5 {
        ask(world, call(held, "new", n), "b").await;
    }
    world.end(&again, held, Ending::Succeeded).await;
    assert!(world.kinds(id).await.contains(&"diverged".to_owned()));
    let [divergence] = &world.store.divergences(id).await.unwrap()[..] else {
        panic!("one attempt diverged")
    };
    assert_eq!((divergence.attempt, divergence.counts.bought_again()), (2, 2));
    assert_eq!(divergence.was, Some(call(held, "old", 1).request.digest));
    assert_eq!(divergence.now, Some(call(held, "new", 1).request.digest));
    assert_eq!(world.store.call_counts(id).await.unwrap().bought_again, 2);
}

pub async fn a_stale_fence_and_another_fleet_get_nothing(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let foreign = NewCall { fleet: fleet("b"), ..call(held, "hi", 1) };
    let refused = world.store.begin_call(foreign, world.now()).await;
    assert!(matches!(refused, Err(CallError::OtherFleet)), "{refused:?}");
    world.crash(&crew).await;
    let refused = world.store.begin_call(call(held, "hi", 1), world.now()).await;
    assert!(matches!(refused, Err(CallError::StaleFence)), "{refused:?}");
    let step = world.store.begin_step(held, fleet("a"), "pay".into(), world.now()).await;
    assert!(matches!(step, Err(CallError::StaleFence)), "{step:?}");
    assert!(world.store.journal(id).await.unwrap().unwrap().calls.is_empty());
}

pub async fn an_answer_wakes_who_waits_for_it(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let (first, joined) = (call(held, "hi", 1), call(held, "hi", 1));
    let begun = world.store.begin_call(first.clone(), world.now()).await.unwrap();
    let repeated = NewCall { call: first.call, ..joined };
    let join = world.store.begin_call(repeated.clone(), world.now()).await.unwrap();
    assert!(matches!(join.what, BegunCall::Join));
    let mut wake = world.store.signals().journal(&id);
    world.store.answer_call(begun.key, Arc::new(first), answer("it"), world.now()).await.unwrap();
    wake.wait().await;
    assert_eq!(ask(world, repeated, "never").await, "it");
}

pub async fn steps_run_once_and_outlive_generations(world: &World) {
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let begin = |held| world.store.begin_step(held, fleet("a"), "pay".into(), world.now());
    assert_eq!(begin(held).await.unwrap(), StepBegun::Run { begun: 1 });
    world.crash(&crew).await;
    let again = world.worker("v").await;
    let held = world.claim_one(&again, 1).await.held();
    assert_eq!(begin(held).await.unwrap(), StepBegun::Run { begun: 2 }, "it may have run before");
    let end = |result| world.store.end_step(held, fleet("a"), "pay".into(), json(result), world.now());
    assert_eq!(end("1").await.unwrap(), json("1"));
    assert_eq!(end("2").await.unwrap(), json("1"), "the first result stays");
    world.end(&again, held, failed("exit_status")).await;
    world.tick(std::time::Duration::from_secs(2)).await;
    let held = world.claim_one(&again, 2).await.held();
    assert_eq!(begin(held).await.unwrap(), StepBegun::Done(json("1")));
    let steps = world.store.journal(id).await.unwrap().unwrap().steps;
    assert_eq!((steps.len(), steps[0].begun), (1, 2));
}

pub async fn a_task_that_asks_waits_for_a_person(world: &World) {
    let task = NewTask { on_interrupt: OnInterrupt::Ask, ..new_task() };
    let (kept, given_up) = (world.submit(task.clone()).await, NewTask { id: new_task().id, ..task });
    let given_up = world.submit(given_up).await;
    let crew = world.worker("w").await;
    assert_eq!(world.claim(&crew, 1, 2).await.unwrap().len(), 2);
    world.crash(&crew).await;
    assert_eq!(world.task(kept).await.state, State::Waiting);
    let again = world.worker("v").await;
    assert!(world.claim(&again, 1, 2).await.unwrap().is_empty(), "nothing runs until somebody says so");
    let say =
        |id, word: &str| world.store.input(id, None, longshore_core::json::Json::string(word), world.now());
    assert_eq!(say(kept, "resume").await.unwrap(), InputOutcome::Taken);
    assert_eq!(say(given_up, "fail").await.unwrap(), InputOutcome::Taken);
    let over = InputOutcome::Refused(State::Failed, InputRefused::NotWaiting);
    assert_eq!(say(given_up, "resume").await.unwrap(), over);
    let held = world.claim_one(&again, 1).await.held();
    assert_eq!(held.task, kept);
    world.end(&again, held, Ending::Succeeded).await;
    let kinds = world.kinds(kept).await;
    assert!(kinds.contains(&"waiting".into()) && kinds.contains(&"input".into()), "{kinds:?}");
    assert_eq!(
        world.task(given_up).await.failure.map(|failure| failure.code).as_deref(),
        Some("interrupted")
    );
}

pub async fn an_answer_that_comes_after_its_task_was_deleted_leaves_nothing(world: &World) {
    gateway(world, OWNER).await;
    let id = world.submit(new_task()).await;
    let crew = world.worker("w").await;
    let held = world.claim_one(&crew, 1).await.held();
    let call = call(held, "hi", 2);
    let begun = world.store.begin_call(call.clone(), world.now()).await.unwrap();
    world.end(&crew, held, Ending::Succeeded).await;
    let before = Some(world.now().after(std::time::Duration::from_millis(1)));
    let all = longshore_core::retention::Plan {
        journals_before: before,
        results_before: before,
        tasks_before: before,
        excess: 0,
    };
    while world.store.retain(fleet("a"), all).await.unwrap().more {}
    assert_eq!(world.store.task(id).await.unwrap(), None);
    let late = world.store.answer_call(begun.key, Arc::new(call.clone()), answer("late"), world.now()).await;
    assert_eq!(late.unwrap(), AnswerOutcome::Superseded);
    world.store.fail_call(begun.key, OWNER, 1).await.unwrap();
    world.store.call_ended(begun.key, held, call.call, true).await.unwrap();
    assert_eq!(world.store.call_counts(id).await.unwrap(), CallCounts::default());
    assert_eq!(world.store.journal(id).await.unwrap(), None);
}
