//! The worker link, `/worker/v1`: what workers ask and tell.

mod agent;
mod cache;
mod children;
mod claim;
mod heartbeat;
mod llm;
mod questions;
mod write;

use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, any, post};
use axum::{Json, Router};
use http::request::Parts;
use longshore_api::link::{self, Deregister, Register, Registered};
use longshore_core::access::{Subject, Verb, is_key};
use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::role::Role;
use longshore_core::task::Interruption;
use longshore_store::{KeyHash, Registration, WorkerEnd};
use tracing::info;

use crate::app::{App, now, roll};
use crate::caller::refused;
use crate::ends::Ending;
use crate::error::{Answer, Refused, unknown_worker};
use crate::extract::{LinkBody, bearer};
use crate::routes::{unknown_route, wrong_method};

/// How long a lease lasts without a heartbeat.
pub const LEASE: std::time::Duration = std::time::Duration::from_secs(30);

/// How often a worker renews its leases: a sixth, so that several lost heartbeats do not cost a task.
pub const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(5);

/// Paths and what answers there; each handler takes a [`Token`].
pub fn routes() -> Vec<(&'static str, MethodRouter<App>)> {
    let mut routes = vec![
        (link::REGISTER, post(register)),
        (link::CLAIM, post(claim::claim)),
        (link::HEARTBEAT, post(heartbeat::heartbeat)),
        (link::EVENTS, post(write::events)),
        (link::COMPLETE, post(write::complete)),
        (link::RELEASE, post(write::release)),
        (link::DEREGISTER, post(deregister)),
        ("/llm/{provider}/{*path}", any(llm::call)),
    ];
    routes.extend(agent::routes());
    routes.extend(children::routes());
    routes.extend(questions::routes());
    routes.extend(cache::routes());
    routes
}

pub fn router(app: App) -> Router {
    let router = routes()
        .into_iter()
        .filter(|(path, _)| app.roles.has(role_of(path)))
        .fold(Router::new(), |router, (path, answers)| router.route(path, answers));
    let elsewhere = FOLDERS.into_iter().filter(|(role, _)| !app.roles.has(*role));
    elsewhere
        .fold(router, |router, (role, folder)| {
            router.route(&format!("{folder}/{{*path}}"), any(move || async move { Refused::not_here(role) }))
        })
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(app.clone(), count))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// What answers below which folder.
const FOLDERS: [(Role, &str); 3] =
    [(Role::Link, "/worker/v1"), (Role::Link, "/agent/v1"), (Role::Gateway, "/llm")];

fn role_of(path: &str) -> Role {
    let folder = FOLDERS.into_iter().find(|(_, folder)| path.starts_with(folder));
    folder.map_or(Role::Link, |(role, _)| role)
}

async fn count(State(app): State<App>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    app.metrics.answered("link", response.status());
    response
}

/// The fleet whose token a request carries, and what else the token says.
pub struct Token(pub FleetName, Bearer);

/// Whose a token is within its fleet.
enum Bearer {
    /// Any worker's.
    Fleet,
    /// Only this one's.
    Worker(WorkerId),
    /// Of whoever was given this API key.
    Key(KeyHash),
}

impl FromRequestParts<App> for Token {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let refused = || {
            Refused::new(401, "bad_worker_token", "this worker token is not of this installation").hint(
                "workers started by longshore get theirs by themselves; for others `longshore keys create --join FLEET` makes one",
            )
        };
        let token = bearer(&parts.headers).ok_or_else(refused)?;
        if is_key(token) {
            return of_key(app, token).await;
        }
        if let Some((fleet, worker)) = app.signer.worker_of(token) {
            return Ok(Token(fleet, Bearer::Worker(worker)));
        }
        app.signer.fleet_of(token).map(|fleet| Token(fleet, Bearer::Fleet)).ok_or_else(refused)
    }
}

/// A key with the verb `join`, of exactly one fleet.
async fn of_key(app: &App, token: &str) -> Answer<Token> {
    let known = app.keys.identify(Some(token)).await?;
    let mut fleets = known.scope.fleets.iter();
    let only = fleets.next().filter(|_| fleets.next().is_none());
    let subject = only.map_or(Subject::Installation, Subject::Fleet);
    known.scope.allow(Verb::Join, subject).map_err(|denied| refused(denied, subject))?;
    match only {
        Some(fleet) => Ok(Token(fleet.clone(), known.key.map_or(Bearer::Fleet, Bearer::Key))),
        None => Err(Refused::new(401, "bad_worker_token", "this key is not for exactly one fleet")),
    }
}

impl Token {
    /// Errors: 401 once the key is no good any more; for what is answered for longer than a moment.
    pub async fn still_good(&self, app: &App) -> Answer<()> {
        match &self.1 {
            Bearer::Key(hash) => app.keys.check(*hash).await.map(drop),
            Bearer::Fleet | Bearer::Worker(_) => Ok(()),
        }
    }

    /// Refuses a worker of another fleet, or one that the token is not of.
    pub async fn admit(&self, app: &App, worker: &WorkerId) -> Answer<()> {
        self.is_of(worker)?;
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

    fn is_of(&self, worker: &WorkerId) -> Answer<()> {
        match &self.1 {
            Bearer::Worker(own) if own != worker => {
                let detail = format!("this token is of worker `{own}`, not of `{worker}`");
                Err(Refused::new(401, "bad_worker_token", detail))
            }
            _ => Ok(()),
        }
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
    token.is_of(&hello.worker)?;
    let fleet = declared_for(&app, &hello).await?;
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
        gateways: app.live_gateways(),
    }))
}

/// What a worker is told: its own release, where it was started for one, else what the fleet's workers are started on now.
async fn declared_for(app: &App, hello: &Register) -> Answer<Fleet> {
    let fleet = app.store.fleet(hello.fleet.clone()).await?;
    let fleet = fleet.ok_or_else(|| Refused::no_fleet(&hello.fleet))?;
    let known = app.store.worker(hello.worker.clone()).await?;
    let planned = known.filter(|known| known.planned_at.is_some() && known.fleet == hello.fleet);
    let release = planned.map_or(fleet.release, |worker| worker.release);
    let release = app.store.release(fleet.name.clone(), release).await?;
    Ok(match release {
        Some(release) => fleet.declaration.running(&release.declaration),
        None => fleet.declaration,
    })
}

/// Where workers reach the replicas that live now; none while there is only the one that they were started with.
pub fn links(app: &App) -> Vec<String> {
    let links = app.live_links();
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
        why: Ending::Goodbye.to_string(),
    };
    let released = app.store.worker_ended(end, roll(), now()).await?;
    info!(worker = %bye.worker, released = released.len(), "worker says goodbye");
    app.look_again.notify_one();
    Ok(Json(serde_json::json!({})))
}
