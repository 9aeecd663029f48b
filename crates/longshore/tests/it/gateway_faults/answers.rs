//! Answers that are no answers, are packed, have the wrong length, or lack something.

use std::collections::HashMap;

use longshore_core::task::State;
use longshore_simulate::{Fault, What};
use nix::sys::signal::Signal;
use serde_json::json;

use super::fake::{Act, Scripts, answer, chat_answer, head};
use super::scene::{ALL, Ask, Case, Kept, Scene, Sees, fault, fleet};
use crate::plane::signal;

const JSON: &str = "application/json";

fn whole(ask: Ask, says: &'static str, received: u64, billed: u32) -> Case {
    Case { ask, sees: Sees::Whole(200, says), received, kept: Kept::Answered(billed) }
}

fn given_up(ask: Ask, code: &'static str, says: &'static str, received: u64) -> Case {
    let sees = Sees::Refused(502, code, says);
    Case { ask, sees, received, kept: Kept::GivenUp(u32::try_from(received).expect("a few")) }
}

#[tokio::test]
async fn what_is_no_answer_is_tried_again_and_then_told() {
    let faults = vec![
        fault("html-once", What::Html),
        fault("html", What::Html).times(Fault::ALWAYS),
        fault("html-stream", What::Html).times(Fault::ALWAYS),
        fault("half", What::MalformedSse),
        fault("dropped", What::DropBeforeHead).times(Fault::ALWAYS),
        fault("dropped-messages", What::DropBeforeHead).times(Fault::ALWAYS),
        fault("promises-more", What::WrongContentLength),
        fault("promises-more-always", What::WrongContentLength).times(Fault::ALWAYS),
    ];
    let short = chat_answer();
    let promised = head(200, JSON, &[], &format!("content-length: {}", short.len() - 10));
    let too_short = vec![Act::Write([promised.as_bytes(), &short].concat()), Act::Close];
    let switches = vec![
        Act::Write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n".to_vec()),
        Act::Close,
    ];
    let scripts = HashMap::from([
        ("too-short", vec![too_short, good()]),
        ("no-http", vec![vec![Act::Write(b"220 mail.example ESMTP\r\n".to_vec()), Act::Close], good()]),
        ("switches", vec![switches, good()]),
        ("empty", vec![vec![answer(200, JSON, &[], b"")], good()]),
        ("error-with-200", vec![vec![answer(200, JSON, &[], br#"{"error":{"message":"oh no"}}"#)], good()]),
    ]);
    let scene = Scene::start(faults, scripts).await;
    const PAGE: &str = "<!DOCTYPE html>";
    let chat = |case| Ask::chat("openai", case);
    scene
        .check(vec![
            whole(chat("html-once"), "chat.completion", 2, 1),
            whole(chat("half"), "chat.completion", 2, 1),
            whole(chat("promises-more"), "chat.completion", 2, 1),
            whole(Ask::chat("fake", "too-short"), "hi", 2, 1),
            whole(Ask::chat("fake", "no-http"), "hi", 2, 1),
            whole(Ask::chat("fake", "switches"), "hi", 2, 1),
            whole(Ask::chat("fake", "empty"), "hi", 2, 1),
            whole(Ask::chat("fake", "error-with-200"), "hi", 2, 1),
            given_up(chat("html"), "provider_answer_invalid", PAGE, 5),
            given_up(chat("html-stream").streamed(), "provider_answer_invalid", PAGE, 5),
            given_up(chat("dropped"), "provider_broke_off", "gave no answer", 5),
            given_up(Ask::messages("anthropic", "dropped-messages"), "", "gave no answer", 5),
            given_up(chat("promises-more-always"), "provider_broke_off", "broke its answer off", 5),
        ])
        .await;
}

fn good() -> Vec<Act> {
    vec![answer(200, JSON, &[], &chat_answer())]
}

#[tokio::test]
async fn what_asking_again_would_not_mend_is_bought_once() {
    let packed = [("content-encoding", "br")];
    let large = [
        Act::Write(head(200, JSON, &[], "content-length: 104857600").into_bytes()),
        Act::Repeat(vec![b' '; 1 << 20], 100),
    ];
    let bomb = bomb();
    let scripts = HashMap::from([
        ("br", vec![vec![answer(200, JSON, &packed, b"\x0b\x02\x80")]]),
        ("br-messages", vec![vec![answer(200, JSON, &packed, b"\x0b\x02\x80")]]),
        ("large", vec![large.to_vec()]),
        ("bomb", vec![vec![answer(200, JSON, &[("content-encoding", "gzip")], &bomb)]]),
        ("bomb-stream", vec![vec![answer(200, "text/event-stream", &[("content-encoding", "gzip")], &bomb)]]),
    ]);
    let scene = Scene::start(Vec::new(), scripts).await;
    let before = super::memory(scene.plane.pid());
    let too_large = |ask| given_up(ask, "provider_answer_too_large", "more than 64 MiB", 1);
    scene
        .check(vec![
            given_up(Ask::chat("fake", "br"), "provider_answer_packed", "packed as `br`", 1),
            given_up(Ask::messages("fake-claude", "br-messages"), "", "packed as `br`", 1),
            too_large(Ask::chat("fake", "large")),
            too_large(Ask::chat("fake", "bomb")),
            too_large(Ask::chat("fake", "bomb-stream").streamed()),
        ])
        .await;
    let grown = super::memory(scene.plane.pid()).saturating_sub(before);
    assert!(grown < 500, "serve grew by {grown} MiB");
}

/// Half a gigabyte of spaces.
fn bomb() -> Vec<u8> {
    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    (0..512).for_each(|_| gzip.write_all(&[b' '; 1 << 20]).expect("memory"));
    gzip.finish().expect("memory")
}

#[tokio::test]
async fn what_goes_through_unread_may_be_large_and_costs_no_memory() {
    let large = [
        Act::Write(head(200, "application/octet-stream", &[], "content-length: 100663296").into_bytes()),
        Act::Repeat(vec![b'x'; 1 << 20], 96),
    ];
    let scene = Scene::start(Vec::new(), HashMap::from([("file", vec![large.to_vec()])])).await;
    let before = super::memory(scene.plane.pid());
    let ask = Ask::get("fake", "/files/f/content", "file");
    let id = scene.submit(&[&ask], json!({})).await;
    scene.plane.reaches(id, State::Succeeded).await;
    let reply = scene.replies(id, 1).await.remove(0);
    assert_eq!((reply.outcome.as_str(), reply.size), ("whole", 96 << 20), "{reply:#?}");
    let grown = super::memory(scene.plane.pid()).saturating_sub(before);
    assert!(grown < 50, "serve grew by {grown} MiB");
}

/// Everything that is kept, and what is not: asked by an attempt that is interrupted, and again by the next one.
#[tokio::test]
async fn what_is_kept_is_given_again_byte_for_byte_and_nothing_else_is() {
    let faults = vec![
        fault("no-usage", What::MissingUsage),
        fault("no-usage-stream", What::MissingUsage),
        fault("gzip", What::Gzip),
        fault("gzip-stream", What::Gzip),
        fault("s400", What::Status { status: 400, retry_after_ms: None }).times(Fault::ALWAYS),
        fault("s404", What::Status { status: 404, retry_after_ms: None }).times(Fault::ALWAYS),
        fault("s413", What::Status { status: 413, retry_after_ms: None }).times(Fault::ALWAYS),
        fault("s422", What::Status { status: 422, retry_after_ms: None }).times(Fault::ALWAYS),
        fault("s401", What::Status { status: 401, retry_after_ms: None }).times(Fault::ALWAYS),
        fault("s403", What::Status { status: 403, retry_after_ms: None }).times(Fault::ALWAYS),
    ];
    let scripts: Scripts = ["plain-json", "1e400", "no-json", "deep", "empty-body", "other-type"]
        .map(|case| (case, vec![good()]))
        .into();
    let two = "concurrency = 2\nscaling = { min = 2, max = 2 }\nkill_grace = \"1s\"\n";
    let scene = Scene::with(faults, scripts, &fleet("a", &format!("{two}{ALL}"))).await;
    scene.plane.crew(2).await;
    let chat = |case| Ask::chat("openai", case);
    let raw = |case, body: &str| Ask::chat("fake", case).with_body(body, 0);
    let deep = format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let kept = [
        (chat("no-usage"), 200),
        (chat("no-usage-stream").streamed(), 200),
        (chat("gzip"), 200),
        (chat("gzip-stream").streamed(), 200),
        (chat("s400"), 400),
        (chat("s404"), 404),
        (Ask::messages("anthropic", "s413"), 413),
        (chat("s422").streamed(), 422),
        (Ask::chat("fake", "plain-json").streamed(), 200),
        (raw("1e400", r#"{"model":"m","temperature":1e400,"messages":[]}"#), 200),
        (raw("no-json", "what is the weather?"), 200),
        (raw("deep", &deep), 200),
        (raw("empty-body", ""), 200),
    ];
    let not_kept = [(chat("s401"), 401), (Ask::messages("anthropic", "s403"), 403)];
    let all: Vec<_> = kept.iter().chain(&not_kept).collect();
    let asks: Vec<&Ask> = all.iter().map(|(ask, _)| ask).collect();
    let id = scene.submit(&asks, json!({"first": "hangs"})).await;
    let first = scene.replies(id, 1).await;
    let holder = scene.plane.holder(id).await;
    signal(holder.pid.expect("it told its pid"), Signal::SIGKILL);
    let second = scene.replies(id, 2).await;
    let task = scene.plane.reaches(id, State::Succeeded).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    for (at, (ask, status)) in all.iter().enumerate() {
        let (once, again, name) = (&first[at], &second[at], ask.name());
        let told = format!("{name}: {once:#?}\n{again:#?}");
        assert_eq!((once.status, once.outcome.as_str()), (Some(*status), "whole"), "{told}");
        assert_eq!((again.status, again.size), (once.status, once.size), "{told}");
        // Each of the provider's own answers has a number of its own in it.
        assert!(at >= kept.len() || once.digest == again.digest, "{told}");
        assert_eq!(once.headers.get("content-type"), again.headers.get("content-type"), "{told}");
        assert!(!once.headers.contains_key("content-encoding"), "{told}");
        let is_kept = at < kept.len();
        let replayed = again.headers.get("longshore-replayed").map(String::as_str);
        assert_eq!(replayed, is_kept.then_some("true"), "{told}");
        let expected = if is_kept { 1 } else { 2 };
        assert_eq!(scene.received(name), expected, "{told}");
    }
    let journal = scene.journal(id).await;
    assert_eq!(journal.calls.len(), kept.len(), "{journal:#?}");
    let totals = &journal.totals;
    let count = kept.len() as u64;
    assert_eq!((totals.live, totals.replayed, totals.maybe_billed), (count, count, 0), "{journal:#?}");
    for name in ["no-usage", "no-usage-stream", "s400"] {
        let call = journal.calls.iter().find(|call| call.model.as_deref() == Some(name)).expect("kept");
        let told = (call.input_tokens, call.output_tokens, call.cost.as_deref());
        assert!(matches!(told, (None, None, None | Some("0"))), "{call:#?}");
    }
    let gzip = journal.calls.iter().find(|call| call.model.as_deref() == Some("gzip")).expect("kept");
    assert!(gzip.input_tokens.is_some_and(|tokens| tokens > 0), "{gzip:#?}");
    let raw = scene.fake.received("1e400");
    assert_eq!(raw[0].body, br#"{"model":"m","temperature":1e400,"messages":[]}"#, "sent as it was written");
    let delivered = journal.calls.iter().flat_map(|call| &call.asks).all(|ask| ask.state == "delivered");
    assert!(delivered, "{journal:#?}");
}
