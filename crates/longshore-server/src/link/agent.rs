//! The agent's own API, `/agent/v1`, as relays pass it on: the conversation, and steps; children, questions and the cache
//! are in files of their own.
//!
//! Events do not come here: the worker numbers them with those that it reads from the agent's output.

use axum::Json as Body;
use axum::extract::{FromRequestParts, State};
use axum::routing::{MethodRouter, get, post};
use http::request::Parts;
use longshore_api::conversation::MessagePage;
use longshore_api::journal::{Step, StepAnswer, StepResult};
use longshore_api::link::Message;
use longshore_core::id::{FleetName, Held};
use longshore_core::wait;
use longshore_store::{CallError, StepBegun};
use serde::Deserialize;

use super::{Token, llm};
use crate::app::{App, now};
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param, Params};

pub fn routes() -> [(&'static str, MethodRouter<App>); 3] {
    [
        ("/agent/v1/conversation", get(conversation)),
        ("/agent/v1/steps", get(steps)),
        ("/agent/v1/steps/{name}", post(begin).put(end)),
    ]
}

/// The attempt that a request speaks for, and its worker's fleet.
pub struct Speaker {
    pub held: Held,
    pub fleet: FleetName,
}

impl FromRequestParts<App> for Speaker {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        let Token(fleet, _) = Token::from_request_parts(parts, app).await?;
        let held = llm::task_of(app, &parts.headers).ok_or_else(|| {
            Refused::new(401, "unknown_task_token", "this task token is not of this installation")
        })?;
        Ok(Speaker { held, fleet })
    }
}

impl From<CallError> for Refused {
    fn from(failed: CallError) -> Self {
        match failed {
            CallError::StaleFence => Refused::new(
                401,
                "task_token_revoked",
                "this attempt has ended: its token is not good any more",
            ),
            CallError::OtherFleet => {
                Refused::new(401, "wrong_task_token", "this task is of another fleet than the worker")
            }
            CallError::CallReused => Refused::new(400, "call_reused", failed.to_string()),
            CallError::Store(failed) => failed.into(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    after: Option<u64>,
    limit: Option<i64>,
}

async fn conversation(
    State(app): State<App>,
    speaker: Speaker,
    Params(page): Params<Page>,
) -> Answer<Body<MessagePage>> {
    let limit = match page.limit.unwrap_or(100) {
        limit @ 1..=500 => limit as usize,
        limit => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to 500"))),
    };
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    let task = app.store.task(speaker.held.task).await?;
    let Some(id) = task.and_then(|task| task.conversation) else {
        return Err(Refused::new(404, "unknown_conversation", "this task is of no conversation"));
    };
    let all = app.store.conversation(id.clone()).await?.map_or(0, |record| record.messages);
    let found = app.store.messages(id, page.after.unwrap_or(0), limit).await?;
    let items: Vec<_> = found.into_iter().map(|found| Message { seq: found.seq, data: found.data }).collect();
    let next_after = items.last().map(|last| last.seq).filter(|last| *last < all);
    Ok(Body(MessagePage { items, next_after }))
}

async fn steps(State(app): State<App>, speaker: Speaker) -> Answer<Body<Vec<Step>>> {
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    let journal = app.store.journal(speaker.held.task).await?.unwrap_or_default();
    Ok(Body(journal.steps.into_iter().map(convert::step).collect()))
}

async fn begin(
    State(app): State<App>,
    speaker: Speaker,
    Param(name): Param<String>,
) -> Answer<Body<StepAnswer>> {
    check_name(&name)?;
    let begun = app.store.begin_step(speaker.held, speaker.fleet, name, now()).await?;
    Ok(Body(match begun {
        StepBegun::Done(result) => StepAnswer::Done { result },
        StepBegun::Run { begun } => StepAnswer::Run { begun },
    }))
}

async fn end(
    State(app): State<App>,
    speaker: Speaker,
    Param(name): Param<String>,
    JsonBody(step): JsonBody<StepResult>,
) -> Answer<Body<StepAnswer>> {
    check_name(&name)?;
    let bytes = step.result.text().len();
    if bytes > app.limits.input {
        let detail = format!("the result holds {bytes} bytes; at most {} are kept", app.limits.input);
        return Err(Refused::new(413, "input_too_large", detail)
            .hint("keep large data elsewhere, and its address as the step's result"));
    }
    let result = app.store.end_step(speaker.held, speaker.fleet, name, step.result, now()).await?;
    Ok(Body(StepAnswer::Done { result }))
}

pub fn check_name(name: &str) -> Answer<()> {
    wait::check_name(name).map_err(|error| Refused::invalid("name", error.to_string()))
}
