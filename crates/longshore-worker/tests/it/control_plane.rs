//! A fake control plane: the worker link's routes with scripted answers, and a record of what was asked.
//!
//! It keeps no leases and checks no fences; the real one is tested end to end elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Json, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::serve::ListenerExt;
use longshore_api::link::{
    self, AgentEvent, Claim, Claimed, ClaimedTask, Complete, Deregister, DrainOrder, Ended, Events,
    EventsAnswer, Heartbeat, HeartbeatAnswer, Outcome, Register, Registered, Release, WorkerState,
};
use longshore_api::problem::Problem;
use longshore_core::fleet::{DrainMode, Protocol};
use longshore_core::id::Held;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

use super::gateway::Gateway;
use super::scene::eventually;

pub const TOKEN: &str = "token-that-no-agent-may-see";

#[derive(Clone)]
pub struct ControlPlane {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    served: Arc<Mutex<Option<Served>>>,
}

pub struct Shared {
    pub record: Mutex<Record>,
    changed: Notify,
}

/// A runtime of its own: when it goes, its listener and all connections do.
struct Served(Option<Runtime>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

#[derive(Default)]
pub struct Record {
    pub registered: Option<Registered>,
    queue: VecDeque<ClaimedTask>,
    granted: BTreeMap<u64, Vec<ClaimedTask>>,
    /// What heartbeats are told again and again, until one shows that it arrived.
    cancel: BTreeSet<Held>,
    lost: BTreeSet<Held>,
    drain: Option<DrainOrder>,
    checks: BTreeMap<String, String>,
    /// What heartbeats are told of replicas.
    pub links: Vec<String>,
    /// What heartbeats are told of gateways.
    pub gateways: Option<Vec<String>>,
    /// Which replica was asked what, in order.
    pub asked: Vec<(SocketAddr, String)>,
    /// Held heartbeats to be answered at once.
    pokes: usize,
    /// Answers to give instead, by path.
    script: BTreeMap<String, VecDeque<Instead>>,
    pub refuse_endings: bool,
    pub registers: Vec<Register>,
    pub claims: Vec<Claim>,
    pub heartbeats: Vec<Heartbeat>,
    pub events: Vec<(Held, AgentEvent)>,
    pub endings: Vec<(Held, Outcome)>,
    pub released: Vec<Held>,
    pub deregistered: usize,
    pub gateway: Gateway,
    /// Who has ever connected.
    peers: BTreeSet<SocketAddr>,
    /// Those of them who get to somebody else, for as long as their connections last.
    misled: BTreeSet<SocketAddr>,
    misleads: bool,
    /// How often somebody else was asked.
    pub asked_elsewhere: usize,
}

#[derive(Clone)]
pub enum Instead {
    Problem(u16, &'static str, String),
    /// Carried out, but the answer is lost.
    Lost,
    /// Carried out, but there is no answer for as long as the connection lasts.
    Hang,
}

pub fn registered(protocol: Protocol, concurrency: u32) -> Registered {
    Registered {
        command: Vec::new(),
        protocol,
        concurrency,
        health_path: "/healthz".into(),
        lease_ms: 30_000,
        heartbeat_ms: 5_000,
        drain_timeout_ms: 30_000,
        drain_mode: DrainMode::Wait,
        kill_grace_ms: 10_000,
        probe_interval_ms: 10_000,
        probe_timeout_ms: 3_000,
        probe_failures: 3,
        startup_ms: 30_000,
        result_limit: 1 << 20,
        last_claim: 0,
        providers: Vec::new(),
        links: Vec::new(),
        gateways: None,
    }
}

impl ControlPlane {
    pub async fn start(registered: Registered) -> ControlPlane {
        let record = Mutex::new(Record { registered: Some(registered), ..Record::default() });
        ControlPlane::of(Arc::new(Shared { record, changed: Notify::new() }))
    }

    /// Another replica with the same store.
    pub fn replica(&self) -> ControlPlane {
        ControlPlane::of(Arc::clone(&self.shared))
    }

    fn of(shared: Arc<Shared>) -> ControlPlane {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let plane = ControlPlane { addr, shared, served: Arc::default() };
        plane.serve(listener);
        plane
    }

    fn serve(&self, listener: std::net::TcpListener) {
        let shared = &self.shared;
        let router = Router::new()
            .route(link::REGISTER, post(register))
            .route(link::CLAIM, post(claim))
            .route(link::HEARTBEAT, post(heartbeat))
            .route(link::EVENTS, post(events))
            .route(link::COMPLETE, post(complete))
            .route(link::RELEASE, post(release))
            .route(link::DEREGISTER, post(deregister))
            .merge(super::gateway::routes())
            .layer(axum::extract::DefaultBodyLimit::max(64 << 20))
            .layer(from_fn_with_state((self.addr, Arc::clone(shared)), scripted))
            .with_state(Arc::clone(shared));
        let counting = Arc::clone(shared);
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        listener.set_nonblocking(true).expect("a socket");
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let listener = listener.tap_io(move |stream| {
                _ = stream.set_nodelay(true);
                let Ok(peer) = stream.peer_addr() else { return };
                let mut record = counting.record.lock().expect("not poisoned");
                record.peers.insert(peer);
                if record.misleads {
                    record.misled.insert(peer);
                }
            });
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            _ = axum::serve(listener, service).await;
        });
        *self.served.lock().expect("not poisoned") = Some(Served(Some(runtime)));
    }

    /// Ends like a killed process: nobody listens, and every connection breaks.
    pub fn stop(&self) {
        *self.served.lock().expect("not poisoned") = None;
    }

    /// Listens again where it did before.
    pub async fn start_again(&self) {
        let listener = eventually("the port", || std::net::TcpListener::bind(self.addr).ok()).await;
        self.serve(listener);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.shared.record.lock().expect("not poisoned")
    }

    pub fn submit(&self, task: ClaimedTask) -> Held {
        let held = Held { task: task.id, fence: task.fence };
        self.record().queue.push_back(task);
        self.shared.changed.notify_waiters();
        held
    }

    fn tell(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record());
        self.shared.changed.notify_waiters();
    }

    /// Answers the heartbeat that is held, so that the next comes soon.
    pub fn poke(&self) {
        self.tell(|record| record.pokes += 1);
    }

    pub fn order_drain(&self, mode: DrainMode, timeout_ms: u64) {
        self.tell(|record| record.drain = Some(DrainOrder { mode, timeout_ms }));
    }

    pub fn cancel(&self, held: Held) {
        self.tell(|record| _ = record.cancel.insert(held));
    }

    pub fn lose(&self, held: Held) {
        self.tell(|record| _ = record.lost.insert(held));
    }

    /// From now on heartbeats report this of a dependency.
    pub fn check(&self, name: &str, wrong: &str) {
        self.tell(|record| {
            record.checks.insert(name.into(), wrong.into());
            record.pokes += 1;
        });
    }

    /// The next answers at `path`.
    pub fn instead(&self, path: &str, answers: impl IntoIterator<Item = Instead>) {
        self.record().script.entry(path.into()).or_default().extend(answers);
        self.shared.changed.notify_waiters();
    }

    /// From now on connections lead to somebody else, or here again; those that are there lead where they led.
    pub fn mislead(&self, misleads: bool) {
        self.record().misleads = misleads;
    }

    /// All connections that there are lead to somebody else from now on; new ones lead here.
    pub fn mislead_all(&self) {
        let mut record = self.record();
        record.misled = record.peers.clone();
    }

    /// Waits for the ending of an attempt; handing over counts as one.
    pub async fn ending(&self, held: Held) -> Outcome {
        eventually("an ending", || {
            let record = self.record();
            let ended = record.endings.iter().find(|(ended, _)| *ended == held);
            let given = record.released.contains(&held);
            let handed_over = Outcome::Interrupted(longshore_core::task::Interruption::HandedOver);
            ended.map(|(_, outcome)| outcome.clone()).or_else(|| given.then_some(handed_over))
        })
        .await
    }

    /// Waits until the agent has said something, and returns it.
    pub async fn said(&self, held: Held) -> AgentEvent {
        eventually("an event", || {
            let record = self.record();
            record.events.iter().find(|(by, _)| *by == held).map(|(_, event)| event.clone())
        })
        .await
    }

    pub async fn probe_addr(&self) -> SocketAddr {
        eventually("a registration", || self.record().registers.first()?.probe_addr.clone())
            .await
            .parse()
            .expect("an address")
    }
}

