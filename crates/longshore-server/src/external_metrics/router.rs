//! The paths of the API, and who may ask for them.

use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::request::Parts;
use longshore_core::id::FleetName;
use longshore_core::kubernetes::{METRICS_GROUP, METRICS_VERSION};
use longshore_platform::kubernetes::aggregation::{User, Wish};
use longshore_store::{FleetRecord, StoreError};
use serde::Deserialize;
use serde_json::Value;

use super::accept;
use super::peer::Peer;
use super::selector::Selector;
use super::status::Status;
use super::values::{self, Metric};
use super::{Served, is_asked_for};
use crate::app::now;
use crate::wanted::{self, Wanted};

/// How long the store may take. An autoscaler gives up on its own after some more.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn router(served: Served) -> Router {
    let version = format!("/apis/{METRICS_GROUP}/{METRICS_VERSION}");
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/apis", get(async |_: Asker| Json(values::groups())))
        .route(&format!("/apis/{METRICS_GROUP}"), get(async |_: Asker| Json(values::group())))
        .route(&version, get(async |_: Asker| Json(values::resources())))
        .route(&format!("{version}/namespaces/{{namespace}}/{{metric}}"), get(metric))
        .route("/openapi/v2", get(async |_: Asker| Json(values::openapi())))
        .fallback(async |asker: Result<Asker, Status>| match asker {
            Ok(_) => Status::not_found("longshore serves external metrics here, and nothing of this name"),
            Err(status) => status,
        })
        .method_not_allowed_fallback(async || Status::wrong_method())
        .layer(middleware::from_fn(only_plain))
        .with_state(served)
}

/// An API server that is refused another form of discovery asks for the plain one. Some releases of 1.27 and 1.28 that are
/// answered in a form that they did not ask for take the whole group for broken, and delete no namespace any more.
async fn only_plain(request: Request, next: Next) -> Response {
    match accept::takes_plain_json(request.headers()) {
        true => next.run(request).await,
        false => Status::not_acceptable().into_response(),
    }
}

/// Ready once it can tell who asks.
async fn ready(State(served): State<Served>) -> Response {
    match served.front.known() {
        Some(_) => "ok\n".into_response(),
        None => Status::unavailable("it is not known yet how the API server shows itself").into_response(),
    }
}

/// Somebody whom the API server names. It has asked before whether they may reach this path, so what there is they may see.
struct Asker(User);

impl FromRequestParts<Served> for Asker {
    type Rejection = Status;

    async fn from_request_parts(parts: &mut Parts, served: &Served) -> Result<Asker, Status> {
        let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
        served.front.admit(&peer, &parts.headers).await.map(Asker)
    }
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default, rename = "labelSelector")]
    selector: String,
}

async fn metric(
    State(served): State<Served>,
    Asker(user): Asker,
    Path((namespace, name)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Status> {
    // As the API server names a read of something that has no name of its own.
    let wish = Wish {
        verb: "list",
        group: METRICS_GROUP,
        version: METRICS_VERSION,
        namespace: namespace.clone(),
        resource: name.clone(),
    };
    served.access.check(user, wish).await?;
    let metric = Metric::named(&name).ok_or_else(|| {
        Status::not_found(format!("there is no metric `{name}`: longshore has {}", Metric::names()))
    })?;
    if namespace != served.namespace {
        let ours = &served.namespace;
        return Err(Status::not_found(format!("the fleets of this longshore are in namespace `{ours}`")));
    }
    let selector = Selector::read(&asked.selector).map_err(Status::bad_request)?;
    let read = tokio::time::timeout(PATIENCE, read(&served, &selector)).await;
    let marks = read
        .map_err(|_| unreadable("it does not answer"))?
        .map_err(|error| unreadable(&error.to_string()))?;
    if marks.is_empty() {
        return Err(Status::not_found(
            "the selector picks no fleet that is declared with platform \"kubernetes\" and scaling.by = \"hpa\"",
        ));
    }
    let items: Result<Vec<_>, Status> =
        marks.iter().map(|(fleet, wanted)| value(metric, fleet, wanted)).collect();
    Ok(Json(values::list(items?)))
}

fn unreadable(why: &str) -> Status {
    Status::unavailable(format!("longshore's store cannot be read, so there are no numbers now: {why}"))
}

async fn read(served: &Served, selector: &Selector) -> Result<Vec<(FleetName, Wanted)>, StoreError> {
    let mut marks = Vec::new();
    let picked = |record: &FleetRecord| {
        record.active && is_asked_for(&record.declaration) && selector.picks(&record.name)
    };
    for record in served.app.store.fleets().await?.into_iter().filter(picked) {
        let wanted = wanted::of(&served.app, &record.name).await?;
        marks.push((record.name, wanted));
    }
    Ok(marks)
}

/// One doubtful fleet spoils the answer: the sum of the others would be too small.
fn value(metric: Metric, fleet: &FleetName, wanted: &Wanted) -> Result<Value, Status> {
    let none = |why: String| Status::unavailable(format!("fleet `{fleet}` {why}"));
    match wanted {
        Wanted::Fresh(mark) => {
            let thousandths = metric.of(mark).map_err(none)?;
            Ok(values::item(metric, fleet, mark, thousandths))
        }
        Wanted::Stale(_) => Err(none(wanted.doubt(now()).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wanted::Mark;

    #[test]
    fn a_number_that_is_too_old_is_none() {
        let fleet = FleetName::new("research").expect("valid");
        let text = r#"{"at":"1970-01-01T00:00:01.000Z","desired":5,"pending":0,"workers":5}"#;
        let mark: Mark = serde_json::from_str(text).expect("a mark");
        let of = |wanted: &Wanted| value(Metric::Pending, &fleet, wanted);
        assert_eq!(of(&Wanted::Fresh(mark.clone())).expect("a number")["value"], "0");
        for stale in [Wanted::Stale(Some(mark)), Wanted::Stale(None)] {
            let refused = of(&stale).expect_err("none");
            assert_eq!(refused.into_response().status(), 503);
        }
    }
}
