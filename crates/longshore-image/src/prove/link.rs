//! A stand-in for the control plane: the worker link with one fleet and trial tasks, kept in memory.
//!
//! Gives a task whenever the worker has a free slot, so that a SIGTERM finds one under way; never answers an LLM call, so
//! that nothing is spent and an agent that asks is in the middle of its task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Json as Body, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use longshore_api::link as wire;
use longshore_core::fleet::{DrainMode, Protocol};
use longshore_core::id::{Fence, Held, TaskId};
use longshore_core::json::Json;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

/// How the worker is to drain; short, since only its manners are looked at.
pub const DRAIN: Duration = Duration::from_secs(3);
pub const KILL_GRACE: Duration = Duration::from_secs(2);

/// Between two tasks.
const BREATH: Duration = Duration::from_millis(50);

/// What the stand-in hands out.
#[derive(Clone, Debug)]
pub struct Offer {
    pub protocol: Protocol,
    pub command: Vec<String>,
    pub input: Json,
    pub health_path: String,
    pub startup: Duration,
}

/// What it has seen of the worker.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub registrations: u32,
    pub given: u32,
    pub succeeded: u32,
    /// Reasons of attempts that failed.
    pub failed: Vec<String>,
    pub handed_over: u32,
    pub in_flight: u32,
    pub said_goodbye: bool,
}

pub struct StandIn {
    offer: Offer,
    pub token: String,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    seen: Seen,
    /// The newest claim and its answer, which is given again when it is asked again.
    last: Option<wire::Claimed>,
    held: Vec<Held>,
    fence: u64,
    closed: bool,
}

impl StandIn {
    pub fn new(offer: Offer) -> Arc<StandIn> {
        let token = format!("lsw1.{FLEET}.{}", Uuid::new_v4().simple());
        Arc::new(StandIn { offer, token, inner: Mutex::default(), changed: Notify::new() })
    }

    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// No further task is given.
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Waits until something that was seen holds; whether it came to hold in time.
    pub async fn until(&self, within: Duration, holds: impl Fn(&Seen) -> bool) -> bool {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.seen()) {
                    return;
                }
                let _ = timeout(Duration::from_millis(100), changed).await;
            }
        };
        timeout(within, wait).await.is_ok()
    }

    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let router = Router::new()
            .route(wire::REGISTER, post(register))
            .route(wire::CLAIM, post(claim))
            .route(wire::HEARTBEAT, post(heartbeat))
            .route(wire::EVENTS, post(events))
            .route(wire::COMPLETE, post(complete))
            .route(wire::RELEASE, post(release))
            .route(wire::DEREGISTER, post(deregister))
            // An LLM call, or something of the agent's own API: under way for as long as anybody waits.
            .fallback(std::future::pending::<StatusCode>)
            .with_state(self);
        let _ = axum::serve(listener, router).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn lets_in(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match given.and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) if token == self.token => Ok(()),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }

    fn registered(&self) -> wire::Registered {
        let ms = |time: Duration| time.as_millis() as u64;
        let provider = |kind: &str| wire::ProviderSeen { name: kind.into(), kind: kind.into() };
        wire::Registered {
            command: self.offer.command.clone(),
            protocol: self.offer.protocol,
            concurrency: 1,
            health_path: self.offer.health_path.clone(),
            lease_ms: 30_000,
            heartbeat_ms: 5_000,
            drain_timeout_ms: ms(DRAIN),
            drain_mode: DrainMode::Wait,
            kill_grace_ms: ms(KILL_GRACE),
            probe_interval_ms: 1_000,
            probe_timeout_ms: 3_000,
            probe_failures: 3,
            startup_ms: ms(self.offer.startup),
            result_limit: 1 << 20,
            last_claim: 0,
            providers: vec![provider("openai"), provider("anthropic")],
            links: Vec::new(),
            gateways: None,
        }
    }
}

impl Inner {
    fn claim(&mut self, seq: u64, offer: &Offer) -> Option<wire::Claimed> {
        if let Some(last) = self.last.as_ref().filter(|last| last.seq == seq) {
            return Some(last.clone());
        }
        if self.closed || !self.held.is_empty() {
            return None;
        }
        self.fence += 1;
        let held = Held { task: TaskId(Uuid::now_v7()), fence: Fence(self.fence) };
        self.held.push(held);
        self.seen.given += 1;
        self.seen.in_flight = 1;
        let task = wire::ClaimedTask {
            id: held.task,
            fence: held.fence,
            attempt: 1,
            input: offer.input.clone(),
            labels: Default::default(),
            conversation: None,
            token: format!("lst1.{}.{}.{}", held.task, held.fence, Uuid::new_v4().simple()),
            timeout_ms: 60_000,
            questions: Default::default(),
            alone: false,
        };
        let claimed = wire::Claimed { seq, tasks: vec![task] };
        self.last = Some(claimed.clone());
        Some(claimed)
    }

