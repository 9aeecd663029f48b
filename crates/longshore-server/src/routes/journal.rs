//! A task's journal for people, and their word on a task that waits for one.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use longshore_api::journal::{Ask, Call, Difference, Divergence, Journal};
use longshore_core::canonical;
use longshore_core::id::{Fence, TaskId};
use longshore_core::provider::show_money;
use longshore_store::{AskRecord, CallRecord, Digest, DivergenceRecord};

use super::tasks::task_id;
use crate::app::App;
use crate::caller::Caller;
use crate::convert;
use crate::error::{Answer, Refused};
use crate::extract::Param;

/// A task's LLM calls and steps: what was bought, what was given again, and where an attempt went another way.
#[utoipa::path(get, path = "/v1/tasks/{id}/journal", params(("id" = String, Path)),
    responses((status = 200, body = Journal), (status = "4XX", body = longshore_api::problem::Problem, content_type = "application/problem+json")))]
pub async fn journal(
    State(app): State<App>,
    caller: Caller,
    Param(id): Param<String>,
) -> Answer<Json<Journal>> {
    let id = task_id(&id)?;
    caller.task(&app, id).await?;
    let record = app.store.journal(id).await?.ok_or_else(|| Refused::no_task(id))?;
    let attempts = app.store.attempts(id).await?;
    let numbers: HashMap<Fence, u32> =
        attempts.into_iter().map(|attempt| (attempt.fence, attempt.number)).collect();
    let mut divergences = Vec::new();
    for found in app.store.divergences(id).await? {
        divergences.push(divergence(&app, id, found).await?);
    }
    let mut calls: Vec<Call> = record.calls.iter().map(call).collect();
    for ask in &record.asks {
        let same = |call: &CallRecord| {
            (call.generation, call.digest, call.occurrence) == (ask.generation, ask.digest, ask.occurrence)
        };
        // An ask whose call was given up without a trace has nowhere to be shown.
        if let Some(at) = record.calls.iter().position(same) {
            calls[at].asks.push(shown(ask, &numbers));
        }
    }
    Ok(Json(Journal {
        task: id,
        generation: record.generation,
        totals: convert::calls(app.store.call_counts(id).await?),
        calls,
        steps: record.steps.into_iter().map(convert::step).collect(),
        divergences,
        stored_bytes: record.stored_bytes,
    }))
}

fn shown(ask: &AskRecord, numbers: &HashMap<Fence, u32>) -> Ask {
    Ask {
        attempt: numbers.get(&ask.fence).copied().unwrap_or_default(),
        at: ask.at,
        live: ask.live,
        state: ask.state.as_str().into(),
    }
}

fn call(record: &CallRecord) -> Call {
    let state = match (record.status, record.open) {
        (Some(_), _) => "answered",
        (None, true) => "open",
        (None, false) => "given_up",
    };
    Call {
        generation: record.generation,
        request: name(&record.digest),
        occurrence: record.occurrence,
        provider: record.provider.clone(),
        path: record.path.clone(),
        model: record.model.clone(),
        state: state.into(),
        status: record.status,
        begun_at: record.begun_at,
        answered_at: record.answered_at,
        inherited: record.inherited,
        maybe_billed: record.maybe_billed,
        input_tokens: record.used.map(|used| used.input),
        cached_tokens: record.used.map(|used| used.cached),
        output_tokens: record.used.map(|used| used.output),
        cost: record.cost_nano.map(show_money),
        waited_ms: record.waited_ms,
        first_ms: record.first_ms,
        total_ms: record.total_ms,
        size: record.size,
        asks: Vec::new(),
    }
}

/// Short enough for people, long enough to tell a task's requests apart.
fn name(digest: &Digest) -> String {
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn divergence(app: &App, task: TaskId, found: DivergenceRecord) -> Answer<Divergence> {
    let difference = match (found.was, found.now) {
        (Some(was), Some(now)) => difference(app, task, was, now).await?,
        _ => None,
    };
    Ok(Divergence {
        attempt: found.attempt,
        replayed: found.counts.replayed,
        unasked: found.counts.unasked,
        live: found.counts.live,
        bought_again: found.counts.bought_again(),
        difference,
    })
}

async fn difference(app: &App, task: TaskId, was: Digest, now: Digest) -> Answer<Option<Difference>> {
    let Some(was) = text(app, task, was).await? else { return Ok(None) };
    let Some(now) = text(app, task, now).await? else { return Ok(None) };
    let found = canonical::difference(&was, &now);
    Ok(found.map(|found| Difference { path: found.path, was: found.was, now: found.now }))
}

async fn text(app: &App, task: TaskId, digest: Digest) -> Answer<Option<String>> {
    let parts = app.store.call_request(task, digest).await?;
    Ok(parts.map(|(head, field, items)| canonical::join(&head, field.as_deref(), &items)))
}
