//! The control plane's own probes and metrics, on their own port.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};

use crate::app::App;
use crate::error::Answer;
use crate::look::Silent;
use crate::routes::{unknown_route, wrong_method};
use crate::start::TOKEN_SECRET;

/// How long whoever asks how things stand waits for the database's answer: orchestrators ask for 1 s to 3 s, and one that
/// hears nothing takes it for the worst.
const SOON: Duration = Duration::from_millis(500);

/// The same for workers, whose heartbeats can wait until it is known: longer than the store waits for its database.
const AT_LAST: Duration = Duration::from_secs(10);

pub fn router(app: App) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(app)
}

/// Fails only while this process stops: a lost dependency is reported with 200, since a control plane that gets no
/// requests helps nobody.
async fn ready(State(app): State<App>) -> Response {
    // While it finishes its LLM calls it takes no new ones: as good as stopping to whoever would send some.
    let finishing = app.gateway.as_ref().is_some_and(|gateway| !gateway.takes_calls());
    let stopping = app.is_leaving() || app.is_stopping() || finishing;
    let status = if stopping { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({
        "ready": !stopping,
        "stopping": stopping,
        "roles": app.roles.names(),
        "checks": checks(&app).await,
    });
    (status, Json(body)).into_response()
}

async fn metrics(State(app): State<App>) -> Answer<Response> {
    let text = app.metrics.scrape(&app).await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// What this process depends on: empty text for fine, else what is wrong; in time for a probe. The database was looked at a
/// moment ago at most: whoever asks, and however often, it is asked once.
pub async fn checks(app: &App) -> BTreeMap<String, String> {
    let mut checks = others(app, database_lately(app, SOON).await);
    checks.extend(notes(app));
    checks
}

/// What it cannot do without; the database was looked at a moment ago at most.
pub async fn needed(app: &App) -> BTreeMap<String, String> {
    others(app, database_lately(app, AT_LAST).await)
}

async fn database_lately(app: &App, patience: Duration) -> String {
    let look = || {
        let app = app.clone();
        async move { database(&app).await }
    };
    let found = app.database.lately(patience, look).await;
    found.unwrap_or_else(|Silent(since)| format!("no answer for {} s", since.as_secs().max(1)))
}

async fn database(app: &App) -> String {
    match app.store.meta_get(TOKEN_SECRET.into()).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn others(app: &App, database: String) -> BTreeMap<String, String> {
    let mut checks = BTreeMap::from([("database".to_owned(), database)]);
    if app.gateway.is_some() {
        checks.insert("llm".to_owned(), unreachable(app, |_| true));
    }
    checks
}

/// What it goes on without, only slower.
pub fn notes(app: &App) -> BTreeMap<String, String> {
    let lost = "away: wake-ups come late, histories come from the database, permits are split";
    let redis = app.store.redis().map(|health| match health.up {
        true => String::new(),
        false => format!("{lost} ({})", health.why),
    });
    redis.map(|why| ("redis".to_owned(), why)).into_iter().collect()
}

/// Which of these providers cannot be reached, and why; empty: all can.
pub fn unreachable(app: &App, of: impl Fn(&String) -> bool) -> String {
    let lost = app.llm.lock().expect("no holder panics");
    let lost = lost.iter().filter(|(name, _)| of(name)).map(|(name, why)| format!("{name}: {why}"));
    lost.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::look::LATELY;
    use crate::tests::scene::{self, Scene};

    /// Tasks that could run now, as the metrics say.
    async fn runnable(scene: &Scene) -> u32 {
        let url = format!("http://{}/metrics", scene.server.addresses().probes);
        let text = scene.http.get(url).send().await.expect("an answer").text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("longshore_runnable_tasks{fleet=\"a\"} "));
        line.expect("there is a fleet").parse().expect("a number")
    }

    #[tokio::test]
    async fn however_often_metrics_are_asked_for_the_store_is_read_once_in_a_while() {
        let scene = Scene::locked().await;
        let first = Instant::now();
        assert_eq!(runnable(&scene).await, 0);
        scene.task(serde_json::json!({ "input": 1 })).await;
        let again = runnable(&scene).await;
        // On a machine that is very busy it is read anew, and rightly so.
        assert!(again == 0 || first.elapsed() >= LATELY, "{again} after {:?}", first.elapsed());
        while runnable(&scene).await == 0 {
            assert!(first.elapsed() < Duration::from_secs(30), "never read again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn who_is_to_stop_is_unready_at_once_and_answers_until_that_is_known() {
        let dir = tempfile::tempdir().expect("a folder");
        let long = Duration::from_secs(3600);
        let mut server = scene::start_to_stay(&dir, "", None, long).await.expect("it starts");
        let (addresses, http) = (server.addresses(), reqwest::Client::new());
        let get =
            async |addr, path| http.get(format!("http://{addr}{path}")).send().await.expect("an answer");
        assert_eq!(get(addresses.probes, "/readyz").await.status(), 200);
        let seen = async {
            while get(addresses.probes, "/readyz").await.status() != 503 {}
            let answer = get(addresses.api.expect("it serves the API"), "/v1/about").await;
            (answer.status().as_u16(), answer.headers().get(header::CONNECTION).cloned())
        };
        let seen = tokio::select! {
            () = server.stop() => panic!("it stops before anybody knows"),
            seen = seen => seen,
        };
        assert_eq!(seen, (200, Some("close".parse().expect("a value"))));
        // The second signal.
        server.cut_calls();
        tokio::time::timeout(Duration::from_secs(60), server.stop()).await.expect("nothing is waited for");
    }
}
