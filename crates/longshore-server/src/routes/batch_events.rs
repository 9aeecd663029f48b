//! A batch's events: what is stored of it, and on a stream its progress in between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event as Frame, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::HeaderMap;
use longshore_api::batch::{BatchCounts, BatchEvent, BatchEventPage};
use longshore_core::batch::BatchId;
use longshore_core::json::Json as Value;
use longshore_store::{BatchRecord, Wake};
use tokio::time::Instant;

use super::batches;
use super::watch::{After, LOOK, last_event_id, wants_stream};
use crate::app::{App, now};
use crate::caller::Caller;
use crate::convert;
use crate::error::Answer;
use crate::extract::{Param, Params};

/// More than a batch has.
const PAGE: usize = 100;

/// A batch of many short tasks moves all the time: its progress is told no more often than this.
const PACE: Duration = Duration::from_millis(250);

/// A batch's events after a number: JSON, or a stream (`Accept: text/event-stream`) that tells progress as well and ends
/// with the event `finished`.
#[utoipa::path(get, path = "/v1/batches/{id}/events", params(("id" = String, Path), After,
        ("Last-Event-ID" = Option<u64>, Header, description = "Number of the last event that was seen")),
    responses((status = 200, content((BatchEventPage = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    Params(query): Params<After>,
    headers: HeaderMap,
) -> Answer<Response> {
    let id = batches::load(&app, &caller, &id).await?.id;
    let after = last_event_id(&headers)?.or(query.after).unwrap_or(0);
    if !wants_stream(&headers) {
        let records = app.store.batch_events(id, after, PAGE).await?;
        let items = records.into_iter().map(|record| convert::batch_event(id, record)).collect();
        return Ok(Json(BatchEventPage { items }).into_response());
    }
    let feed = Feed { app, caller, id, after, ready: VecDeque::new(), told: None, ended: false };
    let frames = stream::unfold(feed, |mut feed| async move { Some((feed.next().await?, feed)) });
    let keep_alive = KeepAlive::new().interval(Duration::from_secs(15)).text("");
    Ok(Sse::new(frames).keep_alive(keep_alive).into_response())
}

/// One reader of a batch's log.
struct Feed {
    app: App,
    caller: Caller,
    id: BatchId,
    after: u64,
    ready: VecDeque<BatchEvent>,
    /// The counts as they were told last, and when.
    told: Option<(BatchCounts, Instant)>,
    ended: bool,
}

impl Feed {
    async fn next(&mut self) -> Option<Result<Frame, Infallible>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.after = event.seq.unwrap_or(self.after);
                self.ended |= event.kind == "finished";
                return Some(Ok(frame(&event)));
            }
            if self.ended {
                return None;
            }
            // Subscribe before reading: what is written in between still wakes us.
            let signal = self.app.store.signals().batch(self.id);
            self.fill().await?;
            if self.ready.is_empty() && !self.wait(signal).await {
                return None;
            }
        }
    }

    /// Reads what is new. The batch first: its log is then at least as new, so progress is never told after the end.
    ///
    /// `None`: the batch is gone, its reader has seen the end or may read no more, or the store fails; the reader comes again where it was.
    async fn fill(&mut self) -> Option<()> {
        let batch = self.app.store.batch(self.id).await.ok()??;
        let records = self.app.store.batch_events(self.id, self.after, PAGE).await.ok()?;
        // Nothing more for a key that was revoked or has expired since.
        self.caller.still_good(&self.app).await.ok()?;
        let ends = records.iter().any(|record| record.kind == "finished");
        if records.is_empty() && batch.finished_at.is_some() {
            return None;
        }
        self.ready.extend(records.into_iter().map(|record| convert::batch_event(self.id, record)));
        let counts = convert::batch_counts(&batch);
        if !ends && self.told.is_none_or(|(told, _)| told != counts) {
            self.told = Some((counts, Instant::now()));
            self.ready.push_back(progress(&batch, counts));
        }
        Some(())
    }

    /// False when it is time to stop.
    async fn wait(&self, mut signal: Wake) -> bool {
        let paced = async {
            signal.wait().await;
            if let Some((_, at)) = self.told {
                tokio::time::sleep_until(at + PACE).await;
            }
        };
        tokio::select! {
            () = paced => true,
            // A wake-up is a hint: look by ourselves now and then.
            () = tokio::time::sleep(LOOK) => true,
            () = self.app.stopped() => false,
        }
    }
}

fn progress(batch: &BatchRecord, counts: BatchCounts) -> BatchEvent {
    BatchEvent { batch: batch.id, seq: None, at: now(), kind: "progress".into(), data: Value::of(&counts) }
}

/// Progress has no id: a reader that comes again is told how it stands anyway.
fn frame(event: &BatchEvent) -> Frame {
    let data = serde_json::to_string(event).unwrap_or_default();
    let frame = Frame::default().event(event.kind.clone()).data(data);
    match event.seq {
        Some(seq) => frame.id(seq.to_string()),
        None => frame,
    }
}
