//! Requests to the agent over loopback: its health check, and `POST /run`.
//!
//! One connection per request, made by hand: a pool or a proxy has no place between a worker and its own agent, and
//! dropping the call closes the connection, which is how an agent learns of a cancellation.

use std::net::Ipv4Addr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use longshore_api::sse::SseReader;
use longshore_core::call::parse_retry_after;
use longshore_core::json::Json;
use longshore_core::task::Failure;
use longshore_core::time::Timestamp;
use longshore_core::wait::Awaits;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::log::AgentLog;
use crate::outbox::Speaker;
use crate::said::{self, Said};
use crate::verdict;

/// The most of an error answer that is read.
const ERROR_BODY: usize = 64 << 10;

/// An answer or event may be this much longer than the largest result.
const FRAME: usize = 64 << 10;

/// How long a stream may stay open after its result.
const STREAM_CLOSE: Duration = Duration::from_secs(1);

/// The connection could not be made, or broke before there was an answer.
#[derive(Debug)]
pub struct Broken(pub String);

/// What an agent answered, if not with a failure.
#[derive(Debug)]
pub enum Done {
    Result(Json),
    /// Its task is to wait.
    Wait(Awaits),
}

/// Checks that the agent answers.
///
/// `path` empty: a connection is enough. Otherwise a status of 200 to 399 counts, and 404, for an agent need not know
/// of health checks.
pub async fn alive(port: u16, path: &str, patience: Duration) -> Result<(), String> {
    let asked = async {
        if path.is_empty() {
            return connect(port).await.map(drop).map_err(|Broken(why)| why);
        }
        let request = request(Method::GET, path, port, Bytes::new()).map_err(|error| error.to_string())?;
        let (response, _open) = send(port, request).await.map_err(|Broken(why)| why)?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(()),
            status if (200..400).contains(&status.as_u16()) => Ok(()),
            status => Err(format!("status {status} at {path}")),
        }
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(alive) => alive,
        Err(_) => Err(format!("no answer within {} s", patience.as_secs_f64())),
    }
}

/// Hands one task to the agent and waits for its result.
pub async fn run(
    port: u16,
    body: Vec<u8>,
    limit: usize,
    speaker: &Speaker,
    log: &mut AgentLog,
) -> Result<Result<Done, Failure>, Broken> {
    let request = request(Method::POST, "/run", port, Bytes::from(body));
    let request = request.map_err(|error| Broken(error.to_string()))?;
    let (response, _open) = send(port, request).await?;
    let status = response.status();
    let kind =
        response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
    let asked = retry_after(status, response.headers());
    let body = response.into_body();
    if !status.is_success() {
        let (body, _) = collect(body, ERROR_BODY).await?;
        let failure = said::parse_error_body(&body, &format!("the agent answered with status {status}"));
        return Ok(Err(Failure { retry_after_ms: failure.retry_after_ms.or(asked), ..failure }));
    }
    if kind.starts_with("text/event-stream") {
        return Stream { limit, done: None, speaker, log }.read(body).await;
    }
    match collect(body, limit + FRAME).await? {
        (_, true) => Ok(Err(verdict::too_large(limit))),
        (body, false) if status == StatusCode::ACCEPTED => Ok(read_accepted(&body, &kind, limit)),
        (body, false) => Ok(read_result(&body, &kind, limit).map(Done::Result)),
    }
}

/// How long an agent that has too much to do wants to be left alone, in milliseconds.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<u64> {
    if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    let header = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Timestamp(i64::try_from(now.as_millis()).unwrap_or(i64::MAX));
    parse_retry_after(None, Some(header), now)
}

fn request(
    method: Method,
    path: &str,
    port: u16,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, format!("127.0.0.1:{port}"))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, text/event-stream")
        .body(Full::new(body))
}

async fn connect(port: u16) -> Result<TcpStream, Broken> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
    stream.map_err(|error| Broken(format!("could not connect to the agent: {error}")))
}

