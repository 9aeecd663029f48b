//! The providers' formats, streamed and not.

use serde_json::{Value, json};

use crate::client::{Answer, CHAT, Client, MESSAGES, RESPONSES, asked, with_tool};

async fn ask(path: &str, body: Value) -> Answer {
    let answer = Client::new().await.post(path, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn types(events: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    types.dedup();
    types
}

#[tokio::test]
async fn a_chat_completion_has_its_text_reason_and_usage() {
    let answer = ask(CHAT, asked(CHAT, "hello")).await.json();
    assert_eq!(answer["object"], "chat.completion");
    let choice = &answer["choices"][0];
    assert_eq!((choice["index"].as_u64(), choice["finish_reason"].as_str()), (Some(0), Some("stop")));
    assert!(choice["message"]["content"].as_str().expect("text").starts_with("Re "), "{answer}");
    let usage = &answer["usage"];
    assert_eq!(usage["prompt_tokens"], 2);
    assert_eq!(usage["total_tokens"], 2 + usage["completion_tokens"].as_u64().expect("a number"));
}

#[tokio::test]
async fn a_chat_stream_tells_usage_only_when_asked() {
    let mut body = asked(CHAT, "hello");
    body["stream"] = json!(true);
    let plain = ask(CHAT, body.clone()).await;
    assert!(plain.text.ends_with("data: [DONE]\n\n"));
    assert!(plain.events().iter().all(|chunk| chunk.get("usage").is_none()));
    body["stream_options"] = json!({"include_usage": true});
    let chunks = ask(CHAT, body).await.events();
    let (last, rest) = chunks.split_last().expect("chunks");
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["completion_tokens"].as_u64() > Some(0));
    assert!(rest.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!(rest.last().expect("chunks")["choices"][0]["finish_reason"], "stop");
    assert_eq!(rest[0]["choices"][0]["delta"]["role"], "assistant");
}

#[tokio::test]
async fn several_choices_and_parallel_calls_keep_their_numbers() {
    let mut body = with_tool(CHAT, "tools=1 parallel=2", true);
    body["n"] = json!(2);
    let chunks = ask(CHAT, body.clone()).await.events();
    let calls = |choice: usize, call: usize| {
        let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]);
        let of =
            deltas.filter(|delta| delta["index"] == choice).map(|delta| &delta["delta"]["tool_calls"][0]);
        let of: Vec<&Value> = of.filter(|delta| delta["index"] == call).collect();
        assert_eq!(of[0]["function"]["name"], "weather");
        let texts = of.iter().map(|delta| delta["function"]["arguments"].as_str().expect("text"));
        let arguments: Value = serde_json::from_str(&texts.collect::<String>()).expect("JSON");
        assert!(arguments["city"].is_string() && arguments["days"].is_i64(), "{arguments}");
        arguments.to_string()
    };
    let streamed = [calls(0, 0), calls(0, 1), calls(1, 0), calls(1, 1)];
    body["stream"] = json!(false);
    let whole = ask(CHAT, body).await.json();
    let told = |choice: usize, call: usize| {
        let call = &whole["choices"][choice]["message"]["tool_calls"][call];
        call["function"]["arguments"].as_str().expect("text").to_owned()
    };
    assert_eq!(streamed, [told(0, 0), told(0, 1), told(1, 0), told(1, 1)]);
    assert_eq!(whole["choices"][1]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_response_stream_has_every_event_in_order() {
    let mut body = asked(RESPONSES, "hello");
    body["stream"] = json!(true);
    let events = ask(RESPONSES, body).await.events();
    assert_eq!(
        types(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let numbers: Vec<u64> =
        events.iter().map(|event| event["sequence_number"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let response = &events.last().expect("events")["response"];
    assert_eq!(response["status"], "completed");
    assert!(response["usage"]["output_tokens"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_response_stream_calls_functions() {
    let events = ask(RESPONSES, with_tool(RESPONSES, "tools=1", true)).await.events();
    assert_eq!(
        types(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let item = &events.last().expect("events")["response"]["output"][0];
    assert_eq!((item["type"].as_str(), item["name"].as_str()), (Some("function_call"), Some("weather")));
    let done =
        events.iter().find(|event| event["type"] == "response.function_call_arguments.done").expect("done");
    assert_eq!(done["arguments"], item["arguments"]);
}

#[tokio::test]
async fn a_message_stream_has_every_event_in_order() {
    let mut body = asked(MESSAGES, "hello");
    body["stream"] = json!(true);
    let events = ask(MESSAGES, body).await.events();
    let order = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(types(&events), order);
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 2);
    let delta = &events[events.len() - 2];
    assert_eq!(delta["delta"]["stop_reason"], "end_turn");
    assert!(delta["usage"]["output_tokens"].as_u64() > Some(0));
    let tools = ask(MESSAGES, with_tool(MESSAGES, "tools=1", true)).await.events();
    assert_eq!(types(&tools), order);
    assert_eq!(tools[1]["content_block"]["type"], "tool_use");
    assert_eq!(tools[tools.len() - 2]["delta"]["stop_reason"], "tool_use");
}

#[tokio::test]
async fn answers_stop_at_the_most_tokens() {
    let cut = |path: &str, field: &str| {
        let mut body = asked(path, "hello");
        body[field] = json!(1);
        (path.to_owned(), body)
    };
    let (path, body) = cut(CHAT, "max_completion_tokens");
    assert_eq!(ask(&path, body).await.json()["choices"][0]["finish_reason"], "length");
    let (path, body) = cut(MESSAGES, "max_tokens");
    assert_eq!(ask(&path, body).await.json()["stop_reason"], "max_tokens");
    let (path, mut body) = cut(RESPONSES, "max_output_tokens");
    let answer = ask(&path, body.clone()).await.json();
    assert_eq!(
        (answer["status"].as_str(), answer["usage"]["output_tokens"].as_u64()),
        (Some("incomplete"), Some(1))
    );
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
    body["stream"] = json!(true);
    assert_eq!(ask(&path, body).await.events().last().expect("events")["type"], "response.incomplete");
}

#[tokio::test]
async fn tokens_can_be_counted_without_a_bill() {
    let client = Client::new().await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "twelve chars"}]});
    let counted = client.post("/v1/messages/count_tokens", &body).await;
    assert_eq!(counted.json(), json!({"input_tokens": 3}));
    assert_eq!(client.sim.bill().distinct, 0);
}
