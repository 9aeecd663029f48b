//! A task's life: its states, how its attempts end, and what follows from an ending.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::wait::Awaits;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Queued,
    Running,
    Waiting,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub const ALL: [State; 6] =
        [State::Queued, State::Running, State::Waiting, State::Succeeded, State::Failed, State::Cancelled];

    pub fn is_terminal(self) -> bool {
        matches!(self, State::Succeeded | State::Failed | State::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Waiting => "waiting",
            State::Succeeded => "succeeded",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    pub fn parse(text: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// Why a queued task does not run yet. `Ready` waits for nothing but a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    Ready,
    Scheduled,
    Backoff,
    /// An earlier task of the same conversation is not finished.
    Conversation,
}

/// What went wrong in an attempt, in words for people and a code for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable, lower case with underscores: `exit_status`, `killed_by_signal`, `timeout`, `out_of_memory`,
    /// `output_too_large`, `agent_error`, `agent_unreachable`, `spawn_failed`, `poison`, `interrupted`, …
    pub code: String,
    pub message: String,
    /// False when another attempt cannot help (the agent said so, or the same thing must happen again).
    #[serde(default = "yes")]
    pub retryable: bool,
    /// Not sooner than after this long: the agent said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// One that another attempt may mend.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure { code: code.into(), message: message.into(), retryable: true, retry_after_ms: None }
    }

    /// One that would come again.
    pub fn lasting(code: impl Into<String>, message: impl Into<String>) -> Failure {
        Failure { retryable: false, ..Failure::new(code, message) }
    }
}

fn yes() -> bool {
    true
}

/// What a fleet or a task wants to happen after an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnInterrupt {
    /// Run again at once, on another worker.
    #[default]
    Resume,
    /// Fail: for agents whose tools must not run twice.
    Fail,
    /// Wait until a person says whether it may run again.
    Ask,
}

/// What a fleet or a task wants when earlier tasks of its conversation are not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBusy {
    /// Wait for its turn.
    #[default]
    Enqueue,
    /// Be refused.
    Reject,
    /// Cancel them all, and be next once the running one has stopped.
    Interrupt,
}

impl OnBusy {
    pub const ALL: [OnBusy; 3] = [OnBusy::Enqueue, OnBusy::Reject, OnBusy::Interrupt];

    pub fn as_str(self) -> &'static str {
        match self {
            OnBusy::Enqueue => "enqueue",
            OnBusy::Reject => "reject",
            OnBusy::Interrupt => "interrupt",
        }
    }
}

/// What becomes of a task that comes to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It takes the next place.
    LineUp,
    /// It is refused, and with it all that was submitted with it.
    Refuse,
    /// The unfinished ones are cancelled, the newest first, so that none becomes the head only to be cancelled; then it
    /// takes the next place.
    MakeWay,
}

impl OnBusy {
    /// Decides what becomes of a newcomer; `busy`: the conversation has a task that is not finished.
    pub fn arrival(self, busy: bool) -> Arrival {
        match (self, busy) {
            (OnBusy::Reject, true) => Arrival::Refuse,
            (OnBusy::Interrupt, true) => Arrival::MakeWay,
            _ => Arrival::LineUp,
        }
    }
}

/// What is done with a task whose deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtDeadline {
    /// It fails at once.
    Fail,
    /// Its worker is told to stop it, once, as if it were cancelled; [`after`] ends it with its attempt.
    Stop,
    /// It has ended already.
    Nothing,
}

/// Decides what is done with a task whose deadline passes.
pub fn at_deadline(state: State) -> AtDeadline {
    match state {
        State::Queued | State::Waiting => AtDeadline::Fail,
        State::Running => AtDeadline::Stop,
        State::Succeeded | State::Failed | State::Cancelled => AtDeadline::Nothing,
    }
}

/// When a task is given up wherever it stands; none: never.
///
/// What a submission says wins over the fleet's `total_timeout`, which begins with the submission or, if that is later,
/// with `run_at`. Of a `deadline` and an `expires_in` the earlier counts.
pub fn deadline(
    deadline: Option<Timestamp>,
    expires_in: Option<Duration>,
    total_timeout: Option<Duration>,
    run_at: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    let expires = expires_in.map(|wait| now.after(wait));
    let asked = [deadline, expires].into_iter().flatten().min();
    let begins = run_at.map_or(now, |at| at.max(now));
    asked.or_else(|| total_timeout.map(|wait| begins.after(wait)))
}

/// The failure of a task that was given up at its deadline.
pub fn deadline_exceeded() -> Failure {
    Failure::lasting("deadline_exceeded", "its deadline passed before it was done")
}

/// Why an attempt was interrupted: our doing, not the agent's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interruption {
    /// The worker handed its task over: drain, or its agent had to be restarted.
    HandedOver,
    /// The platform saw the worker end, or the worker said goodbye while it still held the task.
    WorkerEnded,
    /// The worker ended by a crash that the agent may have caused (abort, segmentation fault, out of memory).
    WorkerCrashed,
    /// An http agent died with this task among others in flight.
    AgentCrashed,
    /// No heartbeat renewed the lease in time.
    LeaseExpired,
    /// The worker's heartbeat did not list the task: a claim's answer was lost on the way, and no agent started.
    NotHeld,
    /// The same worker registered again with a new nonce.
    Superseded,
    /// The task was cancelled while it ran.
    Cancelled,
    /// An LLM answer that its agent was reading was broken off by longshore.
    CallBroken,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Succeeded,
    Failed(Failure),
    Interrupted(Interruption),
    /// Its agent waits for something, and holds no worker meanwhile.
    Waited(Awaits),
}

