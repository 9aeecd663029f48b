//! Releases and rollouts: another image, how it comes in, and the way back.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use longshore_api::fleet::WorkerCounts;
use longshore_api::link::WorkerState;
use longshore_api::rollout::{Deploy, Deployed, Release, ReleaseList, Rollout, RolloutList, Undo};
use longshore_core::id::FleetName;
use longshore_core::provider::show_money;
use longshore_core::rollout::{Order, Phase};
use longshore_store::{
    Deployed as Outcome, FleetRecord, NewRelease, Ordered, ReleaseRecord, RolloutRecord, WorkerFilter,
};
use serde::Deserialize;
use tracing::info;

use crate::app::{App, now};
use crate::caller::Caller;
use crate::convert::worker_state;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};
use crate::images;
use crate::owned::{Wanted, refuse_others};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only of this fleet.
    fleet: Option<String>,
    /// 1 to 200; 50 if absent.
    limit: Option<i64>,
}

/// Rollouts, newest first.
#[utoipa::path(get, path = "/v1/rollouts", params(ListQuery), responses((status = 200, body = RolloutList),
    (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Answer<Json<RolloutList>> {
    let limit = limit(query.limit)?;
    let fleet = match &query.fleet {
        Some(name) => Some(find(&app, &caller, name).await?.name),
        None => None,
    };
    let all = app.store.rollouts(fleet, limit).await?;
    let visible = all.into_iter().filter(|rollout| caller.fleet(&rollout.fleet).is_ok());
    Ok(Json(RolloutList { items: visible.map(|it| shown(it, BTreeMap::new())).collect() }))
}

/// Have a fleet run another image.
#[utoipa::path(post, path = "/v1/rollouts", request_body = Deploy, responses((status = 200, body = Deployed),
    (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn deploy(
    State(app): State<App>,
    caller: Caller,
    JsonBody(wish): JsonBody<Deploy>,
) -> Answer<Json<Deployed>> {
    let record = find(&app, &caller, &wish.fleet).await?;
    let running = target(&app, &record).await?;
    let mut declaration = running.with_image(&wish.image).map_err(|why| {
        if running.container.is_some() {
            return Refused::new(422, "invalid_image", why);
        }
        Refused::new(422, "no_image", format!("fleet `{}` is not deployed by an image: {why}", record.name))
            .hint("change its command in longshore.toml and hand that over with `longshore apply`")
    })?;
    let pinned = images::pin(&app, &running, &mut declaration, wish.by_tag).await;
    // Whose it is to change it is told what to change, by digest or without.
    refuse_others(&app, &record, Some(&Wanted { fleet: &declaration })).await?;
    let commit = wish.commit.or(pinned?);
    images::settle(&app, &record, &[running, serving(&app, &record).await?], &mut declaration).await?;
    let release = NewRelease { declaration, commit, supersede: wish.supersede };
    let outcome = app.store.deploy(record.name.clone(), release, now()).await?;
    answer(&app, &record.name, outcome)
}

/// What the fleet runs, or is to run once the rollout under way is through.
async fn target(app: &App, record: &FleetRecord) -> Answer<longshore_core::fleet::Fleet> {
    let open = app.store.open_rollouts().await?.into_iter().find(|open| open.fleet == record.name);
    let number = open.map_or(record.release, |open| open.plan.heads_for());
    release_of(app, record, number).await
}

/// What its workers are started on.
async fn serving(app: &App, record: &FleetRecord) -> Answer<longshore_core::fleet::Fleet> {
    release_of(app, record, record.release).await
}

async fn release_of(app: &App, record: &FleetRecord, number: u64) -> Answer<longshore_core::fleet::Fleet> {
    Ok(match app.store.release(record.name.clone(), number).await? {
        Some(release) => record.declaration.running(&release.declaration),
        None => record.declaration.clone(),
    })
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ShowQuery {
    /// Which one; the newest if absent.
    number: Option<u64>,
}

/// One rollout of a fleet, with the fleet's workers by release.
#[utoipa::path(get, path = "/v1/rollouts/{name}", params(("name" = String, Path), ShowQuery),
    responses((status = 200, body = Rollout), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
    Params(query): Params<ShowQuery>,
) -> Answer<Json<Rollout>> {
    let record = find(&app, &caller, &name).await?;
    let all = app.store.rollouts(Some(record.name.clone()), 200).await?;
    let wanted = |rollout: &RolloutRecord| query.number.is_none_or(|number| number == rollout.number);
    let found = all.into_iter().find(wanted).ok_or_else(|| {
        let detail = match query.number {
            Some(number) => format!("fleet `{name}` has no rollout {number}"),
            None => format!("fleet `{name}` has had no rollout"),
        };
        Refused::new(404, "no_rollout", detail)
    })?;
    let workers = by_release(&app, &record.name).await?;
    Ok(Json(shown(found, workers)))
}

/// Let a rollout stand still; its deadline does, too.
#[utoipa::path(post, path = "/v1/rollouts/{name}/pause", params(("name" = String, Path)),
    responses((status = 200, body = Rollout), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn pause(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<Rollout>> {
    order(&app, &caller, &name, Order::Pause).await
}

/// Let a paused rollout go on.
#[utoipa::path(post, path = "/v1/rollouts/{name}/resume", params(("name" = String, Path)),
    responses((status = 200, body = Rollout), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn resume(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<Rollout>> {
    order(&app, &caller, &name, Order::Resume).await
}

/// Have the rollout under way go back, or else roll out a release of before.
#[utoipa::path(post, path = "/v1/rollouts/{name}/undo", params(("name" = String, Path)), request_body = Option<Undo>,
    responses((status = 200, body = Deployed), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn undo(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
    JsonBody(how): JsonBody<Undo>,
) -> Answer<Json<Deployed>> {
    let record = find(&app, &caller, &name).await?;
    let reason = "an operator undid it".to_owned();
    refuse_others(&app, &record, None).await?;
    let outcome = app.store.undo_rollout(record.name.clone(), how.to, reason, now()).await?;
    answer(&app, &record.name, outcome)
}

/// A fleet's releases, newest first, with what attempts on each have come to.
#[utoipa::path(get, path = "/v1/fleets/{name}/releases", params(("name" = String, Path)),
    responses((status = 200, body = ReleaseList), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn releases(
    State(app): State<App>,
    caller: Caller,
    Param(name): Param<String>,
) -> Answer<Json<ReleaseList>> {
    let record = find(&app, &caller, &name).await?;
    let all = app.store.releases(record.name.clone(), 200).await?;
    Ok(Json(ReleaseList { items: all.into_iter().map(|it| release(it, record.release)).collect() }))
}

async fn order(app: &App, caller: &Caller, name: &str, order: Order) -> Answer<Json<Rollout>> {
    let record = find(app, caller, name).await?;
    refuse_others(app, &record, None).await?;
    let what = format!("{order:?}").to_lowercase();
    match app.store.order_rollout(record.name.clone(), order, now()).await? {
        Ordered::Obeyed(rollout) => {
            info!(fleet = name, rollout = rollout.number, order = what, "an operator orders a rollout");
            app.look_again.notify_one();
            Ok(Json(shown(rollout, by_release(app, &record.name).await?)))
        }
        Ordered::None => {
            Err(Refused::new(409, "no_rollout", format!("fleet `{name}` has no rollout under way")))
        }
        Ordered::Refused(rollout, why) => Err(too_late(&rollout, why)),
    }
}

fn answer(app: &App, fleet: &FleetName, outcome: Outcome) -> Answer<Json<Deployed>> {
    let (outcome, release, rollout) = match outcome {
        Outcome::Begun(rollout) => ("begun", rollout.plan.heads_for(), Some(rollout)),
        Outcome::UnderWay(rollout) => ("under_way", rollout.plan.heads_for(), Some(rollout)),
        Outcome::Runs(release) => ("runs", release, None),
        Outcome::UnknownFleet => return Err(Refused::no_fleet(fleet)),
        Outcome::UnknownRelease(number) => {
            let detail = format!("fleet `{fleet}` has no release {number}");
            return Err(Refused::new(404, "unknown_release", detail)
                .hint(format!("list them with `longshore rollout releases {fleet}`")));
        }
        Outcome::NoHistory => {
            let detail = format!("fleet `{fleet}` has run no release before this one");
            return Err(Refused::new(409, "no_history", detail));
        }
        Outcome::Busy(rollout) => {
            let detail =
                format!("fleet `{fleet}`: rollout {} is under way: {}", rollout.number, rollout.plan);
            return Err(Refused::new(409, "rollout_under_way", detail).hint(format!(
                "wait for its end, or let this one take its place: `longshore deploy {fleet} IMAGE --supersede`"
            )));
        }
        Outcome::Refused(rollout, why) => return Err(too_late(&rollout, why)),
    };
    info!(%fleet, outcome, release, rollout = rollout.as_ref().map(|it| it.number), "another release is asked for");
    app.look_again.notify_one();
    app.fleets.forget();
    let rollout = rollout.map(|it| shown(it, BTreeMap::new()));
    Ok(Json(Deployed { outcome: outcome.into(), release, rollout }))
}

fn too_late(rollout: &RolloutRecord, why: longshore_core::rollout::Refused) -> Refused {
    let detail = format!("rollout {} of fleet `{}`: {why}", rollout.number, rollout.fleet);
    Refused::new(409, "rollout_moved_on", detail)
}

async fn find(app: &App, caller: &Caller, name: &str) -> Answer<FleetRecord> {
    let parsed = FleetName::new(name).map_err(|_| Refused::no_fleet(name))?;
    caller.fleet(&parsed)?;
    app.store.fleet(parsed).await?.ok_or_else(|| Refused::no_fleet(name))
}

fn limit(given: Option<i64>) -> Answer<usize> {
    match given.unwrap_or(50) {
        limit @ 1..=200 => Ok(limit as usize),
        limit => Err(Refused::invalid("limit", format!("{limit} is outside 1 to 200"))),
    }
}

async fn by_release(app: &App, fleet: &FleetName) -> Answer<BTreeMap<u64, WorkerCounts>> {
    let mut counts: BTreeMap<u64, WorkerCounts> = BTreeMap::new();
    for worker in app.store.workers(WorkerFilter { fleet: Some(fleet.clone()), gone: false }).await? {
        let counts = counts.entry(worker.release).or_default();
        match worker_state(&worker) {
            WorkerState::Starting => counts.starting += 1,
            WorkerState::Ready => counts.ready += 1,
            WorkerState::NotReady => counts.not_ready += 1,
            WorkerState::Draining => counts.draining += 1,
            WorkerState::Gone => {}
        }
    }
    Ok(counts)
}

fn shown(record: RolloutRecord, workers: BTreeMap<u64, WorkerCounts>) -> Rollout {
    let plan = record.plan;
    let says = plan.to_string();
    let reason = match &plan.phase {
        Phase::Back { reason } | Phase::RolledBack { reason } => Some(reason.clone()),
        Phase::Superseded { by } => Some(by.clone()),
        Phase::Forward | Phase::Finishing | Phase::Done => None,
    };
    Rollout {
        fleet: record.fleet,
        number: record.number,
        from: plan.from,
        to: plan.to,
        phase: plan.phase.as_str().into(),
        paused: plan.paused,
        says,
        reason,
        spent_ms: plan.spent_ms,
        deadline_ms: Some(plan.policy.deadline_ms).filter(|ms| *ms < u64::MAX),
        started_at: record.started_at,
        ended_at: record.ended_at,
        workers,
    }
}

fn release(record: ReleaseRecord, serving: u64) -> Release {
    let sample = record.sample;
    Release {
        number: record.number,
        serving: record.number == serving,
        image: record.declaration.image(),
        image_id: record.declaration.container.as_ref().and_then(|container| container.image_id.clone()),
        command: record.declaration.command,
        commit: record.commit,
        created_at: record.created_at,
        succeeded: sample.succeeded,
        failed: sample.failed,
        latency_ms: sample.latency_ms().map(|ms| ms as u64),
        cost: show_money(sample.cost() as u64),
    }
}
