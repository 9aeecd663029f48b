//! The public API, `/v1`. Routes and OpenAPI come from the same declarations, so they cannot disagree.

mod batch_events;
mod batches;
mod bulk;
mod conversations;
mod fleets;
mod input;
mod journal;
mod keys;
mod schedules;
mod search;
pub mod tasks;
mod tenants;
mod watch;
mod webhooks;
mod workers;

use axum::extract::State;
use axum::middleware;
use axum::{Json, Router};
use http::Uri;
use longshore_api::fleet::About;
use longshore_core::settings::FleetsFrom;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admit::admit;
use crate::app::App;
use crate::error::Refused;

#[derive(OpenApi)]
#[openapi(info(
    title = "longshore",
    description = "Runs AI agents in containers, at any scale, without losing a task.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Document;

/// The router with its OpenAPI document.
pub fn documented() -> (Router<App>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(about))
        .routes(routes!(tasks::submit, tasks::list))
        .routes(routes!(tasks::batch))
        .routes(routes!(bulk::cancel))
        .routes(routes!(bulk::retry))
        .routes(routes!(tasks::show))
        .routes(routes!(tasks::cancel))
        .routes(routes!(tasks::retry))
        .routes(routes!(journal::journal))
        .routes(routes!(input::input))
        .routes(routes!(watch::events))
        .routes(routes!(batches::list))
        .routes(routes!(batches::show))
        .routes(routes!(batches::cancel))
        .routes(routes!(batch_events::events))
        .routes(routes!(tenants::erase))
        .routes(routes!(conversations::show))
        .routes(routes!(conversations::messages, conversations::post))
        .routes(routes!(fleets::list))
        .routes(routes!(fleets::apply))
        .routes(routes!(fleets::show))
        .routes(routes!(fleets::scale, fleets::set_scale))
        .routes(routes!(fleets::pause))
        .routes(routes!(fleets::resume))
        .routes(routes!(fleets::tenants))
        .routes(routes!(workers::list))
        .routes(routes!(workers::show))
        .routes(routes!(workers::drain))
        .routes(routes!(schedules::list))
        .routes(routes!(schedules::show))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::show))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::retry))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::enable))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .split_for_parts()
}

pub fn router(app: App) -> Router {
    let (router, document) = documented();
    let document = Json(document);
    router
        .route("/openapi.json", axum::routing::get(async move || document))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .with_state(app)
}

pub async fn unknown_route(uri: Uri) -> Refused {
    Refused::new(404, "unknown_route", format!("there is nothing at {}", uri.path()))
        .hint("the routes are listed at /openapi.json")
}

pub async fn wrong_method(method: http::Method, uri: Uri) -> Refused {
    Refused::new(405, "wrong_method", format!("{} does not take {method}", uri.path()))
}

/// Version, addresses and health of this replica.
#[utoipa::path(get, path = "/v1/about", responses((status = 200, body = About)))]
async fn about(State(app): State<App>) -> Json<About> {
    Json(About {
        version: env!("CARGO_PKG_VERSION").into(),
        fleets: match app.fleet_source {
            FleetsFrom::File => "file".into(),
            FleetsFrom::Api => "api".into(),
        },
        uptime_s: app.started.elapsed().as_secs(),
        link: app.links_to_start_with().into_iter().next().unwrap_or_default(),
        checks: crate::probes::checks(&app).await,
    })
}
