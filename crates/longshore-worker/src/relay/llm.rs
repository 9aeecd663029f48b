//! Serves an agent's LLM call.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use longshore_api::llm::{BODY_LIMIT, PREFIX};
use longshore_api::problem::Problem;
use tokio::time::Instant;

use super::Relay;
use super::body::{self, Answer, CutOff};
use super::call::{Call, Fate, Opened, Unanswered};
use super::dialect::Dialect;
use super::flow::Flow;
use super::headers::{self, Shown};
use super::register::Refusal;
use super::waiting::{self, Phase, Waiting};

/// The most of an answer without a body that is read; there should be nothing.
const NO_BODY: usize = 1;

pub async fn answer(relay: Arc<Relay>, request: Request<Incoming>) -> Result<Response<Answer>, CutOff> {
    let (parts, body) = request.into_parts();
    let Some(provider) = provider(parts.uri.path()) else {
        _ = body::read(body, BODY_LIMIT).await?;
        return Ok(super::unknown(&parts.method, parts.uri.path()));
    };
    let dialect = relay.dialect(provider, &parts.headers);
    let within = format!("{PREFIX}{provider}/");
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    let shown = Shown::by(&parts.headers);
    let body = match body::read(body, BODY_LIMIT).await? {
        Ok(body) => body,
        Err(body::TooLarge) => return Ok(relay.refuse(dialect, &too_large())),
    };
    if parts.method == Method::HEAD {
        return Ok(relay.refuse(dialect, &no_head()));
    }
    let entry = match relay.register.admit(&shown) {
        Ok(entry) => entry,
        Err(refusal) => return Ok(relay.refuse(dialect, &refusal.problem())),
    };
    let mut sent = parts.headers;
    headers::for_the_gateway(&mut sent);
    let deadline = Instant::now() + relay.times.keep_alive_after;
    let asked = body.clone();
    let mut opening = waiting::opening(Call::new(&relay, &entry, parts.method, path, within, sent, body));
    tokio::select! {
        biased;
        (call, opened) = &mut opening => begin(call, opened, dialect).await,
        () = entry.closed() => Ok(dialect.refusal(&Refusal::Revoked.problem())),
        () = tokio::time::sleep_until(deadline) => {
            let streamed = waiting::asks_for_a_stream(&asked);
            let (every, next) = (relay.times.keep_alive_every, deadline);
            let waiting = Waiting { opening, entry: Arc::clone(&entry), dialect, streamed, every, next };
            Ok(keep_waiting(waiting))
        }
    }
}

/// The provider's name in a path that goes on after it.
fn provider(path: &str) -> Option<&str> {
    let (name, _) = path.strip_prefix(PREFIX)?.split_once('/')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

impl Relay {
    /// Of a provider that was declared after this worker registered, only its client can tell.
    fn dialect(&self, provider: &str, headers: &HeaderMap) -> Dialect {
        let seen = self.addresses.providers.iter().find(|seen| seen.name == provider);
        match seen {
            Some(seen) => Dialect::of(&seen.kind),
            None if headers.contains_key("anthropic-version") => Dialect::Anthropic,
            None => Dialect::OpenAi,
        }
    }

    fn refuse(&self, dialect: Dialect, problem: &Problem) -> Response<Answer> {
        self.metrics.llm_call("refused");
        dialect.refusal(problem)
    }
}

/// Frames are a body, which an answer to HEAD has not.
fn no_head() -> Problem {
    Problem::new(405, "method_not_allowed", "HEAD is not carried to the provider; ask with GET")
}

fn too_large() -> Problem {
    let detail = format!("the request holds more than {} MiB", BODY_LIMIT >> 20);
    Problem::new(413, "request_too_large", detail)
}

/// The head is there before any keep-alive: the agent gets it as it is.
async fn begin(
    mut call: Call,
    opened: Result<Opened, Unanswered>,
    dialect: Dialect,
) -> Result<Response<Answer>, CutOff> {
    let opened = match opened {
        Ok(opened) => opened,
        Err(Unanswered::Refused(problem)) => {
            call.settle(Fate::Refused);
            return Ok(dialect.refusal(&problem));
        }
        Err(Unanswered::Broken(broken)) => {
            call.break_off(&broken);
            return Err(CutOff);
        }
    };
    let mut headers = headers::for_the_agent(&opened.head.headers);
    let status = StatusCode::from_u16(opened.head.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let length = headers::length(&headers);
    if length.is_none() {
        headers.remove(CONTENT_LENGTH);
    }
    let no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) || length == Some(0);
    let body = if no_body {
        // Nobody would read it to its end, so it is done here.
        Flow::new(call, opened, None).whole(NO_BODY).await?;
        body::full("")
    } else {
        body::streamed(Phase::Flowing(Flow::new(call, opened, length).into()).stream())
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn keep_waiting(waiting: Waiting) -> Response<Answer> {
    let kind = if waiting.streamed { "text/event-stream" } else { "application/json" };
    let mut response = Response::new(body::streamed(Phase::Waiting(waiting).stream()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_provider() {
        for (path, expected) in [
            ("/llm/openai/v1/models", Some("openai")),
            ("/llm/azure-eu/", Some("azure-eu")),
            ("/llm/openai", None),
            ("/llm//v1", None),
            ("/llm/../worker/v1/claim", None),
            ("/llm/%2e%2e/worker", None),
        ] {
            assert_eq!(provider(path), expected, "{path}");
        }
    }
}
