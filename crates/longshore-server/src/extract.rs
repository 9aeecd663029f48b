//! What comes in: bodies with limits, bearer tokens, idempotency keys. Every refusal is a problem.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use longshore_core::json::check_depth;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep, sleep};

use crate::app::App;
use crate::error::{Answer, Refused};

/// A JSON body, read up to the input limit; an empty one counts as `{}`.
pub struct JsonBody<T>(pub T);

/// The frame around an input (field names, labels) that does not count against the input's own limit.
const FRAME: usize = 64 << 10;

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        refuse_other_content(request.headers(), "application/json")?;
        let bytes = read(request.into_body(), app.limits.input + FRAME).await?;
        parse(&bytes).map(JsonBody)
    }
}

/// A body of the worker link: trusted to be large, since it may carry many results at once.
pub struct LinkBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for LinkBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        let bytes = read(request.into_body(), app.limits.link_body).await?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(LinkBody).map_err(|error| Refused::new(400, "malformed_json", error.to_string()))
    }
}

/// Lines of NDJSON, up to the batch limit.
pub struct Lines(pub Bytes);

impl FromRequest<App> for Lines {
    type Rejection = Refused;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        read(request.into_body(), app.limits.batch).await.map(Lines)
    }
}

pub async fn read(body: Body, limit: usize) -> Answer<Bytes> {
    collect(body, limit).await.map_err(|broken| match broken {
        Broken::TooLarge => {
            Refused::new(413, "input_too_large", format!("the body is larger than {limit} bytes"))
                .hint("put large data where the agent can fetch it, and its address into the input")
        }
        broken => broken.into(),
    })
}

/// How long a body may bring nothing more of itself, however long it takes as a whole.
const STALL: Duration = Duration::from_secs(30);

/// Why a body could not be read.
#[derive(Debug)]
pub enum Broken {
    TooLarge,
    Stalled,
    Torn(axum::Error),
}

/// Reads a body to its end.
pub async fn collect(body: Body, limit: usize) -> Result<Bytes, Broken> {
    match Limited::new(Steady { body, due: Box::pin(sleep(STALL)) }, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Broken::TooLarge),
        Err(error) if error.is::<Stalled>() => Err(Broken::Stalled),
        Err(error) => Err(Broken::Torn(axum::Error::new(error))),
    }
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::TooLarge => Refused::new(413, "input_too_large", "the body is too large"),
            Broken::Stalled => Refused::new(408, "body_stalled", Stalled.to_string())
                .hint("send the request again; a slow body is waited for as long as some of it comes"),
            Broken::Torn(error) => {
                Refused::new(400, "body_broken", format!("the body did not arrive whole: {error}"))
            }
        }
    }
}

/// A body that is given up when nothing of it comes for a while.
struct Steady {
    body: Body,
    due: Pin<Box<Sleep>>,
}

#[derive(Debug, thiserror::Error)]
#[error("nothing more of the body came for {} s", STALL.as_secs())]
struct Stalled;

impl HttpBody for Steady {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.due.as_mut().reset(Instant::now() + STALL);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.due.as_mut().poll(cx).map(|()| Some(Err(Stalled.into()))),
        }
    }
}

/// Parses a body: UTF-8, depth, syntax, then meaning, each with its own code.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Refused::new(
            400,
            "not_utf8",
            format!("the body is not UTF-8: byte {} is invalid", error.valid_up_to()),
        )
    })?;
    check_depth(text).map_err(|error| Refused::new(400, "too_deep", error.to_string()))?;
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => named::<T>(text, &error),
        _ => Refused::new(400, "malformed_json", format!("the body is not valid JSON: {error}")),
    })
}

/// Says which field is at fault: read again, since only a refused body is worth keeping track of where one is.
fn named<T: DeserializeOwned>(text: &str, error: &serde_json::Error) -> Refused {
    let read = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text));
    match read.map_err(|error| error.path().to_string()) {
        Err(path) if path != "." => Refused::invalid(&path, error.to_string()),
        _ => Refused::new(422, "invalid_value", error.to_string()),
    }
}

/// A browser can send a form to this port from any page, but JSON only after asking: so insist on it.
pub fn refuse_other_content(headers: &HeaderMap, expected: &str) -> Answer<()> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if kind == expected || kind.ends_with("+json") {
        return Ok(());
    }
    Err(Refused::new(415, "unsupported_content_type", format!("the body is `{kind}`; expected {expected}"))
        .hint(format!("send the header `content-type: {expected}`")))
}

/// The path's parameters, with a problem instead of plain text when they do not parse.
pub struct Param<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Param<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Param(value))
            .map_err(|error| Refused::new(400, "invalid_path", error.body_text()))
    }
}

/// The query's parameters, likewise.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|Query(value)| Params(value))
            .map_err(|error| Refused::new(400, "invalid_query", error.body_text()))
    }
}

/// The caller's `Idempotency-Key`, if any: 1 to 255 printable ASCII characters.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(IdempotencyKey(None)) };
        match value.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(IdempotencyKey(Some(key.to_owned()))),
            _ => Err(Refused::new(
                400,
                "invalid_idempotency_key",
                "an Idempotency-Key is 1 to 255 printable ASCII characters",
            )),
        }
    }
}

/// The bearer token of a request.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// A body in so many parts, each of which comes after this long; then what comes never.
    fn slow(parts: u32, each: Duration, ends: bool) -> Body {
        Body::from_stream(stream::unfold(0, move |sent| async move {
            match sent < parts {
                true => sleep(each).await,
                false if ends => return None,
                false => std::future::pending().await,
            }
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"part")), sent + 1))
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_be_slow_and_not_stand_still() {
        let began = Instant::now();
        let whole = read(slow(10, STALL * 9 / 10, true), 100).await.expect("it goes on");
        assert_eq!((whole.len(), began.elapsed()), (40, STALL * 9));
        for parts in [0, 2] {
            let began = Instant::now();
            let refused = read(slow(parts, STALL / 2, false), 100).await.expect_err("it stands still");
            assert_eq!((refused.0.status, &*refused.0.code), (408, "body_stalled"));
            assert_eq!(began.elapsed(), STALL + parts * STALL / 2);
        }
    }
}
