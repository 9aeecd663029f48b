//! Asks the API, task by task, what became of everything that was submitted.
//!
//! Judges nothing: [`super::summary`] does.

use longshore_api::client::{Client, ClientError};
use longshore_api::task::Task;
use longshore_core::task::State;
use serde::Deserialize;

use super::submit::Sent;
use crate::error::Outcome;

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
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttemptFacts {
    pub number: u32,
    pub worker: String,
    pub started_ms: i64,
    /// `succeeded`, `failed` or `interrupted`; empty while it runs.
    pub outcome: String,
}

pub async fn audit(client: &Client, sent: &[Sent]) -> Outcome<Vec<TaskFacts>> {
    let mut facts = Vec::with_capacity(sent.len());
    for sent in sent {
        facts.push(ask(client, sent).await?);
    }
    Ok(facts)
}

async fn ask(client: &Client, sent: &Sent) -> Outcome<TaskFacts> {
    let task = match client.task(sent.id).await {
        Ok(task) => task,
        Err(ClientError::Problem(problem)) if problem.status == 404 => return Ok(unknown(sent)),
        Err(error) => return Err(error.into()),
    };
    Ok(TaskFacts {
        id: task.id.to_string(),
        state: Some(task.state),
        interrupted: u64::from(task.interrupted),
        attempts: attempts(&task),
        terminal_events: terminal_events(client, &task).await?,
        result_fits: result_fits(&task, sent),
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

/// What the example agent answers.
#[derive(Debug, PartialEq, Deserialize)]
struct Answer {
    task: String,
    attempt: u32,
    steps: u64,
    tokens: u64,
}

fn result_fits(task: &Task, sent: &Sent) -> bool {
    let winner = task.attempts.iter().find(|attempt| attempt.outcome.as_deref() == Some("succeeded"));
    let Some(winner) = winner else { return false };
    let tokens = sent.arrival.tokens;
    let expected = Answer {
        task: sent.id.to_string(),
        attempt: winner.number,
        steps: (tokens / 100).clamp(1, 20),
        tokens,
    };
    task.result.as_ref().and_then(|result| result.read::<Answer>().ok()) == Some(expected)
}
