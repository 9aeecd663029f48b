//! Errors as the providers write them: reads theirs, writes longshore's own in the same form.
//!
//! An agent's SDK then raises the exception it would raise anyway, with longshore's message in it.

use serde_json::{Value, json};

use crate::fields::Fields;

/// Whose error format an agent expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
}

/// An error of longshore's own that an agent gets in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub status: u16,
    /// Stable and documented; OpenAI's format has a place for it, Anthropic's has none.
    pub code: &'static str,
    pub message: String,
}

/// The JSON body of an error answer.
pub fn body(dialect: Dialect, fault: &Fault) -> Vec<u8> {
    let Fault { status, code, message } = fault;
    let body = match dialect {
        Dialect::OpenAi => {
            let kind = openai_type(*status);
            json!({ "error": { "message": message, "type": kind, "param": Value::Null, "code": code } })
        }
        Dialect::Anthropic => {
            json!({ "type": "error", "error": { "type": anthropic_type(*status), "message": message } })
        }
    };
    body.to_string().into_bytes()
}

/// The same as a server-sent event, for a stream whose head is sent already.
pub fn event(dialect: Dialect, fault: &Fault) -> Vec<u8> {
    // JSON text has no line ends of its own, so it is one data line.
    [b"event: error\ndata: ".as_slice(), &body(dialect, fault), b"\n\n"].concat()
}

fn openai_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
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

    fn fault(status: u16) -> Fault {
        Fault { status, code: "provider_unreachable", message: "could not \"reach\"\nopenai".to_owned() }
    }

    fn written(dialect: Dialect, status: u16) -> Value {
        serde_json::from_slice(&body(dialect, &fault(status))).expect("JSON")
    }

    #[test]
    fn openai_errors_carry_the_code() {
        let expected = json!({"error": {
            "message": "could not \"reach\"\nopenai", "type": "server_error", "param": null,
            "code": "provider_unreachable",
        }});
        assert_eq!(written(Dialect::OpenAi, 502), expected);
        assert_eq!(written(Dialect::OpenAi, 429)["error"]["type"], "rate_limit_error");
        assert_eq!(written(Dialect::OpenAi, 404)["error"]["type"], "invalid_request_error");
    }

    #[test]
    fn anthropic_types_follow_the_status() {
        let expected = json!({
            "type": "error",
            "error": { "type": "api_error", "message": "could not \"reach\"\nopenai" },
        });
        assert_eq!(written(Dialect::Anthropic, 502), expected);
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (529, "overloaded_error"),
        ] {
            assert_eq!(written(Dialect::Anthropic, status)["error"]["type"], kind);
        }
    }

    #[test]
    fn an_error_is_one_event_that_reads_as_an_error() {
        for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
            let mut splitter = crate::sse::Splitter::new(1 << 16);
            splitter.push(&event(dialect, &fault(502)));
            let event = splitter.event().expect("short").expect("complete");
            assert_eq!(event.name, Some("error"));
            let data = event.data.expect("data");
            let message = error_in(&Fields::read(&data).expect("an object"));
            assert_eq!(message.as_deref(), Some("could not \"reach\"\nopenai"));
            assert!(splitter.rest().is_empty());
        }
    }

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
