//! Makes a call: waits for a permit, sends, retries, shows what may be seen, stores the answer, then shows the rest.
//!
//! A task of its own that outlives whoever asked: a call that was sent is finished and journaled.

mod answer;
mod stream;
mod watch;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use longshore_core::call::{self, Next, Outcome, Tries};
use longshore_core::time::Timestamp;
use longshore_store::CallKey;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::fault::{self, Fault};
use crate::gateway::{Gateway, Opened};
use crate::incoming::Prepared;
use crate::live::{End, Live};
use crate::metrics::OfModel;
use crate::permits::{Admitted, TooLarge};
use crate::respond::{broken, of_model, own_head};
use watch::Watch;

/// What is to be done.
pub struct Job {
    /// `None`: passed through, and not journaled.
    pub key: Option<CallKey>,
    /// When the attempt's time is up: no retry waits longer.
    pub deadline: Timestamp,
}

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub fn start(gateway: Gateway, prepared: Arc<Prepared>, live: Arc<Live>, job: Job) {
    let opened = gateway.opened(job.key);
    let drive = Drive::new(gateway, prepared, live, job);
    tokio::spawn(drive.run(opened));
}

struct Drive {
    gateway: Gateway,
    prepared: Arc<Prepared>,
    live: Arc<Live>,
    key: Option<CallKey>,
    deadline: Timestamp,
    watch: Watch,
    of: OfModel,
    begun: Instant,
    waited: Duration,
    first: Option<Duration>,
    tries: u32,
    limited: u32,
    /// Tries that brought no answer, but may have been billed.
    billed: u32,
}

/// What one try came to.
enum Try {
    Done,
    Again { wait: Duration },
}

/// A try that failed: what the rules make of it, and what the agent gets if it was the last.
struct Failed<'a> {
    outcome: Outcome<'a>,
    reason: &'static str,
    fault: Fault,
}

impl Drive {
    fn new(gateway: Gateway, prepared: Arc<Prepared>, live: Arc<Live>, job: Job) -> Drive {
        let watch = Watch::new(&gateway, &prepared, &live, job.key);
        Drive {
            of: of_model(&prepared),
            watch,
            key: job.key,
            deadline: job.deadline,
            begun: Instant::now(),
            waited: Duration::ZERO,
            first: None,
            tries: 0,
            limited: 0,
            billed: 0,
            gateway,
            prepared,
            live,
        }
    }

    async fn run(mut self, _opened: Opened) {
        loop {
            let admitted = match self.admit().await {
                Ok(Some(admitted)) => admitted,
                Ok(None) => return self.live.end(End::AskAgain),
                Err(TooLarge { needs, limit }) => {
                    let message = format!(
                        "this request needs about {needs} tokens, and `{}` is limited to {limit} a minute",
                        self.prepared.call.provider
                    );
                    return self
                        .give_up(&Fault { status: 429, code: "request_exceeds_limit", message })
                        .await;
                }
            };
            let wait = match self.attempt(admitted).await {
                Try::Done => return,
                Try::Again { wait } => wait,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.watch.unwanted() => return self.live.end(End::AskAgain),
            }
            if !self.watch.is_wanted().await {
                return self.live.end(End::AskAgain);
            }
        }
    }

    /// A permit, or `None` when no valid fence wants the call any more.
    async fn admit(&mut self) -> Result<Option<Admitted>, TooLarge> {
        let begun = Instant::now();
        let Prepared { upstream, model, body, max_output, .. } = &*self.prepared;
        let admit = self.gateway.permits.admit(&upstream.declared, model, body.len(), *max_output);
        let admitted = tokio::select! {
            biased;
            admitted = admit => admitted?,
            () = self.watch.unwanted() => return Ok(None),
        };
        let waited = begun.elapsed();
        self.waited += waited;
        // The fence was found valid when the intent was written; what waited has to ask again.
        if waited > Duration::from_millis(5) && !self.watch.is_wanted().await {
            admitted.withdraw();
            return Ok(None);
        }
        Ok(Some(admitted))
    }

