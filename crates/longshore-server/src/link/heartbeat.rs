//! Heartbeats: leases renewed at once, the answer held until there is news.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use longshore_api::link::{self, DrainOrder, HeartbeatAnswer, WorkerState};
use longshore_store::{Condition, Heartbeat, HeartbeatNews};
use tokio::time::Instant;

use super::{LEASE, Token};
use crate::app::{App, now};
use crate::convert;
use crate::error::Answer;
use crate::extract::LinkBody;

/// The longest that an answer is held: shorter than the heartbeat's interval.
const LONGEST_WAIT: Duration = Duration::from_millis(4_500);

pub async fn heartbeat(
    State(app): State<App>,
    token: Token,
    LinkBody(beat): LinkBody<link::Heartbeat>,
) -> Answer<Json<HeartbeatAnswer>> {
    token.admit(&app, &beat.worker).await?;
    let deadline = Instant::now() + Duration::from_millis(beat.wait_ms).min(LONGEST_WAIT);
    // Subscribe before looking: what happens in between still wakes us.
    let mut signal = app.store.signals().worker(&beat.worker);
    let mut news = app.store.heartbeat(request(&beat), now()).await?;
    while !is_news(&beat, &news) && !app.is_stopping() {
        tokio::select! {
            () = signal.wait() => {}
            () = tokio::time::sleep_until(deadline) => break,
            () = app.stopped() => break,
        }
        // What the worker listed grows old while we wait: look again, but renew nothing.
        news = app.store.news(beat.worker.clone(), beat.nonce, beat.held.clone()).await?;
    }
    Ok(Json(answer(&app, &token, news).await))
}

fn request(beat: &link::Heartbeat) -> Heartbeat {
    Heartbeat {
        worker: beat.worker.clone(),
        nonce: beat.nonce,
        held: beat.held.clone(),
        last_claim: beat.last_claim,
        condition: Condition {
            state: convert::stored_state(beat.condition.state),
            reason: beat.condition.reason.clone(),
            memory: beat.condition.memory,
        },
        lease: LEASE,
    }
}

/// Whether this tells the worker something that it does not know.
fn is_news(beat: &link::Heartbeat, outcome: &HeartbeatNews) -> bool {
    !outcome.lost.is_empty()
        || outcome.cancel.iter().any(|held| !beat.cancelling.contains(held))
        || (outcome.drain.is_some() && beat.condition.state != WorkerState::Draining)
}

async fn answer(app: &App, token: &Token, outcome: HeartbeatNews) -> HeartbeatAnswer {
    let drain = outcome.drain.map(|order| DrainOrder { mode: order.mode, timeout_ms: order.timeout_ms });
    let mut checks = crate::probes::needed(app).await;
    if app.gateway.is_some() {
        // Another fleet's provider is no reason to take no tasks.
        let own = super::llm::providers(app, &token.0).await.unwrap_or_default();
        checks.insert("llm".into(), crate::probes::unreachable(app, |name| own.contains(name)));
    }
    HeartbeatAnswer {
        lost: outcome.lost,
        cancel: outcome.cancel,
        drain,
        checks,
        notes: crate::probes::notes(app),
        links: super::links(app),
        gateways: app.live_gateways(),
    }
}
