//! The relay: a loopback port that carries agents' LLM calls to the gateway, and their own API to the control plane.
//!
//! Finds the task that a request is made for, and sends nothing for any other. Rides out restarts of the control plane: an
//! agent waits a little longer and sees no error. Reads no provider's answers and keeps none; that is the gateway's.

mod addresses;
mod agent_api;
mod body;
mod call;
mod dialect;
mod flow;
mod headers;
mod llm;
mod patience;
mod register;
mod waiting;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use longshore_api::link::ProviderSeen;
use longshore_api::link_client::LinkClient;
use longshore_api::llm::PREFIX;
use longshore_api::problem::Problem;
use longshore_api::serve::{self, IDLE, Patience, Room};
use tokio::net::TcpListener;

use crate::error::WorkerError;
use crate::metrics::Metrics;
use crate::options::RelayTimes;
pub use addresses::Addresses;
use body::{Answer, CutOff};
pub use register::{Closed, Register};

/// Where the agent's own API lives, here and at the control plane.
const AGENT_API: &str = "/agent/v1/";

pub struct Relay {
    pub register: Register,
    pub addresses: Arc<Addresses>,
    client: LinkClient,
    metrics: Arc<Metrics>,
    times: RelayTimes,
}

/// What the relay has to know of its worker.
pub struct Setup {
    pub client: LinkClient,
    pub metrics: Arc<Metrics>,
    pub times: RelayTimes,
    pub providers: Vec<ProviderSeen>,
    pub concurrency: u32,
    pub kill_grace: Duration,
}

impl Relay {
    /// Takes a free loopback port; [`Relay::serve`] answers on it.
    pub async fn bind(setup: Setup) -> Result<(Arc<Relay>, TcpListener), WorkerError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(WorkerError::Relay)?;
        let port = listener.local_addr().map_err(WorkerError::Relay)?.port();
        let relay = Relay {
            register: Register::new(setup.concurrency, setup.kill_grace),
            addresses: Arc::new(Addresses::new(port, setup.providers)),
            client: setup.client,
            metrics: setup.metrics,
            times: setup.times,
        };
        Ok((Arc::new(relay), listener))
    }

    /// For this machine's agents: that they end is always told, and one that is busy may let an answer wait.
    pub fn room(most: usize) -> Arc<Room> {
        let patience = Patience { take: IDLE, ..Patience::default() };
        Room::with_patience("relay", most, patience)
    }

    pub async fn serve(self: Arc<Self>, listener: TcpListener, room: Arc<Room>) {
        let service = service_fn(move |request| Arc::clone(&self).answer(request));
        serve::serve(listener, room, serve::plain(service), serve::never()).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Answer>, CutOff> {
        let path = request.uri().path();
        if path.starts_with(PREFIX) {
            llm::answer(self, request).await
        } else if path.starts_with(AGENT_API) {
            agent_api::answer(&self, request).await
        } else {
            Ok(unknown(request.method(), path))
        }
    }
}

fn unknown(method: &Method, path: &str) -> Response<Answer> {
    let detail = format!(
        "the relay has no {method} {path}; it has {PREFIX}{{provider}}/…, POST {AGENT_API}events, GET \
         {AGENT_API}conversation, POST {AGENT_API}conversation/messages, GET {AGENT_API}steps, and POST and PUT \
         {AGENT_API}steps/{{name}}"
    );
    body::problem(&Problem::new(404, "not_found", detail))
}
