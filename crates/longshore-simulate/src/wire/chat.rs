//! OpenAI's chat completions.

use serde_json::{Value, json};

use super::{CREATED, Reply, Script};
use crate::answer::{Call, Spoken, Usage};
use crate::words::joined;

pub(super) fn whole(reply: &Reply<'_>) -> Value {
    let choices = reply.answer.choices.iter().enumerate().map(|(at, spoken)| {
        json!({"index": at, "message": message(spoken), "logprobs": null, "finish_reason": reason(spoken)})
    });
    let mut answer = json!({
        "id": id(reply), "object": "chat.completion", "created": CREATED, "model": reply.ask.model,
        "choices": choices.collect::<Vec<_>>(), "service_tier": "default", "system_fingerprint": null,
    });
    if reply.usage {
        answer["usage"] = usage(&reply.answer.usage);
    }
    answer
}

fn message(spoken: &Spoken) -> Value {
    let content = if spoken.calls.is_empty() { json!(joined(&spoken.text)) } else { Value::Null };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null, "annotations": []});
    if !spoken.calls.is_empty() {
        message["tool_calls"] = spoken.calls.iter().map(call).collect();
    }
    message
}

fn call(call: &Call) -> Value {
    let function = json!({"name": call.name, "arguments": joined(&call.arguments)});
    json!({"id": format!("call_{}", call.id), "type": "function", "function": function})
}

fn reason(spoken: &Spoken) -> &'static str {
    match spoken {
        Spoken { cut: true, .. } => "length",
        Spoken { calls, .. } if !calls.is_empty() => "tool_calls",
        _ => "stop",
    }
}

pub(super) fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.hidden, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn id(reply: &Reply<'_>) -> String {
    format!("chatcmpl-{}", reply.answer.id)
}

/// Everything of a chunk but its choice.
struct Chunks {
    script: Script,
    head: String,
    tail: &'static str,
}

impl Chunks {
    fn choice(&mut self, index: usize, delta: &Value, reason: Option<&str>) {
        let reason = reason.map_or("null".to_owned(), |reason| format!("\"{reason}\""));
        self.script.written(
            None,
            format_args!(
                r#"{}"choices":[{{"index":{index},"delta":{delta},"logprobs":null,"finish_reason":{reason}}}]{}}}"#,
                self.head, self.tail
            ),
        );
    }
}

pub(super) fn stream(reply: &Reply<'_>) -> Script {
    let include_usage = reply.ask.include_usage && reply.usage;
    let head = json!({
        "id": id(reply), "object": "chat.completion.chunk", "created": CREATED, "model": reply.ask.model,
        "service_tier": "default", "system_fingerprint": null,
    })
    .to_string();
    let head = format!("{},", head.trim_end_matches('}'));
    let mut chunks =
        Chunks { script: Script::default(), head, tail: if include_usage { r#","usage":null"# } else { "" } };
    for (at, spoken) in reply.answer.choices.iter().enumerate() {
        stream_choice(&mut chunks, at, spoken);
    }
    for (at, spoken) in reply.answer.choices.iter().enumerate() {
        chunks.script.finishing();
        chunks.choice(at, &json!({}), Some(reason(spoken)));
    }
    if include_usage {
        let usage = usage(&reply.answer.usage);
        chunks.script.written(None, format_args!(r#"{}"choices":[],"usage":{usage}}}"#, chunks.head));
    }
    chunks.script.written(None, format_args!("[DONE]"));
    chunks.script
}

fn stream_choice(chunks: &mut Chunks, at: usize, spoken: &Spoken) {
    let content = if spoken.calls.is_empty() { json!("") } else { Value::Null };
    chunks.choice(at, &json!({"role": "assistant", "content": content, "refusal": null}), None);
    chunks.script.generated(spoken.hidden);
    for chunk in &spoken.text {
        chunks.script.generated(chunk.tokens);
        chunks.choice(at, &json!({"content": chunk.text}), None);
    }
    for (index, call) in spoken.calls.iter().enumerate() {
        let function = json!({"name": call.name, "arguments": ""});
        let begun = json!({"index": index, "id": format!("call_{}", call.id), "type": "function", "function": function});
        chunks.choice(at, &json!({"tool_calls": [begun]}), None);
        for chunk in &call.arguments {
            chunks.script.generated(chunk.tokens);
            let more = json!({"index": index, "function": {"arguments": chunk.text}});
            chunks.choice(at, &json!({"tool_calls": [more]}), None);
        }
    }
}
