//! Bodies: what agents send, read whole, and what they get.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use longshore_api::problem::{self, Problem};

/// The body of an answer to an agent.
pub type Answer = UnsyncBoxBody<Bytes, CutOff>;

/// The agent's connection is to be broken: nothing that could still be sent would be the answer.
#[derive(Debug, thiserror::Error)]
#[error("the answer was broken off")]
pub struct CutOff;

/// The request holds more than it may.
#[derive(Debug)]
pub struct TooLarge;

/// Reads a request's body.
///
/// One that is too large is read to its end and dropped: an agent that is still sending does not see an answer.
/// Errors: the agent closed its connection.
pub async fn read(mut body: Incoming, limit: usize) -> Result<Result<Bytes, TooLarge>, CutOff> {
    let (mut parts, mut size) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| CutOff)?.into_data() else { continue };
        size = size.saturating_add(data.len());
        if size > limit {
            parts = Vec::new();
        } else {
            parts.push(data);
        }
    }
    if size > limit {
        return Ok(Err(TooLarge));
    }
    Ok(Ok(match parts.as_mut_slice() {
        [whole] => std::mem::take(whole),
        parts => {
            let mut whole = BytesMut::with_capacity(size);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            whole.freeze()
        }
    }))
}

pub fn full(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn streamed(parts: impl Stream<Item = Result<Bytes, CutOff>> + Send + 'static) -> Answer {
    use futures_util::StreamExt;
    StreamBody::new(parts.map(|part| part.map(Frame::data))).boxed_unsync()
}

pub fn of(status: u16, kind: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(full(body));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

pub fn problem(problem: &Problem) -> Response<Answer> {
    let body = serde_json::to_vec(problem).expect("plain data always serialises");
    of(problem.status, problem::CONTENT_TYPE, body)
}
