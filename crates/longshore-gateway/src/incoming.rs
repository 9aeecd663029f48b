//! An agent's request as it came, and what the gateway makes of it before anything is asked or sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method};
use longshore_core::canonical;
use longshore_core::id::{FleetName, Held};
use longshore_store::{NewCall, NewRequest};
use uuid::Uuid;

use crate::body::{asks_for_usage, with_usage};
use crate::shape::{self, Shape};
use crate::upstream::Upstream;

/// For whom a call is made; checked by whoever mounted the gateway.
#[derive(Clone, Debug)]
pub struct Caller {
    pub held: Held,
    /// Of the worker that carries the call.
    pub fleet: FleetName,
    /// The relay's number for the request.
    pub call: Uuid,
    /// Earlier calls of the task whose answers did not reach its agent.
    pub undelivered: Vec<Uuid>,
}

/// A request to `/llm/<provider>/…`.
#[derive(Debug)]
pub struct Incoming {
    pub provider: String,
    pub method: Method,
    /// Behind the provider's name, with its query: `/v1/chat/completions`.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A request that is ready to be asked for and to be sent.
#[derive(Debug)]
pub struct Prepared {
    pub upstream: Arc<Upstream>,
    pub shape: Shape,
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    /// As the provider gets it: the agent's bytes, but for the wish to be told the usage of a stream.
    pub body: Bytes,
    pub model: String,
    pub max_output: Option<u64>,
    pub asked_for_usage: bool,
    pub call: Arc<NewCall>,
}

impl Prepared {
    /// Reads the body; takes as long as that is large.
    pub fn new(caller: Caller, incoming: Incoming, upstream: Arc<Upstream>, owner: Uuid) -> Prepared {
        let Incoming { provider, method, path, headers, body } = incoming;
        let shape = shape::of(&method, &path);
        let read = canonical::request(&body, &upstream.declared.ignore).filter(|_| shape.is_journaled());
        let request = request(&provider, &path, &body, read.as_ref());
        let model = read.as_ref().and_then(|read| read.model.clone());
        let max_output = read.as_ref().and_then(|read| read.max_output);
        let asked_for_usage = asks_for_usage(shape, &body);
        let wanted = upstream.declared.usage_in_streams && !asked_for_usage;
        let sent = wanted.then(|| with_usage(shape, &body)).flatten().map_or(body, Bytes::from);
        let call = NewCall {
            held: caller.held,
            fleet: caller.fleet,
            call: caller.call,
            owner,
            provider,
            path: path.clone(),
            model: model.clone(),
            currency: upstream.declared.currency.clone(),
            request: Arc::new(request),
            retry: is_retry(&headers),
            undelivered: caller.undelivered,
        };
        Prepared {
            upstream,
            shape,
            method,
            path,
            headers,
            body: sent,
            model: model.unwrap_or_default(),
            max_output,
            asked_for_usage,
            call: Arc::new(call),
        }
    }
}

/// Identity: the provider, the path and what the body means; a body that cannot be read stands for itself.
fn request(provider: &str, path: &str, body: &[u8], read: Option<&canonical::Request>) -> NewRequest {
    match read {
        Some(read) => {
            let identity = [provider.as_bytes(), path.as_bytes(), read.canonical.as_bytes()];
            let parts = canonical::parts(&read.canonical);
            NewRequest::new(&identity, parts.head, parts.field, parts.items)
        }
        None => {
            let identity = [provider.as_bytes(), path.as_bytes(), b"\0raw", body];
            let shown = String::from_utf8_lossy(&body[..body.len().min(64 << 10)]).into_owned();
            NewRequest::new(&identity, shown, None, Vec::new())
        }
    }
}

/// Whether the agent's SDK says that it repeats a request of its own.
fn is_retry(headers: &HeaderMap) -> bool {
    let count = headers.get("x-stainless-retry-count").and_then(|count| count.to_str().ok());
    count.and_then(|count| count.trim().parse::<u32>().ok()).is_some_and(|count| count > 0)
}
