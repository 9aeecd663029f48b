//! The typed client of the worker link.
//!
//! Owns addresses, token and time-outs. A worker's own request that one replica of the control plane does not answer goes to
//! the next at once, to each of them once; when to begin another round is the worker's to decide. An agent's goes to one:
//! the relay has to know what became of it. Where gateways run apart from links, its LLM calls have addresses of their own.

mod addresses;
mod connections;
mod gateways;

use std::fmt;
use std::sync::Arc;
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
use addresses::Addresses;
pub use addresses::Round;
use connections::Connections;
use gateways::Gateways;

/// Added to what a request asks to be held for: past this the control plane hangs or is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections that wait for the next call: as many as an http worker may have tasks that call an LLM at once.
const IDLE_CALLS: usize = 1024;

/// Speaks for one worker. Cheap to clone; clones share the address in use.
#[derive(Clone)]
pub struct LinkClient {
    own: Arc<Connections>,
    /// For what agents send: its connections are its own, so that no flood of calls delays a heartbeat.
    carrier: Arc<Connections>,
    addresses: Arc<Addresses>,
    gateways: Arc<Gateways>,
}

impl fmt::Debug for LinkClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkClient").field("address", &self.address()).finish_non_exhaustive()
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
    Transport { address: Arc<str>, source: reqwest::Error },
    #[error("the control plane at {address} said nothing for {} s", .after.as_secs())]
    Silent { address: Arc<str>, after: Duration },
    /// Something else than a control plane answers there, for example a proxy.
    #[error("the answer from {address} is not a control plane's: {what}")]
    Unexpected { address: Arc<str>, what: String },
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
        self.problem().is_none_or(|problem| is_away(problem.status))
    }

    /// Whether the connection leads to nobody who will ever answer this; another may lead to another replica of the same
    /// address. A control plane that is in trouble and stays is no such thing.
    fn blames_the_connection(&self) -> bool {
        self.problem().is_none_or(|problem| problem.status == 421 || problem.code == "stopping")
    }

    /// Whether a control plane answers that it is in trouble, in which it may be alone.
    fn tells_of_trouble(&self) -> bool {
        self.problem().is_some_and(|problem| problem.status >= 500)
    }
}

/// A replica that stops or does not serve this, or something before one that finds nobody: another may do better. A 500 or
/// a 507 would be the same at the next. One that waited for the rest of a request in vain may hear it another time.
pub fn is_away(status: u16) -> bool {
    matches!(status, 408 | 421 | 502..=504)
}

