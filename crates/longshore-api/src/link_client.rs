//! The typed client of the worker link.
//!
//! Owns addresses, token and time-outs. Never retries: whether a request may be repeated, and when, is the worker's to
//! decide. After a failure the next request goes to the next address.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::link::{
    self, Claim, Claimed, Complete, Deregister, Ended, Events, EventsAnswer, Heartbeat, HeartbeatAnswer,
    Register, Registered, Release,
};
use crate::problem::Problem;
use crate::tls::{self, Trust};

/// Added to what a request asks to be held for: past this the control plane hangs or is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that wait for the next call: as many as an http worker may have tasks that call an LLM at once.
const IDLE_CALLS: usize = 1024;

/// Speaks for one worker. Cheap to clone; clones share the address in use.
#[derive(Clone)]
pub struct LinkClient {
    http: reqwest::Client,
    /// For what agents send: its connections are its own, so that no flood of calls delays a heartbeat.
    carrier: reqwest::Client,
    addresses: Arc<[String]>,
    /// Counts up; modulo the number of addresses it is the one in use.
    turn: Arc<AtomicUsize>,
}

impl fmt::Debug for LinkClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkClient").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkSetupError {
    #[error("no address of the control plane's worker link was given")]
    NoAddress,
    #[error("`{0}` is not an address of a worker link: expected http://HOST:PORT or https://HOST:PORT")]
    Address(String),
    #[error("the worker token holds characters that a header cannot carry")]
    Token(#[source] InvalidHeaderValue),
    #[error("could not set up an HTTP client")]
    Client(#[source] reqwest::Error),
}

/// Why a request brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The control plane answered with an error.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// Not sent, not answered in time, or broken off: it may or may not have been carried out.
    #[error("could not reach the control plane at {address}")]
    Transport { address: String, source: reqwest::Error },
    #[error("the control plane at {address} said nothing for {} s", .after.as_secs())]
    Silent { address: String, after: Duration },
    /// Something else than a control plane answers there, for example a proxy.
    #[error("the answer from {address} is not a control plane's: {what}")]
    Unexpected { address: String, what: String },
}

impl LinkError {
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            LinkError::Problem(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether another address may do better.
    fn blames_the_address(&self) -> bool {
        self.problem().is_none_or(|problem| problem.status >= 500)
    }
}

impl LinkClient {
    /// `addresses` such as `http://127.0.0.1:7118`, tried in turn.
    pub fn new(addresses: &[String], token: &str) -> Result<LinkClient, LinkSetupError> {
        LinkClient::trusting(addresses, token, None)
    }

    /// The same, pinned: only control planes that `trust` vouches for are spoken to.
    pub fn trusting(
        addresses: &[String],
        token: &str,
        trust: Option<&Trust>,
    ) -> Result<LinkClient, LinkSetupError> {
        let addresses: Vec<String> =
            addresses.iter().map(|address| checked(address)).collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            return Err(LinkSetupError::NoAddress);
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(LinkSetupError::Token)?;
        bearer.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("authorization"), bearer)]);
        let client = |idle| {
            let mut builder = reqwest::Client::builder()
                .default_headers(headers.clone())
                .connect_timeout(Duration::from_secs(5))
                .tcp_nodelay(true)
                .redirect(reqwest::redirect::Policy::none())
                .pool_max_idle_per_host(idle);
            // A proxy that is meant for the agent's own calls has no business between a worker and its control plane.
            if addresses.iter().all(|address| address.starts_with("http://")) {
                builder = builder.no_proxy();
            }
            tls::trusting(builder, trust)
        };
        let own = client(4).user_agent(concat!("longshore-worker/", env!("CARGO_PKG_VERSION")));
        let http = own.build().map_err(LinkSetupError::Client)?;
        // What agents send bears their own name, or none: the provider sees it.
        let carrier = client(IDLE_CALLS).build().map_err(LinkSetupError::Client)?;
        Ok(LinkClient { http, carrier, addresses: addresses.into(), turn: Arc::default() })
    }

    /// The address that the next request goes to.
    pub fn address(&self) -> &str {
        &self.addresses[self.turn.load(Ordering::Relaxed) % self.addresses.len()]
    }

    pub async fn register(&self, request: &Register) -> Result<Registered, LinkError> {
        self.ask(link::REGISTER, request, 0).await
    }

    /// Held for up to `request.wait_ms`.
    pub async fn claim(&self, request: &Claim) -> Result<Claimed, LinkError> {
        self.ask(link::CLAIM, request, request.wait_ms).await
    }

    /// Held for up to `request.wait_ms`.
    pub async fn heartbeat(&self, request: &Heartbeat) -> Result<HeartbeatAnswer, LinkError> {
        self.ask(link::HEARTBEAT, request, request.wait_ms).await
    }

    pub async fn events(&self, request: &Events) -> Result<EventsAnswer, LinkError> {
        self.ask(link::EVENTS, request, 0).await
    }

    pub async fn complete(&self, request: &Complete) -> Result<Ended, LinkError> {
        self.ask(link::COMPLETE, request, 0).await
    }

    pub async fn release(&self, request: &Release) -> Result<Ended, LinkError> {
        self.ask(link::RELEASE, request, 0).await
    }

    pub async fn deregister(&self, request: &Deregister) -> Result<(), LinkError> {
        self.send(link::DEREGISTER, request, 0).await.map(drop)
    }

    /// Sends a request of an agent with this worker's token; returns when the answer's head is there, whatever its status.
    ///
    /// Errors: `Transport`; `Silent` when there is no head within `request.patience`. A path that leads out of
    /// `request.within` is refused by a `Problem` that was not sent.
    pub async fn carry(&self, request: &Carried) -> Result<Reply, LinkError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let address = &self.addresses[turn % self.addresses.len()];
        let carried = self.carry_to(address, request).await;
        let fails = match &carried {
            Ok(reply) => reply.status() >= 500,
            Err(error) => error.blames_the_address(),
        };
        if fails {
            self.move_on(turn);
        }
        carried
    }

    async fn carry_to(&self, address: &str, request: &Carried) -> Result<Reply, LinkError> {
        let url = request.url(address)?;
        let sent = self
            .carrier
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(request.body.clone())
            .send();
        match tokio::time::timeout(request.patience, sent).await {
            Ok(Ok(response)) => Ok(Reply(response)),
            Ok(Err(source)) => {
                Err(LinkError::Transport { address: address.to_owned(), source: source.without_url() })
            }
            Err(_) => Err(LinkError::Silent { address: address.to_owned(), after: request.patience }),
        }
    }

    /// Goes to the next address, but only if no other request has moved on meanwhile, else two failures would lead back to
    /// the dead one.
    fn move_on(&self, turn: usize) {
        _ = self.turn.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
    ) -> Result<T, LinkError> {
        let (address, body) = self.send(path, request, held_ms).await?;
        serde_json::from_slice(&body)
            .map_err(|error| LinkError::Unexpected { address, what: error.to_string() })
    }

    /// Returns the address that answered and the body of its answer.
    async fn send(
        &self,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
    ) -> Result<(String, Vec<u8>), LinkError> {
        let turn = self.turn.load(Ordering::Relaxed);
        let address = &self.addresses[turn % self.addresses.len()];
        let sent = self.send_to(address, path, request, held_ms).await;
        if sent.as_ref().is_err_and(LinkError::blames_the_address) {
            self.move_on(turn);
        }
        sent.map(|body| (address.clone(), body))
    }

    async fn send_to(
        &self,
        address: &str,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
    ) -> Result<Vec<u8>, LinkError> {
        let transport = |source: reqwest::Error| LinkError::Transport {
            address: address.to_owned(),
            source: source.without_url(),
        };
        let time = PATIENCE + Duration::from_millis(held_ms);
        let request = self.http.post(format!("{address}{path}")).timeout(time).json(request);
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        let body = response.bytes().await.map_err(transport)?;
        if status.is_success() {
            return Ok(body.into());
        }
        Err(match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => LinkError::Problem(Box::new(Problem { status: status.as_u16(), ..problem })),
            Err(_) => LinkError::Unexpected {
                address: address.to_owned(),
                what: format!("status {status} without a problem body"),
            },
        })
    }
}

