//! The same request, the same answer.

use longshore_simulate::Options;
use serde_json::{Value, json};

use crate::client::{Answer, CHAT, Client, MESSAGES, RESPONSES, asked, with_tool};

/// What is said and called, however it came.
fn told(path: &str, answer: &Answer, stream: bool) -> Value {
    match (path, stream) {
        (CHAT, false) => {
            let message = &answer.json()["choices"][0]["message"];
            json!([
                message["content"].as_str().unwrap_or_default(),
                message["tool_calls"][0]["function"]["arguments"].as_str().unwrap_or_default(),
                answer.json()["id"]
            ])
        }
        (CHAT, true) => {
            let chunks = answer.events();
            let of = |pointer: &str| -> String {
                let parts = chunks.iter().filter_map(|chunk| chunk.pointer(pointer).and_then(Value::as_str));
                parts.collect()
            };
            json!([
                of("/choices/0/delta/content"),
                of("/choices/0/delta/tool_calls/0/function/arguments"),
                chunks[0]["id"]
            ])
        }
        (RESPONSES, false) => answer.json(),
        (RESPONSES, true) => answer.events().last().expect("events")["response"].clone(),
        (_, false) => {
            let message = answer.json();
            let block = &message["content"][0];
            let input = if block["input"].is_object() { block["input"].clone() } else { json!("") };
            json!([
                block["text"].as_str().unwrap_or_default(),
                input,
                message["id"],
                message["usage"]["output_tokens"]
            ])
        }
        (_, true) => {
            let events = answer.events();
            let of = |pointer: &str| -> String {
                let parts = events.iter().filter_map(|event| event.pointer(pointer).and_then(Value::as_str));
                parts.collect()
            };
            let arguments = of("/delta/partial_json");
            let input = serde_json::from_str(&arguments).unwrap_or(json!(""));
            let usage = &events[events.len() - 2]["usage"]["output_tokens"];
            json!([of("/delta/text"), input, events[0]["message"]["id"], usage])
        }
    }
}

async fn check(path: &str, text: &str) {
    let client = Client::new().await;
    let (whole, stream) = (with_tool(path, text, false), with_tool(path, text, true));
    let one = client.post(path, &whole).await;
    let two = client.post(path, &whole).await;
    assert_eq!(one.text, two.text, "{path} {text}");
    let streamed = client.post(path, &stream).await;
    assert_eq!(told(path, &one, false), told(path, &streamed, true), "{path} {text}");
    assert_eq!(client.sim.bill().distinct, 1);
}

#[tokio::test]
async fn streamed_or_not_the_answer_is_the_same() {
    for path in [CHAT, RESPONSES, MESSAGES] {
        check(path, "tools=0").await;
        check(path, "tools=1").await;
    }
}

#[tokio::test]
async fn another_seed_or_another_request_gives_another_answer() {
    let told = async |seed, text| {
        let client = Client::with(Options { seed, ..Options::default() }).await;
        let answer = client.post(CHAT, &asked(CHAT, text)).await.json();
        answer["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
    };
    let first = told(1, "a").await;
    assert_eq!(first, told(1, "a").await);
    assert_ne!(first, told(2, "a").await);
    assert_ne!(first, told(1, "b").await);
}

#[tokio::test]
async fn a_tool_loop_ends_with_text() {
    let client = Client::new().await;
    let mut body = with_tool(CHAT, "tools=3 parallel=2", false);
    for round in 0..3 {
        let answer = client.post(CHAT, &body).await.json();
        let message = answer["choices"][0]["message"].clone();
        let calls =
            message["tool_calls"].as_array().unwrap_or_else(|| panic!("round {round}: {answer}")).clone();
        assert_eq!(calls.len(), 2);
        let messages = body["messages"].as_array_mut().expect("messages");
        messages.push(message);
        messages.extend(
            calls.iter().map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "ok"})),
        );
    }
    let last = client.post(CHAT, &body).await.json();
    assert!(last["choices"][0]["message"]["content"].is_string(), "{last}");
    assert_eq!(client.sim.bill().distinct, 4);
}

#[tokio::test]
async fn a_repeated_beginning_is_read_from_the_cache() {
    let client = Client::new().await;
    let long = "word ".repeat(500);
    let cached = async |text: &str| {
        let answer = client.post(MESSAGES, &asked(MESSAGES, text)).await.json();
        let of = |field: &str| answer["usage"][field].as_u64().expect("a number");
        (of("input_tokens"), of("cache_read_input_tokens"))
    };
    assert_eq!(cached(&long).await, (625, 0));
    assert_eq!(cached(&format!("{long} and more")).await, (628 - 512, 512));
}
