//! The door: which path, which provider, who may come in, and answers that are not billed.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ask::{self, Api};
use crate::call;
use crate::control;
use crate::deliver::{Body, Broken, full};
use crate::limit::Standing;
use crate::serve::State;
use crate::wire::error::{Provider, Refusal};
use crate::wire::{headers, models};

const MOST_BODY: usize = 64 << 20;
pub(crate) const JSON: &str = "application/json";

/// Answers one request. An error closes the connection without an answer.
pub(crate) async fn handle(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Broken> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let body = match Limited::new(body, MOST_BODY).collect().await {
        Ok(body) => Some(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => None,
        // Half a request is none.
        Err(_) => return Err(Broken),
    };
    if let Some(what) = path.strip_prefix("/sim/") {
        return Ok(control::handle(&state, &head.method, what, &body.unwrap_or_default()));
    }
    let api = [Api::Chat, Api::Responses, Api::Messages, Api::Embeddings]
        .into_iter()
        .find(|api| api.path() == path);
    let front = Front::new(&state, provider(api, path, &head.headers));
    let Some(body) = body else { return Ok(front.refuse(&Refusal::BodyTooLarge, Standing::default())) };
    match api {
        Some(api) if head.method == Method::POST => call::answer(&front, api, &head.headers, body).await,
        Some(_) => Ok(front.refuse(&Refusal::WrongMethod, Standing::default())),
        None => Ok(front.other(&head.method, path, &head.headers, &body)),
    }
}

/// Paths that both have, such as the list of models, are told apart by the header that only one of them knows.
fn provider(api: Option<Api>, path: &str, headers: &HeaderMap) -> Provider {
    let anthropic = match api {
        Some(api) => api == Api::Messages,
        None => path.starts_with(Api::Messages.path()) || headers.contains_key("anthropic-version"),
    };
    if anthropic { Provider::Anthropic } else { Provider::OpenAi }
}

/// Who answers: the state, in the words of one provider.
pub(crate) struct Front<'a> {
    pub(crate) state: &'a Arc<State>,
    provider: Provider,
    pub(crate) request_id: String,
}

impl Front<'_> {
    fn new(state: &Arc<State>, provider: Provider) -> Front<'_> {
        Front { state, provider, request_id: state.request_id() }
    }

    /// What is neither billed nor made to fail.
    fn other(&self, method: &Method, path: &str, headers: &HeaderMap, body: &Bytes) -> Response<Body> {
        let answer = self.allowed(headers).and_then(|()| match (method, path) {
            (&Method::GET, "/v1/models") => Ok(models::list(self.anthropic(), &self.state.options.models)),
            (&Method::GET, path) if path.starts_with("/v1/models/") => {
                let model = &path["/v1/models/".len()..];
                self.exists(model).map(|()| models::one(self.anthropic(), model))
            }
            (&Method::POST, "/v1/messages/count_tokens") => self.count(headers, body),
            (method, path) => Err(Refusal::NoSuchRoute(format!("{method} {path}"))),
        });
        match answer {
            Ok(answer) => self.respond(200, JSON, full(answer.to_string()), Standing::default()),
            Err(refusal) => self.refuse(&refusal, Standing::default()),
        }
    }

    fn count(&self, headers: &HeaderMap, body: &Bytes) -> Result<Value, Refusal> {
        self.versioned(headers)?;
        let body = parse(body)?;
        let ask = ask::messages::read_prompt(&body).map_err(Refusal::Invalid)?;
        self.exists(&ask.model)?;
        Ok(json!({"input_tokens": ask.prompt.tokens()}))
    }

    pub(crate) fn allowed(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let bearer = text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        let given = bearer.or_else(|| text("x-api-key")).map(str::trim).filter(|key| !key.is_empty());
        match (given, &self.state.options.key) {
            // Who wants to try something out has no key to give.
            (_, None) => Ok(()),
            (None, Some(_)) => Err(Refusal::NoKey),
            (Some(given), Some(key)) if given != key => Err(Refusal::WrongKey),
            (Some(_), Some(_)) => Ok(()),
        }
    }

    pub(crate) fn versioned(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.provider {
            Provider::Anthropic if !headers.contains_key("anthropic-version") => Err(Refusal::NoVersion),
            _ => Ok(()),
        }
    }

    pub(crate) fn exists(&self, model: &str) -> Result<(), Refusal> {
        let models = &self.state.options.models;
        match models.is_empty() || models.iter().any(|known| known == model) {
            true => Ok(()),
            false => Err(Refusal::NoSuchModel(model.to_owned())),
        }
    }

    pub(crate) fn anthropic(&self) -> bool {
        self.provider == Provider::Anthropic
    }

    pub(crate) fn standing(&self, model: &str) -> Standing {
        self.state.windows.standing(model, self.state.options.limits, Instant::now())
    }

    pub(crate) fn refuse(&self, refusal: &Refusal, standing: Standing) -> Response<Body> {
        let body = refusal.body(self.provider, &self.request_id).to_string();
        let mut response = self.respond(refusal.status(self.provider), JSON, full(body), standing);
        if let Some(wait_ms) = refusal.retry_after_ms() {
            headers::retry_after(response.headers_mut(), wait_ms);
        }
        response
    }

    pub(crate) fn respond(
        &self,
        status: u16,
        kind: &'static str,
        body: Body,
        standing: Standing,
    ) -> Response<Body> {
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(status).expect("statuses are checked where they are read");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let name = if self.anthropic() { "request-id" } else { "x-request-id" };
        headers::put(headers, name, &self.request_id);
        headers::standing(headers, self.provider, &standing);
        response
    }
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::NotJson(error.to_string()))
}
