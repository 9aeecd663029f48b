//! An agent's children: submitted once by name, and what became of them.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::{MethodRouter, get};
use http::StatusCode;
use longshore_api::task::Submit;
use longshore_api::waiting::{Child, NewChild};
use longshore_core::child;
use longshore_core::id::TaskId;
use longshore_store::{ChildError, ChildRecord, NewChild as Stored, SubmitError, TaskRecord};

use super::agent::{Speaker, check_name};
use crate::app::{App, now};
use crate::caller::Caller;
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::{self, JsonBody, Param};
use crate::routes::tasks::Seen;

pub fn routes() -> [(&'static str, MethodRouter<App>); 2] {
    [("/agent/v1/children", get(list).post(submit_all)), ("/agent/v1/children/{name}", get(show).put(submit))]
}

impl From<ChildError> for Refused {
    fn from(failed: ChildError) -> Self {
        match failed {
            ChildError::UnknownFleet(fleet) => Refused::no_fleet(fleet),
            ChildError::ConversationBusy(id) => SubmitError::ConversationBusy(id).into(),
            ChildError::Refused(why) => why.into(),
            ChildError::Call(failed) => failed.into(),
        }
    }
}

impl From<child::Refused> for Refused {
    fn from(why: child::Refused) -> Self {
        let detail = why.to_string();
        match why {
            child::Refused::TooDeep => Refused::new(409, "children_too_deep", detail),
            child::Refused::TooMany(_) => Refused::new(409, "too_many_children", detail),
            child::Refused::AncestorsConversation(_) => Refused::new(409, "conversation_of_ancestor", detail),
        }
    }
}

async fn list(State(app): State<App>, speaker: Speaker) -> Answer<Json<Vec<Child>>> {
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    let children = app.store.children(speaker.held.task).await?;
    Ok(Json(children.into_iter().map(|child| convert::child(child, false)).collect()))
}

async fn show(State(app): State<App>, speaker: Speaker, Param(name): Param<String>) -> Answer<Json<Child>> {
    app.store.check_fence(speaker.held, speaker.fleet).await?;
    find(&app, speaker.held.task, name).await.map(|child| Json(convert::child(child, false)))
}

async fn find(app: &App, parent: TaskId, name: String) -> Answer<ChildRecord> {
    let found = app.store.child(parent, name.clone()).await?;
    found.ok_or_else(|| Refused::new(404, "unknown_child", format!("this task has no child `{name}`")))
}

async fn submit(
    State(app): State<App>,
    speaker: Speaker,
    Param(name): Param<String>,
    JsonBody(child): JsonBody<NewChild>,
) -> Answer<(StatusCode, Json<Child>)> {
    if child.name.as_ref().is_some_and(|said| *said != name) {
        return Err(Refused::invalid("name", "it is another one than the path says"));
    }
    let parent = speaker.held.task;
    let named = NewChild { name: Some(name.clone()), ..child };
    let created = submit_named(&app, speaker, vec![named]).await?.iter().any(|child| child.created);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(convert::child(find(&app, parent, name).await?, created))))
}

async fn submit_all(State(app): State<App>, speaker: Speaker, request: Request) -> Answer<Json<Vec<Child>>> {
    extract::refuse_other_content(request.headers(), "application/json")?;
    let body: Body = request.into_body();
    let children = extract::parse(&extract::read(body, app.limits.batch).await?)?;
    submit_named(&app, speaker, children).await.map(Json)
}

/// Submits what is not there already. Those that are need not be valid any more: their fleet may be gone.
async fn submit_named(app: &App, speaker: Speaker, children: Vec<NewChild>) -> Answer<Vec<Child>> {
    if children.len() > child::MOST {
        return Err(child::Refused::TooMany(children.len()).into());
    }
    app.store.check_fence(speaker.held, speaker.fleet.clone()).await?;
    let known = app.store.children(speaker.held.task).await?;
    let mut there: HashMap<_, _> =
        known.into_iter().map(|child| (child.name.clone(), convert::child(child, false))).collect();
    let parent =
        app.store.task(speaker.held.task).await?.ok_or_else(|| Refused::no_task(speaker.held.task))?;
    let caller = Caller::agent(&parent.tenant);
    let (mut seen, mut new, mut names) = (Seen::default(), Vec::new(), Vec::new());
    for child in children {
        let name =
            child.name.clone().ok_or_else(|| Refused::invalid("name", "each child of a list has one"))?;
        check_name(&name)?;
        names.push(name.clone());
        if !there.contains_key(&name) {
            let detach = child.detach;
            let task = as_submission(child, &speaker, &parent);
            new.push(Stored { name, detach, task: seen.new_task(app, &caller, task).await? });
        }
    }
    if !new.is_empty() {
        let submitted = app.store.submit_children(speaker.held, speaker.fleet, new, now()).await?;
        for (child, created) in submitted {
            let child = convert::child(ChildRecord { result: None, ..child }, created);
            there.entry(child.name.clone()).or_insert(child);
        }
    }
    Ok(names.into_iter().filter_map(|name| there.get(&name).cloned()).collect())
}

/// A child is its parent's tenant's, whatever its agent would like.
fn as_submission(child: NewChild, speaker: &Speaker, parent: &TaskRecord) -> Submit {
    let fleet = child.fleet.unwrap_or_else(|| speaker.fleet.clone());
    Submit {
        conversation: child.conversation,
        tenant: Some(parent.tenant.clone()),
        priority: child.priority.unwrap_or(parent.priority),
        run_at: child.run_at,
        timeout: child.timeout,
        max_attempts: child.max_attempts,
        on_interrupt: child.on_interrupt,
        labels: child.labels,
        ..Submit::new(fleet, child.input)
    }
}
