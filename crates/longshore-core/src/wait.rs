//! Tasks that wait without a worker: for their children, for a person.
//!
//! An attempt ends by saying what it waits for. Whether its task waits, runs again at once or fails is decided here, with what
//! is known in the transaction that ends the attempt: so no child's end, and no answer, can slip in between.

mod question;
mod words;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::task::Failure;
use crate::time::Timestamp;
pub use question::{
    Ask, InputRefused, InputWay, OnExpiry, QUESTION_LIMIT, QUESTIONS, Question, QuestionState, input,
    next_name,
};
pub use words::{WordsError, check_name, read_ask, read_wait};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    All,
    Any,
}

/// What an attempt that ended waits for, as its agent said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Awaits {
    Children {
        which: Which,
        /// Their names; empty: all children of the task.
        #[serde(default)]
        of: Vec<String>,
        /// After this the task runs again, whatever its children do.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// The answer to a question that was asked before.
    Answer { question: String },
    /// The answer to a question that is asked now.
    Ask(Ask),
}

/// What a task waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// A person's word whether it may run again.
    Interruption,
    Children {
        which: Which,
        /// Empty: all.
        of: Vec<String>,
    },
    Question {
        name: String,
    },
}

impl Wait {
    /// As it is stored.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data always serialises")
    }

    /// Tasks that waited before there were several things to wait for have no text: they were interrupted.
    pub fn parse(text: Option<&str>) -> Result<Wait, serde_json::Error> {
        text.map_or(Ok(Wait::Interruption), serde_json::from_str)
    }
}

/// What becomes of a task that is to wait.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    Wait {
        until: Option<Timestamp>,
    },
    /// What it waits for is there: back to the queue at once.
    Resume,
    Fail(Failure),
}

/// A child as its parent's wait sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildSeen {
    pub name: String,
    /// Absent: it has not ended.
    pub ended_at: Option<Timestamp>,
}

/// An attempt that waits for what was there this long before it began would do so for ever. Clocks may differ by this.
pub const VAIN: Duration = Duration::from_secs(10);

/// Decides whether a task waits for its children. `began`: when the attempt that says so did.
pub fn on_children(
    (which, of, timeout_ms): (Which, &[String], Option<u64>),
    children: &[ChildSeen],
    began: Timestamp,
    now: Timestamp,
) -> Begin {
    if let Some(unknown) = of.iter().find(|name| children.iter().all(|child| child.name != **name)) {
        return fail("unknown_child", format!("it waits for a child `{unknown}`, and has none of that name"));
    }
    let meant: Vec<_> = children.iter().filter(|child| of.is_empty() || of.contains(&child.name)).collect();
    if meant.is_empty() {
        return fail("nothing_to_wait_for", "it waits for its children, and has none".into());
    }
    let ended = meant.iter().filter_map(|child| child.ended_at);
    let newest = ended.clone().max();
    let enough = match which {
        Which::All => ended.count() == meant.len(),
        Which::Any => newest.is_some(),
    };
    match newest.filter(|_| enough) {
        Some(newest) if newest.after(VAIN) < began => in_vain(which),
        Some(_) => Begin::Resume,
        None => Begin::Wait { until: timeout_ms.map(|ms| now.after(Duration::from_millis(ms))) },
    }
}

fn in_vain(which: Which) -> Begin {
    let what = match which {
        Which::All => "they had all ended before this attempt began: read their results instead",
        Which::Any => "one had ended before this attempt began: name in `of` those that are still to end",
    };
    fail("waited_in_vain", format!("it waits for its children again, but {what}"))
}

/// Decides whether a task waits for an answer.
pub fn on_question(question: &Question, began: Timestamp, now: Timestamp) -> Begin {
    match (question.state(now), question.settled_at(now)) {
        (QuestionState::Expired, _) if question.on_expiry == OnExpiry::Fail => {
            Begin::Fail(expired(&question.name))
        }
        (_, Some(at)) if at.after(VAIN) < began => fail(
            "waited_in_vain",
            format!(
                "it waits for the answer to `{}`, which was there before this attempt began: read it instead",
                question.name
            ),
        ),
        (_, Some(_)) => Begin::Resume,
        (_, None) => Begin::Wait { until: question.expires_at },
    }
}

/// The failure of a task whose question nobody answered in time.
pub fn expired(name: &str) -> Failure {
    failure("input_expired", format!("nobody answered its question `{name}` in time"))
}

/// The time up to which a task was to wait has passed.
#[derive(Clone, Debug, PartialEq)]
pub enum TimedOut {
    Resume,
    Fail(Failure),
}

/// Decides what becomes of a task that has waited for as long as it was to. `on_expiry`: of the question that it waits for.
pub fn timed_out(wait: &Wait, on_expiry: Option<OnExpiry>) -> TimedOut {
    match wait {
        Wait::Question { name } if on_expiry != Some(OnExpiry::Resume) => TimedOut::Fail(expired(name)),
        _ => TimedOut::Resume,
    }
}

/// What the end of a child means for its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnded {
    /// The parent does not wait for it.
    Nothing,
    Resume,
    /// The parent goes on if none of the children that it waits for is left.
    ResumeIfLast,
}

pub fn child_ended(wait: &Wait, child: &str) -> ChildEnded {
    match wait {
        Wait::Children { which, of } if of.is_empty() || of.iter().any(|name| name == child) => match which {
            Which::Any => ChildEnded::Resume,
            Which::All => ChildEnded::ResumeIfLast,
        },
        _ => ChildEnded::Nothing,
    }
}

fn fail(code: &str, message: String) -> Begin {
    Begin::Fail(failure(code, message))
}

/// The same attempt would say the same again: another one cannot help.
fn failure(code: &str, message: String) -> Failure {
    Failure::lasting(code, message)
}

#[cfg(test)]
mod tests;
