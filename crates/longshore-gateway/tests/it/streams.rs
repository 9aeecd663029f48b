//! The streams: one file each, in the form of the provider's API reference.

use longshore_gateway::shape::Shape;

/// A stream, and the text whose event is its first finishing one.
#[derive(Debug)]
pub struct Stream {
    pub name: &'static str,
    pub shape: Shape,
    pub text: &'static str,
    pub finishing: &'static str,
    /// Input, cached and output tokens.
    pub tokens: Option<(u64, u64, u64)>,
    pub model: &'static str,
    pub finish: &'static str,
}

/// Streams that end well. Chat streams are as an agent sees them that asked for its usage.
pub const COMPLETE: &[Stream] = &[
    Stream {
        name: "chat text with usage",
        shape: Shape::Chat,
        text: include_str!("streams/chat.sse"),
        finishing: r#""finish_reason":"stop""#,
        tokens: Some((24, 16, 3)),
        model: "gpt-5-mini-2025-08-07",
        finish: "stop",
    },
    Stream {
        name: "chat with parallel tool calls and no usage",
        shape: Shape::Chat,
        text: include_str!("streams/chat_tools.sse"),
        finishing: r#""finish_reason":"tool_calls""#,
        tokens: None,
        model: "gpt-5-mini-2025-08-07",
        finish: "tool_calls",
    },
    Stream {
        name: "chat with two choices",
        shape: Shape::Chat,
        text: include_str!("streams/chat_two_choices.sse"),
        finishing: r#""finish_reason": "length""#,
        tokens: Some((9, 0, 8)),
        model: "local",
        finish: "length",
    },
    Stream {
        name: "completions",
        shape: Shape::Completions,
        text: include_str!("streams/completions.sse"),
        finishing: r#""finish_reason":"stop""#,
        tokens: Some((5, 0, 2)),
        model: "gpt-3.5-turbo-instruct",
        finish: "stop",
    },
    Stream {
        name: "responses text",
        shape: Shape::Responses,
        text: include_str!("streams/responses.sse"),
        finishing: "event: response.completed",
        tokens: Some((37, 20, 11)),
        model: "gpt-5-2025-08-07",
        finish: "completed",
    },
    Stream {
        name: "responses with tool calls",
        shape: Shape::Responses,
        text: include_str!("streams/responses_tools.sse"),
        finishing: "event: response.function_call_arguments.done",
        tokens: Some((80, 0, 30)),
        model: "gpt-5-2025-08-07",
        finish: "completed",
    },
    Stream {
        name: "responses with a shell call, without event names",
        shape: Shape::Responses,
        text: include_str!("streams/responses_shell.sse"),
        finishing: r#""type":"response.output_item.done","sequence_number":4"#,
        tokens: None,
        model: "gpt-5-codex",
        finish: "incomplete",
    },
    Stream {
        name: "messages text",
        shape: Shape::Messages,
        text: include_str!("streams/messages.sse"),
        finishing: "event: message_delta",
        tokens: Some((2_135, 2_000, 15)),
        model: "claude-sonnet-4-5",
        finish: "end_turn",
    },
    Stream {
        name: "messages with interleaved blocks",
        shape: Shape::Messages,
        text: include_str!("streams/messages_tools.sse"),
        // The blocks of thinking, of a server's tool and of text stop earlier, and hold nothing back.
        finishing: r#"data: {"type":"content_block_stop","index":3}"#,
        tokens: Some((472, 0, 89)),
        model: "claude-sonnet-4-5",
        finish: "tool_use",
    },
];

/// As the provider sends it when usage was asked for on the agent's behalf, and as the agent is to see it.
pub const WITH_USAGE: &str = include_str!("streams/chat_nulls.sse");
pub const WITHOUT_USAGE: &str = include_str!("streams/chat_nulls_taken_out.sse");
