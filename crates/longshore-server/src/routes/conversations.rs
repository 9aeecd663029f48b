//! Conversations: their heads, their order, their messages.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use longshore_api::conversation::{Conversation, MessagePage, PostMessage};
use longshore_api::link::Message;
use longshore_api::task::{Submit, Task};
use longshore_core::id::ConversationId;
use longshore_store::Idempotency;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::tasks::{created, new_task};
use crate::app::{App, now};
use crate::caller::Caller;
use crate::error::{Answer, Refused};
use crate::extract::{IdempotencyKey, JsonBody, Param, Params};

/// A conversation's unfinished tasks in order, the head first.
#[utoipa::path(get, path = "/v1/conversations/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Conversation), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
) -> Answer<Json<Conversation>> {
    let id = conversation_id(&id)?;
    may_see(&app, &caller, &id).await?;
    let record = app.store.conversation(id.clone()).await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(Conversation {
        id: record.id,
        head: record.head,
        queue: record.queue,
        messages: record.messages,
    }))
}

fn conversation_id(text: &str) -> Answer<ConversationId> {
    ConversationId::new(text).map_err(|error| Refused::new(400, "invalid_conversation_id", error.to_string()))
}

/// One that holds a task which this caller may not see is not there for it.
async fn may_see(app: &App, caller: &Caller, id: &ConversationId) -> Answer<()> {
    if caller.sees_conversation(app, id).await? { Ok(()) } else { Err(unknown(id)) }
}

fn unknown(id: &ConversationId) -> Refused {
    Refused::new(404, "unknown_conversation", format!("there is no conversation `{id}`"))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MessageQuery {
    /// Only messages with a greater number.
    after: Option<u64>,
    /// 1 to 500; 100 if absent.
    limit: Option<i64>,
}

/// The messages of a conversation, oldest first.
#[utoipa::path(get, path = "/v1/conversations/{id}/messages", params(("id" = String, Path), MessageQuery),
    responses((status = 200, body = MessagePage), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn messages(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    Params(query): Params<MessageQuery>,
) -> Answer<Json<MessagePage>> {
    let id = conversation_id(&id)?;
    may_see(&app, &caller, &id).await?;
    let limit = match query.limit.unwrap_or(100) {
        limit @ 1..=500 => limit as usize,
        limit => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to 500"))),
    };
    let known = app.store.conversation(id.clone()).await?.ok_or_else(|| unknown(&id))?;
    let found = app.store.messages(id, query.after.unwrap_or(0), limit).await?;
    let items: Vec<_> = found.into_iter().map(|found| Message { seq: found.seq, data: found.data }).collect();
    let next_after = items.last().map(|last| last.seq).filter(|last| *last < known.messages);
    Ok(Json(MessagePage { items, next_after }))
}

/// Send a message: it becomes the input of a new task, which runs after the conversation's earlier ones.
#[utoipa::path(post, path = "/v1/conversations/{id}/messages", params(("id" = String, Path)),
    request_body = PostMessage,
    responses((status = 201, body = Task),
        (status = 200, body = Task, description = "Repeated: the task of the first request"), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn post(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(message): JsonBody<PostMessage>,
) -> Answer<Response> {
    let id = conversation_id(&id)?;
    let fingerprint = Sha256::digest(serde_json::to_vec(&(&id, &message)).unwrap_or_default()).into();
    let PostMessage { fleet, content, tenant, on_busy } = message;
    let submit = Submit { conversation: Some(id), tenant, on_busy, ..Submit::new(fleet, content) };
    let mut task = new_task(&app, &caller, submit).await?;
    task.publish_input = true;
    let idempotency =
        key.map(|key| Idempotency { scope: caller.idempotency_scope("message"), key, fingerprint });
    let submitted = app.store.submit(vec![task], idempotency, now()).await?;
    created(&app, submitted).await
}
