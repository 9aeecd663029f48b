//! Fleets: what is declared, how they stand, and how many workers they get.

use axum::Json;
use axum::extract::State;
use longshore_api::fleet::{
    Applied, Apply, Decision, FleetList, FleetStatus, ScaleStatus, SetScale, TenantList,
};
use longshore_api::link::WorkerState;
use longshore_core::fleet::ScaledBy;
use longshore_core::id::FleetName;
use longshore_core::settings::FleetsFrom;
use longshore_store::{FleetRecord, WorkerFilter};
use serde::Deserialize;
use tracing::info;

use crate::app::{App, now};
use crate::apply;
use crate::caller::Caller;
use crate::controller;
use crate::convert;
use crate::depth;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};
use crate::moved;
use crate::wanted::{self, Wanted};

/// Every fleet with its tasks and workers.
#[utoipa::path(get, path = "/v1/fleets", responses((status = 200, body = FleetList)))]
pub async fn list(State(app): State<App>, caller: Caller) -> Answer<Json<FleetList>> {
    let mut items = Vec::new();
    let all = app.store.fleets().await?.into_iter();
    for record in all.filter(|record| caller.fleet(&record.name).is_ok()) {
        items.push(status(&app, record).await?);
    }
    Ok(Json(FleetList { items }))
}

