//! Errors: reads the providers', and carries longshore's own to where they are written.

use longshore_api::llm_error;
use longshore_core::provider::Kind;

use crate::fields::Fields;

/// An error of longshore's own that an agent gets in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub status: u16,
    /// Stable and documented.
    pub code: &'static str,
    pub message: String,
}

/// The JSON body of an error answer, as a provider of this kind would write it.
pub fn body(kind: Kind, fault: &Fault) -> Vec<u8> {
    llm_error::body(kind, fault.status, fault.code, &fault.message).to_string().into_bytes()
}

/// The message of a body or event that is an error, of either provider and of those that imitate them.
pub(crate) fn error_in(fields: &Fields<'_>) -> Option<String> {
    if let Some(error) = fields.text("error") {
        let inner = Fields::read(error).and_then(|error| error.string("message"));
        return Some(inner.or_else(|| fields.string("error")).unwrap_or_else(|| shortened(error)));
    }
    let is_error = fields.string("type").is_some_and(|kind| kind == "error");
    is_error.then(|| fields.string("message").unwrap_or_else(|| "the provider gave no message".to_owned()))
}

/// Enough of a text to recognise it.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_message(text: &str, expected: Option<&str>) {
        assert_eq!(error_in(&Fields::read(text).expect("an object")).as_deref(), expected, "{text}");
    }

    #[test]
    fn errors_of_every_form_are_told_from_answers() {
        check_message(r#"{"error":{"message":"no","code":"x"}}"#, Some("no"));
        check_message(r#"{"error":"no"}"#, Some("no"));
        check_message(r#"{"error":{"code":5}}"#, Some(r#"{"code":5}"#));
        check_message(r#"{"type":"error","message":"no","code":null}"#, Some("no"));
        check_message(r#"{"error":null,"output":[]}"#, None);
        check_message(r#"{"type":"message","message":"no"}"#, None);
    }
}
