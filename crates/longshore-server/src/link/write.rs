//! What workers write for their attempts: events, endings, releases. The fence decides what is accepted.

use axum::Json;
use axum::extract::State;
use longshore_api::link::{
    AgentEvent, AgentEventKind, AttemptEnding, AttemptEvents, Complete, Ended, Events, EventsAnswer, Outcome,
    Release,
};
use longshore_core::id::{Held, WorkerId};
use longshore_core::task::{Ending, Interruption};
use longshore_store::{EndAttempt, NewAgentEvent};
use uuid::Uuid;

use super::Token;
use crate::app::{App, now, roll};
use crate::error::Answer;
use crate::extract::LinkBody;

pub async fn events(
    State(app): State<App>,
    token: Token,
    LinkBody(sent): LinkBody<Events>,
) -> Answer<Json<EventsAnswer>> {
    token.admit(&app, &sent.worker).await?;
    let attempts = sent
        .attempts
        .into_iter()
        .map(|attempt| (attempt.held, attempt.events.into_iter().map(event).collect()));
    let lost = app.store.append_events(sent.worker, sent.nonce, attempts.collect(), now()).await?;
    Ok(Json(EventsAnswer { lost }))
}

fn event(event: AgentEvent) -> NewAgentEvent {
    NewAgentEvent { n: event.n, at: event.at, kind: kind(event.kind), data: event.data }
}

fn kind(kind: AgentEventKind) -> longshore_store::AgentEventKind {
    match kind {
        AgentEventKind::Progress => longshore_store::AgentEventKind::Progress,
        AgentEventKind::Message => longshore_store::AgentEventKind::Message,
    }
}

pub async fn complete(
    State(app): State<App>,
    token: Token,
    LinkBody(done): LinkBody<Complete>,
) -> Answer<Json<Ended>> {
    token.admit(&app, &done.worker).await?;
    end(&app, done.worker, done.nonce, done.endings.into_iter().map(ending).collect()).await
}

fn ending(ending: AttemptEnding) -> EndAttempt {
    let (end, result) = match ending.outcome {
        Outcome::Succeeded { result } => (Ending::Succeeded, Some(result)),
        Outcome::Failed(failure) => (Ending::Failed(failure), None),
        Outcome::Interrupted(cause) => (Ending::Interrupted(cause), None),
        Outcome::Waited(awaits) => (Ending::Waited(awaits), None),
    };
    one(ending.held, ending.events, end, result)
}

fn one(
    held: Held,
    events: Vec<AgentEvent>,
    ending: Ending,
    result: Option<longshore_core::json::Json>,
) -> EndAttempt {
    EndAttempt { held, events: events.into_iter().map(event).collect(), ending, result, roll: roll() }
}

pub async fn release(
    State(app): State<App>,
    token: Token,
    LinkBody(back): LinkBody<Release>,
) -> Answer<Json<Ended>> {
    token.admit(&app, &back.worker).await?;
    let cause = back.cause;
    end(
        &app,
        back.worker,
        back.nonce,
        back.attempts.into_iter().map(|attempt| released(attempt, cause)).collect(),
    )
    .await
}

fn released(attempt: AttemptEvents, cause: Interruption) -> EndAttempt {
    one(attempt.held, attempt.events, Ending::Interrupted(cause), None)
}

async fn end(app: &App, worker: WorkerId, nonce: Uuid, endings: Vec<EndAttempt>) -> Answer<Json<Ended>> {
    let ended = app.store.end_attempts(worker, nonce, endings, now()).await?;
    app.metrics.ended(ended.accepted.len(), ended.refused.len());
    Ok(Json(Ended { accepted: ended.accepted, refused: ended.refused }))
}