/// One fleet.
#[utoipa::path(get, path = "/v1/fleets/{name}", params(("name" = String, Path)),
    responses((status = 200, body = FleetStatus), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<FleetStatus>> {
    let record = find(&app, &caller, &name).await?;
    status(&app, record).await.map(Json)
}

async fn find(app: &App, caller: &Caller, name: &str) -> Answer<FleetRecord> {
    let parsed = FleetName::new(name).map_err(|_| Refused::no_fleet(name))?;
    caller.fleet(&parsed)?;
    app.store.fleet(parsed).await?.ok_or_else(|| Refused::no_fleet(name))
}

async fn status(app: &App, record: FleetRecord) -> Answer<FleetStatus> {
    let name = record.name.clone();
    let queue = depth::of(app, &record).await?;
    let counts = app.store.counts().await?;
    let mut workers = longshore_api::fleet::WorkerCounts::default();
    for worker in app.store.workers(WorkerFilter { fleet: Some(name.clone()), gone: false }).await? {
        match convert::worker_state(&worker) {
            WorkerState::Starting => workers.starting += 1,
            WorkerState::Ready => workers.ready += 1,
            WorkerState::NotReady => workers.not_ready += 1,
            WorkerState::Draining => workers.draining += 1,
            WorkerState::Gone => {}
        }
    }
    let usage = app.store.usage(Some(name.clone())).await?.into_iter().map(convert::usage).collect();
    let controller::Told { trouble, notes } = controller::told_of(app, &name).await?;
    Ok(FleetStatus {
        usage,
        tasks: counts.iter().find(|counts| counts.fleet == name).map(convert::counts).unwrap_or_default(),
        release: record.release,
        active: record.active,
        declaration: record.declaration,
        workers,
        paused: record.paused,
        runnable: queue.depth.runnable,
        oldest_wait_ms: queue.oldest_wait_ms(),
        depth: queue.depth,
        replicas: record.replicas,
        trouble,
        notes,
        name,
    })
}

/// What the scaler decided lately, and why.
#[utoipa::path(get, path = "/v1/fleets/{name}/scale", params(("name" = String, Path)),
    responses((status = 200, body = ScaleStatus), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn scale(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<ScaleStatus>> {
    let record = find(&app, &caller, &name).await?;
    let decisions = app.store.decisions(record.name.clone(), 50).await?;
    let decisions = decisions
        .into_iter()
        .map(|decision| Decision {
            at: decision.at,
            kind: decision.kind,
            from: decision.from,
            to: decision.to,
            reason: decision.reason,
            inputs: decision.inputs,
        })
        .collect();
    let desired = desired(&app, &record).await?;
    Ok(Json(ScaleStatus { fleet: record.name, replicas: record.replicas, desired, decisions }))
}

/// KEDA asks for nothing else, and takes any answer without an error for a number.
async fn desired(app: &App, record: &FleetRecord) -> Answer<Option<u32>> {
    if record.declaration.scaling.by == ScaledBy::Direct {
        return Ok(None);
    }
    let wanted = wanted::of(app, &record.name).await?;
    let told = match &wanted {
        Wanted::Fresh(mark) => mark.told(),
        Wanted::Stale(_) => Err(wanted.doubt(now()).unwrap_or_default()),
    };
    match (told, record.declaration.scaling.by) {
        (Ok(desired), _) => Ok(Some(desired)),
        (Err(why), ScaledBy::Keda) => {
            let refused = Refused::new(503, "scale_stale", format!("fleet `{}` {why}", record.name));
            Err(match wanted {
                Wanted::Fresh(_) => refused.hint("it passes with the rollout, or with what keeps pods from being made"),
                Wanted::Stale(_) => refused.hint(
                    "it stays as it is meanwhile; see that a replica with the role `controllers` runs and reaches the database",
                ),
            })
        }
        (Err(_), _) => Ok(None),
    }
}

/// Set the number of workers by hand, or give it back to the scaler.
#[utoipa::path(post, path = "/v1/fleets/{name}/scale", params(("name" = String, Path)), request_body = SetScale,
    responses((status = 200, body = ScaleStatus), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn set_scale(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
    JsonBody(scale_to): JsonBody<SetScale>,
) -> Answer<Json<ScaleStatus>> {
    let record = find(&app, &caller, &name).await?;
    if scale_to.replicas.is_some_and(|replicas| replicas > 10_000) {
        return Err(Refused::invalid("replicas", "at most 10000"));
    }
    app.store.set_replicas(record.name, scale_to.replicas, now()).await?;
    app.look_again.notify_one();
    scale(State(app), caller, Param(name)).await
}

/// Let nothing of a fleet start. What runs goes on, and tasks are accepted.
#[utoipa::path(post, path = "/v1/fleets/{name}/pause", params(("name" = String, Path)),
    responses((status = 200, body = FleetStatus), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn pause(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<FleetStatus>> {
    set_paused(&app, &caller, &name, true).await
}

/// Let a paused fleet start tasks again.
#[utoipa::path(post, path = "/v1/fleets/{name}/resume", params(("name" = String, Path)),
    responses((status = 200, body = FleetStatus), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn resume(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<FleetStatus>> {
    set_paused(&app, &caller, &name, false).await
}

async fn set_paused(app: &App, caller: &Caller, name: &str, paused: bool) -> Answer<Json<FleetStatus>> {
    let record = find(app, caller, name).await?;
    if record.paused != paused {
        app.store.set_paused(record.name, paused, now()).await?;
        info!(fleet = name, paused, "an operator decides whether the fleet starts tasks");
        app.look_again.notify_one();
    }
    status(app, find(app, caller, name).await?).await.map(Json)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TenantQuery {
    /// 1 to 1000; 100 if absent.
    limit: Option<i64>,
}

/// The tenants of a fleet, those with the most to do first.
#[utoipa::path(get, path = "/v1/fleets/{name}/tenants", params(("name" = String, Path), TenantQuery),
    responses((status = 200, body = TenantList), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn tenants(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
    Params(query): Params<TenantQuery>,
) -> Answer<Json<TenantList>> {
    let record = find(&app, &caller, &name).await?;
    let limit = match query.limit.unwrap_or(100) {
        limit @ 1..=1000 => limit as usize,
        limit => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to 1000"))),
    };
    let declared = app.store.tenants().await?;
    let counts = app.store.tenant_counts(record.name, limit).await?;
    Ok(Json(TenantList {
        items: counts.into_iter().map(|counts| convert::tenant(counts, &declared)).collect(),
    }))
}

/// Replace the declared fleets.
#[utoipa::path(post, path = "/v1/fleets:apply", request_body = Apply,
    responses((status = 200, body = Applied), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn apply(State(app): State<App>, JsonBody(wanted): JsonBody<Apply>) -> Answer<Json<Applied>> {
    let declared = app.store.fleets().await?;
    let changes = apply::compare(&declared, &wanted.fleets);
    if !wanted.dry_run && app.fleet_source == FleetsFrom::File {
        return Err(Refused::new(
            409,
            "managed_by_file",
            "the fleets of this control plane are declared by its own file",
        )
        .hint("change its longshore.toml and restart it, or set `[server] fleets = \"api\"`"));
    }
    if let Some(moved) = moved::find(&app.store, &wanted.fleets).await? {
        return Err(moved.into());
    }
    if wanted.dry_run {
        return Ok(Json(Applied { changes, dry_run: true }));
    }
    for fleet in &wanted.fleets {
        let at = format!("fleet {}", fleet.name);
        fleet.check().map_err(|rule| Refused::invalid(&at, rule))?;
        if let Some(unknown) = fleet.providers.iter().find(|name| !app.provider_kinds.contains_key(*name)) {
            let detail =
                format!("provider `{unknown}` is not declared in this control plane's longshore.toml");
            return Err(Refused::invalid(&at, detail));
        }
    }
    app.store.put_fleets(wanted.fleets, now()).await?;
    app.fleets.forget();
    crate::start::write_tokens(&app)
        .await
        .map_err(|error| Refused::new(500, "store_failed", error.to_string()))?;
    app.look_again.notify_one();
    Ok(Json(Applied { changes, dry_run: false }))
}
