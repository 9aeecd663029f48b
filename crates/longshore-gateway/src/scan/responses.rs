//! Responses: named events, the last of which carries the whole response.

use super::{Seen, Stage, kind};
use crate::facts::{Facts, of_response};
use crate::fault::error_in;
use crate::fields::Fields;

/// Items that the client must act on: calls of its own tools, and questions to its user.
const FOR_THE_CLIENT: [&str; 7] = [
    "function_call",
    "custom_tool_call",
    "computer_call",
    "local_shell_call",
    "mcp_approval_request",
    "shell_call",
    "apply_patch_call",
];

pub(super) fn read(name: Option<&str>, data: &str, facts: &mut Facts) -> Option<Seen> {
    // The name alone tells most events apart, and deltas are most of a stream.
    if name.is_some_and(|name| name.ends_with(".delta")) {
        return None;
    }
    let fields = Fields::read(data)?;
    match &*kind(name, &fields) {
        "response.function_call_arguments.done" | "response.custom_tool_call_input.done" => {
            Some(Seen::Reached(Stage::Actable))
        }
        "response.output_item.done" => {
            let item = fields.fields("item")?.string("type")?;
            FOR_THE_CLIENT.contains(&item.as_str()).then_some(Seen::Reached(Stage::Actable))
        }
        "response.completed" | "response.incomplete" => {
            if let Some(response) = fields.fields("response") {
                *facts = of_response(&response);
            }
            Some(Seen::Reached(Stage::Done))
        }
        "response.failed" => {
            let message = fields.fields("response").and_then(|response| error_in(&response));
            Some(Seen::Error(message.unwrap_or_else(|| "the response failed".to_owned())))
        }
        _ => error_in(&fields).map(Seen::Error),
    }
}
