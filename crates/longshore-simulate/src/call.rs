//! One billed call, from its arrival to its answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue, Response};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::answer::{self, Answer};
use crate::ask::{Api, Ask};
use crate::bill::{Progress, Ticket};
use crate::deliver::{Body, Broken, Delivery, Then, full};
use crate::digest::Digest;
use crate::draw::Draw;
use crate::fault::{Facts, What};
use crate::front::{Front, JSON, parse};
use crate::limit::{Standing, Verdict};
use crate::pace::Timeline;
use crate::serve::State;
use crate::spoil::{self, Refused};
use crate::trace::Row;
use crate::wire::error::{Limited, Refusal};
use crate::wire::{Played, Reply, headers};

const EVENTS: &str = "text/event-stream; charset=utf-8";

/// Answers one call. An error closes the connection without an answer.
pub(crate) async fn answer(
    front: &Front<'_>,
    api: Api,
    headers: &HeaderMap,
    bytes: Bytes,
) -> Result<Response<Body>, Broken> {
    let (ticket, arrived) = arrive(front, api, headers, &bytes);
    let call = match arrived {
        Ok(call) => call,
        Err(refusal) => {
            ticket.refused();
            return Ok(front.refuse(&refusal, Standing::default()));
        }
    };
    let stream = call.ask.stream;
    if let Some(refused) = call.what.and_then(|what| Refused::by(what, stream)) {
        let standing = front.standing(&call.ask.model);
        front.state.gate.before_answer(stream).await;
        return refused_by(front, refused, ticket, standing);
    }
    match call.admit() {
        (standing, Ok(answer)) => {
            front.state.gate.before_answer(stream).await;
            Ok(call.send(&answer, ticket, standing).await)
        }
        (standing, Err(refusal)) => {
            ticket.refused();
            Ok(front.refuse(&refusal, standing))
        }
    }
}

fn refused_by(
    front: &Front<'_>,
    refused: Refused,
    ticket: Ticket,
    standing: Standing,
) -> Result<Response<Body>, Broken> {
    match refused {
        // The ticket is dropped: a call that broke.
        Refused::Drop => Err(Broken),
        Refused::Page => {
            ticket.refused();
            Ok(front.respond(200, "text/html; charset=utf-8", full(spoil::PAGE), standing))
        }
        Refused::Error(refusal) => {
            ticket.refused();
            Ok(front.refuse(&refusal, standing))
        }
    }
}

/// Writes the call down, right or wrong.
fn arrive<'a>(
    front: &'a Front<'a>,
    api: Api,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> (Ticket, Result<Call<'a>, Refusal>) {
    let state = front.state;
    let body = parse(bytes);
    let digest = match &body {
        Ok(body) => Digest::request(api.path(), body),
        Err(_) => Digest::of(bytes),
    };
    let read = body.and_then(|body| Ask::read(api, &body).map(|ask| (body, ask)).map_err(Refusal::Invalid));
    let (model, said) = read.as_ref().map_or(("", ""), |(_, ask)| (ask.model.as_str(), ask.said.as_str()));
    let (ticket, received) = state.ledger.receive(&digest, api.path(), model, said);
    let what = front.allowed(headers).map(|()| {
        let facts = Facts { seed: state.options.seed, digest: &digest, received, model, body: bytes };
        state.faults.next(&facts)
    });
    let call = what.and_then(|what| {
        front.versioned(headers)?;
        let (body, ask) = read?;
        front.exists(&ask.model)?;
        Ok(Call { front, api, body, ask, digest, what })
    });
    (ticket, call)
}

/// A call that is in order.
struct Call<'a> {
    front: &'a Front<'a>,
    api: Api,
    body: Value,
    ask: Ask,
    digest: Digest,
    what: Option<What>,
}