/// What is known about a task when one of its attempts ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Attempts that failed before this one.
    pub failed_attempts: u32,
    pub max_attempts: u32,
    /// Poison strikes before this attempt.
    pub strikes: u32,
    pub cancel_requested: bool,
    /// The task's deadline has passed.
    pub expired: bool,
    pub on_interrupt: OnInterrupt,
    /// The attempt left a trace of progress: events of its agent (later: journal entries).
    pub progressed: bool,
    /// It was the only task its worker had in flight.
    pub alone: bool,
}

/// What becomes of a task after an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    Succeed,
    Fail(Failure),
    Cancel,
    /// Back to the queue at once; `alone`: with no other task beside it, since it is suspected of killing workers.
    Requeue {
        alone: bool,
    },
    /// Back to the queue at `at`.
    RetryAt {
        at: Timestamp,
        wait: Duration,
    },
    /// Out of the queue until a person says whether it may run again.
    Ask,
    /// Out of the queue until what its agent waits for is there: [`crate::wait`] says whether it is already.
    Wait,
}

/// The decision with the counters that go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub next: Next,
    pub failed_attempts: u32,
    pub strikes: u32,
}

/// Three strikes, and a task that kills workers is failed.
pub const POISON_STRIKES: u32 = 3;

/// Decides what becomes of a task after an attempt ended.
///
/// `roll` lies in `[0, 1)` and spreads retries out. A cancelled task, and one whose deadline has passed, ends at any
/// ending but success: a result that was already there is kept. Interruptions cost nothing; failures count against `max_attempts`; only an
/// interruption by a crash or an out-of-memory kill can be a strike, and only when the task was alone and left no trace
/// of progress. `on_interrupt` is asked only where an agent may have begun, and never saves a task from poison.
pub fn after(
    ending: &Ending,
    standing: &Standing,
    retry: &crate::retry::Backoff,
    now: Timestamp,
    roll: f64,
) -> Verdict {
    let unchanged =
        |next| Verdict { next, failed_attempts: standing.failed_attempts, strikes: standing.strikes };
    match ending {
        Ending::Succeeded => unchanged(Next::Succeed),
        Ending::Interrupted(_) if standing.cancel_requested => unchanged(Next::Cancel),
        Ending::Waited(_) | Ending::Failed(_) if standing.cancel_requested => unchanged(Next::Cancel),
        Ending::Interrupted(_) | Ending::Failed(_) | Ending::Waited(_) if standing.expired => {
            let failed = u32::from(matches!(ending, Ending::Failed(_)));
            let failed_attempts = standing.failed_attempts.saturating_add(failed);
            Verdict { failed_attempts, ..unchanged(Next::Fail(deadline_exceeded())) }
        }
        Ending::Interrupted(Interruption::Cancelled) => unchanged(Next::Cancel),
        Ending::Waited(_) => unchanged(Next::Wait),
        Ending::Failed(failure) => after_failure(failure, standing, retry, now, roll),
        Ending::Interrupted(cause) => after_interruption(*cause, standing),
    }
}

fn after_failure(
    failure: &Failure,
    standing: &Standing,
    retry: &crate::retry::Backoff,
    now: Timestamp,
    roll: f64,
) -> Verdict {
    let failed_attempts = standing.failed_attempts.saturating_add(1);
    // An out-of-memory kill of the agent is its own failure and a strike as well: it may take its worker next time.
    let strike = failure.code == "out_of_memory" && standing.alone && !standing.progressed;
    let strikes = standing.strikes.saturating_add(u32::from(strike));
    let next = if !failure.retryable || failed_attempts >= standing.max_attempts {
        Next::Fail(failure.clone())
    } else if strikes >= POISON_STRIKES {
        Next::Fail(poison(strikes, &failure.message))
    } else {
        let wait = retry.wait_as_asked(failed_attempts - 1, failure.retry_after_ms, roll);
        Next::RetryAt { at: now.after(wait), wait }
    };
    Verdict { next, failed_attempts, strikes }
}

fn after_interruption(cause: Interruption, standing: &Standing) -> Verdict {
    let crash = matches!(cause, Interruption::WorkerCrashed | Interruption::AgentCrashed);
    // An agent that crashes alone failed; it is interrupted only when it took others along.
    let strike = cause == Interruption::WorkerCrashed && standing.alone && !standing.progressed;
    let strikes = standing.strikes.saturating_add(u32::from(strike));
    let next = if strikes >= POISON_STRIKES {
        Next::Fail(poison(strikes, "its worker crashed each time"))
    } else {
        match standing.on_interrupt {
            // Its agent never started, so no tool can have run: there is nothing to protect.
            _ if cause == Interruption::NotHeld => Next::Requeue { alone: false },
            OnInterrupt::Resume => Next::Requeue { alone: crash },
            OnInterrupt::Fail => Next::Fail(interrupted()),
            OnInterrupt::Ask => Next::Ask,
        }
    };
    Verdict { next, failed_attempts: standing.failed_attempts, strikes }
}

fn interrupted() -> Failure {
    Failure::lasting("interrupted", "the attempt was interrupted and on_interrupt is \"fail\"")
}

fn poison(strikes: u32, what: &str) -> Failure {
    let message = format!("gave up after {strikes} crashes without progress: {what}");
    Failure::lasting("poison", message)
}

#[cfg(test)]
mod tests;
