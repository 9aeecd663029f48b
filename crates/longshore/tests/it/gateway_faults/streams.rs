//! Streams that break, lie, fall silent or never end.

use std::collections::HashMap;

use longshore_core::task::State;
use longshore_simulate::{Fault, What};
use serde_json::json;

use super::fake::{Act, DONE, STOP, done, said, stream};
use super::scene::{Ask, Case, Kept, Scene, Sees, fault};

fn chat(provider: &str, case: &str) -> Ask {
    Ask::chat(provider, case).streamed()
}

#[tokio::test]
async fn a_stream_that_breaks_off_breaks_the_agents_connection_and_is_bought_again() {
    let broken = vec![
        fault("cut-chat", What::DropMidStream { after_chunks: 3 }),
        fault("cut-responses", What::DropMidStream { after_chunks: 5 }),
        fault("cut-messages", What::DropMidStream { after_chunks: 4 }),
    ];
    let scene = Scene::start(broken, HashMap::new()).await;
    let asks = [
        chat("openai", "cut-chat"),
        Ask::responses("openai", "cut-responses").streamed(),
        Ask::messages("anthropic", "cut-messages").streamed(),
    ];
    let mut ids = Vec::new();
    for ask in &asks {
        ids.push(scene.submit(&[ask], json!({"first": "fails"})).await);
    }
    for (ask, id) in asks.iter().zip(ids) {
        let task = scene.plane.reaches(id, State::Succeeded).await;
        let (first, second) = (scene.replies(id, 1).await.remove(0), scene.replies(id, 2).await.remove(0));
        assert_eq!((first.status, first.outcome.as_str()), (Some(200), "broken"), "{first:#?}");
        assert!(first.text.contains("data: "), "it saw the beginning: {first:#?}");
        assert_eq!((second.status, second.outcome.as_str()), (Some(200), "whole"), "{second:#?}");
        assert_eq!(scene.received(ask.name()), 2, "bought again");
        assert_eq!((task.failed_attempts, task.interrupted), (1, 0), "{task:#?}");
        let journal = scene.journal(id).await;
        let calls: Vec<_> = journal
            .calls
            .iter()
            .map(|call| {
                (call.generation, call.state.as_str(), call.maybe_billed, call.asks[0].state.as_str())
            })
            .collect();
        assert_eq!(calls, [(0, "given_up", 1, "failed"), (1, "answered", 0, "delivered")], "{journal:#?}");
        assert_eq!((journal.totals.live, journal.totals.maybe_billed), (1, 1), "{journal:#?}");
    }
}

#[tokio::test]
async fn what_the_agent_saw_nothing_of_is_tried_again() {
    let faults = vec![
        fault("head-only", What::DropMidStream { after_chunks: 0 }),
        fault("no-head", What::DropBeforeHead),
        fault("error-first", What::ErrorEventMidStream { after_chunks: 0 }),
        fault("error-first-responses", What::ErrorEventMidStream { after_chunks: 0 }),
        fault("error-first-messages", What::ErrorEventMidStream { after_chunks: 0 }),
    ];
    let scripts = HashMap::from([("empty", vec![[stream(&[]), vec![done()]].concat(), good()])]);
    let scene = Scene::start(faults, scripts).await;
    let case = |ask: Ask, says, billed| Case {
        ask,
        sees: Sees::Whole(200, says),
        received: 2,
        kept: Kept::Answered(billed),
    };
    let responses = Ask::responses("openai", "error-first-responses").streamed();
    let messages = Ask::messages("anthropic", "error-first-messages").streamed();
    scene
        .check(vec![
            case(chat("openai", "head-only"), "[DONE]", 1),
            case(chat("openai", "no-head"), "[DONE]", 1),
            case(chat("openai", "error-first"), "[DONE]", 0),
            case(responses, "response.created", 0),
            case(messages, "message_start", 0),
            case(chat("fake", "empty"), "[DONE]", 1),
        ])
        .await;
}

#[tokio::test]
async fn an_error_event_that_stays_first_becomes_an_error_status() {
    let first = What::ErrorEventMidStream { after_chunks: 0 };
    let faults = vec![
        fault("chat-error", first).times(Fault::ALWAYS),
        fault("responses-error", first).times(Fault::ALWAYS),
    ];
    let scene = Scene::start(faults, HashMap::new()).await;
    let sees = || Sees::Refused(500, "provider_error", "The server had an error");
    let case = |ask| Case { ask, sees: sees(), received: 5, kept: Kept::Nothing };
    let responses = Ask::responses("openai", "responses-error").streamed();
    scene.check(vec![case(chat("openai", "chat-error")), case(responses)]).await;
}

/// A stream as it should be.
fn good() -> Vec<Act> {
    [stream(&[&said("hi"), STOP, DONE]), vec![done()]].concat()
}