type Replica = (SocketAddr, Arc<Shared>);

async fn scripted(
    State((addr, shared)): State<Replica>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    {
        let mut record = shared.record.lock().expect("not poisoned");
        if record.misled.contains(&peer) {
            record.asked_elsewhere += 1;
            return StatusCode::NOT_FOUND.into_response();
        }
    }
    let authorised =
        request.headers().get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"));
    if !authorised {
        return problem(401, "bad_worker_token", "not this token".into());
    }
    let path = request.uri().path().to_owned();
    shared.record.lock().expect("not poisoned").asked.push((addr, path.clone()));
    let instead =
        shared.record.lock().expect("not poisoned").script.get_mut(&path).and_then(VecDeque::pop_front);
    match instead {
        Some(Instead::Problem(status, code, detail)) => problem(status, code, detail),
        Some(Instead::Lost) => {
            drop(next.run(request).await);
            (StatusCode::BAD_GATEWAY, "the answer was lost").into_response()
        }
        Some(Instead::Hang) => {
            drop(next.run(request).await);
            std::future::pending().await
        }
        None => next.run(request).await,
    }
}

pub fn problem(status: u16, code: &'static str, detail: String) -> Response {
    let status_code = StatusCode::from_u16(status).expect("a status");
    (status_code, Json(Problem::new(status, code, detail))).into_response()
}

