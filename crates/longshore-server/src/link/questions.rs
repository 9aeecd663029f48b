//! An agent's questions to people.

use axum::Json as Body;
use axum::extract::State;
use axum::routing::{MethodRouter, get};
use longshore_api::waiting::Question;
use longshore_core::json::Json;
use longshore_core::wait::{self, Ask};
use longshore_store::AskError;

use super::agent::{Speaker, check_name};
use crate::app::{App, now};
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param};

pub fn routes() -> [(&'static str, MethodRouter<App>); 2] {
    [("/agent/v1/questions", get(list)), ("/agent/v1/questions/{name}", get(show).post(ask))]
}

impl From<AskError> for Refused {
    fn from(failed: AskError) -> Self {
        match failed {
            AskError::TooMany => Refused::new(409, "too_many_questions", failed.to_string()),
            AskError::Call(failed) => failed.into(),
        }
    }
}

async fn list(State(app): State<App>, speaker: Speaker) -> Answer<Body<Vec<Question>>> {
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    let questions = app.store.questions(speaker.held.task).await?;
    Ok(Body(questions.into_iter().map(convert::question).collect()))
}

async fn show(
    State(app): State<App>,
    speaker: Speaker,
    Param(name): Param<String>,
) -> Answer<Body<Question>> {
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    let found = app.store.questions(speaker.held.task).await?.into_iter().find(|it| it.name == name);
    let unknown = || Refused::new(404, "unknown_question", format!("this task asked no question `{name}`"));
    found.map(|question| Body(convert::question(question))).ok_or_else(unknown)
}

async fn ask(
    State(app): State<App>,
    speaker: Speaker,
    Param(name): Param<String>,
    JsonBody(question): JsonBody<Json>,
) -> Answer<Body<Question>> {
    check_name(&name)?;
    let ask =
        wait::read_ask(&question).map_err(|error| Refused::new(422, "invalid_value", error.to_string()))?;
    if ask.name.as_ref().is_some_and(|said| *said != name) {
        return Err(Refused::invalid("name", "it is another one than the path says"));
    }
    let ask = Ask { name: Some(name), ..ask };
    let asked = app.store.ask(speaker.held, speaker.fleet, ask, now()).await?;
    Ok(Body(convert::question(asked)))
}
