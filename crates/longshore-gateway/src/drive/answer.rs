//! Answers that come in one piece, and how answers are kept.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::{HeaderMap, header};
use longshore_api::llm::Head;
use longshore_core::call::{Outcome, parse_retry_after};
use longshore_core::json::Json;
use longshore_core::provider::{Tokens, cost_nano};
use longshore_store::{AnswerOutcome, NewAnswer, Packed, Used};
use tracing::error;

use super::{Drive, Failed, Try, now};
use crate::decode::{Decoder, UnknownEncoding};
use crate::facts::Facts;
use crate::fault::Fault;
use crate::live::End;
use crate::permits::Admitted;
use crate::respond::broken;
use crate::scan::MAX_EVENT;
use crate::whole;

/// The most that an answer may hold.
pub(super) const ANSWER_LIMIT: usize = 64 << 20;

/// How much of an answer that goes through waits for its agent.
const PASSING: usize = 1 << 20;

/// The most of an error that is read.
const ERROR_LIMIT: usize = 1 << 20;

/// What the rules of retrying look at.
const LOOKED_AT: usize = 64 << 10;

/// Why a body could not be read to its end.
pub(super) enum Unread {
    TimedOut,
    Broke(String),
    TooLarge,
    /// The task has ended.
    Over,
}

impl Drive {
    /// An answer's head is there: what kind of answer is it?
    pub(super) async fn read(&mut self, response: reqwest::Response, admitted: Admitted) -> Try {
        let (status, headers) = (response.status(), response.headers().clone());
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let decoder = match Decoder::new(text(header::CONTENT_ENCODING)) {
            Ok(decoder) => Some(decoder),
            Err(unknown) if status.is_success() || self.key.is_none() => return self.packed(&unknown).await,
            // The status says enough.
            Err(_) => None,
        };
        if status.is_informational() {
            let why = io::Error::other(format!("it switched to another protocol (status {status})"));
            let failed = self.failed(Outcome::Broken, "no_answer", &why);
            return self.after(failed, None, admitted).await;
        }
        let is_stream = text(header::CONTENT_TYPE).is_some_and(is_event_stream);
        match decoder {
            Some(decoder) if self.key.is_none() => self.pass(response, decoder, admitted).await,
            Some(decoder) if status.is_success() && is_stream => {
                self.stream(response, decoder, admitted).await
            }
            Some(decoder) if status.is_success() => self.whole(response, decoder, admitted).await,
            decoder => self.refused(response, decoder, admitted).await,
        }
    }

    /// An answer that cannot be unpacked, and asking again would bring it again.
    async fn packed(&mut self, unknown: &UnknownEncoding) -> Try {
        let message = format!("provider `{}` cannot be read: {unknown}", self.prepared.call.provider);
        self.lost(&Fault { status: 502, code: "provider_answer_packed", message }).await
    }

    /// The provider answered, and the agent cannot have it.
    async fn lost(&mut self, fault: &Fault) -> Try {
        self.billed += 1;
        self.gateway.metrics.maybe_billed(&self.of, 1);
        self.give_up(fault).await;
        Try::Done
    }

    async fn whole(&mut self, response: reqwest::Response, decoder: Decoder, admitted: Admitted) -> Try {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = match self.collect(response, decoder, ANSWER_LIMIT).await {
            Ok(body) => body,
            Err(unread) => return self.unread(unread, admitted).await,
        };
        match whole::read(self.prepared.shape, &body) {
            Ok(facts) => {
                self.first = Some(self.begun.elapsed());
                settle(admitted, &facts);
                self.keep(status, &headers, vec![body], facts, Vec::new()).await;
                Try::Done
            }
            Err(no_answer) => {
                let provider = &self.prepared.call.provider;
                let fault = Fault {
                    status: 502,
                    code: "provider_answer_invalid",
                    message: format!("provider `{provider}` answered with status {status}, but {no_answer}"),
                };
                self.after(Failed { outcome: Outcome::Broken, reason: "no_answer", fault }, None, admitted)
                    .await
            }
        }
    }

    /// An error status: retried, or given to the agent as it is.
    async fn refused(
        &mut self,
        response: reqwest::Response,
        decoder: Option<Decoder>,
        admitted: Admitted,
    ) -> Try {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let read = match decoder {
            Some(decoder) => self.collect(response, decoder, ERROR_LIMIT).await.map(Some),
            None => Ok(None),
        };
        let words = match read {
            Ok(words) => words,
            Err(Unread::Over) => return self.abort().await,
            // The status is known, and longshore has words of its own.
            Err(_) => None,
        };
        let body = words.clone().unwrap_or_default();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let should_retry = text("x-should-retry").map(|value| value.trim() == "true");
        let outcome = Outcome::Answer {
            status,
            body: &body[..body.len().min(LOOKED_AT)],
            retry_after_ms: parse_retry_after(text("retry-after-ms"), text("retry-after"), now()),
            should_retry,
        };
        let fault = Fault {
            status,
            code: "provider_error",
            message: format!("provider `{}` answered with status {status}", self.prepared.call.provider),
        };
        let reason = match status {
            429 | 529 => "limited",
            500.. => "server_error",
            _ => "refused",
        };
        self.after(Failed { outcome, reason, fault }, words.map(|words| (headers, words)), admitted).await
    }