/// Closes the connection when it is dropped.
struct Open(JoinHandle<()>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(port: u16, request: Request<Full<Bytes>>) -> Result<(Response<Incoming>, Open), Broken> {
    let broken = |error: hyper::Error| Broken(format!("the connection to the agent broke: {error}"));
    let stream = connect(port).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its error comes out of the request as well.
    let open = Open(tokio::spawn(async move { _ = connection.await }));
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok((response, open))
}

/// Reads a body up to `limit` bytes; `true`: there is more.
async fn collect(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, bool), Broken> {
    let mut bytes = Vec::new();
    while let Some(part) = next(&mut body).await? {
        bytes.extend_from_slice(&part);
        if bytes.len() > limit {
            bytes.truncate(limit);
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Broken> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Broken(format!("the agent's answer broke off: {error}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

fn read_result(body: &[u8], kind: &str, limit: usize) -> Result<Json, Failure> {
    let wrong =
        |what: String| Failure::new("agent_error", format!("the agent's answer cannot be kept: {what}"));
    if body.trim_ascii().is_empty() {
        return Ok(Json::null());
    }
    let text = String::from_utf8_lossy(body);
    let result = match Json::parse(text.trim_ascii()) {
        Err(_) if kind.starts_with("text/") => Json::string(&text),
        Err(error) => return Err(wrong(error.to_string())),
        Ok(result) => result,
    };
    if result.text().len() > limit { Err(verdict::too_large(limit)) } else { Ok(result) }
}

/// Accepted, not done: the event says what the task waits for.
fn read_accepted(body: &[u8], kind: &str, limit: usize) -> Result<Done, Failure> {
    match said::parse(body) {
        Some(Said::Wait(awaits)) => Ok(Done::Wait(awaits)),
        Some(Said::Error(failure)) => Err(failure),
        _ => read_result(body, kind, limit).map(Done::Result),
    }
}

/// An answer in events.
struct Stream<'a> {
    limit: usize,
    done: Option<Done>,
    speaker: &'a Speaker,
    log: &'a mut AgentLog,
}

impl Stream<'_> {
    async fn read(mut self, mut body: Incoming) -> Result<Result<Done, Failure>, Broken> {
        let mut reader = SseReader::new(self.limit + FRAME);
        let mut closes: Option<Instant> = None;
        loop {
            let part = match closes {
                None => next(&mut body).await,
                Some(at) => tokio::time::timeout_at(at, next(&mut body)).await.unwrap_or(Ok(None)),
            };
            let part = match part {
                Ok(Some(part)) => part,
                Err(broken) if self.done.is_none() => return Err(broken),
                Ok(None) | Err(_) => return Ok(self.finish()),
            };
            let Ok(events) = reader.push(&part) else { return Ok(Err(verdict::too_large(self.limit))) };
            for event in events {
                if let Err(failure) = self.hear(event.data.as_bytes()) {
                    return Ok(Err(failure));
                }
            }
            if self.done.is_some() && closes.is_none() {
                closes = Some(Instant::now() + STREAM_CLOSE);
            }
        }
    }

    fn hear(&mut self, data: &[u8]) -> Result<(), Failure> {
        match said::parse(data) {
            None => self.log.line("stream", data),
            Some(Said::Odd(why)) => self.log.odd(&why),
            Some(Said::Progress(data)) => self.speaker.progress(data),
            Some(Said::Message(data)) => {
                self.speaker.message(data).map_err(|_| verdict::too_large(self.limit))?;
            }
            Some(Said::Error(failure)) => return Err(failure),
            Some(Said::Result(data)) if data.text().len() > self.limit => {
                return Err(verdict::too_large(self.limit));
            }
            Some(Said::Result(data)) => self.done = Some(Done::Result(data)),
            // A result says that the work is done.
            Some(Said::Wait(_)) if matches!(self.done, Some(Done::Result(_))) => {}
            Some(Said::Wait(awaits)) => self.done = Some(Done::Wait(awaits)),
        }
        Ok(())
    }

    fn finish(self) -> Result<Done, Failure> {
        self.done.ok_or_else(|| Failure::new("agent_error", "the agent's stream ended without a result"))
    }
}
