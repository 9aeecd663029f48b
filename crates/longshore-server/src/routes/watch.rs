//! A task's events: as a page, or as a stream that can be resumed from any number.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderMap, header};
use longshore_api::task::{Event, EventPage};
use longshore_core::id::TaskId;
use serde::Deserialize;

use super::tasks::task_id;
use crate::app::App;
use crate::caller::Caller;
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::{Param, Params};

/// How often a stream looks for events that no wake-up told it of.
pub(super) const LOOK: Duration = Duration::from_secs(15);

/// Events read from the store at a time.
const PAGE: usize = 256;

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct After {
    /// Only events with a greater number. `Last-Event-ID` says the same.
    pub(super) after: Option<u64>,
}

/// A task's events after a number: JSON, or a stream (`Accept: text/event-stream`) that goes on until the terminal
/// event.
#[utoipa::path(get, path = "/v1/tasks/{id}/events", params(("id" = String, Path), After,
        ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that was seen")),
    responses((status = 200, content((EventPage = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    Params(query): Params<After>,
    headers: HeaderMap,
) -> Answer<Response> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    if app.store.task(id).await?.is_none() {
        return Err(Refused::no_task(id));
    }
    // The header first: a browser that reconnects sends it along with the address it began with.
    let after = last_event_id(&headers)?.or(query.after).unwrap_or(0);
    if !wants_stream(&headers) {
        let items = app.store.events(id, after, PAGE).await?.into_iter().map(convert::event).collect();
        return Ok(Json(EventPage { items }).into_response());
    }
    let feed = Feed { app, caller, id, after, ready: VecDeque::new(), ended: false };
    let frames = stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15)).text("");
    Ok(Sse::new(frames).keep_alive(keep_alive).into_response())
}

pub(super) fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    accept.contains("text/event-stream")
}

pub(super) fn last_event_id(headers: &HeaderMap) -> Answer<Option<u64>> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(Refused::new(400, "invalid_last_event_id", "Last-Event-ID is the number of an event")),
    }
}

/// One reader of a task's log.
struct Feed {
    app: App,
    caller: Caller,
    id: TaskId,
    after: u64,
    ready: VecDeque<Event>,
    ended: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<Frame, Infallible>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq;
                self.ended |= is_last(&event);
                return Some(Ok(frame(&event)));
            }
            if self.ended {
                return None;
            }
            // Subscribe before reading: what is written in between still wakes us.
            let mut signal = self.app.store.signals().task(&self.id);
            // A store that fails ends the stream; the reader resumes where it was.
            let page = self.app.store.events(self.id, self.after, PAGE).await.ok()?;
            // Nothing more for a key that was revoked or has expired since.
            self.caller.still_good(&self.app).await.ok()?;
            self.ready = page.into_iter().map(convert::event).collect();
            if !self.ready.is_empty() {
                continue;
            }
            if self.is_over().await {
                return None;
            }
            tokio::select! {
                () = signal.wait() => {}
                // A wake-up is a hint: look by ourselves now and then.
                () = tokio::time::sleep(LOOK) => {}
                () = self.app.stopped() => return None,
            }
        }
    }

    /// The reader has seen everything of a task that ended.
    async fn is_over(&self) -> bool {
        match self.app.store.task(self.id).await {
            Ok(Some(task)) => task.state.is_terminal() && task.last_event <= self.after,
            _ => true,
        }
    }
}

fn is_last(event: &Event) -> bool {
    matches!(event.kind.as_str(), "succeeded" | "failed" | "cancelled")
}

fn frame(event: &Event) -> Frame {
    let data = serde_json::to_string(event).unwrap_or_default();
    Frame::default().id(event.seq.to_string()).event(event.kind.clone()).data(data)
}
