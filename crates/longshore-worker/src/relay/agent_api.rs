//! The agent's own API: its events go to the outbox, all else to the control plane.
//!
//! Everything in it may be repeated without harm, so it is repeated here until the control plane answers.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{Method, Request, Response, StatusCode};
use longshore_api::link::AgentEventKind;
use longshore_api::link_client::{Carried, Door, LinkError, Round};
use longshore_api::llm;
use longshore_api::problem::Problem;
use longshore_core::errors::chain;
use longshore_core::json::Json;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::body::{self, Answer, CutOff};
use super::call::secret;
use super::headers::{self, Shown};
use super::patience::{self, Patience};
use super::register::{Entry, Refusal};
use super::{AGENT_API, Relay};
use crate::outbox::MESSAGES_LIMIT;

/// The most that a request may hold, bytes. The control plane takes less of some things, and says so itself.
const LIMIT: usize = 16 << 20;

const TASK_TOKEN: HeaderName = HeaderName::from_static(llm::TASK_TOKEN);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Event,
    Message,
    ControlPlane,
}

fn route(method: &Method, path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.strip_prefix(AGENT_API)?.split('/').collect();
    Some(match (method, &parts[..]) {
        (&Method::POST, ["events"]) => Route::Event,
        (&Method::POST, ["conversation", "messages"]) => Route::Message,
        (&Method::GET, ["conversation"] | ["steps"]) => Route::ControlPlane,
        (&Method::POST | &Method::PUT, ["steps", name]) if is_a_name(name) => Route::ControlPlane,
        (&Method::GET, ["children" | "questions"]) | (&Method::POST, ["children"]) => Route::ControlPlane,
        (&Method::GET | &Method::PUT, ["children", name]) if is_a_name(name) => Route::ControlPlane,
        (&Method::GET | &Method::POST, ["questions", name]) if is_a_name(name) => Route::ControlPlane,
        (&Method::GET | &Method::PUT | &Method::DELETE, ["cache", key]) if is_a_name(key) => {
            Route::ControlPlane
        }
        _ => return None,
    })
}

/// Dots alone, however they are written, would name another place.
fn is_a_name(name: &str) -> bool {
    !matches!(&*name.to_ascii_lowercase().replace("%2e", "."), "" | "." | "..")
}

pub async fn answer(relay: &Relay, request: Request<Incoming>) -> Result<Response<Answer>, CutOff> {
    let (parts, body) = request.into_parts();
    let body = body::read(body, LIMIT).await?;
    let Some(route) = route(&parts.method, parts.uri.path()) else {
        return Ok(super::unknown(&parts.method, parts.uri.path()));
    };
    let Ok(body) = body else { return Ok(body::problem(&too_large())) };
    let entry = match relay.register.admit(&Shown::by(&parts.headers)) {
        Ok(entry) => entry,
        Err(refusal) => return Ok(body::problem(&refusal.problem())),
    };
    let said = match route {
        Route::Event => event(&entry, &body),
        Route::Message => message(&entry, &body),
        Route::ControlPlane => {
            let mut sent = parts.headers;
            headers::for_the_gateway(&mut sent);
            sent.insert(TASK_TOKEN, secret(&entry.token));
            let carried = Carried {
                to: Door::Link,
                method: parts.method,
                path: parts.uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
                within: AGENT_API.to_owned(),
                headers: sent,
                body,
                patience: relay.times.silence,
            };
            return carry(relay, &entry, carried).await;
        }
    };
    Ok(match said {
        Ok(()) => no_content(),
        Err(problem) => body::problem(&problem),
    })
}

fn too_large() -> Problem {
    Problem::new(413, "request_too_large", format!("the request holds more than {} MiB", LIMIT >> 20))
}

