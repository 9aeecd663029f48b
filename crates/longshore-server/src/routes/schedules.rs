//! Schedules: how they stand, what is next, pausing, and running one now.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use longshore_api::schedule::{Schedule, ScheduleEvent, ScheduleList, Tick, TickCounts};
use longshore_api::task::Task;
use longshore_core::schedule::{ScheduleName, Timing};
use longshore_store::{Idempotency, ScheduleRecord};
use sha2::{Digest, Sha256};

use super::tasks::created;
use crate::app::{App, now};
use crate::controller::new_scheduled_task;
use crate::error::{Answer, Refused};
use crate::extract::{IdempotencyKey, Param};

/// How many of the next ticks, and of the newest events, one schedule shows.
const NEXT: usize = 5;
const EVENTS: usize = 50;

/// All schedules, each with its next tick.
#[utoipa::path(get, path = "/v1/schedules", responses((status = 200, body = ScheduleList)))]
pub async fn list(State(app): State<App>) -> Answer<Json<ScheduleList>> {
    let items = app.store.schedules().await?.iter().map(|record| shown(record, 1)).collect();
    Ok(Json(ScheduleList { items }))
}

/// One schedule with its next ticks, its input, and what happened lately.
#[utoipa::path(get, path = "/v1/schedules/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Schedule), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<Schedule>> {
    let record = find(&app, &name).await?;
    let events = app.store.schedule_events(record.name.clone(), EVENTS).await?;
    let events = events.into_iter().map(|it| ScheduleEvent { at: it.at, kind: it.kind, data: it.data });
    let mut schedule = shown(&record, NEXT);
    schedule.events = events.collect();
    schedule.input = Some(record.declaration.input);
    Ok(Json(schedule))
}

/// Pause a schedule: its ticks become no tasks, and are not made up for later.
#[utoipa::path(post, path = "/v1/schedules/{name}/pause", params(("name" = String, Path)),
    responses((status = 200, body = Schedule), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn pause(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<Schedule>> {
    set_paused(app, name, true).await
}

/// Let a schedule go on, from now.
#[utoipa::path(post, path = "/v1/schedules/{name}/resume", params(("name" = String, Path)),
    responses((status = 200, body = Schedule), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn resume(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<Schedule>> {
    set_paused(app, name, false).await
}

async fn set_paused(app: App, name: String, paused: bool) -> Answer<Json<Schedule>> {
    let record = declared(&app, &name).await?;
    app.store.pause_schedule(record.name, paused, now()).await?;
    show(State(app), Param(name)).await
}

/// Submit a schedule's task now, paused or not. Its ticks stay as they are.
#[utoipa::path(post, path = "/v1/schedules/{name}/run", params(("name" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "As for submitting")),
    responses((status = 201, body = Task),
        (status = 200, body = Task, description = "Repeated: the task of the first request"), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn run(
    State(app): State<App>,
    Param(name): Param<String>,
    IdempotencyKey(key): IdempotencyKey,
) -> Answer<Response> {
    let record = declared(&app, &name).await?;
    let task = new_scheduled_task(&app, &record.declaration, None).await?;
    let fingerprint = Sha256::digest(record.name.as_str()).into();
    let idempotency = key.map(|key| Idempotency { scope: "schedule_run".into(), key, fingerprint });
    let submitted = app.store.run_schedule(record.name, task, idempotency, now()).await?;
    created(&app, submitted).await
}

async fn find(app: &App, name: &str) -> Answer<ScheduleRecord> {
    let unknown = || {
        Refused::new(404, "unknown_schedule", format!("there is no schedule `{name}`"))
            .hint("list the declared schedules with `longshore schedules list`")
    };
    let parsed = ScheduleName::new(name).map_err(|_| unknown())?;
    app.store.schedule(parsed).await?.ok_or_else(unknown)
}

async fn declared(app: &App, name: &str) -> Answer<ScheduleRecord> {
    let record = find(app, name).await?;
    match record.active {
        true => Ok(record),
        false => Err(Refused::new(
            409,
            "schedule_not_declared",
            format!("schedule `{name}` is no longer declared"),
        )),
    }
}

fn shown(record: &ScheduleRecord, next: usize) -> Schedule {
    let declared = &record.declaration;
    Schedule {
        name: record.name.clone(),
        fleet: declared.fleet.clone(),
        cron: declared.cron.clone(),
        timezone: declared.timezone.clone(),
        missed: declared.missed,
        overlap: declared.overlap,
        active: record.active,
        paused: record.paused,
        next: if record.active && !record.paused { ticks(record, next) } else { Vec::new() },
        last_task: record.last_task,
        last_tick: record.last_tick,
        ticks: TickCounts {
            fired: record.fired,
            missed: record.missed,
            overlapped: record.overlapped,
            refused: record.refused,
        },
        input: None,
        events: Vec::new(),
    }
}

fn ticks(record: &ScheduleRecord, count: usize) -> Vec<Tick> {
    let Ok(timing) = Timing::new(&record.declaration.cron, &record.declaration.timezone) else {
        return Vec::new();
    };
    let ticks = timing.after(record.cursor.max(now())).take(count);
    ticks.map(|at| Tick { at, local: timing.local(at) }).collect()
}
