//! Each fault, as a client sees it, and as it is billed.

use std::time::{Duration, Instant};

use longshore_simulate::{Options, Totals};
use serde_json::{Value, json};

use crate::client::{Answer, CHAT, Client, MESSAGES, RESPONSES, asked};

async fn failing(fault: &str) -> Client {
    let faults = vec![fault.parse().unwrap_or_else(|error| panic!("{fault}: {error}"))];
    Client::with(Options { faults, ..Options::default() }).await
}

fn streamed(path: &str) -> Value {
    let mut body = asked(path, "hello");
    body["stream"] = json!(true);
    body
}

async fn ask(fault: &str, path: &str, body: &Value) -> (Answer, Totals) {
    let client = failing(fault).await;
    let answer = client.post(path, body).await;
    (answer, client.sim.bill().totals)
}

fn ends(totals: &Totals) -> (u64, u64, u64) {
    (totals.answered, totals.broken, totals.refused)
}

#[tokio::test]
async fn a_status_comes_with_the_asked_wait_and_only_once() {
    let client = failing("nth=2,status=429,retry-after-ms=1500").await;
    let statuses = async |client: &Client| client.post(CHAT, &asked(CHAT, "a")).await;
    assert_eq!(statuses(&client).await.status, 200);
    let refused = statuses(&client).await;
    assert_eq!(refused.status, 429);
    assert_eq!((refused.header("retry-after"), refused.header("retry-after-ms")), ("2", "1500"));
    assert_eq!(statuses(&client).await.status, 200);
    assert_eq!(ends(&client.sim.bill().totals), (2, 0, 1));
}

#[tokio::test]
async fn overloaded_is_529_or_503() {
    let (answer, _) = ask("overloaded", MESSAGES, &asked(MESSAGES, "a")).await;
    assert_eq!((answer.status, answer.json()["error"]["type"].as_str()), (529, Some("overloaded_error")));
    let client = failing("overloaded").await;
    let openai = client.plain("POST", CHAT).json(&asked(CHAT, "a")).send().await.expect("an answer");
    assert_eq!(openai.status(), 503);
}

#[tokio::test]
async fn connections_break_before_the_head_and_in_the_middle() {
    for (fault, stream, tokens) in [
        ("drop-before-head", false, false),
        ("drop-before-head", true, false),
        ("drop-mid-stream=3", false, true),
        ("drop-mid-stream=3", true, true),
        ("drop-mid-stream=9999", true, true),
        ("wrong-content-length", false, true),
        ("wrong-content-length", true, true),
    ] {
        let client = failing(fault).await;
        let body = if stream { streamed(CHAT) } else { asked(CHAT, "hello") };
        client.broken(CHAT, &body).await;
        let totals = client.sim.bill().totals;
        let complete = u64::from(fault == "wrong-content-length");
        assert_eq!(ends(&totals), (complete, 1 - complete, 0), "{fault} {stream}");
        assert_eq!(totals.output_tokens > 0, tokens, "{fault} {stream}: {totals:?}");
    }
}

#[tokio::test]
async fn what_was_sent_before_a_break_arrives() {
    for (fault, events) in [("drop-mid-stream=3", 3), ("wrong-content-length", 0)] {
        let client = failing(fault).await;
        let mut response = client.request(CHAT, &streamed(CHAT)).send().await.expect("a head");
        let mut text = Vec::new();
        while let Ok(Some(piece)) = response.chunk().await {
            text.extend(piece);
        }
        let text = String::from_utf8(text).expect("text");
        match events {
            0 => assert!(text.ends_with("[DONE]\n\n"), "{text}"),
            events => assert_eq!(text.matches("\n\n").count(), events, "{text}"),
        }
    }
}

#[tokio::test]
async fn an_error_comes_inside_a_good_stream() {
    for path in [CHAT, RESPONSES, MESSAGES] {
        let (answer, totals) = ask("error-event=3", path, &streamed(path)).await;
        let events = answer.events();
        assert_eq!((answer.status, events.len()), (200, 4), "{path}");
        let last = &events[3];
        assert!(last["type"] == "error" || last["error"]["type"] == "server_error", "{last}");
        assert_eq!(ends(&totals), (0, 1, 0), "{path}");
    }
    let (answer, totals) = ask("error-event=3", CHAT, &asked(CHAT, "a")).await;
    assert_eq!((answer.status, ends(&totals)), (500, (0, 0, 1)));
}

#[tokio::test]
async fn a_late_answer_is_late_and_a_slow_first_token_comes_after_the_head() {
    let begun = Instant::now();
    let (answer, totals) = ask("late-answer-ms=120", CHAT, &asked(CHAT, "a")).await;
    assert!(begun.elapsed() >= Duration::from_millis(120));
    assert_eq!((answer.status, ends(&totals)), (200, (1, 0, 0)));
    // An hour: the head must be there before.
    let client = failing("slow-first-token-ms=3600000").await;
    let mut response = client.request(CHAT, &streamed(CHAT)).send().await.expect("a head");
    let waited = tokio::time::timeout(Duration::from_millis(100), response.chunk()).await;
    assert!(waited.is_err(), "{waited:?}");
}