fn no_content() -> Response<Answer> {
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn event(entry: &Entry, body: &[u8]) -> Result<(), Box<Problem>> {
    #[derive(Deserialize)]
    struct Event {
        kind: AgentEventKind,
        #[serde(default = "Json::null")]
        data: Json,
    }
    let Event { kind, data } = read(body)?;
    match kind {
        AgentEventKind::Progress => {
            check_depth(&data)?;
            entry.speaker.progress(data);
            Ok(())
        }
        AgentEventKind::Message => append(entry, data),
    }
}

fn message(entry: &Entry, body: &[u8]) -> Result<(), Box<Problem>> {
    #[derive(Deserialize)]
    struct Message {
        data: Json,
    }
    append(entry, read::<Message>(body)?.data)
}

fn append(entry: &Entry, data: Json) -> Result<(), Box<Problem>> {
    check_depth(&data)?;
    let fits = data.text().len() <= MESSAGES_LIMIT && entry.speaker.message(data).is_ok();
    if fits { Ok(()) } else { Err(message_too_large().into()) }
}

fn message_too_large() -> Problem {
    let detail =
        format!("an attempt's messages that wait to be sent hold at most {} MiB", MESSAGES_LIMIT >> 20);
    Problem::new(413, "message_too_large", detail)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Box<Problem>> {
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn check_depth(data: &Json) -> Result<(), Box<Problem>> {
    data.check_depth().map_err(|error| invalid(error.to_string()))
}

fn invalid(detail: String) -> Box<Problem> {
    Problem::new(400, "invalid_body", detail).into()
}

/// Asks the control plane until it answers or the attempt is over.
async fn carry(relay: &Relay, entry: &Arc<Entry>, carried: Carried) -> Result<Response<Answer>, CutOff> {
    let asked = async {
        let (mut patience, mut round) = (Patience::new(relay.times.unauthorised), Round::default());
        loop {
            // Repeatable: a step's beginning and its result are known by its name, and the rest only reads.
            match ask(relay, &carried, &mut patience, &mut round).await {
                Ok(response) => return response,
                Err(why) => {
                    debug!(why, path = carried.path, "control plane does not answer an agent; asking again")
                }
            }
            if !round.moves_on() {
                patience.wait().await;
            }
        }
    };
    tokio::select! {
        biased;
        response = asked => Ok(response),
        () = entry.closed() => Ok(body::problem(&Refusal::Revoked.problem())),
    }
}

/// Errors, in words: asking again may help.
async fn ask(
    relay: &Relay,
    carried: &Carried,
    patience: &mut Patience,
    round: &mut Round,
) -> Result<Response<Answer>, String> {
    let reply = match relay.client.carry(carried, round).await {
        Ok(reply) => reply,
        Err(LinkError::Problem(problem)) => return Ok(body::problem(&problem)),
        Err(error) => return Err(chain(&error)),
    };
    let status = reply.status();
    if longshore_api::link_client::is_away(status) {
        return Err(format!("status {status}"));
    }
    let kind = reply.headers().get(CONTENT_TYPE).cloned();
    let at = Arc::clone(reply.address());
    let body: Result<Bytes, String> = match tokio::time::timeout(relay.times.silence, reply.bytes()).await {
        Ok(read) => read.map_err(|error| chain(&error)),
        Err(_) => Err("the answer did not come".to_owned()),
    };
    let body = body.inspect_err(|_| relay.client.broke_off(Door::Link, &at, round))?;
    if let Ok(problem) = serde_json::from_slice::<Problem>(&body)
        && patience::is_unauthorised(status, &problem.code)
    {
        if patience.with_unauthorised() {
            return Err(problem.detail);
        }
        return Ok(body::problem(&Problem { status: 502, ..problem }));
    }
    let mut response = Response::new(body::full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    kind.into_iter().for_each(|kind| drop(response.headers_mut().insert(CONTENT_TYPE, kind)));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, expected: Option<Route>) {
        assert_eq!(route(&method, path), expected, "{method} {path}");
    }

    #[test]
    fn routes_are_those_that_the_page_names() {
        check(Method::POST, "/agent/v1/events", Some(Route::Event));
        check(Method::POST, "/agent/v1/conversation/messages", Some(Route::Message));
        check(Method::GET, "/agent/v1/conversation", Some(Route::ControlPlane));
        check(Method::GET, "/agent/v1/steps", Some(Route::ControlPlane));
        check(Method::POST, "/agent/v1/steps/fetch%20it", Some(Route::ControlPlane));
        check(Method::PUT, "/agent/v1/steps/fetch", Some(Route::ControlPlane));
        check(Method::POST, "/agent/v1/children", Some(Route::ControlPlane));
        check(Method::GET, "/agent/v1/children", Some(Route::ControlPlane));
        check(Method::PUT, "/agent/v1/children/part%201", Some(Route::ControlPlane));
        check(Method::GET, "/agent/v1/children/part%201", Some(Route::ControlPlane));
        check(Method::GET, "/agent/v1/questions", Some(Route::ControlPlane));
        check(Method::POST, "/agent/v1/questions/ok", Some(Route::ControlPlane));
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            check(method.clone(), "/agent/v1/cache/a%2Fb", Some(Route::ControlPlane));
            check(method, "/agent/v1/cache/%2e%2e", None);
        }
        check(Method::DELETE, "/agent/v1/children/x", None);
        check(Method::POST, "/agent/v1/cache/x", None);
        check(Method::GET, "/agent/v1/events", None);
        check(Method::PUT, "/agent/v1/steps/", None);
        check(Method::PUT, "/agent/v1/steps/a/b", None);
        check(Method::PUT, "/agent/v1/steps/%2E.", None);
        check(Method::GET, "/agent/v1/", None);
    }
}
