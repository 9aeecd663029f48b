//! Requests that are too large, odd, or for nobody.

use std::collections::HashMap;

use longshore_core::task::State;
use longshore_simulate::Options;
use serde_json::json;

use super::fake::{Scripts, answer, chat_answer};
use super::scene::{ALL, Ask, Case, Kept, ONE, Scene, Sees, fleet};

fn good(cases: &[&'static str]) -> Scripts {
    cases
        .iter()
        .map(|case| (*case, vec![vec![answer(200, "application/json", &[], &chat_answer())]]))
        .collect()
}

fn refused(ask: Ask, status: u16, code: &'static str, says: &'static str) -> Case {
    Case { ask, sees: Sees::Refused(status, code, says), received: 0, kept: Kept::Nothing }
}

#[tokio::test]
async fn a_request_of_a_hundred_mebibytes_is_refused_in_the_providers_form() {
    let scene = Scene::start(Vec::new(), good(&["huge", "huge-messages", "large"])).await;
    let pad = 100 << 20;
    let body = r#"{"model":"m","messages":[{"role":"user","content":"PAD"}]}"#;
    let huge = Ask::chat("fake", "huge").with_body(body, pad);
    let messages = Ask::messages("fake-claude", "huge-messages").with_body(body, pad);
    let large = Case {
        ask: Ask::chat("fake", "large").with_body(body, 16 << 20),
        sees: Sees::Whole(200, "hi"),
        received: 1,
        kept: Kept::Answered(0),
    };
    scene
        .check(vec![
            refused(huge, 413, "request_too_large", "more than 64 MiB"),
            refused(messages, 413, "request_too_large", "more than 64 MiB"),
            large,
        ])
        .await;
    assert_eq!(
        scene.fake.received("large")[0].body.len(),
        body.len() - 3 + (16 << 20),
        "sent as it was written"
    );
}

#[tokio::test]
async fn providers_that_are_not_there_or_not_the_fleets_are_told_apart() {
    let scene = Scene::start(Vec::new(), good(&["nobody", "unlisted"])).await;
    scene
        .check(vec![
            refused(
                Ask::chat("nobody", "nobody"),
                404,
                "unknown_provider",
                "no provider `nobody` is declared",
            ),
            refused(Ask::chat("unlisted", "unlisted"), 403, "provider_not_allowed", "list it in `providers`"),
        ])
        .await;
}

#[tokio::test]
async fn what_is_no_model_call_goes_through_and_is_only_counted() {
    let list = br#"{"object":"list","data":[]}"#;
    let scripts = HashMap::from([
        ("models", vec![vec![answer(200, "application/json", &[("x-ratelimit-limit-requests", "5")], list)]]),
        (
            "missing",
            vec![vec![answer(404, "application/json", &[], br#"{"error":{"message":"no such file"}}"#)]],
        ),
        ("count", vec![vec![answer(200, "application/json", &[], br#"{"input_tokens":3}"#)]]),
        ("deleted", vec![vec![answer(204, "text/plain", &[], b"")]]),
    ]);
    let scene = Scene::start(Vec::new(), scripts).await;
    let asks = [
        (Ask::get("fake", "/models?limit=2", "models"), "GET /v1/models?limit=2", 200),
        (Ask::get("fake", "/files/f", "missing"), "GET /v1/files/f", 404),
        (Ask::get("fake", "/files/g", "deleted").method("DELETE"), "DELETE /v1/files/g", 204),
        (count("count"), "POST /v1/messages/count_tokens", 200),
    ];
    let head = Ask::get("fake", "/models", "head").method("HEAD");
    let calls: Vec<&Ask> = asks.iter().map(|(ask, ..)| ask).chain([&head]).collect();
    let id = scene.submit(&calls, json!({})).await;
    scene.plane.reaches(id, State::Succeeded).await;
    let mut replies = scene.replies(id, 1).await;
    let refused = replies.pop().expect("the HEAD's");
    assert_eq!((refused.status, refused.size, scene.received("head")), (Some(405), 0, 0), "{refused:#?}");
    for ((ask, line, status), reply) in asks.iter().zip(&replies) {
        let (status, outcome) = (Some(*status), "whole");
        assert_eq!((reply.status, reply.outcome.as_str()), (status, outcome), "{reply:#?}");
        assert_eq!(reply.headers.get("x-should-retry"), None, "the provider did not say so: {reply:#?}");
        let received = scene.fake.received(ask.name());
        assert_eq!(received.iter().map(|it| it.line.as_str()).collect::<Vec<_>>(), [*line]);
    }
    assert_eq!(replies[0].text.as_bytes(), list);
    assert!(replies[0].headers.contains_key("x-ratelimit-limit-requests"), "{:#?}", replies[0]);
    let journal = scene.journal(id).await;
    assert_eq!((journal.calls.len(), journal.totals.passed, journal.totals.live), (0, 4, 0), "{journal:#?}");
}

fn count(case: &str) -> Ask {
    Ask::post("fake-claude", "/v1/messages/count_tokens", case)
}

#[tokio::test]
async fn a_model_that_does_not_exist_is_told_by_the_provider() {
    let options = Options { models: vec!["known".to_owned()], ..Options::default() };
    let scene = Scene::with_sim(options, HashMap::new(), &fleet("a", &format!("{ONE}{ALL}"))).await;
    let case = |ask, says| Case { ask, sees: Sees::Kept(404, says), received: 1, kept: Kept::Answered(0) };
    scene
        .check(vec![
            case(Ask::chat("openai", "unheard-of"), "model_not_found"),
            case(Ask::messages("anthropic", "unheard-of-either"), "not_found_error"),
        ])
        .await;
}
