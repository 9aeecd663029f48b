//! OpenAI's responses.

use serde_json::{Value, json};

use super::{CREATED, Reply, Script};
use crate::answer::{Call, Spoken, Usage};
use crate::words::joined;

pub(super) fn whole(reply: &Reply<'_>) -> Value {
    response(reply, if spoken(reply).cut { "incomplete" } else { "completed" })
}

/// There is exactly one choice in this format.
fn spoken<'a>(reply: &Reply<'a>) -> &'a Spoken {
    &reply.answer.choices[0]
}

/// The response object; its output and usage are there when it has ended.
fn response(reply: &Reply<'_>, status: &str) -> Value {
    let (body, ended) = (reply.body, status != "in_progress");
    let or = |field: &str, default: Value| match &body[field] {
        Value::Null => default,
        given => given.clone(),
    };
    let text = if body["text"]["format"].is_object() {
        body["text"].clone()
    } else {
        json!({"format": {"type": "text"}})
    };
    let output = if ended { output(reply) } else { Vec::new() };
    let usage = if ended && reply.usage { usage(&reply.answer.usage) } else { Value::Null };
    let incomplete =
        if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    json!({
        "id": format!("resp_{}", reply.answer.id), "object": "response", "created_at": CREATED, "status": status,
        "background": false, "error": null, "incomplete_details": incomplete,
        "instructions": or("instructions", Value::Null), "max_output_tokens": or("max_output_tokens", Value::Null),
        "max_tool_calls": null, "model": reply.ask.model, "output": output,
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)), "previous_response_id": null,
        "reasoning": or("reasoning", json!({"effort": null, "summary": null})), "service_tier": "default",
        "store": or("store", json!(true)), "temperature": or("temperature", json!(1.0)), "text": text,
        "tool_choice": or("tool_choice", json!("auto")), "tools": or("tools", json!([])),
        "top_p": or("top_p", json!(1.0)), "truncation": or("truncation", json!("disabled")), "usage": usage,
        "user": null, "metadata": or("metadata", json!({})),
    })
}

fn output(reply: &Reply<'_>) -> Vec<Value> {
    let spoken = spoken(reply);
    let status = if spoken.cut { "incomplete" } else { "completed" };
    match spoken.calls.is_empty() {
        true => vec![message(reply, status, vec![part(&joined(&spoken.text))])],
        false => spoken.calls.iter().map(|call| item(call, status, &joined(&call.arguments))).collect(),
    }
}

fn message(reply: &Reply<'_>, status: &str, content: Vec<Value>) -> Value {
    json!({"id": message_id(reply), "type": "message", "status": status, "role": "assistant", "content": content})
}

fn message_id(reply: &Reply<'_>) -> String {
    format!("msg_{}", reply.answer.id)
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn item(call: &Call, status: &str, arguments: &str) -> Value {
    json!({"id": format!("fc_{}", call.id), "type": "function_call", "status": status, "arguments": arguments,
        "call_id": format!("call_{}", call.id), "name": call.name})
}

fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input, "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.output, "output_tokens_details": {"reasoning_tokens": usage.hidden},
        "total_tokens": usage.input + usage.output,
    })
}

/// Named events with a running number.
struct Events {
    script: Script,
    number: u64,
}

impl Events {
    fn send(&mut self, name: &str, mut data: Value) {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.number);
        self.number += 1;
        self.script.event(Some(name), &data);
    }

    /// A delta, of which there are many.
    fn delta(&mut self, name: &str, place: &str, text: &str, more: &str) {
        let (number, text) = (self.number, Value::from(text));
        self.number += 1;
        self.script.written(
            Some(name),
            format_args!(r#"{{"type":"{name}","sequence_number":{number},{place},"delta":{text}{more}}}"#),
        );
    }
}

pub(super) fn stream(reply: &Reply<'_>) -> Script {
    let mut events = Events { script: Script::default(), number: 0 };
    let begun = response(reply, "in_progress");
    events.send("response.created", json!({"response": begun.clone()}));
    events.send("response.in_progress", json!({"response": begun}));
    let spoken = spoken(reply);
    events.script.generated(spoken.hidden);
    match spoken.calls.is_empty() {
        true => stream_text(&mut events, reply),
        false => spoken
            .calls
            .iter()
            .enumerate()
            .for_each(|(at, call)| stream_call(&mut events, at, call, spoken.cut)),
    }
    events.script.finishing();
    let status = if spoken.cut { "incomplete" } else { "completed" };
    events.send(&format!("response.{status}"), json!({"response": response(reply, status)}));
    events.script
}

fn stream_text(events: &mut Events, reply: &Reply<'_>) {
    let spoken = spoken(reply);
    let (id, text) = (message_id(reply), joined(&spoken.text));
    let place = format!(r#""item_id":"{id}","output_index":0,"content_index":0"#);
    let at = |more: Value| {
        let mut data = json!({"item_id": id, "output_index": 0, "content_index": 0});
        for (key, value) in more.as_object().into_iter().flatten() {
            data[key] = value.clone();
        }
        data
    };
    let begun = message(reply, "in_progress", Vec::new());
    events.send("response.output_item.added", json!({"output_index": 0, "item": begun}));
    events.send("response.content_part.added", at(json!({"part": part("")})));
    for chunk in &spoken.text {
        events.script.generated(chunk.tokens);
        events.delta("response.output_text.delta", &place, &chunk.text, r#","logprobs":[]"#);
    }
    events.send("response.output_text.done", at(json!({"text": text, "logprobs": []})));
    events.send("response.content_part.done", at(json!({"part": part(&text)})));
    let status = if spoken.cut { "incomplete" } else { "completed" };
    let done = message(reply, status, vec![part(&text)]);
    events.send("response.output_item.done", json!({"output_index": 0, "item": done}));
}

fn stream_call(events: &mut Events, at: usize, call: &Call, cut: bool) {
    let arguments = joined(&call.arguments);
    let id = format!("fc_{}", call.id);
    let place = format!(r#""item_id":"{id}","output_index":{at}"#);
    events.send(
        "response.output_item.added",
        json!({"output_index": at, "item": item(call, "in_progress", "")}),
    );
    for chunk in &call.arguments {
        events.script.generated(chunk.tokens);
        events.delta("response.function_call_arguments.delta", &place, &chunk.text, "");
    }
    // From here on a client may run it.
    events.script.finishing();
    events.send(
        "response.function_call_arguments.done",
        json!({"item_id": id, "output_index": at, "arguments": arguments, "name": call.name}),
    );
    let status = if cut { "incomplete" } else { "completed" };
    events.send(
        "response.output_item.done",
        json!({"output_index": at, "item": item(call, status, &arguments)}),
    );
}
