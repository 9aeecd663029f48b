//! Batches: how far they are, their end as an event, and their cancellation.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use longshore_api::batch::{Batch, BatchCancelled, BatchPage, BatchQuery};
use longshore_api::task::Cancel;
use longshore_core::batch::BatchId;
use longshore_core::id::TaskId;
use longshore_store::{BatchFilter, BatchRecord, NewBatch};
use serde::Deserialize;
use uuid::Uuid;

use super::{search, tasks};
use crate::app::{App, now};
use crate::caller::Caller;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};
use crate::{convert, cursor};

/// The batch that a submission is part of.
pub fn new_batch(query: &BatchQuery) -> Answer<NewBatch> {
    let more = query.more.unwrap_or(false);
    let id = match &query.batch {
        Some(text) => chosen(text)?,
        None if more => {
            return Err(Refused::invalid(
                "batch",
                "a batch of several requests needs an id: a UUID of version 7",
            ));
        }
        None => BatchId(Uuid::now_v7()),
    };
    let name = query.name.clone().unwrap_or_default();
    if name.chars().count() > 128 || name.chars().any(char::is_control) {
        return Err(Refused::invalid("name", "at most 128 characters, none of them a control character"));
    }
    let labels = search::labels(query.label.as_deref().unwrap_or(""))?;
    tasks::check_labels(&labels)?;
    Ok(NewBatch { id, name, labels, more })
}

/// Batches are listed by id, so an id has to tell when it was made.
fn chosen(text: &str) -> Answer<BatchId> {
    let id = batch_id(text)?;
    match id.0.get_version_num() {
        7 => Ok(id),
        _ => Err(Refused::invalid("batch", format!("`{text}` is not a UUID of version 7"))),
    }
}

fn batch_id(text: &str) -> Answer<BatchId> {
    text.parse().map_err(|error: longshore_core::id::IdError| {
        Refused::new(400, "invalid_batch_id", error.to_string())
    })
}

/// The batch with its id as text.
pub async fn load(app: &App, caller: &Caller, id: &str) -> Answer<BatchRecord> {
    let id = batch_id(id)?;
    caller.batch(app, id).await?;
    app.store.batch(id).await?.ok_or_else(|| Refused::no_batch(id))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only batches that have not ended.
    unfinished: Option<bool>,
    /// 1 to 500; 50 if absent.
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List batches, newest first. A key for some fleets or one tenant sees those that hold nobody else's tasks.
#[utoipa::path(get, path = "/v1/batches", params(ListQuery),
    responses((status = 200, body = BatchPage), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Answer<Json<BatchPage>> {
    let limit = tasks::page_limit(query.limit)?;
    let unfinished = query.unfinished.unwrap_or(false);
    let mark = format!("batches {unfinished}");
    let before = query.cursor.as_deref().map(|cursor| cursor::read(cursor, &mark)).transpose()?;
    let filter = BatchFilter { unfinished, before: before.map(|place| BatchId(place.0)) };
    let mut records = app.store.batches(filter, limit + 1).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let last = records.last().filter(|_| more).map(|last| TaskId(last.id.0));
    let next_cursor = last.map(|last| cursor::after(last, &mark));
    let mut items = Vec::new();
    for record in records {
        if caller.sees_batch(&app, record.id).await? {
            items.push(convert::batch(record));
        }
    }
    Ok(Json(BatchPage { items, next_cursor }))
}

/// Show a batch: how many of its tasks are in which state.
#[utoipa::path(get, path = "/v1/batches/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Batch), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(State(app): State<App>, caller: Caller, Param(id): Param<String>) -> Answer<Json<Batch>> {
    Ok(Json(convert::batch(load(&app, &caller, &id).await?)))
}

/// Cancel a batch: it takes no more tasks, and all of its tasks that have not ended are cancelled.
#[utoipa::path(post, path = "/v1/batches/{id}/cancel", params(("id" = String, Path)), request_body = Option<Cancel>,
    responses((status = 200, body = BatchCancelled), (status = 202, body = BatchCancelled, description = "Some run: their workers were told"),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    JsonBody(cancel): JsonBody<Cancel>,
) -> Answer<(StatusCode, Json<BatchCancelled>)> {
    let id = load(&app, &caller, &id).await?.id;
    let (mut cancelled, mut requested, mut before) = (0, 0, None);
    loop {
        let step = app.store.cancel_batch(id, before, cancel.reason.clone(), now()).await?;
        let step = step.ok_or_else(|| Refused::no_batch(id))?;
        cancelled += step.cancelled;
        requested += step.requested;
        before = step.next;
        if before.is_none() {
            break;
        }
    }
    let batch = convert::batch(app.store.batch(id).await?.ok_or_else(|| Refused::no_batch(id))?);
    let status = if batch.finished_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(BatchCancelled { batch, cancelled, requested })))
}
