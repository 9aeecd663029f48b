//! What agents say when they wait, read and checked: the data of `wait` and of `ask`.

use serde::Deserialize;

use super::{Ask, Awaits, OnExpiry, QUESTION_LIMIT, Which};
use crate::child;
use crate::json::Json;
use crate::units;

/// The shortest and the longest that a task may be told to wait, milliseconds.
const SHORTEST: u64 = 1_000;
const LONGEST: u64 = 366 * 24 * 3_600_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WordsError(String);

fn wrong<T>(why: impl ToString) -> Result<T, WordsError> {
    Err(WordsError(why.to_string()))
}

/// Names of children, questions and steps: 1 to 200 printable characters.
pub fn check_name(name: &str) -> Result<(), WordsError> {
    let valid = (1..=200).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if valid { Ok(()) } else { wrong("a name has 1 to 200 printable characters") }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaitWords {
    children: Option<Which>,
    #[serde(default)]
    of: Vec<String>,
    timeout: Option<String>,
    question: Option<String>,
}

/// Reads `{"children": "all" or "any", "of": […], "timeout": "10m"}` or `{"question": "name"}`.
pub fn read_wait(data: &Json) -> Result<Awaits, WordsError> {
    let words: WaitWords = data.read().or_else(wrong)?;
    match words {
        WaitWords { children: Some(which), of, timeout, question: None } => {
            if of.len() > child::MOST {
                return wrong(format!(
                    "`of` names {} children; a task has at most {}",
                    of.len(),
                    child::MOST
                ));
            }
            of.iter().try_for_each(|name| check_name(name))?;
            let timeout_ms = timeout.as_deref().map(|text| duration("timeout", text)).transpose()?;
            Ok(Awaits::Children { which, of, timeout_ms })
        }
        WaitWords { children: None, of, timeout: None, question: Some(question) } if of.is_empty() => {
            check_name(&question)?;
            Ok(Awaits::Answer { question })
        }
        _ => wrong("expected `children` (with `of` and `timeout` if wanted), or `question`"),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskWords {
    question: Json,
    name: Option<String>,
    schema: Option<Json>,
    expires_in: Option<String>,
    #[serde(default)]
    on_expiry: OnExpiry,
}

/// Reads `{"question": …, "name": "…", "expires_in": "24h", "on_expiry": "fail" or "resume", "schema": …}`.
pub fn read_ask(data: &Json) -> Result<Ask, WordsError> {
    let words: AskWords = data.read().or_else(wrong)?;
    words.name.as_deref().map_or(Ok(()), check_name)?;
    let bytes = words.question.text().len() + words.schema.as_ref().map_or(0, |schema| schema.text().len());
    if bytes > QUESTION_LIMIT {
        return wrong(format!("the question holds {bytes} bytes; at most {QUESTION_LIMIT} are kept"));
    }
    let expires_ms = words.expires_in.as_deref().map(|text| duration("expires_in", text)).transpose()?;
    Ok(Ask {
        name: words.name,
        question: words.question,
        schema: words.schema,
        expires_ms,
        on_expiry: words.on_expiry,
    })
}

fn duration(field: &str, text: &str) -> Result<u64, WordsError> {
    match units::parse_duration(text) {
        Ok(ms @ SHORTEST..=LONGEST) => Ok(ms),
        Ok(_) => wrong(format!("`{field}`: `{text}` is outside 1s to 366 days")),
        Err(error) => wrong(format!("`{field}`: {error}")),
    }
}
