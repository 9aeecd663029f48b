//! The worker link, `/worker/v1`: what workers ask and tell.

mod agent;
mod claim;
mod heartbeat;
mod llm;
mod write;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, post};
use axum::{Json, Router};
use http::request::Parts;
use longshore_api::link::{self, Deregister, Register, Registered};
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::task::Interruption;
use longshore_store::{Registration, WorkerEnd};
use tracing::info;

use crate::app::{App, now, roll};
use crate::error::{Answer, Refused, unknown_worker};
use crate::extract::{LinkBody, bearer};
use crate::routes::{unknown_route, wrong_method};

/// How long a lease lasts without a heartbeat.
pub const LEASE: std::time::Duration = std::time::Duration::from_secs(30);

/// How often a worker renews its leases: a sixth, so that several lost heartbeats do not cost a task.
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(5);

pub fn router(app: App) -> Router {
    Router::new()
        .route(link::REGISTER, post(register))
        .route(link::CLAIM, post(claim::claim))
        .route(link::HEARTBEAT, post(heartbeat::heartbeat))
        .route(link::EVENTS, post(write::events))
        .route(link::COMPLETE, post(write::complete))
        .route(link::RELEASE, post(write::release))
        .route(link::DEREGISTER, post(deregister))
        .merge(agent::routes())
        .route("/llm/{provider}/{*path}", any(llm::call))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.answered("link", response.status());
    response
}

/// The fleet whose token a request carries.
pub struct Token(pub FleetName);

impl FromRequestParts<App> for Token {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let refused = || {
            Refused::new(401, "bad_worker_token", "this worker token is not of this installation")
                .hint("workers started by longshore get theirs by themselves; others take it from the folder `tokens` of the store")
        };
        bearer(&parts.headers).and_then(|token| app.signer.fleet_of(token)).map(Token).ok_or_else(refused)
    }
}

impl Token {
    /// Refuses a worker of another fleet.
    pub async fn admit(&self, app: &App, worker: &WorkerId) -> Answer<()> {
        let known = app.worker_fleets.lock().expect("no holder panics").get(worker).cloned();
        let fleet = match known {
            Some(fleet) => fleet,
            None => {
                let record = app.store.worker(worker.clone()).await?;
                let record = record.ok_or_else(|| unknown_worker(worker))?;
                self.remember(app, worker, &record.fleet);
                record.fleet
            }
        };
        self.check(&fleet)
    }

    fn check(&self, fleet: &FleetName) -> Answer<()> {
        if *fleet == self.0 {
            return Ok(());
        }
        let detail = format!("this token is of fleet `{}`, not of `{fleet}`", self.0);
        Err(Refused::new(401, "bad_worker_token", detail))
    }

    fn remember(&self, app: &App, worker: &WorkerId, fleet: &FleetName) {
        app.worker_fleets.lock().expect("no holder panics").insert(worker.clone(), fleet.clone());
    }
}

async fn register(
    State(app): State<App>,
    token: Token,
    LinkBody(hello): LinkBody<Register>,
) -> Answer<Json<Registered>> {
    if hello.link_version != link::VERSION {
        let detail = format!(
            "the worker speaks link version {}; this control plane {}",
            hello.link_version,
            link::VERSION
        );
        return Err(
            Refused::new(426, "link_version", detail).hint("use the same longshore version on both sides")
        );
    }
    token.check(&hello.fleet)?;
    let fleet = app.store.fleet(hello.fleet.clone()).await?;
    let fleet = fleet.ok_or_else(|| Refused::no_fleet(&hello.fleet))?.declaration;
    let concurrency = hello.concurrency.unwrap_or(fleet.concurrency).clamp(1, 10_000);
    let registration = Registration {
        worker: hello.worker.clone(),
        nonce: hello.nonce,
        fleet: hello.fleet.clone(),
        version: hello.version,
        concurrency,
        pid: hello.pid,
        host: hello.host,
        probe_addr: hello.probe_addr,
    };
    let registered = app.store.register(registration, now()).await?;
    token.remember(&app, &hello.worker, &hello.fleet);
    info!(worker = %hello.worker, fleet = %hello.fleet, released = registered.released.len(), "worker registers");
    app.look_again.notify_one();
    Ok(Json(Registered {
        command: fleet.command,
        protocol: fleet.protocol,
        concurrency,
        health_path: fleet.health_path,
        lease_ms: LEASE.as_millis() as u64,
        heartbeat_ms: HEARTBEAT.as_millis() as u64,
        drain_timeout_ms: fleet.drain.timeout_ms,
        drain_mode: fleet.drain.mode,
        kill_grace_ms: fleet.kill_grace_ms,
        probe_interval_ms: fleet.probe.interval_ms,
        probe_timeout_ms: fleet.probe.timeout_ms,
        probe_failures: fleet.probe.failures,
        startup_ms: fleet.probe.startup_ms,
        result_limit: fleet.task.result_limit,
        last_claim: registered.last_claim,
        providers: llm::seen(&app, &fleet.providers),
        links: links(&app),
    }))
}

/// Where workers reach the replicas that live now; none while there is only the one that they were started with.
pub fn links(app: &App) -> Vec<String> {
    let replicas = app.replicas.lock().expect("no holder panics");
    let links: Vec<String> = replicas.iter().filter_map(|it| it.link.clone()).collect();
    if links.len() > 1 { links } else { Vec::new() }
}

async fn deregister(
    State(app): State<App>,
    token: Token,
    LinkBody(bye): LinkBody<Deregister>,
) -> Answer<Json<serde_json::Value>> {
    token.admit(&app, &bye.worker).await?;
    let end = WorkerEnd {
        worker: bye.worker.clone(),
        nonce: Some(bye.nonce),
        cause: Interruption::WorkerEnded,
        why: "said goodbye".into(),
    };
    let released = app.store.worker_ended(end, roll(), now()).await?;
    info!(worker = %bye.worker, released = released.len(), "worker says goodbye");
    app.look_again.notify_one();
    Ok(Json(serde_json::json!({})))
}
