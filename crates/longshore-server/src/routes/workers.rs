//! Workers: who is there, and sending one home.

use axum::Json;
use axum::extract::State;
use longshore_api::fleet::{DrainWorker, Worker, WorkerList};
use longshore_core::id::{FleetName, WorkerId};
use longshore_store::WorkerFilter;
use serde::Deserialize;

use super::tasks::timeout_ms;
use crate::app::{App, now};
use crate::caller::Caller;
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WorkerQuery {
    fleet: Option<String>,
    /// Those that ended lately as well.
    #[serde(default)]
    gone: bool,
}

/// The workers of one fleet or of all.
#[utoipa::path(get, path = "/v1/workers", params(WorkerQuery),
    responses((status = 200, body = WorkerList),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<WorkerQuery>,
) -> Answer<Json<WorkerList>> {
    let fleet = query.fleet.as_deref().map(|name| FleetName::new(name).map_err(|_| Refused::no_fleet(name)));
    let fleet = fleet.transpose()?;
    fleet.as_ref().map(|fleet| caller.fleet(fleet)).transpose()?;
    let workers = app.store.workers(WorkerFilter { fleet, gone: query.gone }).await?;
    let seen = workers.into_iter().filter(|worker| caller.fleet(&worker.fleet).is_ok());
    Ok(Json(WorkerList { items: seen.map(convert::worker).collect() }))
}

/// One worker.
#[utoipa::path(get, path = "/v1/workers/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Worker), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(State(app): State<App>, caller: Caller, Param(id): Param<String>) -> Answer<Json<Worker>> {
    let record = find(&app, &caller, &id).await?;
    let leases = app.store.leases(Some(record.id.clone())).await?;
    let mut worker = convert::worker(record);
    worker.tasks = leases.iter().map(|lease| lease.held.task.to_string()).collect();
    Ok(Json(worker))
}

/// A worker of a fleet that this caller may not see is not there for it.
async fn find(app: &App, caller: &Caller, id: &str) -> Answer<longshore_store::WorkerRecord> {
    let unknown = || Refused::new(404, "unknown_worker", format!("there is no worker `{id}`"));
    let parsed = WorkerId::new(id).map_err(|_| unknown())?;
    let found = app.store.worker(parsed).await?;
    found.filter(|worker| caller.fleet(&worker.fleet).is_ok()).ok_or_else(unknown)
}

/// Drain a worker: it claims nothing more, finishes or hands over what it has, and ends.
#[utoipa::path(post, path = "/v1/workers/{id}/drain", params(("id" = String, Path)), request_body = Option<DrainWorker>,
    responses((status = 200, body = Worker), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn drain(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    JsonBody(how): JsonBody<DrainWorker>,
) -> Answer<Json<Worker>> {
    let record = find(&app, &caller, &id).await?;
    if record.ended_at.is_some() {
        return Err(Refused::new(409, "already_ended", format!("worker `{id}` has ended")));
    }
    let release = app.store.release(record.fleet.clone(), record.release).await?;
    let fleet = match release {
        Some(release) => release.declaration,
        None => {
            let fleet = app.store.fleet(record.fleet.clone()).await?;
            fleet.ok_or_else(|| Refused::no_fleet(&record.fleet))?.declaration
        }
    };
    let timeout_ms = match how.timeout {
        Some(text) => timeout_ms(&text)?,
        None => fleet.drain.timeout_ms,
    };
    app.store.order_drain(record.id, how.mode.unwrap_or(fleet.drain.mode), timeout_ms, now()).await?;
    app.look_again.notify_one();
    show(State(app), caller, Param(id)).await
}
