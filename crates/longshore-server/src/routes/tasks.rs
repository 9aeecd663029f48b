//! Submitting, listing, showing, cancelling and retrying tasks.

use std::collections::{BTreeMap, HashSet};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use longshore_api::problem::Detail;
use longshore_api::task::{BatchAccepted, Cancel, Submit, Task, TaskPage};
use longshore_core::access::Subject;
use longshore_core::fleet::Fleet;
use longshore_core::id::{ConversationId, FleetName, TaskId};
use longshore_core::task::State as TaskState;
use longshore_core::units;
use longshore_store::{CancelOutcome, Idempotency, NewTask, Submitted, TaskFilter, TaskRecord};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::app::{App, now};
use crate::caller::Caller;
use crate::convert;
use crate::cursor;
use crate::error::{Answer, Refused};
use crate::extract::{IdempotencyKey, JsonBody, Lines, Param, Params, parse};
use crate::tenant;

/// Submit a task. Answered when it is stored durably.
#[utoipa::path(post, path = "/v1/tasks", request_body = Submit,
    params(("Idempotency-Key" = Option<String>, Header, description = "Repeats of a request with the same key submit nothing new")),
    responses((status = 201, body = Task), (status = 200, body = Task, description = "Repeated: the task of the first request"),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn submit(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(task): JsonBody<Submit>,
) -> Answer<Response> {
    let fingerprint = Sha256::digest(serde_json::to_vec(&task).unwrap_or_default()).into();
    let idempotency =
        key.map(|key| Idempotency { scope: caller.idempotency_scope("submit"), key, fingerprint });
    let new = new_task(&app, &caller, task).await?;
    let submitted = app.store.submit(vec![new], idempotency, now()).await?;
    created(&app, submitted).await
}

pub async fn created(app: &App, submitted: Submitted) -> Answer<Response> {
    let id = *submitted.ids.first().ok_or_else(|| Refused::new(500, "store_failed", "no task came back"))?;
    let task = load(app, id).await?;
    Ok(match submitted.replayed {
        true => (StatusCode::OK, [("idempotency-replayed", "true")], Json(task)).into_response(),
        false => (StatusCode::CREATED, [("location", format!("/v1/tasks/{id}"))], Json(task)).into_response(),
    })
}

/// Submit one task per line of NDJSON: all or none.
#[utoipa::path(post, path = "/v1/tasks:batch", request_body(content = Submit, content_type = "application/x-ndjson"),
    params(("Idempotency-Key" = Option<String>, Header, description = "As for a single task")),
    responses((status = 201, body = BatchAccepted),
        (status = 200, body = BatchAccepted, description = "Repeated: the tasks of the first request"), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn batch(
    State(app): State<App>,
    caller: Caller,
    IdempotencyKey(key): IdempotencyKey,
    Lines(body): Lines,
) -> Answer<(StatusCode, Json<BatchAccepted>)> {
    let fingerprint = Sha256::digest(&body).into();
    let tasks = read_lines(&app, &caller, &body).await?;
    let scope = caller.idempotency_scope("batch");
    let idempotency = key.map(|key| Idempotency { scope, key, fingerprint });
    let submitted = app.store.submit(tasks, idempotency, now()).await?;
    let status = if submitted.replayed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(BatchAccepted { ids: submitted.ids })))
}

/// How many bad lines one answer names.
const NAMED_ERRORS: usize = 20;

async fn read_lines(app: &App, caller: &Caller, body: &[u8]) -> Answer<Vec<NewTask>> {
    let (mut tasks, mut errors, mut failed) = (Vec::new(), Vec::new(), 0usize);
    let mut seen = Seen::default();
    let lines = body.split(|byte| *byte == b'\n').enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let new = match parse::<Submit>(line) {
            Ok(task) => check_size(app, line.len()).and(seen.new_task(app, caller, task).await),
            Err(refused) => Err(refused),
        };
        match new {
            Ok(task) => tasks.push(task),
            Err(refused) => {
                failed += 1;
                if errors.len() < NAMED_ERRORS {
                    let detail = format!("{} [{}]", refused.0.detail, refused.0.code);
                    errors.push(Detail { at: format!("line {}", index + 1), detail });
                }
            }
        }
    }
    if tasks.len() > app.limits.batch_lines {
        let detail = format!("{} tasks; at most {} fit one batch", tasks.len(), app.limits.batch_lines);
        return Err(Refused::new(413, "batch_too_large", detail).hint("send several batches"));
    }
    if failed > 0 {
        let detail =
            format!("{failed} of {} lines are not valid; nothing was submitted", failed + tasks.len());
        let mut refused = Refused::new(422, "invalid_batch", detail);
        refused.0.errors = errors;
        return Err(refused);
    }
    if tasks.is_empty() {
        return Err(Refused::new(
            422,
            "empty_batch",
            "the batch holds no task: one JSON object per line is expected",
        ));
    }
    Ok(tasks)
}

