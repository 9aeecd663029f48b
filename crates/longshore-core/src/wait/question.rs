//! Questions of agents to people: their state, their names, and what a person's word is meant for.

use serde::{Deserialize, Serialize};

use super::Wait;
use crate::json::Json;
use crate::time::Timestamp;

/// Questions of one task, over all of its attempts.
pub const QUESTIONS: usize = 100;

/// The most that a question, its schema, or an answer may hold, bytes.
pub const QUESTION_LIMIT: usize = 64 << 10;

/// What an agent wants to happen when nobody answers in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnExpiry {
    /// The task fails with `input_expired`.
    #[default]
    Fail,
    /// It runs again without an answer.
    Resume,
}

impl OnExpiry {
    pub fn as_str(self) -> &'static str {
        match self {
            OnExpiry::Fail => "fail",
            OnExpiry::Resume => "resume",
        }
    }

    pub fn parse(text: &str) -> Option<OnExpiry> {
        [OnExpiry::Fail, OnExpiry::Resume].into_iter().find(|it| it.as_str() == text)
    }
}

/// A question as its agent asks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Absent: `ask-1`, `ask-2`, …, the first that is not settled.
    #[serde(default)]
    pub name: Option<String>,
    /// A text, or whatever whoever shows it understands.
    pub question: Json,
    /// What an answer should look like, for whoever shows the question; answers are not checked against it.
    #[serde(default)]
    pub schema: Option<Json>,
    /// Counted from when the question was first asked; absent: it never expires.
    #[serde(default)]
    pub expires_ms: Option<u64>,
    #[serde(default)]
    pub on_expiry: OnExpiry,
}

/// A question as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    pub name: String,
    pub question: Json,
    pub schema: Option<Json>,
    pub asked_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub on_expiry: OnExpiry,
    pub answered_at: Option<Timestamp>,
    pub answer: Option<Json>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QuestionState {
    Open,
    Answered,
    Expired,
}

impl Question {
    pub fn state(&self, now: Timestamp) -> QuestionState {
        match (self.answered_at, self.expires_at) {
            (Some(_), _) => QuestionState::Answered,
            (None, Some(at)) if at <= now => QuestionState::Expired,
            _ => QuestionState::Open,
        }
    }

    /// Since when an attempt could know how it came out.
    pub fn settled_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state(now) {
            QuestionState::Open => None,
            QuestionState::Answered => self.answered_at,
            QuestionState::Expired => self.expires_at,
        }
    }
}

/// The name of a question that its agent gave none: the first of `ask-1`, `ask-2`, … that is not settled. An agent that
/// counts its questions, and asks them in the same order each time, comes to the same names.
pub fn next_name(questions: &[Question], now: Timestamp) -> String {
    let settled = |name: &str| questions.iter().any(|it| it.name == name && it.settled_at(now).is_some());
    let mut number = 1;
    while settled(&format!("ask-{number}")) {
        number += 1;
    }
    format!("ask-{number}")
}

/// What a person's word on a task is meant for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputWay {
    /// Whether an interrupted task may run again.
    Interruption { resume: bool },
    /// The answer to this question; `resumes`: the task waits for it.
    Question { name: String, resumes: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputRefused {
    /// The task waits for no answer.
    NotWaiting,
    /// An interrupted task is answered `"resume"` or `"fail"`.
    NeitherResumeNorFail,
    UnknownQuestion(String),
    /// Several questions are open: the answer has to name one.
    Several(Vec<String>),
    AlreadyAnswered(String),
    Expired(String),
    TooLarge(usize),
}

/// Decides what a person's word is meant for. Without a name: for what the task waits for, else for its only open question.
pub fn input(
    wait: Option<&Wait>,
    questions: &[Question],
    named: Option<&str>,
    answer: &Json,
    now: Timestamp,
) -> Result<InputWay, InputRefused> {
    let open = |it: &&Question| it.state(now) == QuestionState::Open;
    let name = match (named, wait) {
        (Some(name), _) => name,
        (None, Some(Wait::Interruption)) => return interruption(answer),
        (None, Some(Wait::Question { name })) => name,
        (None, _) => match questions.iter().filter(open).collect::<Vec<_>>()[..] {
            [] => return Err(InputRefused::NotWaiting),
            [one] => &one.name,
            ref several => {
                return Err(InputRefused::Several(several.iter().map(|it| it.name.clone()).collect()));
            }
        },
    };
    let question = questions.iter().find(|it| it.name == name);
    match question.map(|it| it.state(now)) {
        None => Err(InputRefused::UnknownQuestion(name.to_owned())),
        Some(QuestionState::Answered) => Err(InputRefused::AlreadyAnswered(name.to_owned())),
        Some(QuestionState::Expired) => Err(InputRefused::Expired(name.to_owned())),
        Some(QuestionState::Open) if answer.text().len() > QUESTION_LIMIT => {
            Err(InputRefused::TooLarge(answer.text().len()))
        }
        Some(QuestionState::Open) => {
            let resumes = matches!(wait, Some(Wait::Question { name: awaited }) if awaited == name);
            Ok(InputWay::Question { name: name.to_owned(), resumes })
        }
    }
}

fn interruption(answer: &Json) -> Result<InputWay, InputRefused> {
    match answer.read::<String>().as_deref() {
        Ok("resume") => Ok(InputWay::Interruption { resume: true }),
        Ok("fail") => Ok(InputWay::Interruption { resume: false }),
        _ => Err(InputRefused::NeitherResumeNorFail),
    }
}
