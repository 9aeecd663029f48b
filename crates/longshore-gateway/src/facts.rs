//! What an answer says about itself, whether it was streamed or not.

use crate::fields::Fields;
use crate::usage::{Usage, openai};

/// Told by the provider, and so absent where it tells nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub tokens: Option<Usage>,
    pub model: Option<String>,
    /// The provider's word for why the answer ended: `stop`, `tool_use`, `completed`.
    pub finish: Option<String>,
}

/// The facts of OpenAI's response object; a stream's last event holds the same object.
pub(crate) fn of_response(response: &Fields<'_>) -> Facts {
    Facts {
        tokens: response.fields("usage").and_then(|usage| openai(&usage)),
        model: response.string("model"),
        finish: response.string("status"),
    }
}

/// The first reason that a chat's choices tell; an empty one is some servers' way to write null.
pub(crate) fn finish_reason(fields: &Fields<'_>) -> Option<String> {
    let choices = fields.list("choices")?;
    let reason = |choice: &str| {
        let choice = Fields::read(choice)?;
        // A reason that is no string is a reason all the same.
        choice.string("finish_reason").or_else(|| choice.text("finish_reason").map(str::to_owned))
    };
    choices.iter().filter_map(|choice| reason(choice.get())).find(|reason| !reason.is_empty())
}