/// A request of an agent on its way to the control plane. May be sent more than once: its body is shared, not copied.
#[derive(Clone, Debug)]
pub struct Carried {
    pub method: Method,
    /// The path, and what follows it.
    pub path: String,
    /// The folder that the path must not leave, `/llm/openai/`: this request carries a token that opens more than that.
    pub within: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How long the answer's head may take.
    pub patience: Duration,
}

impl Carried {
    fn url(&self, address: &str) -> Result<Url, LinkError> {
        let wrong = || {
            let detail = format!("the path `{}` leads out of `{}`", self.path, self.within);
            LinkError::Problem(Box::new(Problem::new(400, "bad_path", detail)))
        };
        let url = Url::parse(&format!("{address}{}", self.path)).map_err(|_| wrong())?;
        // As it is sent: with `..` and its spellings resolved.
        let base = Url::parse(&format!("{address}{}", self.within)).map_err(|_| wrong())?;
        let stays = url.path().starts_with(base.path()) && url.origin() == base.origin();
        if stays { Ok(url) } else { Err(wrong()) }
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Reply(reqwest::Response);

impl Reply {
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// The body's next bytes, as they come; `None`: there are no more.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        self.0.chunk().await.map_err(reqwest::Error::without_url)
    }

    pub async fn bytes(self) -> Result<Bytes, reqwest::Error> {
        self.0.bytes().await.map_err(reqwest::Error::without_url)
    }
}

/// An address without its trailing slash.
fn checked(address: &str) -> Result<String, LinkSetupError> {
    let wrong = || LinkSetupError::Address(address.to_owned());
    let url = Url::parse(address.trim()).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !url.username().is_empty() {
        return Err(wrong());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, expected: Option<&str>) {
        assert_eq!(checked(address).ok().as_deref(), expected, "{address}");
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_maybe_a_path() {
        check("http://127.0.0.1:7118", Some("http://127.0.0.1:7118"));
        check(" https://longshore.internal/link/ ", Some("https://longshore.internal/link"));
        for wrong in ["", "127.0.0.1:7118", "ftp://a", "http://", "http://user@a", "/worker"] {
            check(wrong, None);
        }
    }

    fn check_path(path: &str, expected: Option<&str>) {
        let carried = Carried {
            method: Method::GET,
            path: path.to_owned(),
            within: "/llm/openai/".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience: Duration::ZERO,
        };
        let url = carried.url("http://127.0.0.1:7118/link").ok();
        assert_eq!(url.as_ref().map(Url::as_str), expected, "{path}");
    }

    #[test]
    fn no_path_leads_out_of_its_folder() {
        check_path("/llm/openai/v1/models?a=b", Some("http://127.0.0.1:7118/link/llm/openai/v1/models?a=b"));
        check_path("/llm/openai/v1/../v2", Some("http://127.0.0.1:7118/link/llm/openai/v2"));
        for wrong in [
            "/llm/openai/../../worker/v1/claim",
            "/llm/openai/%2e%2E/%2e./worker/v1/claim",
            "/llm/openai/..\\..\\worker/v1/claim",
            "/llm/openai",
            "@elsewhere/llm/openai/",
            "/worker/v1/claim",
        ] {
            check_path(wrong, None);
        }
    }
}