fn check_size(app: &App, bytes: usize) -> Answer<()> {
    match bytes <= app.limits.input + (64 << 10) {
        true => Ok(()),
        false => Err(Refused::new(413, "input_too_large", format!("{bytes} bytes"))),
    }
}

/// What was asked for in one batch, so that a thousand lines ask for their fleet and their conversation once.
#[derive(Default)]
struct Seen {
    fleet: Option<Fleet>,
    conversations: HashSet<ConversationId>,
}

impl Seen {
    async fn new_task(&mut self, app: &App, caller: &Caller, task: Submit) -> Answer<NewTask> {
        may_submit(caller, &task.fleet)?;
        if self.fleet.as_ref().is_none_or(|fleet| fleet.name != task.fleet) {
            self.fleet = Some(active_fleet(app, &task.fleet).await?);
        }
        if let Some(conversation) = task.conversation.as_ref().filter(|id| !self.conversations.contains(*id))
        {
            caller.joins_conversation(app, conversation).await?;
            self.conversations.insert(conversation.clone());
        }
        let fleet = self.fleet.as_ref().expect("set just above");
        build(app, task, fleet)
    }
}

fn may_submit(caller: &Caller, fleet: &FleetName) -> Answer<()> {
    let tenant = tenant::of_submission(caller)?;
    caller.may(Subject::Task { fleet, tenant: &tenant })
}

async fn active_fleet(app: &App, name: &FleetName) -> Answer<Fleet> {
    let found = app.store.fleet(name.clone()).await?.ok_or_else(|| Refused::no_fleet(name))?;
    match found.active {
        true => Ok(found.declaration),
        false => {
            Err(Refused::new(409, "fleet_not_declared", format!("fleet `{name}` is no longer declared")))
        }
    }
}

pub async fn new_task(app: &App, caller: &Caller, task: Submit) -> Answer<NewTask> {
    Seen::default().new_task(app, caller, task).await
}

fn build(app: &App, task: Submit, fleet: &Fleet) -> Answer<NewTask> {
    check(app, &task)?;
    let timeout_ms = match &task.timeout {
        Some(text) => timeout_ms(text)?,
        None => fleet.task.timeout_ms,
    };
    Ok(NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: task.fleet,
        input: task.input,
        conversation: task.conversation,
        publish_input: false,
        priority: task.priority,
        run_at: task.run_at,
        timeout_ms,
        max_attempts: task.max_attempts.unwrap_or(fleet.task.max_attempts),
        on_interrupt: task.on_interrupt.unwrap_or(fleet.task.on_interrupt),
        backoff: fleet.task.backoff,
        labels: task.labels,
        retry_of: None,
    })
}

fn check(app: &App, task: &Submit) -> Answer<()> {
    let bytes = task.input.text().len();
    if bytes > app.limits.input {
        let detail = format!("the input holds {bytes} bytes; at most {} are accepted", app.limits.input);
        return Err(Refused::new(413, "input_too_large", detail)
            .hint("put large data where the agent can fetch it, and its address into the input"));
    }
    if !(-1000..=1000).contains(&task.priority) {
        return Err(Refused::invalid("priority", format!("{} is outside -1000 to 1000", task.priority)));
    }
    if task.max_attempts.is_some_and(|attempts| !(1..=100).contains(&attempts)) {
        return Err(Refused::invalid("max_attempts", "expected 1 to 100"));
    }
    if task.labels.len() > 32 {
        return Err(Refused::invalid("labels", format!("{} labels; at most 32", task.labels.len())));
    }
    let too_long = |text: &String| text.chars().count() > 128;
    if task.labels.iter().any(|(name, value)| name.is_empty() || too_long(name) || too_long(value)) {
        return Err(Refused::invalid("labels", "names have 1 to 128 characters, values at most 128"));
    }
    Ok(())
}

