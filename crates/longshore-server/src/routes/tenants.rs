//! The erasure of all that belongs to a tenant.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use longshore_api::tenant::{EraseQuery, TenantErased};
use longshore_core::id::TenantName;
use tracing::info;

use crate::app::{App, now};
use crate::error::{Answer, Refused};
use crate::extract::{Param, Params};

/// How long one request goes on; agents that are told to stop have their fleet's `kill_grace`.
const LONGEST: Duration = Duration::from_secs(45);

/// Between two looks at tasks that still run.
const LOOK: Duration = Duration::from_millis(200);

const REASON: &str = "its tenant is erased";

/// Erase all that belongs to a tenant: its tasks with inputs, results, events and journals, its conversations and batches,
/// and the API keys that are for it alone.
/// Those that run are cancelled first. Can be repeated.
#[utoipa::path(delete, path = "/v1/tenants/{id}/data", params(("id" = String, Path), EraseQuery),
    responses((status = 200, body = TenantErased),
        (status = 202, body = TenantErased, description = "Not all is gone yet: ask again"),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn erase(
    State(app): State<App>,
    Param(tenant): Param<String>,
    Params(how): Params<EraseQuery>,
) -> Answer<(StatusCode, Json<TenantErased>)> {
    let tenant =
        TenantName::new(tenant).map_err(|error| Refused::new(400, "invalid_tenant", error.to_string()))?;
    let mut erased = delete(&app, &tenant).await?;
    if erased.complete {
        app.keys.forget();
        forget_keys(&app).await?;
        if how.compact.unwrap_or(true) {
            app.store.compact().await?;
            erased.compacted = true;
        }
    }
    info!(
        %tenant,
        tasks = erased.tasks,
        conversations = erased.conversations,
        complete = erased.complete,
        compacted = erased.compacted,
        "a tenant is erased"
    );
    let status = if erased.complete { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(erased)))
}

async fn delete(app: &App, tenant: &TenantName) -> Answer<TenantErased> {
    let mut erased = TenantErased { tenant: tenant.to_string(), ..TenantErased::default() };
    let started = Instant::now();
    while started.elapsed() < LONGEST && !app.is_stopping() {
        let step = app.store.erase_tenant(tenant.clone(), REASON.into(), now()).await?;
        erased.cancelled += step.cancelled;
        erased.tasks += step.tasks;
        erased.conversations += step.conversations;
        erased.batches += step.batches;
        erased.running = step.running;
        erased.complete = !step.more && step.running == 0;
        if erased.complete {
            break;
        }
        if !step.more {
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(erased)
}

/// A key may be a word of the tenant's, and means nothing without its task.
async fn forget_keys(app: &App) -> Answer<()> {
    let mut place = app.store.forget_orphaned_keys(None).await?;
    while place.is_some() {
        place = app.store.forget_orphaned_keys(place).await?;
    }
    Ok(())
}