#[tokio::test]
async fn an_unfinished_stream_is_shown_to_its_end_and_not_kept() {
    let faults = vec![
        fault("no-finish", What::NoFinish),
        fault("error-later", What::ErrorEventMidStream { after_chunks: 3 }),
        fault("error-later-messages", What::ErrorEventMidStream { after_chunks: 3 }),
    ];
    let half = r#"data: {"id":"c1","choices":[{"index":0,"delta":{"content":"#;
    let garbled = [stream(&[&said("one"), half, "\n\n", "data: what?\n\n", "nonsense\n\n"]), vec![done()]];
    let short = said("hello");
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{short}{}{STOP}{DONE}",
        short.len() + 20,
        said("cut here"),
    );
    let scripts = HashMap::from([
        ("garbled", vec![garbled.concat()]),
        ("too-short", vec![vec![Act::Write(head.into_bytes()), Act::Close]]),
    ]);
    let scene = Scene::start(faults, scripts).await;
    let case = |ask, says| Case { ask, sees: Sees::Whole(200, says), received: 1, kept: Kept::GivenUp(1) };
    let messages = Ask::messages("anthropic", "error-later-messages").streamed();
    scene
        .check(vec![
            case(chat("openai", "no-finish"), "data: "),
            case(chat("openai", "error-later"), "The server had an error"),
            case(messages, "overloaded_error"),
            case(chat("fake", "garbled"), "nonsense"),
            case(chat("fake", "too-short"), "hello"),
        ])
        .await;
}

#[tokio::test]
async fn a_stream_with_a_damaged_event_is_kept_if_it_says_how_it_ended() {
    let damaged = "data: {\"id\":\"c1\",\"choices\":[{\"index\":0,\n\n";
    let script = [stream(&[&said("one"), damaged, STOP, DONE]), vec![done()]].concat();
    let scene = Scene::start(Vec::new(), HashMap::from([("damaged", vec![script])])).await;
    let sees = Sees::Whole(200, "[DONE]");
    let ask = chat("fake", "damaged");
    scene.check(vec![Case { ask, sees, received: 1, kept: Kept::Answered(0) }]).await;
}

#[tokio::test]
async fn a_silent_provider_is_left_after_its_time_out() {
    let faults = vec![
        fault("stalls", What::Stall { after_chunks: 2 }),
        fault("late", What::LateAnswer { ms: 60_000 }),
        fault("late-stream", What::LateAnswer { ms: 60_000 }),
        fault("slow-first", What::SlowFirstToken { ms: 60_000 }),
        fault("stalls-whole", What::Stall { after_chunks: 1 }),
    ];
    // Its last event has come, so it is whole, whether the connection ends or not.
    let open = [stream(&[&said("hi"), STOP, DONE]), vec![Act::Silence]].concat();
    let scripts = HashMap::from([("never-ends", vec![open])]);
    let scene = Scene::start(faults, scripts).await;
    let late = |ask, says| Case {
        ask,
        sees: Sees::Refused(504, "provider_timeout", says),
        received: 1,
        kept: Kept::GivenUp(1),
    };
    let broken = Case {
        ask: chat("hasty", "stalls"),
        sees: Sees::Broken("data: "),
        received: 1,
        kept: Kept::GivenUp(1),
    };
    let never_ends = Case {
        ask: chat("fake", "never-ends"),
        sees: Sees::Whole(200, "[DONE]"),
        received: 1,
        kept: Kept::Answered(0),
    };
    scene
        .check(vec![
            broken,
            never_ends,
            late(Ask::chat("hasty", "late"), "did not answer within 2s"),
            late(chat("hasty", "late-stream"), "did not answer within 2s"),
            late(chat("hasty", "slow-first"), "fell silent"),
            late(Ask::chat("hasty", "stalls-whole"), "fell silent"),
        ])
        .await;
}

#[tokio::test]
async fn endless_streams_are_stopped_and_cost_bounded_memory() {
    let faults = vec![fault("endless-line", What::EndlessChunks)];
    let events = said(&"x".repeat(60_000));
    let size = format!("{:x}\r\n{events}\r\n", events.len()).into_bytes();
    let mut endless = stream(&[]);
    endless.extend([Act::Repeat(size, 5_000), done()]);
    let scene = Scene::start(faults, HashMap::from([("endless-events", vec![endless])])).await;
    let before = super::memory(scene.plane.pid());
    let case = |ask| Case { ask, sees: Sees::Broken("data: "), received: 1, kept: Kept::GivenUp(1) };
    scene.check(vec![case(chat("openai", "endless-line")), case(chat("fake", "endless-events"))]).await;
    let grown = super::memory(scene.plane.pid()).saturating_sub(before);
    assert!(grown < 400, "serve grew by {grown} MiB");
}
