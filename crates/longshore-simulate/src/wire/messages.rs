//! Anthropic's messages.

use serde_json::{Value, json};

use super::{Reply, Script};
use crate::answer::{Call, Spoken, Usage};
use crate::words::{Chunk, joined};

pub(super) fn whole(reply: &Reply<'_>) -> Value {
    let spoken = spoken(reply);
    let content: Vec<Value> = match spoken.calls.is_empty() {
        true => vec![json!({"type": "text", "text": joined(&spoken.text)})],
        false => spoken.calls.iter().map(|call| tool_use(call, input(call))).collect(),
    };
    let mut message = message(reply, content, json!(reason(spoken)));
    if reply.usage {
        message["usage"] = usage(&reply.answer.usage, reply.answer.usage.output);
    }
    message
}

/// There is exactly one choice in this format.
fn spoken<'a>(reply: &Reply<'a>) -> &'a Spoken {
    &reply.answer.choices[0]
}

fn message(reply: &Reply<'_>, content: Vec<Value>, reason: Value) -> Value {
    json!({
        "id": format!("msg_{}", reply.answer.id), "type": "message", "role": "assistant", "model": reply.ask.model,
        "content": content, "stop_reason": reason, "stop_sequence": null,
    })
}

fn tool_use(call: &Call, input: Value) -> Value {
    json!({"type": "tool_use", "id": format!("toolu_{}", call.id), "name": call.name, "input": input})
}

/// Arguments that were cut are no JSON any more; what can be told of them is nothing.
fn input(call: &Call) -> Value {
    serde_json::from_str(&joined(&call.arguments)).unwrap_or_else(|_| json!({}))
}

fn reason(spoken: &Spoken) -> &'static str {
    match spoken {
        Spoken { cut: true, .. } => "max_tokens",
        Spoken { calls, .. } if !calls.is_empty() => "tool_use",
        _ => "end_turn",
    }
}

/// Input without what came from the cache, as this provider counts.
fn usage(usage: &Usage, output: u64) -> Value {
    json!({
        "input_tokens": usage.input - usage.cached, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached, "output_tokens": output, "service_tier": "standard",
    })
}

fn send(script: &mut Script, name: &str, mut data: Value) {
    data["type"] = json!(name);
    script.event(Some(name), &data);
}

pub(super) fn stream(reply: &Reply<'_>) -> Script {
    let (mut script, spoken) = (Script::default(), spoken(reply));
    let mut begun = message(reply, Vec::new(), Value::Null);
    if reply.usage {
        begun["usage"] = usage(&reply.answer.usage, 1);
    }
    send(&mut script, "message_start", json!({"message": begun}));
    script.generated(spoken.hidden);
    match spoken.calls.is_empty() {
        true => block(
            &mut script,
            0,
            json!({"type": "text", "text": ""}),
            &spoken.text,
            ("text_delta", "text"),
            false,
        ),
        false => {
            for (at, call) in spoken.calls.iter().enumerate() {
                let begun = tool_use(call, json!({}));
                block(&mut script, at, begun, &call.arguments, ("input_json_delta", "partial_json"), true);
            }
        }
    }
    script.finishing();
    let delta = json!({"stop_reason": reason(spoken), "stop_sequence": null});
    let mut end = json!({"delta": delta});
    if reply.usage {
        end["usage"] = usage(&reply.answer.usage, reply.answer.usage.output);
    }
    send(&mut script, "message_delta", end);
    send(&mut script, "message_stop", json!({}));
    script
}

fn block(script: &mut Script, at: usize, begun: Value, chunks: &[Chunk], delta: (&str, &str), runs: bool) {
    send(script, "content_block_start", json!({"index": at, "content_block": begun}));
    if at == 0 {
        send(script, "ping", json!({}));
    }
    let (kind, field) = delta;
    for chunk in chunks {
        script.generated(chunk.tokens);
        let text = Value::from(chunk.text.as_str());
        script.written(
            Some("content_block_delta"),
            format_args!(
                r#"{{"type":"content_block_delta","index":{at},"delta":{{"type":"{kind}","{field}":{text}}}}}"#
            ),
        );
    }
    if runs {
        // From here on a client may run it.
        script.finishing();
    }
    send(script, "content_block_stop", json!({"index": at}));
}
