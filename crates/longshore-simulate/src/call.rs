//! One call from its arrival to its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

use crate::answer::{self, Answer};
use crate::ask::{self, Api, Ask};
use crate::bill::{Progress, Ticket};
use crate::control;
use crate::deliver::{Body, Broken, Cut, Delivery, Then, full};
use crate::digest::Digest;
use crate::draw::Draw;
use crate::fault::{Facts, What};
use crate::gzip;
use crate::limit::{Standing, Verdict};
use crate::pace::Timeline;
use crate::serve::State;
use crate::wire::error::{Provider, Refusal};
use crate::wire::{Played, Reply, headers, models};

const MOST_BODY: usize = 64 << 20;
const PADDING: usize = 256 << 20;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

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
        Some(api) if head.method == Method::POST => front.call(api, &head.headers, body).await,
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
struct Front<'a> {
    state: &'a Arc<State>,
    provider: Provider,
    request_id: String,
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

    async fn call(&self, api: Api, headers: &HeaderMap, bytes: Bytes) -> Result<Response<Body>, Broken> {
        let Arrived { ticket, digest, what, body, ask } = match self.arrive(api, headers, &bytes) {
            Ok(arrived) => arrived,
            Err(refused) => return Ok(refused),
        };
        let stream = ask.stream;
        let unheld = match what.and_then(|what| Refused::by(what, stream)) {
            Some(refused) => Err((refused, self.standing(&ask.model))),
            None => {
                let call = Call { front: self, api, body: &body, ask: &ask, digest: &digest, what };
                match call.admit() {
                    Err((refusal, standing)) => {
                        ticket.refused();
                        return Ok(self.refuse(&refusal, standing));
                    }
                    Ok(admitted) => Ok((call, admitted)),
                }
            }
        };
        self.state.gate.before_answer(stream).await;
        match unheld {
            Ok((call, admitted)) => Ok(call.answer(admitted, ticket).await),
            Err((Refused::Drop, _)) => Err(Broken),
            Err((Refused::Page, standing)) => {
                ticket.refused();
                Ok(self.respond(200, "text/html; charset=utf-8", full(PAGE), standing))
            }
            Err((Refused::Error(refusal), standing)) => {
                ticket.refused();
                Ok(self.refuse(&refusal, standing))
            }
        }
    }

    /// Writes the call down; what is wrong with it is answered at once.
    fn arrive(&self, api: Api, headers: &HeaderMap, bytes: &Bytes) -> Result<Arrived, Response<Body>> {
        let body = parse(bytes);
        let digest = match &body {
            Ok(body) => Digest::request(api.path(), body),
            Err(_) => Digest::of(bytes),
        };
        let read =
            body.and_then(|body| Ask::read(api, &body).map(|ask| (body, ask)).map_err(Refusal::Invalid));
        let (model, said) =
            read.as_ref().map_or(("", ""), |(_, ask)| (ask.model.as_str(), ask.said.as_str()));
        let (ticket, received) = self.state.ledger.receive(&digest, api.path(), model, said);
        let mut what = None;
        let checked = self.allowed(headers).and_then(|()| {
            let facts =
                Facts { seed: self.state.options.seed, digest: &digest, received, model, body: bytes };
            what = self.state.faults.next(&facts);
            self.versioned(headers)
        });
        let read = checked.and(read).and_then(|(body, ask)| self.exists(&ask.model).map(|()| (body, ask)));
        match read {
            Ok((body, ask)) => Ok(Arrived { ticket, digest, what, body, ask }),
            Err(refusal) => {
                ticket.refused();
                Err(self.refuse(&refusal, Standing::default()))
            }
        }
    }

    fn allowed(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let bearer = text(AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
        let given = bearer.or_else(|| text("x-api-key")).map(str::trim).filter(|key| !key.is_empty());
        match (given, &self.state.options.key) {
            (None, _) => Err(Refusal::NoKey),
            (Some(given), Some(key)) if given != key => Err(Refusal::WrongKey),
            _ => Ok(()),
        }
    }

    fn versioned(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match self.provider {
            Provider::Anthropic if !headers.contains_key("anthropic-version") => Err(Refusal::NoVersion),
            _ => Ok(()),
        }
    }

    fn exists(&self, model: &str) -> Result<(), Refusal> {
        let models = &self.state.options.models;
        match models.is_empty() || models.iter().any(|known| known == model) {
            true => Ok(()),
            false => Err(Refusal::NoSuchModel(model.to_owned())),
        }
    }

    fn anthropic(&self) -> bool {
        self.provider == Provider::Anthropic
    }

    fn standing(&self, model: &str) -> Standing {
        self.state.windows.standing(model, self.state.options.limits, Instant::now())
    }

    fn refuse(&self, refusal: &Refusal, standing: Standing) -> Response<Body> {
        let body = refusal.body(self.provider, &self.request_id).to_string();
        let mut response = self.respond(refusal.status(self.provider), JSON, full(body), standing);
        if let Some(wait_ms) = refusal.retry_after_ms() {
            headers::retry_after(response.headers_mut(), wait_ms);
        }
        response
    }

    fn respond(&self, status: u16, kind: &'static str, body: Body, standing: Standing) -> Response<Body> {
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

struct Arrived {
    ticket: Ticket,
    digest: Digest,
    what: Option<What>,
    body: Value,
    ask: Ask,
}

fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::NotJson(error.to_string()))
}

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Just a moment...</title></head>\
    <body><h1>Please wait while we check your connection</h1></body></html>\n";

