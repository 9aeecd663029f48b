//! `/sim/…`: what a test tells the simulator, and asks of it. No provider has these.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::deliver::{Body, full};
use crate::fault::Fault;
use crate::hold::Hold;
use crate::serve::State;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    held: bool,
    after_chunks: Option<usize>,
}

pub(crate) fn handle(state: &State, method: &Method, what: &str, body: &[u8]) -> Response<Body> {
    match (method, what) {
        (&Method::GET, "bill") => json_body(StatusCode::OK, &json!(state.ledger.bill())),
        (&Method::DELETE, "bill") => {
            state.ledger.reset();
            done()
        }
        (&Method::GET, "waiting") => json_body(StatusCode::OK, &json!({"waiting": state.gate.waiting()})),
        (&Method::POST, "faults") => told::<Vec<Fault>>(body, |faults| state.faults.set(faults)),
        (&Method::POST, "hold") => told::<Held>(body, |held| {
            state.gate.set(Hold { held: held.held, after_chunks: held.after_chunks });
        }),
        _ => failed(
            StatusCode::NOT_FOUND,
            "there is GET and DELETE /sim/bill, GET /sim/waiting, POST /sim/faults and /sim/hold",
        ),
    }
}

fn told<T: for<'de> Deserialize<'de>>(body: &[u8], act: impl FnOnce(T)) -> Response<Body> {
    match serde_json::from_slice(body) {
        Ok(told) => {
            act(told);
            done()
        }
        Err(error) => failed(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn done() -> Response<Body> {
    json_body(StatusCode::OK, &json!({"ok": true}))
}

fn failed(status: StatusCode, why: &str) -> Response<Body> {
    json_body(status, &json!({"error": why}))
}

fn json_body(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(full(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
