//! A fake of the API server with one Deployment and one pod, in the test's own process: it patches, and answers as it is told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use futures_util::stream;
use longshore_core::kubernetes::DECLARATION;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    Good,
    /// It is done, and nobody hears of it.
    Lost,
    /// It is not done.
    Refused,
    /// Its image is another one, by a webhook's doing.
    Rewritten,
}

#[derive(Clone)]
pub struct Fake(Arc<Inner>);

struct Inner {
    deployment: watch::Sender<Value>,
    answer: Mutex<Answer>,
    pod: Value,
    url: String,
    task: Mutex<Option<JoinHandle<()>>>,
}

type Asked = BTreeMap<String, String>;

impl Fake {
    /// With a Deployment and a pod of it of this mark.
    pub async fn start(declaration: &str, image: &str) -> Fake {
        let labels = json!({ "longshore.dev/fleet": "research" });
        let template = json!({
            "metadata": { "annotations": { DECLARATION: declaration } },
            "spec": { "containers": [{ "name": "agent", "image": image }] },
        });
        let pod = json!({
            "metadata": {
                "name": "research-1", "uid": "p-1", "labels": labels, "resourceVersion": "1",
                "annotations": { DECLARATION: declaration },
            },
            "spec": template["spec"],
            "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        let deployment = json!({
            "metadata": { "name": "research", "uid": "d-1", "labels": labels, "generation": 1, "resourceVersion": "1" },
            "spec": { "replicas": 1, "selector": {}, "template": template },
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (deployment, answer) = (watch::Sender::new(deployment), Mutex::new(Answer::Good));
        let fake = Fake(Arc::new(Inner { deployment, answer, pod, url, task: Mutex::new(None) }));
        let of = "/apis/apps/v1/namespaces/agents/deployments";
        let router = Router::new()
            .route("/version", get(version))
            .route("/api/v1/namespaces/agents/pods", get(pods))
            .route(of, get(deployments))
            .route(&format!("{of}/research"), patch(change))
            .with_state(fake.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        *fake.0.task.lock().expect("no holder panics") = Some(task);
        fake
    }

    pub fn url(&self) -> &str {
        &self.0.url
    }

    pub fn answers(&self, answer: Answer) {
        *self.0.answer.lock().expect("no holder panics") = answer;
    }

    fn now(&self) -> Value {
        self.0.deployment.borrow().clone()
    }

    pub fn generation(&self) -> i64 {
        self.now()["metadata"]["generation"].as_i64().expect("a number")
    }

    pub fn version(&self) -> String {
        self.now()["metadata"]["resourceVersion"].as_str().expect("text").to_owned()
    }

    pub fn image(&self) -> String {
        self.now()["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("text").to_owned()
    }

    pub fn is_paused(&self) -> bool {
        self.now()["spec"]["paused"] == true
    }

    /// Somebody changes what it is to be.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) {
        self.modify(|it| change(&mut it["spec"]));
    }

    fn modify(&self, change: impl FnOnce(&mut Value)) {
        self.0.deployment.send_modify(|it| {
            change(it);
            let meta = &mut it["metadata"];
            meta["generation"] = (meta["generation"].as_i64().expect("a number") + 1).into();
            let version: u64 = meta["resourceVersion"].as_str().expect("text").parse().expect("a number");
            meta["resourceVersion"] = (version + 1).to_string().into();
        });
    }

    /// Kubernetes has looked at it, and so many of its pods are made from what it says.
    pub fn rolled(&self, revision: u64, updated: u32) {
        self.modify(|it| {
            it["metadata"]["annotations"] =
                json!({ "deployment.kubernetes.io/revision": revision.to_string() });
            it["status"] = json!({ "observedGeneration": 1_000, "replicas": 1, "updatedReplicas": updated });
        });
    }

    pub fn stop(&self) {
        if let Some(task) = self.0.task.lock().expect("no holder panics").take() {
            task.abort();
        }
    }
}

async fn version() -> axum::Json<Value> {
    axum::Json(json!({
        "major": "1", "minor": "30", "gitVersion": "v1.30.0", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
    }))
}

fn list(kind: &str, items: &[Value], version: &str) -> Response {
    axum::Json(json!({ "kind": kind, "metadata": { "resourceVersion": version }, "items": items }))
        .into_response()
}

async fn pods(State(fake): State<Fake>, Query(asked): Query<Asked>) -> Response {
    match asked.contains_key("watch") {
        true => Body::from_stream(stream::once(quiet(asked))).into_response(),
        false => list("PodList", std::slice::from_ref(&fake.0.pod), "1"),
    }
}

async fn quiet(asked: Asked) -> Result<Bytes, Infallible> {
    tokio::time::sleep(Duration::from_secs(asked["timeoutSeconds"].parse().expect("seconds"))).await;
    Ok(Bytes::new())
}

async fn deployments(State(fake): State<Fake>, Query(asked): Query<Asked>) -> Response {
    if !asked.contains_key("watch") {
        return list("DeploymentList", &[fake.now()], &fake.version());
    }
    let mut seen = fake.0.deployment.subscribe();
    if asked["resourceVersion"] != fake.version() {
        seen.mark_changed();
    }
    let events = stream::unfold(seen, |mut seen| async move {
        seen.changed().await.ok()?;
        let event = json!({ "type": "MODIFIED", "object": *seen.borrow_and_update() });
        Some((Ok::<_, Infallible>(Bytes::from(format!("{event}\n"))), seen))
    });
    Body::from_stream(events).into_response()
}

fn refusal(code: u16) -> Response {
    let status = json!({ "kind": "Status", "status": "Failure", "code": code, "message": "it is so", "reason": "Fake" });
    (StatusCode::from_u16(code).expect("a code"), axum::Json(status)).into_response()
}

async fn change(State(fake): State<Fake>, body: Bytes) -> Response {
    let wanted: Value = serde_json::from_slice(&body).expect("JSON");
    let answer = *fake.0.answer.lock().expect("no holder panics");
    if wanted["metadata"]["resourceVersion"] != fake.version().as_str() {
        return refusal(409);
    }
    if answer == Answer::Refused {
        return refusal(422);
    }
    fake.edit(|spec| {
        if let Some(paused) = wanted["spec"].get("paused") {
            spec["paused"] = paused.clone();
            return;
        }
        let template = &wanted["spec"]["template"];
        spec["template"]["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
        let mut image = template["spec"]["containers"][0]["image"].clone();
        if answer == Answer::Rewritten {
            image = format!("mirror/{}", image.as_str().expect("text")).into();
        }
        spec["template"]["spec"]["containers"][0]["image"] = image;
    });
    match answer {
        Answer::Lost => refusal(500),
        _ => axum::Json(fake.now()).into_response(),
    }
}