    /// Gives the provider's own error to the agent; the lasting ones are journaled.
    pub(super) async fn give_error(&mut self, status: u16, headers: &HeaderMap, body: Bytes, journal: bool) {
        self.first = Some(self.begun.elapsed());
        if journal && self.key.is_some() {
            return self.keep(status, headers, vec![body], Facts::default(), Vec::new()).await;
        }
        self.forget().await;
        self.gateway.metrics.ended(&self.of, "failed");
        let mut head = shown_head(status, headers, false);
        head.headers.retain(|(name, _)| name != "x-should-retry");
        // The gateway has tried what there was to try.
        head.headers.push(("x-should-retry".into(), "false".into()));
        self.live.head(head);
        self.live.show([body]);
        self.live.end(End::Whole { delivered: true });
    }

    /// Stores an answer, then shows what of it was held back. `rest`: what is not shown yet, if a part is.
    pub(super) async fn keep(
        &mut self,
        status: u16,
        headers: &HeaderMap,
        body: Vec<Bytes>,
        facts: Facts,
        rest: Vec<Bytes>,
    ) {
        let Some(key) = self.key else { return };
        let begun_to_show = self.live.has_shown();
        let whole = joined(body);
        let head = shown_head(status, headers, true);
        let used =
            facts.tokens.map(|usage| Used { input: usage.input, cached: usage.cached, output: usage.output });
        let total = self.begun.elapsed();
        let first = self.first.unwrap_or(total);
        let deliver = self.live.is_followed();
        let answer = NewAnswer {
            status,
            headers: Json::of(&head.headers),
            body: pack(whole.clone()).await,
            used,
            cost_nano: self.cost(&facts),
            waited_ms: self.waited.as_millis() as u64,
            first_ms: first.as_millis() as u64,
            total_ms: total.as_millis() as u64,
            maybe_billed: self.billed,
            deliver,
        };
        let call = std::sync::Arc::clone(&self.prepared.call);
        match self.gateway.store.answer_call(key, call, answer, now()).await {
            Ok(AnswerOutcome::Stored) => {
                if let Some(usage) = &facts.tokens {
                    self.gateway.permits.learn(
                        &self.prepared.upstream.declared,
                        &self.prepared.model,
                        usage.output,
                    );
                }
                self.gateway.metrics.took(&self.of, self.waited, first, total);
                self.gateway.metrics.ended(&self.of, "live");
                self.live.head(shown_head(status, headers, false));
                self.live.show(if begun_to_show { rest } else { vec![whole] });
                self.live.end(End::Whole { delivered: deliver });
            }
            // Somebody else's answer counts: no half of this one may be continued with it.
            Ok(AnswerOutcome::Superseded) if begun_to_show => {
                self.live.end(End::Broken(broken("another gateway has answered this call")));
            }
            Ok(AnswerOutcome::Superseded) => self.live.end(End::AskAgain),
            Err(failed) => {
                error!(error = %longshore_core::errors::chain(&failed), "an answer could not be stored");
                self.billed += 1;
                self.forget().await;
                self.live.end(End::Broken(broken("the answer could not be stored")));
            }
        }
    }

    fn cost(&self, facts: &Facts) -> u64 {
        let declared = &self.prepared.upstream.declared;
        let of_answer = facts.model.as_deref().and_then(|model| declared.price_for(model));
        let price = declared.price_for(&self.prepared.model).or(of_answer);
        match (price, &facts.tokens) {
            (Some(price), Some(usage)) => {
                let tokens = Tokens { input: usage.input, cached: usage.cached, output: usage.output };
                cost_nano(price, tokens)
            }
            _ => 0,
        }
    }