/// The longest that an attempt may run: a week.
const LONGEST_MS: u64 = 7 * 24 * 3_600_000;

pub fn timeout_ms(text: &str) -> Answer<u64> {
    let parsed =
        units::parse_duration(text).map_err(|error| Refused::invalid("timeout", error.to_string()))?;
    match parsed {
        ms @ 1..=LONGEST_MS => Ok(ms),
        _ => Err(Refused::invalid("timeout", format!("`{text}` is outside 1ms to 7 days"))),
    }
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    fleet: Option<String>,
    /// Comma-separated states.
    state: Option<String>,
    conversation: Option<String>,
    /// Comma-separated `name=value`.
    label: Option<String>,
    /// 1 to 500; 50 if absent.
    limit: Option<i64>,
    /// `next_cursor` of the previous page.
    cursor: Option<String>,
}

/// List tasks, newest first.
#[utoipa::path(get, path = "/v1/tasks", params(ListQuery),
    responses((status = 200, body = TaskPage), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Answer<Json<TaskPage>> {
    let limit = match query.limit.unwrap_or(50) {
        limit @ 1..=500 => limit as usize,
        limit => return Err(Refused::invalid("limit", format!("{limit} is outside 1 to 500"))),
    };
    let mark = format!("{:?}", (&query.fleet, &query.state, &query.conversation, &query.label));
    let before = query.cursor.as_deref().map(|cursor| cursor::read(cursor, &mark)).transpose()?;
    let filter = TaskFilter { before, ..filter(&query)? };
    tenant::of_list(&caller)?;
    if let Some(fleet) = &filter.fleet {
        may_list(&caller, fleet)?;
        if app.store.fleet(fleet.clone()).await?.is_none() {
            return Err(Refused::no_fleet(fleet));
        }
    }
    // A closed semaphore is a stop; then the store says so.
    let _turn = match filter.labels.is_empty() {
        true => None,
        false => app.slow_lists.acquire().await.ok(),
    };
    let mut records = find(&app, &caller, filter, limit + 1).await?;
    let more = records.len() > limit;
    records.truncate(limit);
    let next_cursor = records.last().filter(|_| more).map(|last| cursor::after(last.id, &mark));
    Ok(Json(TaskPage { items: records.into_iter().map(convert::task).collect(), next_cursor }))
}

fn may_list(caller: &Caller, fleet: &FleetName) -> Answer<()> {
    let tenant = caller.tenant().cloned().unwrap_or_default();
    caller.may(Subject::Task { fleet, tenant: &tenant })
}

/// The newest tasks that a caller may see: those of its fleets, each asked for alone.
async fn find(app: &App, caller: &Caller, filter: TaskFilter, limit: usize) -> Answer<Vec<TaskRecord>> {
    let fleets = &caller.known.scope.fleets;
    if fleets.is_empty() || filter.fleet.is_some() {
        return Ok(app.store.tasks(filter, limit).await?);
    }
    let mut found = Vec::new();
    for fleet in fleets {
        found.extend(
            app.store.tasks(TaskFilter { fleet: Some(fleet.clone()), ..filter.clone() }, limit).await?,
        );
    }
    found.sort_unstable_by_key(|task| std::cmp::Reverse(task.id));
    found.truncate(limit);
    Ok(found)
}

fn filter(query: &ListQuery) -> Answer<TaskFilter> {
    let fleet = query.fleet.as_deref().map(FleetName::new).transpose();
    let conversation = query.conversation.as_deref().map(ConversationId::new).transpose();
    Ok(TaskFilter {
        fleet: fleet.map_err(|error| Refused::invalid("fleet", error.to_string()))?,
        states: states(query.state.as_deref().unwrap_or(""))?,
        conversation: conversation.map_err(|error| Refused::invalid("conversation", error.to_string()))?,
        labels: labels(query.label.as_deref().unwrap_or(""))?,
        before: None,
    })
}

fn states(text: &str) -> Answer<Vec<TaskState>> {
    let named = text.split(',').map(str::trim).filter(|name| !name.is_empty());
    named
        .map(|name| {
            TaskState::parse(name).ok_or_else(|| {
                let known = TaskState::ALL.map(TaskState::as_str).join(", ");
                Refused::invalid("state", format!("`{name}` is not a state: expected {known}"))
            })
        })
        .collect()
}

fn labels(text: &str) -> Answer<BTreeMap<String, String>> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Refused::invalid("label", format!("`{pair}` is not of the form name=value"))),
        })
        .collect()
}

