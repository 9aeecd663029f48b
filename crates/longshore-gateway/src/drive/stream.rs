//! Answers that come as a stream: shown as they come, held back from the first event that an agent could act on.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use longshore_core::call::Outcome;
use tokio::time::Instant;

use super::answer::{ANSWER_LIMIT, Unread, settle, shown_head};
use super::watch::Watch;
use super::{Drive, Failed, Try};
use crate::decode::Decoder;
use crate::fault::Fault;
use crate::live::End;
use crate::permits::Admitted;
use crate::scan::{Piece, Scan, Verdict};

/// How long the connection may stay open after the final event: the agent waits for that one, and some providers forget
/// the rest.
const AFTER_THE_LAST: Duration = Duration::from_millis(500);

/// What of a stream has come.
#[derive(Default)]
struct Come {
    all: Vec<Bytes>,
    /// The part of it that waits for the answer to be stored.
    held: Vec<Bytes>,
    bytes: usize,
}

impl Drive {
    pub(super) async fn stream(
        &mut self,
        response: reqwest::Response,
        decoder: Decoder,
        admitted: Admitted,
    ) -> Try {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let mut scan = Scan::new(self.prepared.shape, self.prepared.asked_for_usage);
        let mut come = Come::default();
        let read = self.follow(response, decoder, &mut scan, &mut come, (status, &headers)).await;
        let broke = match read {
            Ok(()) => None,
            Err(Unread::Over) => return self.abort().await,
            Err(unread) => Some(unread),
        };
        let verdict = match scan.finish(broke.is_none()) {
            Ok((pieces, verdict)) => {
                self.take(pieces, &mut come, (status, &headers));
                verdict
            }
            Err(_) => Verdict::Truncated,
        };
        match verdict {
            Verdict::Complete(facts) => {
                settle(admitted, &facts);
                self.keep(status, &headers, come.all, facts, come.held).await;
                Try::Done
            }
            Verdict::ErrorEvent { first: true, message } if !self.live.has_shown() => {
                self.error_event(message, admitted).await
            }
            Verdict::NoFinish if come.all.is_empty() => {
                let nothing = Unread::Broke("the stream held nothing".into());
                self.truncated(Some(nothing), admitted).await
            }
            Verdict::ErrorEvent { .. } | Verdict::NoFinish => {
                self.give_unfinished(status, &headers, come.held).await;
                Try::Done
            }
            Verdict::Truncated => self.truncated(broke, admitted).await,
        }
    }

    /// Reads the stream and shows what may be shown.
    async fn follow(
        &mut self,
        response: reqwest::Response,
        mut decoder: Decoder,
        scan: &mut Scan,
        come: &mut Come,
        head: (u16, &HeaderMap),
    ) -> Result<(), Unread> {
        let idle = Duration::from_millis(self.prepared.upstream.declared.idle_ms);
        let mut body = response.bytes_stream();
        // Its own: what is shown changes while it looks.
        let watch = Watch::new(&self.gateway, &self.prepared, &self.live, self.key);
        let over = watch.over();
        tokio::pin!(over);
        let mut ends_by = None;
        loop {
            if ends_by.is_some_and(|by| by <= Instant::now()) {
                return Ok(());
            }
            let patience = ends_by.unwrap_or_else(|| Instant::now() + idle);
            let chunk = tokio::select! {
                biased;
                chunk = tokio::time::timeout_at(patience, body.next()) => chunk,
                () = &mut over => return Err(Unread::Over),
            };
            let chunk = match chunk {
                Err(_) => return Err(Unread::TimedOut),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => {
                    return Err(Unread::Broke(longshore_core::errors::chain(&error.without_url())));
                }
                Ok(Some(Ok(chunk))) => chunk,
            };
            let plain = decoder
                .push(chunk, ANSWER_LIMIT - come.bytes)
                .map_err(|error| Unread::Broke(error.to_string()))?;
            come.bytes += plain.len();
            if come.bytes > ANSWER_LIMIT {
                return Err(Unread::TooLarge);
            }
            let pieces = scan.push(&plain).map_err(|_| Unread::TooLarge)?;
            self.take(pieces, come, head);
            if scan.is_done() {
                ends_by.get_or_insert_with(|| Instant::now() + idle.min(AFTER_THE_LAST));
            }
        }
    }

    fn take(&mut self, pieces: Vec<Piece>, come: &mut Come, (status, headers): (u16, &HeaderMap)) {
        let mut open = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Open(bytes) => {
                    come.all.push(bytes.clone());
                    open.push(bytes);
                }
                Piece::Held(bytes) => {
                    come.all.push(bytes.clone());
                    come.held.push(bytes);
                }
            }
        }
        if open.is_empty() {
            return;
        }
        if self.first.is_none() {
            self.first = Some(self.begun.elapsed());
            self.live.head(shown_head(status, headers, false));
        }
        self.live.show(open);
    }

    /// An error before anything else of the stream: as good as an error status. Should it be final, the agent gets it
    /// as one: its stream has not begun.
    async fn error_event(&mut self, message: String, admitted: Admitted) -> Try {
        let overloaded = message.to_ascii_lowercase().contains("overloaded");
        let status = if overloaded { 529 } else { 500 };
        let body = message.as_bytes();
        let outcome = Outcome::Answer { status, body, retry_after_ms: None, should_retry: None };
        let fault = Fault { status, code: "provider_error", message: message.clone() };
        let reason = if overloaded { "limited" } else { "server_error" };
        self.after(Failed { outcome, reason, fault }, None, admitted).await
    }

    /// A stream that ended in good order but without an answer: the agent sees all of it, the journal keeps nothing.
    async fn give_unfinished(&mut self, status: u16, headers: &HeaderMap, held: Vec<Bytes>) {
        self.billed += 1;
        self.gateway.metrics.maybe_billed(&self.of, 1);
        self.forget().await;
        self.gateway.metrics.ended(&self.of, "failed");
        self.live.head(shown_head(status, headers, false));
        self.live.show(held);
        self.live.end(End::Whole { delivered: true });
    }

    /// A stream that broke off: tried again if the agent saw nothing of it, else its connection breaks as well.
    async fn truncated(&mut self, broke: Option<Unread>, admitted: Admitted) -> Try {
        let unread = broke.unwrap_or_else(|| Unread::Broke("the stream ended in mid-answer".into()));
        if !self.live.has_shown() {
            return self.unread(unread, admitted).await;
        }
        self.billed += 1;
        self.gateway.metrics.maybe_billed(&self.of, 1);
        self.forget().await;
        self.gateway.metrics.ended(&self.of, "failed");
        self.break_off(match &unread {
            Unread::TimedOut => "the provider fell silent in mid-stream",
            Unread::TooLarge => "the provider's stream is too large",
            Unread::Broke(why) => why,
            Unread::Over => "the task has ended",
        });
        Try::Done
    }
}