    /// A call that is not journaled: everything goes through as it comes.
    async fn pass(&mut self, response: reqwest::Response, mut decoder: Decoder, admitted: Admitted) -> Try {
        drop(admitted);
        self.live.head(shown_head(response.status().as_u16(), response.headers(), false));
        let idle = Duration::from_millis(self.prepared.upstream.declared.idle_ms);
        let mut body = response.bytes_stream();
        let why = loop {
            let chunk = tokio::select! {
                chunk = tokio::time::timeout(idle, body.next()) => chunk,
                () = self.watch.over() => return Try::Done,
            };
            match chunk {
                Ok(Some(Ok(chunk))) => match decoder.push(chunk, ANSWER_LIMIT) {
                    Ok(plain) if plain.is_empty() => {}
                    Ok(plain) if plain.len() > ANSWER_LIMIT => {
                        break "its answer is packed too tightly".into();
                    }
                    Ok(plain) => {
                        self.live.show([plain]);
                        self.live.room(PASSING).await;
                    }
                    Err(error) => break error.to_string(),
                },
                Ok(None) => {
                    self.gateway.metrics.ended(&self.of, "passed");
                    self.live.end(End::Whole { delivered: true });
                    return Try::Done;
                }
                Ok(Some(Err(error))) => break error.without_url().to_string(),
                Err(_) => break format!("nothing came for {idle:?}"),
            }
        };
        self.gateway.metrics.ended(&self.of, "failed");
        self.break_off(&why);
        Try::Done
    }

    pub(super) fn break_off(&self, why: &str) {
        let by = longshore_api::llm::Breaker::Provider;
        self.live.end(End::Broken(longshore_api::llm::Broken { by, why: why.to_owned() }));
    }

    /// Reads a body to its end.
    async fn collect(
        &self,
        response: reqwest::Response,
        mut decoder: Decoder,
        limit: usize,
    ) -> Result<Bytes, Unread> {
        let idle = Duration::from_millis(self.prepared.upstream.declared.idle_ms);
        let mut body = response.bytes_stream();
        let mut all = BytesMut::new();
        let over = self.watch.over();
        tokio::pin!(over);
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = tokio::time::timeout(idle, body.next()) => chunk,
                () = &mut over => return Err(Unread::Over),
            };
            match chunk {
                Err(_) => return Err(Unread::TimedOut),
                Ok(None) => return Ok(all.freeze()),
                Ok(Some(Err(error))) => {
                    return Err(Unread::Broke(longshore_core::errors::chain(&error.without_url())));
                }
                Ok(Some(Ok(chunk))) => {
                    let plain = decoder
                        .push(chunk, limit - all.len())
                        .map_err(|error| Unread::Broke(error.to_string()))?;
                    if all.len() + plain.len() > limit {
                        return Err(Unread::TooLarge);
                    }
                    all.extend_from_slice(&plain);
                }
            }
        }
    }

    /// An answer that did not arrive whole, of which nothing was shown.
    pub(super) async fn unread(&mut self, unread: Unread, admitted: Admitted) -> Try {
        let provider = &self.prepared.call.provider;
        let (outcome, reason, status, code, message) = match unread {
            Unread::Over => return self.abort().await,
            Unread::TimedOut => (
                Outcome::TimedOut,
                "timeout",
                504,
                "provider_timeout",
                format!("provider `{provider}` fell silent in mid-answer"),
            ),
            Unread::Broke(why) => (
                Outcome::Broken,
                "broken",
                502,
                "provider_broke_off",
                format!("provider `{provider}` broke its answer off: {why}"),
            ),
            // Asking again would bring as much again.
            Unread::TooLarge => {
                let message = format!(
                    "provider `{provider}` answered with more than {} MiB, or {} MiB in one event",
                    ANSWER_LIMIT >> 20,
                    MAX_EVENT >> 20
                );
                return self.lost(&Fault { status: 502, code: "provider_answer_too_large", message }).await;
            }
        };
        self.after(Failed { outcome, reason, fault: Fault { status, code, message } }, None, admitted).await
    }
}

pub(super) fn settle(admitted: Admitted, facts: &Facts) {
    match &facts.tokens {
        Some(usage) => admitted.settle(usage.input + usage.output),
        // Unknown: what was reserved is the best guess.
        None => drop(admitted),
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

/// Packing a large answer takes longer than others should wait.
async fn pack(body: Bytes) -> Packed {
    if body.len() < 128 << 10 {
        return Packed::new(&body);
    }
    tokio::task::spawn_blocking(move || Packed::new(&body)).await.expect("packing does not panic")
}

/// An answer's head as the agent sees it. `kept`: as it is stored, without what was true of that moment only.
pub(super) fn shown_head(status: u16, headers: &HeaderMap, kept: bool) -> Head {
    let shown = headers.iter().filter(|(name, _)| !is_dropped(name.as_str(), kept));
    let shown = shown.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())));
    Head { status, headers: shown.collect(), stored: false }
}

fn is_event_stream(kind: &str) -> bool {
    kind.trim_start().get(..17).is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"))
}

fn is_dropped(name: &str, kept: bool) -> bool {
    let of_the_connection = matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "content-length"
            | "content-encoding"
            | "set-cookie"
            | "alt-svc"
            | "strict-transport-security"
            | "date"
    );
    let of_the_moment = name.starts_with("x-ratelimit-")
        || name.starts_with("anthropic-ratelimit-")
        || name.starts_with("retry-after");
    of_the_connection || (kept && of_the_moment)
}