    fn end(&mut self, held: Held) -> bool {
        let before = self.held.len();
        self.held.retain(|other| *other != held);
        self.seen.in_flight = self.held.len() as u32;
        before != self.held.len()
    }
}

type Asked<T> = (State<Arc<StandIn>>, HeaderMap, Body<T>);

async fn register(asked: Asked<wire::Register>) -> Result<Response, StatusCode> {
    let (State(plane), headers, _) = asked;
    plane.lets_in(&headers)?;
    plane.change(|inner| inner.seen.registrations += 1);
    Ok(Body(plane.registered()).into_response())
}

async fn claim(asked: Asked<wire::Claim>) -> Result<Response, StatusCode> {
    let (State(plane), headers, Body(claim)) = asked;
    plane.lets_in(&headers)?;
    // An agent that is done at once would else do thousands.
    if plane.seen().given > 0 {
        tokio::time::sleep(BREATH).await;
    }
    let claimed = plane.change(|inner| inner.claim(claim.seq, &plane.offer));
    let claimed = match claimed {
        Some(claimed) => claimed,
        None => {
            tokio::time::sleep(Duration::from_millis(claim.wait_ms.min(500))).await;
            wire::Claimed { seq: claim.seq, tasks: Vec::new() }
        }
    };
    Ok(Body(claimed).into_response())
}

async fn heartbeat(asked: Asked<wire::Heartbeat>) -> Result<Response, StatusCode> {
    let (State(plane), headers, Body(heartbeat)) = asked;
    plane.lets_in(&headers)?;
    tokio::time::sleep(Duration::from_millis(heartbeat.wait_ms.min(5_000))).await;
    Ok(Body(wire::HeartbeatAnswer::default()).into_response())
}

async fn events(asked: Asked<wire::Events>) -> Result<Response, StatusCode> {
    let (State(plane), headers, _) = asked;
    plane.lets_in(&headers)?;
    Ok(Body(wire::EventsAnswer::default()).into_response())
}

async fn complete(asked: Asked<wire::Complete>) -> Result<Response, StatusCode> {
    let (State(plane), headers, Body(complete)) = asked;
    plane.lets_in(&headers)?;
    let ended = plane.change(|inner| {
        for ending in &complete.endings {
            if !inner.end(ending.held) {
                continue;
            }
            match &ending.outcome {
                wire::Outcome::Succeeded { .. } => inner.seen.succeeded += 1,
                wire::Outcome::Failed(failure) => {
                    inner.seen.failed.push(format!("{}: {}", failure.code, failure.message))
                }
                // It waits for a person or a child: as good as done, nobody will answer.
                wire::Outcome::Waited(_) => inner.seen.succeeded += 1,
                wire::Outcome::Interrupted(_) => inner.seen.handed_over += 1,
            }
        }
        wire::Ended {
            accepted: complete.endings.iter().map(|ending| ending.held).collect(),
            refused: Vec::new(),
        }
    });
    Ok(Body(ended).into_response())
}

async fn release(asked: Asked<wire::Release>) -> Result<Response, StatusCode> {
    let (State(plane), headers, Body(release)) = asked;
    plane.lets_in(&headers)?;
    let ended = plane.change(|inner| {
        let accepted: Vec<Held> = release.attempts.iter().map(|attempt| attempt.held).collect();
        inner.seen.handed_over += accepted.iter().filter(|held| inner.end(**held)).count() as u32;
        wire::Ended { accepted, refused: Vec::new() }
    });
    Ok(Body(ended).into_response())
}

async fn deregister(asked: Asked<wire::Deregister>) -> Result<Response, StatusCode> {
    let (State(plane), headers, _) = asked;
    plane.lets_in(&headers)?;
    plane.change(|inner| inner.seen.said_goodbye = true);
    Ok(Body(serde_json::json!({})).into_response())
}

/// The name that the stand-in's fleet has.
pub const FLEET: &str = "check";
