//! A worker of this version talks to a control plane of this version, and somebody writes down what they say.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use longshore_core::task::State as TaskState;
use serde_json::{Value, json};

use super::{Stage, Step, drain, in_words, stage};
use crate::by_hand::ByHand;

#[derive(Clone)]
struct Clerk {
    link: String,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl Clerk {
    fn note(&self, step: Step) {
        self.steps.lock().expect("no holder panics").push(step);
    }
}

/// One task is done, with an LLM call; one is handed over.
pub async fn conversation() -> Vec<Step> {
    let Stage { sim: _sim, plane, _home } = stage().await;
    let clerk = Clerk { link: plane.addresses.link.clone(), steps: Arc::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let router = Router::new().fallback(pass_on).with_state(clerk.clone());
    let served = tokio::spawn(async move { axum::serve(listener, router).await });
    let worker = ByHand::ready(&plane, "f", |command| {
        command.env("LONGSHORE_LINK", &address);
    })
    .await;
    let submit = async |input: Value| {
        let id = plane.submit("f", input.clone()).await;
        clerk.note(Step::Submit { input, id: id.to_string() });
        id
    };
    let done = submit(json!([{ "do": "chat", "text": "hello" }])).await;
    plane.reaches(done, TaskState::Succeeded).await;
    let open = submit(json!([{ "do": "wait", "until": "/nowhere" }])).await;
    plane.progress(open, 1).await;
    clerk.note(Step::Drain { worker: worker.id.clone() });
    drain(&plane, &worker.id).await;
    plane.workers_when("the worker to be gone", |all| all.is_empty()).await;
    served.abort();
    std::mem::take(&mut *clerk.steps.lock().expect("no holder panics"))
}

async fn pass_on(State(clerk): State<Clerk>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 64 << 20).await.expect("a body");
    let path = head.uri.path().to_owned();
    let mut post = reqwest::Client::new().post(format!("{}{path}", clerk.link)).body(body.clone());
    let mut headers = BTreeMap::new();
    for (name, value) in &head.headers {
        let kept = ["authorization", "content-type"].contains(&name.as_str());
        let ours = name.as_str().starts_with("longshore-");
        if kept || ours {
            post = post.header(name, value);
        }
        if ours {
            headers.insert(name.to_string(), value.to_str().expect("text").to_owned());
        }
    }
    let answer = post.send().await.expect("an answer");
    let (status, kind) = (answer.status(), answer.headers().get("content-type").cloned());
    let answered = answer.bytes().await.expect("a body");
    let words = match path.starts_with("/llm/") {
        true => in_words(answered.clone()),
        false => serde_json::from_slice(&answered).unwrap_or(Value::Null),
    };
    let request = serde_json::from_slice(&body).expect("JSON");
    clerk.note(Step::Said { path, headers, request, status: status.as_u16(), answer: words });
    let mut response = Response::builder().status(status);
    if let Some(kind) = kind {
        response = response.header("content-type", kind);
    }
    response.body(Body::from(answered)).expect("plain parts")
}