/// Show a task with its input, its result and its attempts.
#[utoipa::path(get, path = "/v1/tasks/{id}", params(("id" = String, Path)),
    responses((status = 200, body = Task), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn show(State(app): State<App>, caller: Caller, Param(id): Param<String>) -> Answer<Json<Task>> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    load(&app, id).await.map(Json)
}

pub fn task_id(text: &str) -> Answer<TaskId> {
    text.parse()
        .map_err(|error: longshore_core::id::IdError| Refused::new(400, "invalid_task_id", error.to_string()))
}

pub async fn load(app: &App, id: TaskId) -> Answer<Task> {
    let record = app.store.task(id).await?.ok_or_else(|| Refused::no_task(id))?;
    let attempts = app.store.attempts(id).await?;
    let mut task = convert::task(record);
    task.attempts = attempts.into_iter().map(convert::attempt).collect();
    let fleet = app.store.fleet(task.fleet.clone()).await?;
    let calls = convert::calls(app.store.call_counts(id).await?);
    let has_providers = fleet.is_some_and(|fleet| !fleet.declaration.providers.is_empty());
    task.no_gateway_calls =
        has_providers && calls.none() && task.state.is_terminal() && task.attempts_begun > 0;
    task.calls = (has_providers || !calls.none()).then_some(calls);
    Ok(task)
}

/// Cancel a task. A queued one ends at once; a running one when its agent has stopped.
#[utoipa::path(post, path = "/v1/tasks/{id}/cancel", params(("id" = String, Path)), request_body = Option<Cancel>,
    responses((status = 200, body = Task), (status = 202, body = Task, description = "Running: its worker was told"),
        (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    JsonBody(cancel): JsonBody<Cancel>,
) -> Answer<(StatusCode, Json<Task>)> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    let status = match app.store.cancel(id, cancel.reason, now()).await? {
        CancelOutcome::NotFound => return Err(Refused::no_task(id)),
        CancelOutcome::Cancelled | CancelOutcome::AlreadyTerminal(TaskState::Cancelled) => StatusCode::OK,
        CancelOutcome::Requested => StatusCode::ACCEPTED,
        CancelOutcome::AlreadyTerminal(state) => {
            let detail = format!("task {id} is {} already", state.as_str());
            return Err(Refused::new(409, "already_ended", detail));
        }
    };
    Ok((status, Json(load(&app, id).await?)))
}

/// Run an ended task again, as a new task with `retry_of`.
#[utoipa::path(post, path = "/v1/tasks/{id}/retry", params(("id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "As for submitting")),
    responses((status = 201, body = Task),
        (status = 200, body = Task, description = "Repeated: the task of the first request"), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn retry(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
    IdempotencyKey(key): IdempotencyKey,
) -> Answer<Response> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    let old = app.store.task(id).await?.ok_or_else(|| Refused::no_task(id))?;
    if !old.state.is_terminal() {
        let detail = format!("task {id} is {}: it has not ended", old.state.as_str());
        return Err(Refused::new(409, "not_ended", detail).hint("cancel it first, or wait for it"));
    }
    may_submit(&caller, &old.fleet)?;
    if let Some(conversation) = &old.conversation {
        caller.joins_conversation(&app, conversation).await?;
    }
    let fleet = active_fleet(&app, &old.fleet).await?;
    let new = NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: old.fleet,
        input: old.input.ok_or_else(|| Refused::new(500, "store_failed", "the task's input is missing"))?,
        conversation: old.conversation,
        publish_input: old.publish_input,
        priority: old.priority,
        run_at: None,
        timeout_ms: old.timeout_ms,
        max_attempts: old.max_attempts,
        on_interrupt: old.on_interrupt,
        backoff: fleet.task.backoff,
        labels: old.labels,
        retry_of: Some(id),
    };
    let fingerprint = Sha256::digest(id.0.as_bytes()).into();
    let idempotency =
        key.map(|key| Idempotency { scope: caller.idempotency_scope("retry"), key, fingerprint });
    let submitted = app.store.submit(vec![new], idempotency, now()).await?;
    created(&app, submitted).await
}
