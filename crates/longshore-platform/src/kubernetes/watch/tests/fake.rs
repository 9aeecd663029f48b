//! A fake of the API server, in the test's own process: it lists and watches pods, and fails as it is told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

/// What a request for pods gets.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    Good,
    Status(u16),
    /// Nothing at all.
    Hangs,
    /// A watch that begins, tells nothing, and never ends.
    Mute,
}

pub struct FakeApiServer {
    known: Known,
    url: String,
    task: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Known(Arc<Mutex<Facts>>);

struct Facts {
    version: u64,
    pods: BTreeMap<String, Value>,
    /// What has changed, and when.
    log: Vec<(u64, Value)>,
    /// What happened before this version is not known any more.
    oldest: u64,
    list: Answer,
    watch: Answer,
    lists: usize,
    watches: usize,
    standing: Vec<Line>,
}

/// To whoever watches.
struct Line {
    to: UnboundedSender<io::Result<Bytes>>,
    mute: bool,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            version: 1,
            pods: BTreeMap::new(),
            log: Vec::new(),
            oldest: 0,
            list: Answer::Good,
            watch: Answer::Good,
            lists: 0,
            watches: 0,
            standing: Vec::new(),
        }
    }
}

impl Known {
    fn with<T>(&self, ask: impl FnOnce(&mut Facts) -> T) -> T {
        ask(&mut self.0.lock().expect("no holder panics"))
    }
}

