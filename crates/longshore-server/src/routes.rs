//! The public API, `/v1`. Routes and OpenAPI come from the same declarations, so they cannot disagree.

mod batch_events;
mod batches;
mod bulk;
mod conversations;
mod fleets;
mod journal;
mod schedules;
mod search;
pub mod tasks;
mod tenants;
mod watch;
mod webhooks;
mod workers;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::uri::Authority;
use http::{Uri, header};
use longshore_api::fleet::About;
use longshore_core::settings::FleetsFrom;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{Answer, Refused};
use crate::extract::bearer;

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
        .routes(routes!(journal::input))
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

/// Lets a request in: the token if one is set, and no page of another origin.
async fn admit(State(app): State<App>, request: Request, next: Next) -> Response {
    let admitted = check_host(&app, &request)
        .and_then(|()| check_origin(&request))
        .and_then(|()| check_token(&app, &request));
    let response = match admitted {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    app.metrics.answered("api", response.status());
    response
}

fn check_token(app: &App, request: &Request) -> Answer<()> {
    let Some(expected) = &app.api_token else { return Ok(()) };
    match bearer(request.headers()) {
        Some(token) if same(token, expected) => Ok(()),
        Some(_) => Err(Refused::new(401, "bad_token", "this token is not accepted here")),
        None => Err(Refused::new(401, "token_required", "this control plane asks for a token")
            .hint("send `Authorization: Bearer …`, or set LONGSHORE_TOKEN")),
    }
}

/// Compares without telling by its time how much of the token was right.
fn same(given: &str, expected: &str) -> bool {
    let differing = given.bytes().zip(expected.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == expected.len() && differing == 0
}

/// Without a token, a page whose name was pointed at this address must not pass for one of ours (DNS rebinding).
fn check_host(app: &App, request: &Request) -> Answer<()> {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(host) = host.filter(|_| app.check_host) else { return Ok(()) };
    let name = host.parse::<Authority>().map(|host| host.host().to_ascii_lowercase()).unwrap_or_default();
    let is_address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if is_address || name == "localhost" {
        return Ok(());
    }
    Err(Refused::new(403, "foreign_host", format!("this control plane does not answer to the name `{name}`"))
        .hint("use its address or localhost; for names, set `[server] token`"))
}

fn check_origin(request: &Request) -> Answer<()> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin_host = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
    let origin_host = origin_host.and_then(|origin| origin.authority().map(|host| host.to_string()));
    if origin_host.is_some() && origin_host.as_deref() == host {
        return Ok(());
    }
    Err(Refused::new(403, "cross_origin", "pages of another origin may not call this API"))
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