impl Call<'_> {
    /// Composes the answer and charges it to the limits.
    fn admit(&self) -> (Standing, Result<Answer, Refusal>) {
        let State { options, cache, windows, .. } = &**self.front.state;
        let (ask, row) = (&self.ask, self.row());
        let length =
            |draw: &mut Draw| row.map_or_else(|| answer::drawn_tokens(draw), |row| row.output_tokens);
        let answer = answer::compose(ask, &self.digest, options.seed, cache.cached(&ask.prompt), length);
        let usage = answer.usage;
        // Anthropic does not count what it reads from its cache.
        let free = if self.front.anthropic() { usage.cached } else { 0 };
        let tokens = usage.input - free + usage.output;
        let (verdict, standing) = windows.admit(&ask.model, options.limits, tokens, Instant::now());
        let limited =
            || Box::new(Limited { limits: options.limits, used: standing, tokens, model: ask.model.clone() });
        let outcome = match verdict {
            Verdict::Admitted => {
                cache.remember(&ask.prompt);
                Ok(answer)
            }
            Verdict::TooLarge => Err(Refusal::RequestTooLarge(limited())),
            Verdict::Wait(kind, wait) => {
                Err(Refusal::RateLimited { kind, wait_ms: headers::millis(wait), limited: limited() })
            }
        };
        (standing, outcome)
    }

    fn row(&self) -> Option<Row> {
        let State { options, .. } = &**self.front.state;
        options.trace.as_ref().map(|trace| trace.row(Draw::new(options.seed, &self.digest, "trace").next()))
    }

    async fn send(&self, answer: &Answer, mut ticket: Ticket, standing: Standing) -> Response<Body> {
        let (stream, output) = (self.ask.stream, answer.usage.output);
        let timeline = self.timeline(output);
        let progress = if stream { Progress::Sent(0) } else { Progress::Clock(timeline) };
        ticket.begin(answer.usage, progress);
        // With a slow first token the head comes first, and the body waits for itself.
        if !matches!(self.what, Some(What::SlowFirstToken { .. })) {
            let due = timeline.due(if stream { 0 } else { output });
            if due > Instant::now() {
                sleep_until(due).await;
            }
        }
        let played = self.play(answer);
        let length = played.bytes.len();
        let (body, endless) = self.body(played, timeline, ticket);
        let mut response = self.front.respond(200, if stream { EVENTS } else { JSON }, body, standing);
        self.describe(response.headers_mut(), Some(length).filter(|_| !stream && !endless), length);
        response
    }

    fn timeline(&self, output: u64) -> Timeline {
        let options = &self.front.state.options;
        let mut draw = Draw::new(options.seed, &self.digest, "pace");
        let mut timeline = Timeline::new(&options.latency, self.row(), output, &mut draw, Instant::now());
        if let Some(What::SlowFirstToken { ms } | What::LateAnswer { ms }) = self.what {
            timeline.ttft += Duration::from_millis(ms);
        }
        timeline
    }

    /// The bytes of the answer, spoilt where a fault asks for it.
    fn play(&self, answer: &Answer) -> Played {
        let usage = self.what != Some(What::MissingUsage);
        let seed = self.front.state.options.seed;
        let reply = Reply { body: &self.body, ask: &self.ask, answer, seed, usage };
        let played = reply.script(self.api).play();
        match self.what {
            Some(what) => spoil::played(played, what, self.ask.stream),
            None => played,
        }
    }

    /// Also whether it will go on without bound.
    fn body(&self, played: Played, timeline: Timeline, mut ticket: Ticket) -> (Body, bool) {
        let stream = self.ask.stream;
        let slow = matches!(self.what, Some(What::SlowFirstToken { .. }));
        let number = self.front.request_id.as_str();
        let cut = self.what.and_then(|what| spoil::cut(what, &played, self.api, stream, number));
        if !stream && !slow && cut.is_none() {
            ticket.answered();
            return (full(played.bytes), false);
        }
        let endless = cut.as_ref().is_some_and(|cut| matches!(cut.then, Then::Pad(_)));
        let state = Arc::clone(self.front.state);
        (Delivery { state, played, timeline, ticket, cut, stream, next: 0 }.body(), endless)
    }

    fn describe(&self, headers: &mut HeaderMap, promised: Option<usize>, length: usize) {
        let promised = match self.what {
            Some(What::WrongContentLength) => Some(length + 1000),
            _ => promised,
        };
        if let Some(promised) = promised {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(promised));
        }
        if self.what == Some(What::Gzip) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if self.ask.stream {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
    }
}
