//! How a provider's clients are told of errors.

use bytes::Bytes;
use hyper::Response;
use hyper::header::{HeaderName, HeaderValue};
use longshore_api::llm_error;
use longshore_api::problem::Problem;
use longshore_core::provider::Kind;
use serde_json::Value;

use super::body::{self, Answer};

/// SDKs obey it: what longshore refuses, asking again does not mend.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// Nearly everybody speaks OpenAI's, so an unknown kind does too.
    pub fn of(kind: &str) -> Dialect {
        if kind == "anthropic" { Dialect::Anthropic } else { Dialect::OpenAi }
    }

    /// What clients expect a base URL to end in.
    pub fn base(self) -> &'static str {
        match self {
            Dialect::OpenAi => "/v1",
            Dialect::Anthropic => "",
        }
    }

    pub fn refusal(self, problem: &Problem) -> Response<Answer> {
        let mut response = body::of(problem.status, "application/json", self.error(problem).to_string());
        response.headers_mut().insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        response
    }

    /// The last event of a stream that fails.
    pub fn event(self, problem: &Problem) -> Bytes {
        self.event_of(&self.error(problem))
    }

    /// A provider's own error answer as the last event of a stream that was begun before it came.
    pub fn event_from(self, status: u16, body: &[u8]) -> Bytes {
        match serde_json::from_slice::<Value>(body) {
            Ok(error) if error.get("error").is_some() => self.event_of(&error),
            _ => {
                let said = String::from_utf8_lossy(body);
                let detail = format!("the provider answered with status {status}: {}", said.trim());
                self.event(&Problem::new(status, "provider_error", detail))
            }
        }
    }

    fn event_of(self, error: &Value) -> Bytes {
        // JSON that is written compactly holds no line feed.
        match self {
            Dialect::OpenAi => format!("data: {error}\n\n"),
            Dialect::Anthropic => format!("event: error\ndata: {error}\n\n"),
        }
        .into()
    }

    fn error(self, problem: &Problem) -> Value {
        let kind = match self {
            Dialect::OpenAi => Kind::OpenAi,
            Dialect::Anthropic => Kind::Anthropic,
        };
        llm_error::body(kind, problem.status, &problem.code, &message(problem))
    }
}

fn message(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{} ({hint})", problem.detail),
        None => problem.detail.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(dialect: Dialect, problem: &Problem, expected: Value) {
        assert_eq!(dialect.error(problem), expected);
    }

    #[test]
    fn an_error_is_in_the_form_that_the_providers_clients_read() {
        let problem = Problem::new(413, "too_large", "too much").hint("send less");
        check(
            Dialect::OpenAi,
            &problem,
            json!({"error": {"message": "too much (send less)", "type": "invalid_request_error", "param": null,
                "code": "too_large"}}),
        );
        check(
            Dialect::Anthropic,
            &problem,
            json!({"type": "error", "error": {"type": "request_too_large", "message": "too much (send less)",
                "code": "too_large"}}),
        );
        assert_eq!(Dialect::OpenAi.refusal(&problem).headers()["x-should-retry"], "false");
    }

    #[test]
    fn an_error_in_a_stream_is_one_event() {
        let event = Dialect::Anthropic.event_from(529, b"{\n \"type\":\"error\",\"error\":{\"a\":1}\n}");
        assert_eq!(event, "event: error\ndata: {\"error\":{\"a\":1},\"type\":\"error\"}\n\n");
        let event = String::from_utf8(Dialect::OpenAi.event_from(500, b"<html>\n").into()).expect("text");
        assert!(event.contains("status 500: <html>") && event.ends_with("}\n\n"), "{event}");
        assert_eq!(event.lines().count(), 2);
    }
}