impl LinkClient {
    /// `addresses` such as `http://127.0.0.1:7118`: of several, one that works is kept to. `worker`: its id or any other
    /// text that differs from worker to worker, so that they spread. With `trust` only control planes that it vouches for are
    /// spoken to.
    pub fn new(
        addresses: &[String],
        token: &str,
        worker: &str,
        trust: Option<&Trust>,
    ) -> Result<LinkClient, LinkSetupError> {
        let addresses = Addresses::new(addresses, worker)?;
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
            if addresses.are_plain() {
                builder = builder.no_proxy();
            }
            builder
        };
        let own = || client(4).user_agent(concat!("longshore-worker/", env!("CARGO_PKG_VERSION")));
        let own = Connections::to_be_tried(tls::client(own, trust).map_err(LinkSetupError::Client)?);
        // What agents send bears their own name, or none: the provider sees it.
        let carrier = tls::client(|| client(IDLE_CALLS), trust).map_err(LinkSetupError::Client)?;
        let carrier = Connections::to_be_kept(carrier);
        let addresses = Arc::new(addresses);
        let gateways = Arc::new(Gateways::new(Arc::clone(&addresses)));
        Ok(LinkClient { own: own.into(), carrier: carrier.into(), addresses, gateways })
    }

    /// The address that the next request goes to.
    pub fn address(&self) -> Arc<str> {
        self.addresses.in_use()
    }

    pub async fn register(&self, request: &Register) -> Result<Registered, LinkError> {
        let registered: Registered = self.ask(link::REGISTER, request, 0).await?;
        self.told(&registered.links, registered.gateways.as_deref());
        Ok(registered)
    }

    /// Held for up to `request.wait_ms`.
    pub async fn claim(&self, request: &Claim) -> Result<Claimed, LinkError> {
        self.ask(link::CLAIM, request, request.wait_ms).await
    }

    /// Held for up to `request.wait_ms`.
    pub async fn heartbeat(&self, request: &Heartbeat) -> Result<HeartbeatAnswer, LinkError> {
        let answer: HeartbeatAnswer = self.ask(link::HEARTBEAT, request, request.wait_ms).await?;
        self.told(&answer.links, answer.gateways.as_deref());
        Ok(answer)
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
        self.send(link::DEREGISTER, request, 0, |_| Ok(())).await
    }

    fn told(&self, links: &[String], gateways: Option<&[String]>) {
        self.addresses.told(links);
        self.gateways.told(gateways);
    }

    /// Sends a request of an agent with this worker's token to one address; returns when the answer's head is there, whatever
    /// its status. Of a failure `round` takes note: ask again with the same one, and at once if it moves on.
    ///
    /// Errors: `Transport`; `Silent` when there is no head within `request.patience`. A path that leads out of
    /// `request.within` is refused by a `Problem` that was not sent.
    pub async fn carry(&self, request: &Carried, round: &mut Round) -> Result<Reply, LinkError> {
        let addresses = match request.to {
            Door::Link => Arc::clone(&self.addresses),
            Door::Gateway => self.gateways.addresses(),
        };
        let address = addresses.in_use();
        let (carried, fault) = match self.carry_to(&address, request).await {
            Ok(reply) if is_away(reply.status()) => reply.told(request.patience).await,
            Ok(reply) => (Ok(reply), None),
            Err(error) => (Err(error), None),
        };
        let error = fault.as_ref().or(carried.as_ref().err());
        self.carrier.learn(error);
        if error.is_some_and(LinkError::blames_the_address) {
            addresses.failed(&address, round);
        }
        carried
    }

    /// An answer that had begun broke off: the next request to this door goes elsewhere.
    pub fn broke_off(&self, to: Door, address: &Arc<str>, round: &mut Round) {
        self.carrier.failed();
        match to {
            Door::Link => self.addresses.failed(address, round),
            Door::Gateway => self.gateways.addresses().failed(address, round),
        };
    }

    async fn carry_to(&self, address: &Arc<str>, request: &Carried) -> Result<Reply, LinkError> {
        let url = request.url(address)?;
        let sent = self
            .carrier
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .body(request.body.clone())
            .send();
        match tokio::time::timeout(request.patience, sent).await {
            Ok(Ok(response)) => Ok(Reply { response, address: Arc::clone(address) }),
            Ok(Err(source)) => {
                Err(LinkError::Transport { address: Arc::clone(address), source: source.without_url() })
            }
            Err(_) => Err(LinkError::Silent { address: Arc::clone(address), after: request.patience }),
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
    ) -> Result<T, LinkError> {
        self.send(path, request, held_ms, |body| serde_json::from_slice(body)).await
    }

    /// Asks each address until one answers; returns the last failure if none does.
    ///
    /// A request that failed may have been carried out, so this relies on every request of the link being repeatable, at any
    /// replica: a registration by its nonce, a claim by its number, events by theirs, endings and releases by their fence
    /// (one that was accepted is accepted again), a goodbye by its nonce; a heartbeat only says what is.
    async fn send<T>(
        &self,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
        read: impl Fn(&[u8]) -> serde_json::Result<T>,
    ) -> Result<T, LinkError> {
        let (mut round, mut address) = (Round::default(), self.address());
        loop {
            let sent = self.send_to(&address, path, request, held_ms).await;
            let answer = sent.and_then(|body| {
                let unexpected = |error: serde_json::Error| LinkError::Unexpected {
                    address: Arc::clone(&address),
                    what: error.to_string(),
                };
                read(&body).map_err(unexpected)
            });
            self.own.learn(answer.as_ref().err());
            let Err(error) = answer else { return answer };
            if !error.blames_the_address() {
                return Err(error);
            }
            match self.addresses.failed(&address, &mut round) {
                Some(next) => address = next,
                None => return Err(error),
            }
        }
    }

    async fn send_to(
        &self,
        address: &Arc<str>,
        path: &str,
        request: &impl Serialize,
        held_ms: u64,
    ) -> Result<Bytes, LinkError> {
        let transport = |source: reqwest::Error| LinkError::Transport {
            address: Arc::clone(address),
            source: source.without_url(),
        };
        let time = PATIENCE + Duration::from_millis(held_ms);
        let request = self.own.request(Method::POST, format!("{address}{path}")).timeout(time).json(request);
        let response = request.send().await.map_err(transport)?;
        let status = response.status();
        let body = response.bytes().await.map_err(transport)?;
        if status.is_success() {
            return Ok(body);
        }
        Err(refusal(address, status.as_u16(), &body))
    }
}

impl Connections {
    /// Takes note of what a request has brought: an error, or an answer.
    fn learn(&self, error: Option<&LinkError>) {
        match error {
            Some(error) if error.blames_the_connection() => self.failed(),
            Some(error) if error.tells_of_trouble() => self.refused(),
            _ => self.answered(),
        }
    }
}

