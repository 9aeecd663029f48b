//! Runs one attempt at an http agent.

use std::pin::pin;
use std::time::Duration;

use longshore_api::link::Outcome;
use longshore_core::task::{Failure, Interruption};
use serde::Serialize;

use super::HttpAgent;
use super::call::{self, Broken, Done};
use super::service::{TaskEnd, Visit};
use crate::attempt::{Attempt, Why};
use crate::exec::TaskDocument;
use crate::log::{AgentLog, Source};
use crate::outbox::Speaker;
use crate::verdict;

/// How long a task waits for an agent that is down before others get it.
const AGENT_COMES: Duration = Duration::from_secs(10);

/// A connection breaks a moment before its process is known to have ended.
const PROCESS_ENDS: Duration = Duration::from_secs(1);

/// A process may end right after it answered: then the answer is still to be read.
const ANSWER_ARRIVES: Duration = Duration::from_millis(200);

type Answer = Result<Result<Done, Failure>, Broken>;

impl HttpAgent {
    /// Runs one attempt to its end. `None`: its lease is gone, so nothing may be written.
    pub async fn run(&self, attempt: Attempt, speaker: Speaker) -> Option<Outcome> {
        let Attempt { task, mut stop } = attempt;
        let timeout_ms = task.timeout_ms;
        let mut timeout = pin!(tokio::time::sleep(Duration::from_millis(timeout_ms)));
        let visit = tokio::select! {
            biased;
            order = stop.ordered() => return told(order.why),
            visit = tokio::time::timeout(AGENT_COMES, self.visit()) => visit,
        };
        let Ok(visit) = visit else { return told(Why::HandedOver) };
        let body = self.body(&task);
        let mut log = AgentLog::new(Source::Attempt { task: task.id, attempt: task.attempt });
        drop(task); // its input may be large
        let mut answer = pin!(call::run(visit.port(), body, self.setting.result_limit, &speaker, &mut log));
        let outcome = tokio::select! {
            biased;
            order = stop.ordered() => return told(order.why),
            answer = &mut answer => after_answer(answer, &visit).await,
            () = &mut timeout => Some(Outcome::Failed(verdict::timeout(timeout_ms))),
            end = visit.ended() => match tokio::time::timeout(ANSWER_ARRIVES, &mut answer).await {
                Ok(Ok(answer)) => Some(of_answer(answer)),
                Ok(Err(_)) | Err(_) => Some(of_end(end)),
            },
        };
        match stop.now() {
            Some(order) if order.why == Why::Lost => None,
            _ => outcome,
        }
    }

    async fn visit(&self) -> Visit {
        let mut serving = self.serving.subscribe();
        loop {
            let visit = serving.borrow_and_update().as_ref().and_then(|service| service.enter());
            if let Some(visit) = visit {
                return visit;
            }
            if serving.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn body(&self, task: &longshore_api::link::ClaimedTask) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            longshore: u32,
            task: TaskDocument<'a>,
            token: &'a str,
            /// Where this task's calls go, with its token as their key.
            env: std::collections::BTreeMap<String, String>,
        }
        let body = Body {
            longshore: 1,
            task: TaskDocument::new(task, &self.setting.fleet),
            token: &task.token,
            env: self.setting.addresses.of_task(&task.token),
        };
        serde_json::to_vec(&body).expect("plain data always serialises")
    }
}

async fn after_answer(answer: Answer, visit: &Visit) -> Option<Outcome> {
    match answer {
        Ok(answer) => Some(of_answer(answer)),
        Err(Broken(why)) => match tokio::time::timeout(PROCESS_ENDS, visit.ended()).await {
            Ok(end) => Some(of_end(end)),
            Err(_) => Some(Outcome::Failed(Failure::new("agent_unreachable", why))),
        },
    }
}

fn told(why: Why) -> Option<Outcome> {
    match why {
        Why::Lost => None,
        Why::Cancelled => Some(Outcome::Interrupted(Interruption::Cancelled)),
        Why::HandedOver => Some(Outcome::Interrupted(Interruption::HandedOver)),
    }
}

fn of_answer(answer: Result<Done, Failure>) -> Outcome {
    match answer {
        Ok(Done::Result(result)) => Outcome::Succeeded { result },
        Ok(Done::Wait(awaits)) => Outcome::Waited(awaits),
        Err(failure) => Outcome::Failed(failure),
    }
}

fn of_end(end: TaskEnd) -> Outcome {
    match end {
        TaskEnd::Failed(failure) => Outcome::Failed((*failure).clone()),
        TaskEnd::Crashed => Outcome::Interrupted(Interruption::AgentCrashed),
        TaskEnd::HandedOver => Outcome::Interrupted(Interruption::HandedOver),
    }
}
