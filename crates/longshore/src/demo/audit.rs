//! Asks the API, task by task, what became of everything that was submitted.
//!
//! Judges nothing: [`super::summary`] does.

use std::collections::BTreeMap;

use longshore_api::client::{Client, ClientError};
use longshore_api::journal::Ask;
use longshore_api::task::{Attempt, Task};
use longshore_core::task::State;
use serde::Deserialize;

use super::spent::Spent;
use super::submit::Sent;
use super::trace;
use super::twin::Twin;
use crate::error::{Fault, Outcome};

/// What is known about one submitted task at the end.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFacts {
    pub id: String,
    /// `None`: the control plane does not know it.
    pub state: Option<State>,
    pub interrupted: u64,
    pub attempts: Vec<AttemptFacts>,
    /// Events that end a task, in its log.
    pub terminal_events: usize,
    /// The result is what this very input should give.
    pub result_fits: bool,
    pub failure: Option<String>,
    /// Its LLM calls.
    pub spent: Spent,
    /// Answers that attempts had been given before they were interrupted.
    pub had: u64,
    /// Of a task that was interrupted: whether its result is the one of an undisturbed run.
    pub as_undisturbed: Option<bool>,
    /// Which its agent said that it was, in the result.
    pub release: Option<u64>,
}

/// Each worker's release.
pub type Releases = BTreeMap<String, u64>;

#[derive(Clone, Debug, PartialEq)]
pub struct AttemptFacts {
    pub number: u32,
    pub worker: String,
    pub started_ms: i64,
    /// `succeeded`, `failed` or `interrupted`; empty while it runs.
    pub outcome: String,
}

pub async fn audit(
    client: &Client,
    sent: &[Sent],
    twin: &Twin,
    releases: &Releases,
) -> Outcome<Vec<TaskFacts>> {
    let mut facts = Vec::with_capacity(sent.len());
    for sent in sent {
        facts.push(ask(client, sent, twin, releases).await?);
    }
    Ok(facts)
}

async fn ask(client: &Client, sent: &Sent, twin: &Twin, releases: &Releases) -> Outcome<TaskFacts> {
    let task = match client.task(sent.id).await {
        Ok(task) => task,
        Err(ClientError::Problem(problem)) if problem.status == 404 => return Ok(unknown(sent)),
        Err(error) => return Err(error.into()),
    };
    let spent = task.calls.as_ref().map(Spent::read).transpose().map_err(|error| Fault::of(&error))?;
    let spent = spent.unwrap_or_default();
    let (had, as_undisturbed) = match task.interrupted {
        0 => (0, None),
        _ => (had(client, &task).await?, as_undisturbed(&task, twin).await?),
    };
    Ok(TaskFacts {
        id: task.id.to_string(),
        state: Some(task.state),
        interrupted: u64::from(task.interrupted),
        attempts: attempts(&task),
        terminal_events: terminal_events(client, &task).await?,
        result_fits: result_fits(&task, sent, &spent, releases),
        spent,
        had,
        as_undisturbed,
        release: answer(&task).map(|answer| answer.release),
        failure: task.failure.map(|failure| failure.message),
    })
}

fn unknown(sent: &Sent) -> TaskFacts {
    TaskFacts {
        id: sent.id.to_string(),
        state: None,
        interrupted: 0,
        attempts: Vec::new(),
        terminal_events: 0,
        result_fits: false,
        failure: None,
        spent: Spent::default(),
        had: 0,
        as_undisturbed: None,
        release: None,
    }
}

fn attempts(task: &Task) -> Vec<AttemptFacts> {
    let facts = task.attempts.iter().map(|attempt| AttemptFacts {
        number: attempt.number,
        worker: attempt.worker.clone(),
        started_ms: attempt.started_at.0,
        outcome: attempt.outcome.clone().unwrap_or_default(),
    });
    facts.collect()
}

async fn terminal_events(client: &Client, task: &Task) -> Outcome<usize> {
    let (mut after, mut found) = (0, 0);
    loop {
        let page = client.events(task.id, after).await?.items;
        let ends = |kind: &str| State::parse(kind).is_some_and(State::is_terminal);
        found += page.iter().filter(|event| ends(&event.kind)).count();
        match page.last() {
            Some(last) => after = last.seq,
            None => return Ok(found),
        }
    }
}

/// Different calls whose answer had reached an attempt that was interrupted later.
async fn had(client: &Client, task: &Task) -> Outcome<u64> {
    let interrupted =
        task.attempts.iter().filter(|attempt| attempt.outcome.as_deref() == Some("interrupted"));
    let interrupted: Vec<u32> = interrupted.map(|attempt| attempt.number).collect();
    let calls = client.journal(task.id).await?.calls;
    let delivered = |ask: &Ask| ask.state == "delivered" && interrupted.contains(&ask.attempt);
    Ok(calls.iter().filter(|call| call.asks.iter().any(delivered)).count() as u64)
}

/// Compares the whole result: its digest covers every answer.
async fn as_undisturbed(task: &Task, twin: &Twin) -> Outcome<Option<bool>> {
    let Some(winner) = winner(task) else { return Ok(None) };
    let release = answer(task).map_or(0, |answer| answer.release);
    let undisturbed = twin.result(task, winner.number, release).await?;
    let result = task.result.as_ref().and_then(|result| result.read::<serde_json::Value>().ok());
    Ok(Some(result.is_some() && result == undisturbed))
}

/// The attempt that succeeded.
fn winner(task: &Task) -> Option<&Attempt> {
    task.attempts.iter().find(|attempt| attempt.outcome.as_deref() == Some("succeeded"))
}

/// What the demo's agent answers.
#[derive(Debug, Deserialize)]
struct Answer {
    task: String,
    attempt: u32,
    steps: u64,
    tokens: u64,
    release: u64,
    digest: String,
}

fn answer(task: &Task) -> Option<Answer> {
    task.result.as_ref().and_then(|result| result.read().ok())
}

/// It has every token that it was to ask for, and they are those that its journal bought: each step, once. The agent was the
/// release of its worker.
fn result_fits(task: &Task, sent: &Sent, spent: &Spent, releases: &Releases) -> bool {
    let (Some(winner), Some(answer)) = (winner(task), answer(task)) else { return false };
    answer.task == sent.id.to_string()
        && answer.attempt == winner.number
        && releases.get(&winner.worker) == Some(&answer.release)
        && answer.tokens == sent.arrival.tokens
        && answer.steps == trace::calls(answer.tokens)
        && (answer.steps, answer.tokens) == (spent.live, spent.output)
        && answer.digest.len() == 16
}