/// A fault because of which nothing is answered.
enum Refused {
    Error(Refusal),
    Drop,
    Page,
}

impl Refused {
    fn by(what: What, stream: bool) -> Option<Refused> {
        match what {
            What::Status { status, retry_after_ms } => {
                Some(Refused::Error(Refusal::Fault { status, retry_after_ms }))
            }
            What::Overloaded => Some(Refused::Error(Refusal::Overloaded)),
            What::ErrorEventMidStream { .. } if !stream => {
                Some(Refused::Error(Refusal::Fault { status: 500, retry_after_ms: None }))
            }
            What::DropBeforeHead => Some(Refused::Drop),
            What::Html => Some(Refused::Page),
            _ => None,
        }
    }
}

/// A call that is in order.
struct Call<'a> {
    front: &'a Front<'a>,
    api: Api,
    body: &'a Value,
    ask: &'a Ask,
    digest: &'a Digest,
    what: Option<What>,
}

struct Admitted {
    answer: Answer,
    standing: Standing,
}

impl Call<'_> {
    /// Composes the answer and charges it to the limits.
    fn admit(&self) -> Result<Admitted, (Refusal, Standing)> {
        let State { options, cache, windows, .. } = &**self.front.state;
        let (ask, now) = (self.ask, Instant::now());
        let row = self.row();
        let length =
            |draw: &mut Draw| row.map_or_else(|| answer::drawn_tokens(draw), |row| row.output_tokens);
        let answer = answer::compose(ask, self.digest, options.seed, cache.cached(&ask.prompt), length);
        let usage = answer.usage;
        // Anthropic does not count what it reads from its cache.
        let free = if self.front.anthropic() { usage.cached } else { 0 };
        let asked = usage.input - free + usage.output;
        let (verdict, standing) = windows.admit(&ask.model, options.limits, asked, now);
        let (limits, model) = (options.limits, ask.model.clone());
        match verdict {
            Verdict::Admitted => {
                cache.remember(&ask.prompt);
                Ok(Admitted { answer, standing })
            }
            Verdict::TooLarge => Err((Refusal::RequestTooLarge { limits, asked, model }, standing)),
            Verdict::Wait(kind, wait) => {
                let (wait_ms, used) = (headers::millis(wait), standing.used(kind));
                let asked = Standing::asked(kind, asked);
                Err((Refusal::RateLimited { kind, wait_ms, limits, used, asked, model }, standing))
            }
        }
    }

    fn row(&self) -> Option<crate::trace::Row> {
        let State { options, .. } = &**self.front.state;
        options.trace.as_ref().map(|trace| trace.row(Draw::new(options.seed, self.digest, "trace").next()))
    }

    async fn answer(&self, admitted: Admitted, mut ticket: Ticket) -> Response<Body> {
        let Admitted { answer, standing } = admitted;
        let options = &self.front.state.options;
        if let Some(What::LateAnswer { ms }) = self.what {
            sleep(Duration::from_millis(ms)).await;
        }
        let mut pace = Draw::new(options.seed, self.digest, "pace");
        let output = answer.usage.output;
        let mut timeline = Timeline::new(&options.latency, self.row(), output, &mut pace, Instant::now());
        let slow = match self.what {
            Some(What::SlowFirstToken { ms }) => Some(Duration::from_millis(ms)),
            _ => None,
        };
        timeline.ttft += slow.unwrap_or_default();
        let progress = if self.ask.stream { Progress::Sent(0) } else { Progress::Clock(timeline) };
        ticket.begin(answer.usage, progress);
        if slow.is_none() {
            let first = if self.ask.stream { 0 } else { output };
            sleep_until(timeline.due(first)).await;
        }
        self.send(self.play(&answer), timeline, ticket, standing)
    }

    /// The bytes of the answer, spoilt where a fault asks for it.
    fn play(&self, answer: &Answer) -> Played {
        let usage = self.what != Some(What::MissingUsage);
        let seed = self.front.state.options.seed;
        let played = Reply { body: self.body, ask: self.ask, answer, seed, usage }.script(self.api).play();
        match self.what {
            Some(What::MalformedSse) => played.mangled(),
            Some(What::Gzip) => {
                let zipped = gzip::stored(&played.bytes);
                played.replaced(zipped)
            }
            Some(what) if !self.ask.stream && cuts(what) => played.halved(),
            _ => played,
        }
    }

    fn send(
        &self,
        played: Played,
        timeline: Timeline,
        mut ticket: Ticket,
        standing: Standing,
    ) -> Response<Body> {
        let stream = self.ask.stream;
        let length = played.bytes.len();
        let cut = self.cut(&played);
        let endless = cut.as_ref().is_some_and(|cut| matches!(cut.then, Then::Pad(_)));
        let plain =
            !stream && matches!(self.what, None | Some(What::MalformedSse | What::MissingUsage | What::Gzip));
        let body = if plain {
            ticket.answered();
            full(played.bytes)
        } else {
            let state = Arc::clone(self.front.state);
            Delivery { state, played, timeline, ticket, cut, stream, next: 0 }.body()
        };
        let kind = if stream { EVENTS } else { JSON };
        let mut response = self.front.respond(200, kind, body, standing);
        let headers = response.headers_mut();
        let promised = match self.what {
            Some(What::WrongContentLength) => Some(length + 1000),
            _ => Some(length).filter(|_| !stream && !endless),
        };
        if let Some(promised) = promised {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(promised));
        }
        if self.what == Some(What::Gzip) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(http::header::VARY, HeaderValue::from(ACCEPT_ENCODING));
        }
        if stream {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        response
    }

    fn cut(&self, played: &Played) -> Option<Cut> {
        let (finishing, stream) = (played.finishing, self.ask.stream);
        let (after, then) = match self.what? {
            What::DropMidStream { after_chunks } => (after_chunks, Then::Break),
            What::Stall { after_chunks } => (after_chunks, Then::Stall),
            What::ErrorEventMidStream { after_chunks } if stream => {
                (after_chunks, Then::Last(self.error_event(after_chunks)))
            }
            What::NoFinish if stream => (finishing, Then::Last(Bytes::new())),
            What::EndlessChunks => (1, Then::Pad(PADDING)),
            // All of it, and then not what was promised.
            What::WrongContentLength => return Some(Cut { after: played.frames.len(), then: Then::Break }),
            _ => return None,
        };
        // No answer is cut after its end was told; one that is no stream, in its middle.
        let after = if stream { after.min(finishing) } else { 1 };
        Some(Cut { after, then })
    }

    fn error_event(&self, number: usize) -> Bytes {
        const MESSAGE: &str = "The server had an error while processing your request. Sorry about that!";
        Bytes::from(match self.api {
            Api::Messages => {
                let error = json!({"type": "overloaded_error", "message": "Overloaded"});
                let data = json!({"type": "error", "error": error, "request_id": self.front.request_id});
                format!("event: error\ndata: {data}\n\n")
            }
            Api::Responses => {
                let data = json!({"type": "error", "code": "server_error", "message": MESSAGE, "param": null,
                    "sequence_number": number});
                format!("event: error\ndata: {data}\n\n")
            }
            Api::Chat | Api::Embeddings => {
                let error = json!({"message": MESSAGE, "type": "server_error", "param": null, "code": null});
                format!("data: {}\n\n", json!({"error": error}))
            }
        })
    }
}

/// Faults that stop an answer before its end.
fn cuts(what: What) -> bool {
    matches!(what, What::DropMidStream { .. } | What::Stall { .. } | What::EndlessChunks)
}