    async fn attempt(&mut self, admitted: Admitted) -> Try {
        let Prepared { upstream, method, path, headers, body, .. } = &*self.prepared;
        let patience = Duration::from_millis(upstream.declared.timeout_ms);
        let sent = upstream.send(method, path, headers, body.clone());
        let response = tokio::select! {
            biased;
            response = tokio::time::timeout(patience, sent) => response,
            () = self.watch.over() => return self.abort().await,
        };
        match response {
            Ok(Ok(response)) => self.read(response, admitted).await,
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                let failed = self.failed(Outcome::Connect, "connect", &error);
                self.after(failed, None, admitted).await
            }
            Ok(Err(error)) => {
                let failed = self.failed(Outcome::Broken, "broken", &error);
                self.after(failed, None, admitted).await
            }
            Err(_) => {
                let message =
                    format!("provider `{}` did not answer within {patience:?}", self.prepared.call.provider);
                let fault = Fault { status: 504, code: "provider_timeout", message };
                self.after(Failed { outcome: Outcome::TimedOut, reason: "timeout", fault }, None, admitted)
                    .await
            }
        }
    }

    fn failed<'a>(
        &self,
        outcome: Outcome<'a>,
        reason: &'static str,
        why: &dyn std::error::Error,
    ) -> Failed<'a> {
        let why = longshore_core::errors::chain(why);
        debug!(provider = %self.prepared.call.provider, reason, why, "a try at the provider failed");
        let provider = &self.prepared.call.provider;
        let (code, message) = match outcome {
            Outcome::Connect => {
                ("provider_unreachable", format!("provider `{provider}` could not be reached: {why}"))
            }
            _ => ("provider_broke_off", format!("provider `{provider}` gave no answer: {why}")),
        };
        Failed { outcome, reason, fault: Fault { status: 502, code, message } }
    }

    /// Decides what follows a try that failed. `answer`: the provider's own words, given on if they are final.
    async fn after(
        &mut self,
        failed: Failed<'_>,
        answer: Option<(HeaderMap, Bytes)>,
        admitted: Admitted,
    ) -> Try {
        let Failed { outcome, reason, fault } = failed;
        let tries = self.count(&outcome);
        let next = call::next(&outcome, tries, rand::random());
        if call::may_be_billed(&outcome) {
            self.billed += 1;
            self.gateway.metrics.maybe_billed(&self.of, 1);
        }
        if let Next::Retry { wait_ms, limited } = next {
            let wait = Duration::from_millis(wait_ms);
            if limited {
                self.gateway.permits.pause(&admitted, wait);
            }
            self.gateway.metrics.retried(&self.prepared.call.provider, reason);
            release(admitted, &outcome);
            return Try::Again { wait };
        }
        release(admitted, &outcome);
        match (next, outcome, answer) {
            (Next::Deliver { journal }, Outcome::Answer { status, .. }, Some((headers, body))) => {
                self.give_error(status, &headers, body, journal).await;
            }
            _ => self.give_up(&fault).await,
        }
        Try::Done
    }

    fn count(&mut self, outcome: &Outcome<'_>) -> Tries {
        // As the rules see it: a limit is no fault of the call.
        let is_limit = matches!(outcome, Outcome::Answer { status: 429 | 529, .. })
            || matches!(outcome, Outcome::Answer { status: 503, retry_after_ms: Some(_), .. });
        if is_limit {
            self.limited += 1;
        } else {
            self.tries += 1;
        }
        let left = u64::try_from(self.deadline.0.saturating_sub(now().0)).unwrap_or(0);
        let retries = self.prepared.upstream.declared.retries;
        Tries { count: self.tries, limited: self.limited, retries, left_ms: left }
    }

    /// The task has ended while its call was under way: nobody will ever ask for the answer.
    async fn abort(&mut self) -> Try {
        debug!(task = %self.prepared.call.held.task, "call aborted: its task has ended");
        self.billed += 1;
        self.gateway.metrics.maybe_billed(&self.of, 1);
        self.forget().await;
        self.gateway.metrics.ended(&self.of, "failed");
        self.live.end(End::Broken(broken("the task has ended")));
        Try::Done
    }

    /// Answers for the provider, which did not.
    async fn give_up(&mut self, fault: &Fault) {
        warn!(provider = %self.prepared.call.provider, status = fault.status, why = fault.message, "call given up");
        self.forget().await;
        self.gateway.metrics.ended(&self.of, "failed");
        self.live.head(own_head(fault.status));
        self.live.show([fault::body(self.prepared.upstream.declared.kind, fault).into()]);
        self.live.end(End::Whole { delivered: true });
    }

    /// Takes the intent back; its ask counts as failed.
    async fn forget(&self) {
        let Some(key) = self.key else { return };
        if let Err(failed) = self.gateway.store.fail_call(key, self.gateway.owner, self.billed).await {
            // It stays an intent of this gateway: who asks again waits until the next start takes it over.
            error!(error = %longshore_core::errors::chain(&failed), "an intent could not be taken back");
        }
    }
}

/// What was never sent takes nothing of the limit; what may be at work keeps what it reserved.
fn release(admitted: Admitted, outcome: &Outcome<'_>) {
    match outcome {
        Outcome::Connect => admitted.withdraw(),
        Outcome::Answer { .. } => admitted.settle(0),
        Outcome::Broken | Outcome::TimedOut => drop(admitted),
    }
}
