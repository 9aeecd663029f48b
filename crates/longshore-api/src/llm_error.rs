//! longshore's own errors as an LLM provider would write them.
//!
//! An agent's SDK then raises the exception it would raise anyway, with longshore's message in it. Gateway and relay both
//! answer so.

use longshore_core::provider::Kind;
use serde_json::{Value, json};

/// The JSON body of an error answer with HTTP status `status`; `code` is stable and documented.
pub fn body(kind: Kind, status: u16, code: &str, message: &str) -> Value {
    match kind {
        Kind::OpenAi => json!({"error": {
            "message": message, "type": openai_type(status), "param": null, "code": code,
        }}),
        // Anthropic's format has no place for a code; its clients leave alone what they do not know.
        Kind::Anthropic => json!({"type": "error", "error": {
            "type": anthropic_type(status), "message": message, "code": code,
        }}),
    }
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
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, status: u16, expected: &str) {
        assert_eq!(body(kind, status, "a_code", "words")["error"]["type"], expected, "{kind:?} {status}");
    }

    #[test]
    fn openai_errors_have_all_that_its_clients_read() {
        let expected = json!({"error": {
            "message": "words", "type": "server_error", "param": null, "code": "a_code",
        }});
        assert_eq!(body(Kind::OpenAi, 502, "a_code", "words"), expected);
        check(Kind::OpenAi, 429, "rate_limit_error");
        check(Kind::OpenAi, 404, "invalid_request_error");
    }

    #[test]
    fn anthropic_types_follow_the_status() {
        let expected = json!({
            "type": "error", "error": { "type": "api_error", "message": "words", "code": "a_code" },
        });
        assert_eq!(body(Kind::Anthropic, 502, "a_code", "words"), expected);
        for (status, kind) in [
            (400, "invalid_request_error"),
            (401, "authentication_error"),
            (403, "permission_error"),
            (404, "not_found_error"),
            (409, "invalid_request_error"),
            (413, "request_too_large"),
            (429, "rate_limit_error"),
            (529, "overloaded_error"),
        ] {
            check(Kind::Anthropic, status, kind);
        }
    }
}
