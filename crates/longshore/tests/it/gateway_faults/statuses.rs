//! Errors that providers tell by a status: what is tried again, how long, and what is not.

use std::collections::HashMap;

use longshore_core::task::State;
use longshore_simulate::{Fault, What};
use serde_json::json;

use super::fake::{Act, Scripts, answer, chat_answer};
use super::scene::{Ask, Case, Kept, Reply, Scene, Sees, fault};

const JSON: &str = "application/json";

fn status(status: u16, retry_after_ms: Option<u64>) -> What {
    What::Status { status, retry_after_ms }
}

fn error(ask: Ask, status: u16, says: &'static str, received: u64) -> Case {
    Case { ask, sees: Sees::Error(status, says), received, kept: Kept::Nothing }
}

#[tokio::test]
async fn errors_that_pass_are_waited_out() {
    let faults = vec![
        fault("limited", status(429, Some(1_200))),
        fault("overloaded", What::Overloaded).times(2),
        fault("overloaded-stream", What::Overloaded).times(2),
        fault("failing", status(500, None)).times(4),
        fault("conflict", status(409, None)),
        fault("gateway", status(502, None)),
    ];
    let scene = Scene::start(faults, HashMap::new()).await;
    let case = |ask, received, billed| Case {
        ask,
        sees: Sees::Whole(200, ""),
        received,
        kept: Kept::Answered(billed),
    };
    let chat = |case| Ask::chat("openai", case);
    scene
        .check(vec![
            case(Ask::messages("anthropic", "overloaded"), 3, 0),
            case(Ask::messages("anthropic", "overloaded-stream").streamed(), 3, 0),
            case(chat("failing"), 5, 0),
            case(chat("conflict").streamed(), 2, 0),
            // Something between here and the model gave up, not the model.
            case(chat("gateway"), 2, 1),
        ])
        .await;
    let (task, reply) = run(&scene, &chat("limited")).await;
    assert_eq!((reply.status, scene.received("limited")), (Some(200), 2), "{reply:#?}");
    assert!(reply.ms >= 1_200, "it waited {} ms", reply.ms);
    assert_eq!(scene.journal(task).await.totals.maybe_billed, 0);
}

async fn run(scene: &Scene, ask: &Ask) -> (longshore_core::id::TaskId, Reply) {
    let id = scene.submit(&[ask], json!({})).await;
    scene.plane.reaches(id, State::Succeeded).await;
    (id, scene.replies(id, 1).await.remove(0))
}

#[tokio::test]
async fn errors_that_stay_reach_the_agent_in_the_providers_words_and_its_sdk_does_not_repeat_them() {
    let faults = vec![
        fault("failing", status(500, None)).times(Fault::ALWAYS),
        fault("failing-messages", status(500, None)).times(Fault::ALWAYS),
        fault("unknown-key", status(401, None)),
        fault("forbidden", status(403, None)),
    ];
    let limited = |words: &str| {
        let body = json!({"error": {"message": words, "type": "tokens", "code": "rate_limit_exceeded"}});
        vec![vec![answer(429, JSON, &[("retry-after", "1")], body.to_string().as_bytes())]]
    };
    let never = [("x-should-retry", "false")];
    let scripts: Scripts = HashMap::from([
        (
            "too-large",
            limited("Request too large for m on tokens per min (TPM): Limit 30000, Requested 40000"),
        ),
        ("no-quota", limited("You exceeded your current quota: insufficient_quota")),
        ("forbids", vec![vec![answer(500, JSON, &never, br#"{"error":{"message":"do not ask again"}}"#)]]),
        (
            "moved",
            vec![vec![answer(302, "text/html", &[("location", "http://127.0.0.1:1/x")], b"elsewhere")]],
        ),
        (
            "later",
            vec![vec![answer(
                429,
                JSON,
                &[("retry-after", "3600")],
                br#"{"error":{"message":"in an hour"}}"#,
            )]],
        ),
    ]);
    let scene = Scene::start(faults, scripts).await;
    scene
        .check(vec![
            error(Ask::chat("openai", "failing"), 500, "server_error", 5),
            error(Ask::messages("anthropic", "failing-messages"), 500, "api_error", 5),
            error(Ask::chat("openai", "unknown-key"), 401, "invalid_request_error", 1),
            error(Ask::chat("openai", "forbidden").streamed(), 403, "error", 1),
            error(Ask::chat("fake", "too-large"), 429, "Request too large", 1),
            error(Ask::chat("fake", "no-quota"), 429, "insufficient_quota", 1),
            error(Ask::chat("fake", "forbids"), 500, "do not ask again", 1),
            error(Ask::chat("fake", "moved"), 302, "elsewhere", 1),
            error(Ask::chat("fake", "later"), 429, "in an hour", 1),
        ])
        .await;
}

#[tokio::test]
async fn an_error_whose_words_cannot_be_read_keeps_its_status() {
    let long = [Act::Write(super::fake::head(400, JSON, &[], "content-length: 3145728").into_bytes())];
    let long = [&long[..], &[Act::Repeat(vec![b' '; 1 << 20], 3)]].concat();
    let packed = [("content-encoding", "br")];
    let good = || vec![answer(200, JSON, &[], &chat_answer())];
    let scripts = HashMap::from([
        ("long", vec![long]),
        ("packed", vec![vec![answer(400, JSON, &packed, b"\x0b\x02\x80")]]),
        ("packed-limit", vec![vec![answer(429, JSON, &packed, b"\x0b\x02\x80")], good()]),
    ]);
    let scene = Scene::start(Vec::new(), scripts).await;
    let refused = |case| Case {
        ask: Ask::chat("fake", case),
        sees: Sees::Refused(400, "provider_error", "answered with status 400"),
        received: 1,
        kept: Kept::Nothing,
    };
    let limited = Case {
        ask: Ask::chat("fake", "packed-limit"),
        sees: Sees::Whole(200, "hi"),
        received: 2,
        kept: Kept::Answered(0),
    };
    scene.check(vec![refused("long"), refused("packed"), limited]).await;
}

#[tokio::test]
async fn no_retry_begins_after_the_tasks_deadline() {
    let faults = vec![
        fault("limited", status(429, Some(4_000))).times(Fault::ALWAYS),
        fault("overloaded", What::Overloaded).times(Fault::ALWAYS),
    ];
    let scene = Scene::start(faults, HashMap::new()).await;
    // A wait that would end after the deadline is not begun: the agent hears of it while it can still say something.
    let asks = [(Ask::chat("openai", "limited"), 429), (Ask::messages("anthropic", "overloaded"), 529)];
    let mut ids = Vec::new();
    for (ask, _) in &asks {
        ids.push(scene.submit_for("12s", &[ask]).await);
    }
    for ((ask, status), id) in asks.iter().zip(ids) {
        let task = scene.plane.reaches(id, State::Succeeded).await;
        let reply = scene.replies(id, 1).await.remove(0);
        assert_eq!(reply.status, Some(*status), "{reply:#?}");
        assert_eq!(reply.headers.get("x-should-retry").map(String::as_str), Some("false"), "{reply:#?}");
        assert!(reply.ms < 12_000 && task.attempts.len() == 1, "{reply:#?}\n{task:#?}");
        assert!(scene.received(ask.name()) > 1, "it was tried again while there was time");
    }
    assert!(scene.received("limited") <= 3, "{} calls, 4 s between them", scene.received("limited"));
}