#[tokio::test]
async fn a_stalled_stream_stays_open_and_silent() {
    let client = failing("stall=2").await;
    let mut response = client.request(CHAT, &streamed(CHAT)).send().await.expect("a head");
    let mut text = Vec::new();
    while let Ok(piece) = tokio::time::timeout(Duration::from_millis(200), response.chunk()).await {
        text.extend(piece.expect("no break").expect("no end"));
    }
    assert_eq!(String::from_utf8(text).expect("text").matches("\n\n").count(), 2);
    assert_eq!(client.sim.bill().totals.open(), 1);
}

#[tokio::test]
async fn a_web_page_is_no_answer() {
    let (answer, totals) = ask("html", CHAT, &streamed(CHAT)).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.header("content-type").starts_with("text/html") && answer.text.starts_with("<!DOCTYPE html>")
    );
    assert_eq!(ends(&totals), (0, 0, 1));
}

#[tokio::test]
async fn malformed_answers_do_not_parse() {
    let (whole, totals) = ask("malformed-sse", CHAT, &asked(CHAT, "a")).await;
    assert!(serde_json::from_str::<Value>(&whole.text).is_err(), "{whole:?}");
    assert_eq!(ends(&totals), (1, 0, 0));
    for path in [CHAT, RESPONSES, MESSAGES] {
        let (stream, _) = ask("malformed-sse", path, &streamed(path)).await;
        let data = stream.text.lines().filter_map(|line| line.strip_prefix("data: "));
        let bad =
            data.filter(|data| *data != "[DONE]" && serde_json::from_str::<Value>(data).is_err()).count();
        assert_eq!(bad, 1, "{path}: {}", stream.text);
    }
}

#[tokio::test]
async fn usage_can_be_missing_everywhere() {
    let mut chat = streamed(CHAT);
    chat["stream_options"] = json!({"include_usage": true});
    for (path, body) in [
        (CHAT, chat),
        (CHAT, asked(CHAT, "a")),
        (RESPONSES, streamed(RESPONSES)),
        (MESSAGES, streamed(MESSAGES)),
        (MESSAGES, asked(MESSAGES, "a")),
    ] {
        let (answer, totals) = ask("missing-usage", path, &body).await;
        assert!(
            !answer.text.contains("\"output_tokens\"") && !answer.text.contains("\"completion_tokens\""),
            "{path}"
        );
        assert_eq!(ends(&totals), (1, 0, 0));
        assert!(totals.output_tokens > 0, "the bill knows");
    }
}

#[tokio::test]
async fn gzip_comes_though_nobody_asked() {
    let client = failing("gzip").await;
    let response = client.request(CHAT, &asked(CHAT, "a")).send().await.expect("an answer");
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let body = response.bytes().await.expect("a body");
    assert!(body.starts_with(&[0x1f, 0x8b]), "{body:?}");
    assert!(memchr::memmem::find(&body, b"chat.completion").is_some());
}

#[tokio::test]
async fn a_stream_can_end_without_its_finish() {
    for (path, finish) in [(CHAT, "\"stop\""), (RESPONSES, "response.completed"), (MESSAGES, "message_delta")]
    {
        let (answer, totals) = ask("no-finish", path, &streamed(path)).await;
        assert!(!answer.text.contains(finish) && answer.events().len() > 2, "{path}: {}", answer.text);
        assert_eq!(ends(&totals), (0, 1, 0));
    }
}

#[tokio::test]
async fn endless_padding_ends_after_its_bound() {
    let client = failing("endless-chunks").await;
    let mut response = client.request(CHAT, &streamed(CHAT)).send().await.expect("a head");
    let mut received = 0;
    let ended = loop {
        match response.chunk().await {
            Ok(Some(piece)) => received += piece.len(),
            ended => break ended,
        }
    };
    assert!(ended.is_err(), "closed, not finished");
    // What was on its way when the connection was closed is lost.
    assert!((255 << 20..257 << 20).contains(&received), "{received}");
}

#[tokio::test]
async fn faults_match_by_body_and_model() {
    let client = failing("body=Oslo,status=500,times=always").await;
    assert_eq!(client.post(CHAT, &asked(CHAT, "in Bergen")).await.status, 200);
    assert_eq!(client.post(CHAT, &asked(CHAT, "in Oslo")).await.status, 500);
    client.sim.set_faults(vec!["model=m,status=502".parse().expect("a fault")]);
    assert_eq!(client.post(CHAT, &asked(CHAT, "in Oslo")).await.status, 502);
}
