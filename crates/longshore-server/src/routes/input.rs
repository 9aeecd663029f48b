//! What people say to tasks that wait for them.

use axum::Json;
use axum::extract::State;
use longshore_api::task::Task;
use longshore_api::waiting::Input;
use longshore_core::id::TaskId;
use longshore_core::task::State as TaskState;
use longshore_core::wait::{InputRefused, QUESTION_LIMIT};
use longshore_store::InputOutcome;

use super::tasks::{load, task_id};
use crate::app::{App, now};
use crate::caller::Caller;
use crate::error::{Answer, Refused};
use crate::extract::{JsonBody, Param};

/// Answer a question of a task's agent, or say whether a task that was interrupted may run again (`on_interrupt = "ask"`).
#[utoipa::path(post, path = "/v1/tasks/{id}/input", params(("id" = String, Path)), request_body = Input,
    responses((status = 200, body = Task), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn input(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    JsonBody(input): JsonBody<Input>,
) -> Answer<Json<Task>> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    match app.store.input(id, input.question, input.answer, now()).await? {
        InputOutcome::NotFound => Err(Refused::no_task(id)),
        InputOutcome::Refused(state, why) => Err(refused(id, state, why)),
        InputOutcome::Taken => load(&app, id).await.map(Json),
    }
}

fn refused(id: TaskId, state: TaskState, why: InputRefused) -> Refused {
    match why {
        InputRefused::NotWaiting => {
            let detail = format!("task {id} is {}: it does not wait for an answer", state.as_str());
            Refused::new(409, "not_waiting", detail)
        }
        InputRefused::NeitherResumeNorFail => {
            Refused::invalid("answer", "the task was interrupted: the answer is \"resume\" or \"fail\"")
        }
        InputRefused::UnknownQuestion(name) => {
            Refused::new(404, "unknown_question", format!("task {id} asked no question `{name}`"))
        }
        InputRefused::Several(names) => {
            Refused::invalid("question", format!("several are open: name one of `{}`", names.join("`, `")))
        }
        InputRefused::AlreadyAnswered(name) => {
            let detail = format!("question `{name}` of task {id} has its answer; the first one stays");
            Refused::new(409, "already_answered", detail)
        }
        InputRefused::Expired(name) => {
            let detail = format!("the time to answer question `{name}` of task {id} is over");
            Refused::new(409, "input_expired", detail)
        }
        InputRefused::TooLarge(bytes) => {
            let detail = format!("the answer holds {bytes} bytes; at most {QUESTION_LIMIT} are kept");
            Refused::new(413, "input_too_large", detail)
        }
    }
}
