//! Submitting, listing, showing, cancelling and retrying tasks.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::try_join;
use http::StatusCode;
use longshore_api::batch::BatchQuery;
use longshore_api::problem::Detail;
use longshore_api::search::{Filter, TaskQuery};
use longshore_api::task::{BatchAccepted, Cancel, Submit, Task, TaskPage};
use longshore_core::access::Subject;
use longshore_core::batch::BatchId;
use longshore_core::fleet::Fleet;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::retry::Backoff;
use longshore_core::task::{self, OnBusy, State as TaskState};
use longshore_core::time::Timestamp;
use longshore_core::units;
use longshore_store::{CallCounts, CancelOutcome, Idempotency, NewTask, Submitted, TaskFilter, TaskRecord};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::batches::new_batch;
use super::search;
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

/// Submit one task per line of NDJSON: all or none. They are a batch, whose end is an event of its own.
#[utoipa::path(post, path = "/v1/tasks:batch", request_body(content = Submit, content_type = "application/x-ndjson"),
    params(BatchQuery, ("Idempotency-Key" = Option<String>, Header, description = "As for a single task")),
    responses((status = 201, body = BatchAccepted),
        (status = 200, body = BatchAccepted, description = "Repeated: the tasks of the first request"), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn batch(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<BatchQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Lines(body): Lines,
) -> Answer<(StatusCode, Json<BatchAccepted>)> {
    let batch = new_batch(&query)?;
    caller.adds_to_batch(&app, batch.id).await?;
    let fingerprint = Sha256::new().chain_update(words(&query)).chain_update(&body).finalize().into();
    let tasks = read_lines(&app, &caller, &body).await?;
    let scope = caller.idempotency_scope("batch");
    let idempotency = key.map(|key| Idempotency { scope, key, fingerprint });
    let id = batch.id;
    let submitted = app.store.submit_batch(batch, tasks, idempotency, now()).await?;
    let (status, batch) = match submitted.replayed {
        false => (StatusCode::CREATED, Some(id)),
        true => (StatusCode::OK, earlier_batch(&app, &submitted.ids).await?),
    };
    Ok((status, Json(BatchAccepted { batch, ids: submitted.ids })))
}

/// What a request says beside its body; nothing for one that says nothing. The id does not count: whoever repeats a request
/// with a new one is told the old one.
fn words(query: &BatchQuery) -> Vec<u8> {
    let words = serde_json::to_vec(&BatchQuery { batch: None, ..query.clone() }).unwrap_or_default();
    if words == b"{}" { Vec::new() } else { words }
}

/// The batch that the first request of a key made.
async fn earlier_batch(app: &App, ids: &[TaskId]) -> Answer<Option<BatchId>> {
    let Some(first) = ids.first() else { return Ok(None) };
    Ok(app.store.task(*first).await?.and_then(|task| task.batch))
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
            // Not the line's fault: whoever asks again may be served.
            Err(refused) if refused.0.status >= 500 => return Err(refused),
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

/// What was asked for in one request, so that a thousand tasks ask for their fleet and their conversation once.
#[derive(Default)]
pub struct Seen {
    fleet: Option<Fleet>,
    conversations: HashSet<ConversationId>,
}

impl Seen {
    pub async fn new_task(&mut self, app: &App, caller: &Caller, task: Submit) -> Answer<NewTask> {
        let tenant = tenant::of_submission(caller, task.tenant.as_ref());
        may_submit(caller, &task.fleet, &tenant)?;
        if self.fleet.as_ref().is_none_or(|fleet| fleet.name != task.fleet) {
            self.fleet = Some(active_fleet(app, &task.fleet).await?);
        }
        if let Some(conversation) = task.conversation.as_ref().filter(|id| !self.conversations.contains(*id))
        {
            caller.joins_conversation(app, conversation).await?;
            self.conversations.insert(conversation.clone());
        }
        let fleet = self.fleet.as_ref().expect("set just above");
        build(app, task, tenant, fleet)
    }
}

fn may_submit(caller: &Caller, fleet: &FleetName, tenant: &TenantName) -> Answer<()> {
    caller.may(Subject::Task { fleet, tenant })
}

async fn active_fleet(app: &App, name: &FleetName) -> Answer<Fleet> {
    let found = app.fleet_lately(name).await?.ok_or_else(|| Refused::no_fleet(name))?;
    match found.active {
        true => Ok(found.declaration.clone()),
        false => {
            Err(Refused::new(409, "fleet_not_declared", format!("fleet `{name}` is no longer declared")))
        }
    }
}

pub async fn new_task(app: &App, caller: &Caller, task: Submit) -> Answer<NewTask> {
    Seen::default().new_task(app, caller, task).await
}

fn build(app: &App, task: Submit, tenant: TenantName, fleet: &Fleet) -> Answer<NewTask> {
    check(app, &task)?;
    let now = now();
    let timeout_ms = task.timeout.as_deref().map(timeout_ms).transpose()?.unwrap_or(fleet.task.timeout_ms);
    Ok(NewTask {
        id: TaskId(Uuid::now_v7()),
        deadline_at: deadline(&task, fleet, now)?,
        backoff: backoff(task.backoff.as_ref(), fleet.task.backoff)?,
        fleet: task.fleet,
        tenant,
        input: task.input,
        conversation: task.conversation,
        on_busy: task.on_busy.unwrap_or(fleet.task.on_busy),
        publish_input: false,
        priority: task.priority,
        run_at: task.run_at,
        timeout_ms,
        max_attempts: task.max_attempts.unwrap_or(fleet.task.max_attempts),
        on_interrupt: task.on_interrupt.unwrap_or(fleet.task.on_interrupt),
        labels: task.labels,
        retry_of: None,
    })
}

/// The longest that a task may be waited for: a year.
const LONGEST_LIFE_MS: u64 = 366 * 24 * 3_600_000;

fn deadline(task: &Submit, fleet: &Fleet, now: Timestamp) -> Answer<Option<Timestamp>> {
    if let Some(deadline) = task.deadline.filter(|at| *at <= now) {
        return Err(Refused::invalid("deadline", format!("{deadline} has passed")));
    }
    let expires_in = task.expires_in.as_deref().map(|text| duration_ms("expires_in", text, LONGEST_LIFE_MS));
    let expires_in = expires_in.transpose()?.map(Duration::from_millis);
    let total = fleet.task.total_timeout_ms.map(Duration::from_millis);
    Ok(task::deadline(task.deadline, expires_in, total, task.run_at, now))
}

fn backoff(given: Option<&longshore_api::task::Backoff>, of_fleet: Backoff) -> Answer<Backoff> {
    let Some(given) = given else { return Ok(of_fleet) };
    let read = |at: &str, text: &Option<String>| {
        text.as_deref().map(|text| duration_ms(at, text, LONGEST_MS)).transpose()
    };
    let (base, cap) = (read("backoff.base", &given.base)?, read("backoff.cap", &given.cap)?);
    // One that is given alone moves the fleet's other one out of its way.
    let base_ms = base.unwrap_or_else(|| of_fleet.base_ms.min(cap.unwrap_or(u64::MAX)));
    let cap_ms = cap.unwrap_or(of_fleet.cap_ms.max(base_ms));
    if cap_ms < base_ms {
        return Err(Refused::invalid("backoff.cap", "is shorter than `base`"));
    }
    Ok(Backoff { base_ms, cap_ms })
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
    check_labels(&task.labels)
}

pub fn check_labels(labels: &BTreeMap<String, String>) -> Answer<()> {
    if labels.len() > 32 {
        return Err(Refused::invalid("labels", format!("{} labels; at most 32", labels.len())));
    }
    let too_long = |text: &String| text.chars().count() > 128;
    if labels.iter().any(|(name, value)| name.is_empty() || too_long(name) || too_long(value)) {
        return Err(Refused::invalid("labels", "names have 1 to 128 characters, values at most 128"));
    }
    Ok(())
}

/// The longest that an attempt may run: a week.
const LONGEST_MS: u64 = 7 * 24 * 3_600_000;

pub fn timeout_ms(text: &str) -> Answer<u64> {
    duration_ms("timeout", text, LONGEST_MS)
}

fn duration_ms(at: &str, text: &str, longest: u64) -> Answer<u64> {
    let parsed = units::parse_duration(text).map_err(|error| Refused::invalid(at, error.to_string()))?;
    match parsed {
        ms if (1..=longest).contains(&ms) => Ok(ms),
        _ => {
            let days = longest / (24 * 3_600_000);
            Err(Refused::invalid(at, format!("`{text}` is outside 1ms to {days} days")))
        }
    }
}

/// How many items a page may hold.
pub fn page_limit(given: Option<i64>) -> Answer<usize> {
    match given.unwrap_or(50) {
        limit @ 1..=500 => Ok(limit as usize),
        limit => Err(Refused::invalid("limit", format!("{limit} is outside 1 to 500"))),
    }
}

/// List tasks, newest first. A page looks at a bounded number of tasks: it may hold fewer than `limit`, even none, and
/// still have a `next_cursor`.
#[utoipa::path(get, path = "/v1/tasks", params(TaskQuery),
    responses((status = 200, body = TaskPage), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<TaskQuery>,
) -> Answer<Json<TaskPage>> {
    let limit = page_limit(query.limit)?;
    let cursor = query.cursor.clone();
    let asked = Filter::from(query);
    let mark = format!("{asked:?}");
    let before = cursor.map(|cursor| cursor::read(&cursor, &mark)).transpose()?;
    let found = search::filter(&app, &caller, &asked).await?;
    let filter = TaskFilter { before, ..tenant::narrowed(&caller, found) };
    // A closed semaphore is a stop; then the store says so.
    let _turn = match filter.is_wide() {
        true => app.slow_lists.acquire().await.ok(),
        false => None,
    };
    let page = search::tasks(&app, &caller, filter, limit).await?;
    let next_cursor = page.next.map(|place| cursor::after(place, &mark));
    Ok(Json(TaskPage { items: page.tasks.into_iter().map(convert::task).collect(), next_cursor }))
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
    let mut task = convert::task(record);
    let mut calls = CallCounts::default();
    if task.attempts_begun > 0 {
        let (attempts, questions, counted) =
            try_join!(app.store.attempts(id), app.store.questions(id), app.store.call_counts(id))?;
        task.attempts = attempts.into_iter().map(convert::attempt).collect();
        task.questions = questions.into_iter().map(convert::question).collect();
        calls = counted;
    }
    let fleet = app.fleet_lately(&task.fleet).await?;
    let calls = convert::calls(calls);
    let has_providers = fleet.is_some_and(|fleet| !fleet.declaration.providers.is_empty());
    task.no_gateway_calls = has_providers
        && calls.none()
        && !task.journal_expired
        && task.state.is_terminal()
        && task.attempts_begun > 0;
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
        // Asked for in any state, it is found in one.
        CancelOutcome::Requested | CancelOutcome::Elsewhere(_) => StatusCode::ACCEPTED,
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
    may_submit(&caller, &old.fleet, &old.tenant)?;
    if let Some(conversation) = &old.conversation {
        caller.joins_conversation(&app, conversation).await?;
    }
    let fleet = active_fleet(&app, &old.fleet).await?;
    let new = once_more(old, &fleet, now())?;
    let fingerprint = Sha256::digest(id.0.as_bytes()).into();
    let idempotency =
        key.map(|key| Idempotency { scope: caller.idempotency_scope("retry"), key, fingerprint });
    let submitted = app.store.submit(vec![new], idempotency, now()).await?;
    created(&app, submitted).await
}

/// The task that runs an ended one again.
pub fn once_more(old: TaskRecord, fleet: &Fleet, now: Timestamp) -> Answer<NewTask> {
    let total = fleet.task.total_timeout_ms.map(Duration::from_millis);
    Ok(NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: old.fleet,
        tenant: old.tenant,
        input: old.input.ok_or_else(|| Refused::new(500, "store_failed", "the task's input is missing"))?,
        conversation: old.conversation,
        // Somebody asks for it anew: it neither gives way nor pushes in.
        on_busy: OnBusy::Enqueue,
        publish_input: old.publish_input,
        priority: old.priority,
        run_at: None,
        deadline_at: task::deadline(None, None, total, None, now),
        timeout_ms: old.timeout_ms,
        max_attempts: old.max_attempts,
        on_interrupt: old.on_interrupt,
        backoff: old.backoff,
        labels: old.labels,
        retry_of: Some(old.id),
    })
}
