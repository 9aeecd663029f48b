//! Fleets on a cluster, where there is none: what is said, and what is left to others.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, patch};
use serde_json::{Value, json};

use crate::plane::{Plane, wait_for};
use crate::rollouts::check;

const POD: &str = "[fleet.research]\nplatform = \"kubernetes\"\nimage = \"acme/research:1\"\n";

#[tokio::test]
async fn a_fleet_whose_cluster_is_not_there_says_so() {
    let plane = Plane::start_with(POD, &[("KUBECONFIG", "/nonexistent/kubeconfig")]).await;
    let told = wait_for("its trouble", || {
        let ran = check(&plane, &["fleets", "--json"], 0);
        ran.out.contains("no Kubernetes cluster is known here").then_some(ran.out)
    })
    .await;
    assert!(told.contains("or set KUBECONFIG"), "{told}");
}

#[tokio::test]
async fn what_git_owns_is_not_deployed_by_longshore() {
    let owned = format!("{POD}rollout = {{ owner = \"external\" }}\n");
    let plane = Plane::start_with(&owned, &[("KUBECONFIG", "/nonexistent/kubeconfig")]).await;
    let ran = check(&plane, &["deploy", "research", "acme/research:2"], 1);
    assert!(ran.err.contains("`rollout.owner` is \"external\""), "{ran:?}");
    // What to write there instead.
    assert!(
        ran.err.contains("`acme/research:2`") && ran.err.contains("longshore.dev/declaration"),
        "{ran:?}"
    );
    for order in ["undo", "pause", "resume"] {
        let ran = check(&plane, &["rollout", order, "research"], 1);
        assert!(ran.err.contains("not longshore's to begin or to undo"), "{order}: {ran:?}");
    }
}

/// What a list says, and a watch in which nothing happens.
async fn kept(Query(query): Query<BTreeMap<String, String>>, items: Vec<Value>) -> Response {
    if query.contains_key("watch") {
        // Begun and ended at once, as a server does that is about to stop: it is begun again and again.
        return StatusCode::OK.into_response();
    }
    axum::Json(json!({ "kind": "List", "metadata": { "resourceVersion": "1" }, "items": items }))
        .into_response()
}

/// As somebody else rendered it, for an agent of the fleet's image and without probes.
fn deployment() -> Value {
    json!({
        "metadata": {
            "name": "research", "uid": "u-1", "generation": 1, "resourceVersion": "1",
            "labels": { "longshore.dev/fleet": "research" },
        },
        "spec": {
            "replicas": 1, "selector": {},
            "template": { "spec": { "containers": [{ "name": "agent", "image": "acme/research:1" }] } },
        },
    })
}

/// A fake API server whose only Deployment has always just been changed by somebody else.
async fn fake_api_server() -> String {
    let version = async || {
        axum::Json(json!({
            "major": "1", "minor": "30", "gitVersion": "v1.30.0", "gitCommit": "", "gitTreeState": "",
            "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
        }))
    };
    let refused = async || {
        let why = json!({ "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "modified" });
        (StatusCode::CONFLICT, axum::Json(why))
    };
    let secret = async || axum::Json(json!({ "metadata": { "name": "x", "resourceVersion": "1" } }));
    let router = Router::new()
        .route("/version", get(version))
        .route("/api/v1/namespaces/agents/pods", get(async |query| kept(query, Vec::new()).await))
        .route(
            "/apis/apps/v1/namespaces/agents/deployments",
            get(async |query| kept(query, vec![deployment()]).await),
        )
        .route("/apis/apps/v1/namespaces/agents/deployments/research/scale", patch(refused))
        .route(
            "/apis/autoscaling/v1/namespaces/agents/horizontalpodautoscalers",
            get(async |query| kept(query, Vec::new()).await),
        )
        .route("/api/v1/namespaces/agents/secrets/{name}", any(secret));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
    url
}

#[tokio::test]
async fn writes_that_are_refused_again_and_again_are_said_and_so_is_what_a_rendering_has_to_mend() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let url = fake_api_server().await;
    let kubeconfig = dir.path().join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": url } }], "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u", "namespace": "agents" } }],
    });
    std::fs::write(&kubeconfig, text.to_string()).expect("written");
    let plane = Plane::start_with(POD, &[("KUBECONFIG", kubeconfig.to_str().expect("text"))]).await;
    let told = wait_for("its notes and its trouble", || {
        let ran = check(&plane, &["fleets", "--json"], 0);
        let words = [
            "could not scale Deployment `research`",
            "somebody else changed it",
            "does not have `probe`, `rollout` as the fleet declares",
        ];
        words.iter().all(|words| ran.out.contains(words)).then_some(ran.out)
    })
    .await;
    assert!(told.contains("render the fleet and apply it again"), "{told}");
}
