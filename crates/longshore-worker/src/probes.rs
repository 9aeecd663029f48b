//! Probes and metrics over HTTP, on their own port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use hyper_util::service::TowerToHyperService;
use longshore_api::serve::{self, Room};
use tokio::net::TcpListener;

use crate::error::WorkerError;
use crate::health::Health;
use crate::metrics::Metrics;

#[derive(Clone)]
pub struct Probes {
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
}

pub async fn bind(addr: SocketAddr) -> Result<TcpListener, WorkerError> {
    TcpListener::bind(addr).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => WorkerError::PortInUse { addr, source },
        _ => WorkerError::Listen { addr, source },
    })
}

pub async fn serve(listener: TcpListener, room: Arc<Room>, probes: Probes) {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/healthz", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(probes);
    let service = TowerToHyperService::new(router);
    serve::serve(listener, room, serve::plain(service), serve::never()).await;
}

async fn live(State(probes): State<Probes>) -> Response {
    match probes.health.alive() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn ready(State(probes): State<Probes>) -> Response {
    let readiness = probes.health.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(probes): State<Probes>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], probes.metrics.text()).into_response()
}
