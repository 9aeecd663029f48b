//! Webhooks: how they stand, what they are owed and were told, sending again, and trying one out.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use longshore_api::webhook::{
    Delivery, DeliveryPage, Retried, RetryDeliveries, Webhook, WebhookList, WebhookTest,
};
use longshore_core::webhook::{Heard, WebhookName, message_id, message_type, task_of_message};
use longshore_store::{DeliveryFilter, DeliveryRecord, DeliveryState, Redeliver, WebhookRecord};
use serde::Deserialize;
use uuid::Uuid;

use crate::app::{App, now};
use crate::controller::send_message;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};
use crate::webhook::test_message;

/// All webhooks.
#[utoipa::path(get, path = "/v1/webhooks", responses((status = 200, body = WebhookList)))]
pub async fn list(State(app): State<App>) -> Answer<Json<WebhookList>> {
    let mut items = Vec::new();
    for record in app.store.webhooks().await? {
        items.push(shown(&app, record).await?);
    }
    Ok(Json(WebhookList { items }))
}

/// One webhook.
#[utoipa::path(get, path = "/v1/webhooks/{name}", params(("name" = String, Path)),
    responses((status = 200, body = Webhook), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<Webhook>> {
    let record = find(&app, &name).await?;
    shown(&app, record).await.map(Json)
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// `pending`, `delivered` or `failed`.
    state: Option<String>,
    /// `next_before` of the previous page.
    before: Option<u64>,
    /// 1 to 500; 50 if absent.
    limit: Option<i64>,
}

/// What a webhook was told and is owed, newest first.
#[utoipa::path(get, path = "/v1/webhooks/{name}/deliveries", params(("name" = String, Path), DeliveryQuery),
    responses((status = 200, body = DeliveryPage), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn deliveries(
    State(app): State<App>,
    Param(name): Param<String>,
    Params(query): Params<DeliveryQuery>,
) -> Answer<Json<DeliveryPage>> {
    let record = find(&app, &name).await?;
    let limit = match query.limit.unwrap_or(50) {
        limit @ 1..=500 => limit as usize,
        limit => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to 500"))),
    };
    let state = query.state.as_deref().map(state).transpose()?;
    let filter = DeliveryFilter { webhook: record.name, state, before: query.before };
    let mut found = app.store.deliveries(filter, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_before = found.last().filter(|_| more).map(|last| last.seq);
    Ok(Json(DeliveryPage { items: found.into_iter().map(delivery).collect(), next_before }))
}

fn state(text: &str) -> Answer<DeliveryState> {
    DeliveryState::parse(text).ok_or_else(|| {
        let known = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        Refused::invalid("state", format!("`{text}` is not a state of a delivery: expected {known}"))
    })
}

fn delivery(record: DeliveryRecord) -> Delivery {
    Delivery {
        id: message_id(record.task, &record.webhook),
        number: record.seq,
        task: record.task,
        fleet: record.fleet,
        kind: message_type(record.ended_as),
        state: record.state.as_str().into(),
        at: record.at,
        tries: record.tries,
        next_at: record.next_at,
        tried_at: record.tried_at,
        status: record.status,
        error: record.error,
    }
}

/// Send messages again: one of them, or all that were given up.
#[utoipa::path(post, path = "/v1/webhooks/{name}/retry", params(("name" = String, Path)), request_body = Option<RetryDeliveries>,
    responses((status = 200, body = Retried), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(app): State<App>,
    Param(name): Param<String>,
    JsonBody(which): JsonBody<RetryDeliveries>,
) -> Answer<Json<Retried>> {
    let record = declared(&app, &name).await?;
    let Some(id) = which.id else {
        return Ok(Json(Retried { count: retry_failed(&app, record.name).await? }));
    };
    let unknown = || {
        Refused::new(404, "unknown_delivery", format!("webhook `{name}` has no message `{id}`"))
            .hint(format!("list what is kept with `longshore webhooks deliveries {name}`"))
    };
    let task = task_of_message(&id, &record.name).ok_or_else(unknown)?;
    match app.store.redeliver(record.name, Redeliver::One(task), now()).await? {
        0 => Err(unknown()),
        count => Ok(Json(Retried { count })),
    }
}

/// In pieces, so that other writes come in between.
async fn retry_failed(app: &App, webhook: WebhookName) -> Answer<usize> {
    let mut count = 0;
    loop {
        match app.store.redeliver(webhook.clone(), Redeliver::Failed, now()).await? {
            0 => return Ok(count),
            some => count += some,
        }
    }
}

/// Send a message of type `webhook.test` once, now, and say what came of it.
#[utoipa::path(post, path = "/v1/webhooks/{name}/test", params(("name" = String, Path)),
    responses((status = 200, body = WebhookTest), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn test(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<WebhookTest>> {
    let record = declared(&app, &name).await?;
    let (id, started) = (format!("test-{}", Uuid::now_v7()), Instant::now());
    let sent = send_message(&app, &record.declaration, &id, test_message(&name, now())).await;
    Ok(Json(WebhookTest {
        delivered: matches!(sent.heard, Heard::Status { code: 200..=299, .. }),
        status: sent.status(),
        error: sent.error,
        ms: started.elapsed().as_millis() as u64,
    }))
}

/// Send to a webhook again that was switched off since its receiver said that it is gone.
#[utoipa::path(post, path = "/v1/webhooks/{name}/enable", params(("name" = String, Path)),
    responses((status = 200, body = Webhook), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn enable(State(app): State<App>, Param(name): Param<String>) -> Answer<Json<Webhook>> {
    let record = declared(&app, &name).await?;
    app.store.enable_webhook(record.name, now()).await?;
    show(State(app), Param(name)).await
}

async fn find(app: &App, name: &str) -> Answer<WebhookRecord> {
    let unknown = || {
        Refused::new(404, "unknown_webhook", format!("there is no webhook `{name}`"))
            .hint("list the declared webhooks with `longshore webhooks list`")
    };
    let parsed = WebhookName::new(name).map_err(|_| unknown())?;
    app.store.webhook(parsed).await?.ok_or_else(unknown)
}

async fn declared(app: &App, name: &str) -> Answer<WebhookRecord> {
    let record = find(app, name).await?;
    match record.active {
        true => Ok(record),
        false => {
            Err(Refused::new(409, "webhook_not_declared", format!("webhook `{name}` is no longer declared")))
        }
    }
}

async fn shown(app: &App, record: WebhookRecord) -> Answer<Webhook> {
    let backlog = app.store.webhook_backlog(record.name.clone()).await?;
    let declared = record.declaration;
    Ok(Webhook {
        url: declared.shown_url(),
        name: declared.name,
        fleets: declared.fleets,
        states: declared.states,
        allow_private: declared.allow_private,
        active: record.active,
        disabled: record.disabled.map(|(why, since)| format!("{why} ({since})")),
        pending: backlog.pending,
        oldest_pending_ms: backlog.oldest.map(|at| now().since(at).as_millis() as u64),
        failed: backlog.failed,
    })
}