impl FakeApiServer {
    pub async fn start() -> FakeApiServer {
        let known = Known::default();
        let router = Router::new()
            .route("/version", get(version))
            .route("/api/v1/namespaces/agents/pods", get(pods))
            .route("/apis/apps/v1/namespaces/agents/deployments", get(deployments))
            .with_state(known.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        FakeApiServer { known, url, task }
    }

    pub fn url(&self) -> http::Uri {
        self.url.parse().expect("an address")
    }

    pub fn put(&self, name: &str, image: &str) {
        self.known.with(|facts| {
            facts.version += 1;
            let pod = json!({
                "metadata": {
                    "name": name, "resourceVersion": facts.version.to_string(),
                    "labels": { "longshore.dev/fleet": "research" },
                },
                "spec": { "containers": [{ "name": "agent", "image": image }] },
            });
            let before = facts.pods.insert(name.to_owned(), pod.clone());
            facts.tell(if before.is_some() { "MODIFIED" } else { "ADDED" }, pod);
        });
    }

    pub fn remove(&self, name: &str) {
        self.known.with(|facts| {
            facts.version += 1;
            let mut pod = facts.pods.remove(name).expect("it is there");
            pod["metadata"]["resourceVersion"] = facts.version.to_string().into();
            facts.tell("DELETED", pod);
        });
    }

    pub fn answer(&self, list: Answer, watch: Answer) {
        self.known.with(|facts| (facts.list, facts.watch) = (list, watch));
    }

    pub fn drop_connections(&self) {
        self.known.with(|facts| {
            for line in facts.standing.drain(..) {
                _ = line.to.send(Err(io::ErrorKind::ConnectionReset.into()));
            }
        });
    }

    /// What happened until now: watches end with 410, and cannot be begun again from before.
    pub fn forget(&self) {
        self.known.with(|facts| {
            facts.version += 1;
            facts.oldest = facts.version;
            for line in facts.standing.drain(..) {
                _ = line.to.send(Ok(event("ERROR", &refusal(410))));
            }
        });
    }

    pub fn standing(&self) -> usize {
        self.known.with(|facts| facts.standing.len())
    }

    pub fn lists(&self) -> usize {
        self.known.with(|facts| facts.lists)
    }

    pub fn watches(&self) -> usize {
        self.known.with(|facts| facts.watches)
    }

    pub fn asked(&self) -> usize {
        self.lists() + self.watches()
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Facts {
    fn tell(&mut self, kind: &str, object: Value) {
        for line in self.standing.iter().filter(|line| !line.mute) {
            _ = line.to.send(Ok(event(kind, &object)));
        }
        self.log.push((self.version, json!({ "type": kind, "object": object })));
    }
}

fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

fn refusal(code: u16) -> Value {
    json!({ "kind": "Status", "status": "Failure", "code": code, "message": "etcd is not there", "reason": "Fake" })
}

async fn refuse(answer: Answer) -> Option<Response> {
    match answer {
        Answer::Good | Answer::Mute => None,
        Answer::Status(code) => {
            let status = StatusCode::from_u16(code).expect("a status");
            Some((status, axum::Json(refusal(code))).into_response())
        }
        Answer::Hangs => std::future::pending().await,
    }
}

async fn version() -> axum::Json<Value> {
    axum::Json(json!({
        "major": "1", "minor": "30", "gitVersion": "v1.30.0", "gitCommit": "", "gitTreeState": "",
        "buildDate": "", "goVersion": "", "compiler": "", "platform": "",
    }))
}

fn list_of(kind: &str, version: u64, items: &[Value], more: Option<String>) -> Response {
    axum::Json(json!({
        "kind": format!("{kind}List"),
        "metadata": { "resourceVersion": version.to_string(), "continue": more.unwrap_or_default() },
        "items": items,
    }))
    .into_response()
}

async fn pods(State(known): State<Known>, Query(query): Query<BTreeMap<String, String>>) -> Response {
    match query.contains_key("watch") {
        true => watch_pods(known, &query).await,
        false => list_pods(known, &query).await,
    }
}

async fn list_pods(known: Known, query: &BTreeMap<String, String>) -> Response {
    let answer = known.with(|facts| {
        facts.lists += 1;
        facts.list
    });
    if let Some(refused) = refuse(answer).await {
        return refused;
    }
    let number = |key: &str| query.get(key).and_then(|text| text.parse().ok());
    let (from, most): (usize, usize) =
        (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    known.with(|facts| {
        let page: Vec<Value> = facts.pods.values().skip(from).take(most).cloned().collect();
        let end = from + page.len();
        list_of("Pod", facts.version, &page, (end < facts.pods.len()).then(|| end.to_string()))
    })
}

async fn watch_pods(known: Known, query: &BTreeMap<String, String>) -> Response {
    let answer = known.with(|facts| {
        facts.watches += 1;
        facts.watch
    });
    if let Some(refused) = refuse(answer).await {
        return refused;
    }
    let from: u64 = query["resourceVersion"].parse().expect("a version");
    let lasts = Duration::from_secs(query["timeoutSeconds"].parse().expect("seconds"));
    let mute = answer == Answer::Mute;
    let (to, events) = unbounded_channel();
    known.with(|facts| {
        if from < facts.oldest {
            _ = to.send(Ok(event("ERROR", &refusal(410))));
            return;
        }
        for (_, change) in facts.log.iter().filter(|(version, _)| *version > from && !mute) {
            _ = to.send(Ok(format!("{change}\n").into()));
        }
        facts.standing.push(Line { to: to.clone(), mute });
    });
    if !mute {
        let (known, weak) = (known.clone(), to.downgrade());
        tokio::spawn(async move {
            tokio::time::sleep(lasts).await;
            known.with(|facts| {
                facts.standing.retain(|line| weak.upgrade().is_some_and(|it| !it.same_channel(&line.to)));
            });
        });
    }
    drop(to);
    Body::from_stream(lines(events)).into_response()
}

fn lines(
    events: UnboundedReceiver<io::Result<Bytes>>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
    stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) })
}

/// There are none.
async fn deployments(Query(query): Query<BTreeMap<String, String>>) -> Response {
    match query.contains_key("watch") {
        true => {
            let lasts = Duration::from_secs(query["timeoutSeconds"].parse().expect("seconds"));
            let end = async move {
                tokio::time::sleep(lasts).await;
                Ok::<_, Infallible>(Bytes::new())
            };
            Body::from_stream(stream::once(end)).into_response()
        }
        false => list_of("Deployment", 1, &[], None),
    }
}