async fn register(State(shared): State<Arc<Shared>>, Json(request): Json<Register>) -> Json<Registered> {
    let mut record = shared.record.lock().expect("not poisoned");
    record.registers.push(request);
    Json(record.registered.clone().expect("set at start"))
}

async fn claim(State(shared): State<Arc<Shared>>, Json(request): Json<Claim>) -> Json<Claimed> {
    shared.record.lock().expect("not poisoned").claims.push(request.clone());
    let tasks = held_for(&shared, request.wait_ms, |record| {
        if let Some(tasks) = record.granted.get(&request.seq) {
            return Some(tasks.clone());
        }
        let count = record.queue.len().min(request.max as usize);
        if count == 0 {
            return None;
        }
        let tasks: Vec<_> = record.queue.drain(..count).collect();
        record.granted.insert(request.seq, tasks.clone());
        Some(tasks)
    });
    Json(Claimed { seq: request.seq, tasks: tasks.await.unwrap_or_default() })
}

async fn heartbeat(
    State(shared): State<Arc<Shared>>,
    Json(request): Json<Heartbeat>,
) -> Json<HeartbeatAnswer> {
    shared.record.lock().expect("not poisoned").heartbeats.push(request.clone());
    let answer = held_for(&shared, request.wait_ms, |record| record.news(&request)).await;
    Json(answer.unwrap_or_else(|| shared.record.lock().expect("not poisoned").no_news()))
}

/// Waits until there is an answer, for `wait_ms` at most.
async fn held_for<T>(
    shared: &Shared,
    wait_ms: u64,
    mut ask: impl FnMut(&mut Record) -> Option<T>,
) -> Option<T> {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
    loop {
        let changed = shared.changed.notified();
        if let Some(answer) = ask(&mut shared.record.lock().expect("not poisoned")) {
            return Some(answer);
        }
        if tokio::time::timeout_at(deadline, changed).await.is_err() {
            return None;
        }
    }
}

async fn events(State(shared): State<Arc<Shared>>, Json(request): Json<Events>) -> Json<EventsAnswer> {
    let mut record = shared.record.lock().expect("not poisoned");
    for attempt in request.attempts {
        record.add(attempt.held, attempt.events);
    }
    Json(EventsAnswer::default())
}

async fn complete(State(shared): State<Arc<Shared>>, Json(request): Json<Complete>) -> Json<Ended> {
    let mut record = shared.record.lock().expect("not poisoned");
    let mut answer = Ended::default();
    for ending in request.endings {
        if record.refuse_endings {
            answer.refused.push(ending.held);
            continue;
        }
        record.add(ending.held, ending.events);
        record.endings.push((ending.held, ending.outcome));
        answer.accepted.push(ending.held);
    }
    Json(answer)
}

async fn release(State(shared): State<Arc<Shared>>, Json(request): Json<Release>) -> Json<Ended> {
    let mut record = shared.record.lock().expect("not poisoned");
    let accepted: Vec<Held> = request.attempts.iter().map(|attempt| attempt.held).collect();
    for attempt in request.attempts {
        record.add(attempt.held, attempt.events);
    }
    record.released.extend(&accepted);
    Json(Ended { accepted, refused: Vec::new() })
}

async fn deregister(State(shared): State<Arc<Shared>>, Json(_): Json<Deregister>) -> StatusCode {
    shared.record.lock().expect("not poisoned").deregistered += 1;
    StatusCode::NO_CONTENT
}

impl Record {
    /// How many connections were ever made.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    fn no_news(&self) -> HeartbeatAnswer {
        HeartbeatAnswer {
            checks: self.checks.clone(),
            links: self.links.clone(),
            gateways: self.gateways.clone(),
            ..HeartbeatAnswer::default()
        }
    }

    /// What this heartbeat shows that its worker does not know yet.
    fn news(&mut self, heartbeat: &Heartbeat) -> Option<HeartbeatAnswer> {
        let listed = |held: &&Held| heartbeat.held.contains(held);
        let known = |held: &&Held| heartbeat.cancelling.contains(held);
        let cancel: Vec<Held> =
            self.cancel.iter().filter(listed).filter(|held| !known(held)).copied().collect();
        let lost: Vec<Held> = self.lost.iter().filter(listed).copied().collect();
        let drains = heartbeat.condition.state == WorkerState::Draining;
        let drain = self.drain.filter(|order| !drains || order.mode == DrainMode::Handover);
        let poked = self.pokes > 0;
        self.pokes = self.pokes.saturating_sub(1);
        let any = poked || !cancel.is_empty() || !lost.is_empty() || drain.is_some();
        any.then(|| HeartbeatAnswer { lost, cancel, drain, ..self.no_news() })
    }

    /// A repeated `n` changes nothing, as the link says.
    fn add(&mut self, held: Held, events: Vec<AgentEvent>) {
        for event in events {
            if !self.events.iter().any(|(by, known)| *by == held && known.n == event.n) {
                self.events.push((held, event));
            }
        }
    }
}
