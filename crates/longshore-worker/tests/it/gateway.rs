//! The fake control plane's gateway and agent API: scripted answers in frames, and a record of what was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use futures_util::stream;
use longshore_api::llm::{self, Breaker, Broken, Frame, Head};
use tokio::sync::Semaphore;

use super::control_plane::{Shared, problem};

#[derive(Default)]
pub struct Gateway {
    script: VecDeque<Scripted>,
    pub asked: Vec<Asked>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn call(&self) -> &str {
        self.header(llm::CALL).expect("every request of the relay names its call")
    }
}

#[derive(Clone)]
pub enum Scripted {
    Problem(u16, &'static str),
    Frames(Vec<Part>),
}

#[derive(Clone)]
pub enum Part {
    Frame(Frame),
    /// Goes on when the gate is opened.
    Gate(Arc<Semaphore>),
    /// The connection is lost.
    Cut,
    Silence,
}

pub fn gate() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(0))
}

pub fn head(status: u16, headers: &[(&str, &str)], stored: bool) -> Part {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Part::Frame(Frame::Head(Head { status, headers, stored }))
}

pub fn data(text: &'static str) -> Part {
    Part::Frame(Frame::Data(Bytes::from_static(text.as_bytes())))
}

pub fn end() -> Part {
    Part::Frame(Frame::End)
}

pub fn broken(by: Breaker) -> Part {
    Part::Frame(Frame::Broken(Broken { by, why: "no more".into() }))
}

impl Gateway {
    pub fn plan(&mut self, answers: impl IntoIterator<Item = Scripted>) {
        self.script.extend(answers);
    }
}

pub fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/llm/{*rest}", any(call)).route("/agent/v1/{*rest}", any(agent))
}

async fn noted(shared: &Shared, request: Request) -> Asked {
    let (parts, body) = request.into_parts();
    let text = |value: &axum::http::HeaderValue| value.to_str().expect("text").to_owned();
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default(),
    };
    shared.record.lock().expect("not poisoned").gateway.asked.push(asked.clone());
    asked
}

async fn call(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    noted(&shared, request).await;
    let scripted = shared.record.lock().expect("not poisoned").gateway.script.pop_front();
    let parts = match scripted {
        Some(Scripted::Problem(status, code)) => return problem(status, code, format!("it is {code}")),
        Some(Scripted::Frames(parts)) => parts,
        None => vec![head(200, &[("content-type", "application/json")], false), data("{\"ok\":1}"), end()],
    };
    let body = stream::unfold(VecDeque::from(parts), |mut parts| async move {
        loop {
            let bytes = match parts.pop_front()? {
                Part::Frame(frame) => Ok(frame.encoded()),
                Part::Gate(gate) => {
                    gate.acquire().await.expect("never closed").forget();
                    continue;
                }
                Part::Cut => {
                    // What went before is on its way by then.
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("cut"))
                }
                Part::Silence => std::future::pending().await,
            };
            return Some((bytes, parts));
        }
    });
    ([("content-type", llm::CONTENT_TYPE)], Body::from_stream(body)).into_response()
}

async fn agent(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let asked = noted(&shared, request).await;
    let body = String::from_utf8_lossy(&asked.body).into_owned();
    Json(serde_json::json!({"method": asked.method, "path": asked.path, "body": body})).into_response()
}