/// What an answer means that is none.
fn refusal(address: &Arc<str>, status: u16, body: &[u8]) -> LinkError {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => LinkError::Problem(Box::new(Problem { status, ..problem })),
        Err(_) => LinkError::Unexpected {
            address: Arc::clone(address),
            what: format!("status {status} without a problem body"),
        },
    }
}

/// Which part of the control plane a request of an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Link,
    Gateway,
}

/// A request of an agent on its way to the control plane. May be sent more than once: its body is shared, not copied.
#[derive(Clone, Debug)]
pub struct Carried {
    pub to: Door,
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
pub struct Reply {
    response: reqwest::Response,
    address: Arc<str>,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// Who answers.
    pub fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Reads an answer of somebody who is away: only its text tells whether a control plane is in trouble or there is none.
    async fn told(self, patience: Duration) -> (Result<Reply, LinkError>, Option<LinkError>) {
        let Reply { response, address } = self;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match tokio::time::timeout(patience, response.bytes()).await {
            Ok(Ok(body)) => body,
            Ok(Err(source)) => {
                let source = source.without_url();
                return (Err(LinkError::Transport { address, source }), None);
            }
            Err(_) => return (Err(LinkError::Silent { address, after: patience }), None),
        };
        let fault = refusal(&address, status.as_u16(), &body);
        let mut response = hyper::Response::new(body);
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        (Ok(Reply { response: response.into(), address }), Some(fault))
    }

    /// The body's next bytes, as they come; `None`: there are no more.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        self.response.chunk().await.map_err(reqwest::Error::without_url)
    }

    pub async fn bytes(self) -> Result<Bytes, reqwest::Error> {
        self.response.bytes().await.map_err(reqwest::Error::without_url)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::service::service_fn;

    use super::*;
    use crate::serve::{Room, never, serve};

    #[test]
    fn trouble_that_a_control_plane_tells_of_is_not_its_connections() {
        let check = |status, code: &'static str, blames, trouble| {
            let error = LinkError::Problem(Box::new(Problem::new(status, code, "a test")));
            assert_eq!(
                (error.blames_the_connection(), error.tells_of_trouble()),
                (blames, trouble),
                "{code}"
            );
        };
        check(503, "store_unavailable", false, true);
        check(500, "store_failed", false, true);
        check(503, "stopping", true, true);
        check(421, "role_not_here", true, false);
        check(409, "lost", false, false);
        let other = LinkError::Unexpected { address: "http://x".into(), what: "status 503".into() };
        assert!(other.blames_the_connection());
    }

    /// How many connections so many requests of agents open to one who answers all with this.
    async fn connections(requests: usize, status: u16, body: String) -> usize {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let opened = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&opened);
        let service = service_fn(move |_| {
            let mut response = hyper::Response::new(Full::new(Bytes::from(body.clone())));
            *response.status_mut() = status.try_into().expect("a status");
            std::future::ready(Ok::<_, crate::serve::Error>(response))
        });
        let greet = move |stream| {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(Ok((stream, service.clone())))
        };
        let served = tokio::spawn(serve(listener, Room::new("test", 100), greet, never()));
        let client = LinkClient::new(&[address], "token", "worker-1", None).expect("a client");
        for _ in 0..requests {
            let request = Carried { patience: Duration::from_secs(30), ..carried("/llm/openai/v1/models") };
            let reply = client.carry(&request, &mut Round::default()).await.expect("an answer");
            assert_eq!(reply.status(), status);
            // Only then is the connection free for the next.
            reply.bytes().await.expect("the answer's text");
        }
        served.abort();
        opened.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn calls_of_agents_open_few_connections_to_a_control_plane_that_is_in_trouble() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let problem = |code| serde_json::to_string(&Problem::new(503, code, "a test")).expect("JSON");
        assert_eq!(connections(9, 200, "fine".into()).await, 1);
        assert_eq!(connections(9, 503, problem("store_unavailable")).await, 3, "now and then a new one");
        assert_eq!(connections(9, 503, problem("stopping")).await, 8, "one after the other");
        assert_eq!(connections(9, 503, "a proxy's words".into()).await, 8, "one after the other");
    }

    fn carried(path: &str) -> Carried {
        Carried {
            to: Door::Gateway,
            method: Method::GET,
            path: path.to_owned(),
            within: "/llm/openai/".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            patience: Duration::ZERO,
        }
    }

    fn check_path(path: &str, expected: Option<&str>) {
        let url = carried(path).url("http://127.0.0.1:7118/link").ok();
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
