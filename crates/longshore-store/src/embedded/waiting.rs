//! Tasks that wait: how a wait begins, what a person says, what passes with time. Questions and their answers.

use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Failure, Hold};
use longshore_core::time::Timestamp;
use longshore_core::wait::{
    self, Ask, Awaits, Begin, InputRefused, InputWay, OnExpiry, QUESTIONS, Question, TimedOut, Wait,
};
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde_json::json;

use super::column::{get, get_option, id};
use super::journal::begin::valid_lease;
use super::lease::Lease;
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, ending, family};
use crate::error::{AskError, InputOutcome, StoreError};

impl Embedded {
    pub(crate) async fn ask(
        &self,
        held: Held,
        fleet: FleetName,
        ask: Ask,
        now: Timestamp,
    ) -> Result<Question, AskError> {
        self.write(move |write| {
            let ord = valid_lease(write, held, &fleet)?.ord;
            let mut row = TaskRow::load(write, ord)?;
            let question = put(write, &mut row, &ask, now)?.ok_or(AskError::TooMany)?;
            row.save(write)?;
            Ok(question)
        })
        .await
    }

    pub(crate) async fn questions(&self, task: TaskId) -> Result<Vec<Question>, StoreError> {
        self.read(move |connection| {
            let select = format!(
                "SELECT {COLUMNS} FROM question WHERE ord = (SELECT ord FROM task WHERE id = ?1) ORDER BY asked_at, name"
            );
            let mut select = connection.prepare_cached(&select)?;
            Ok(select.query_map([id(&task)], read)?.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(crate) async fn input(
        &self,
        task: TaskId,
        question: Option<String>,
        answer: Json,
        now: Timestamp,
    ) -> Result<InputOutcome, StoreError> {
        self.write(move |write| Ok(input(write, task, question.as_deref(), &answer, now)?)).await
    }
}

const COLUMNS: &str = "name, question, schema, asked_at, expires_at, on_expiry, answered_at, answer";

fn read(row: &Row<'_>) -> rusqlite::Result<Question> {
    Ok(Question {
        name: row.get(0)?,
        question: get(row, 1)?,
        schema: get_option(row, 2)?,
        asked_at: get(row, 3)?,
        expires_at: get_option(row, 4)?,
        on_expiry: get(row, 5)?,
        answered_at: get_option(row, 6)?,
        answer: get_option(row, 7)?,
    })
}

/// A task's questions, oldest first.
pub(super) fn questions(connection: &Connection, ord: i64) -> rusqlite::Result<Vec<Question>> {
    let select = format!("SELECT {COLUMNS} FROM question WHERE ord = ?1 ORDER BY asked_at, name");
    connection.prepare_cached(&select)?.query_map([ord], read)?.collect()
}

/// Asks, unless a question of this name is there: then that is the question. `None`: there are too many.
fn put(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    ask: &Ask,
    now: Timestamp,
) -> rusqlite::Result<Option<Question>> {
    let there = questions(write.connection, row.ord)?;
    let name = ask.name.clone().unwrap_or_else(|| wait::next_name(&there, now));
    let known = there.len();
    if let Some(found) = there.into_iter().find(|it| it.name == name) {
        return Ok(Some(found));
    }
    if known >= QUESTIONS {
        return Ok(None);
    }
    let question = Question {
        name,
        question: ask.question.clone(),
        schema: ask.schema.clone(),
        asked_at: now,
        expires_at: ask.expires_ms.map(|ms| now.after(std::time::Duration::from_millis(ms))),
        on_expiry: ask.on_expiry,
        answered_at: None,
        answer: None,
    };
    insert(write, row.ord, &question)?;
    let asked = Asked {
        name: &question.name,
        question: &question.question,
        schema: question.schema.as_ref(),
        expires_at: question.expires_at,
        on_expiry: question.on_expiry,
    };
    row.event(write, "asked", &Json::of(&asked), now)?;
    Ok(Some(question))
}

/// The data of an event `asked`. Numbers of any size go through as they are.
#[derive(Serialize)]
struct Asked<'a> {
    name: &'a str,
    question: &'a Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    on_expiry: OnExpiry,
}

/// The data of an event `input`.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    answer: &'a Json,
}

fn insert(write: &Write<'_>, ord: i64, it: &Question) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "INSERT INTO question (ord, name, question, schema, asked_at, expires_at, on_expiry)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            ord,
            it.name,
            it.question.text(),
            it.schema.as_ref().map(Json::text),
            it.asked_at.0,
            it.expires_at.map(|at| at.0),
            it.on_expiry.as_str(),
        ])
        .map(drop)
}

/// Decides whether a task whose attempt ends by waiting has to.
pub(super) fn begin(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    lease: &Lease,
    awaits: &Awaits,
    now: Timestamp,
) -> rusqlite::Result<(Wait, Begin)> {
    let began: Timestamp = write
        .connection
        .prepare_cached("SELECT started_at FROM attempt WHERE ord = ?1 AND number = ?2")?
        .query_row(params![lease.ord, lease.attempt], |row| get(row, 0))?;
    let question = match awaits {
        Awaits::Children { which, of, timeout_ms } => {
            let seen = family::seen(write.connection, row.ord)?;
            let begin = wait::on_children((*which, of, *timeout_ms), &seen, began, now);
            return Ok((Wait::Children { which: *which, of: of.clone() }, begin));
        }
        Awaits::Ask(ask) => match put(write, row, ask, now)? {
            Some(question) => question,
            None => {
                return Ok((
                    Wait::Interruption,
                    refuse("too_many_questions", &AskError::TooMany.to_string()),
                ));
            }
        },
        Awaits::Answer { question: name } => {
            let found = questions(write.connection, row.ord)?.into_iter().find(|it| it.name == *name);
            match found {
                Some(question) => question,
                None => {
                    let message = format!("it waits for the answer to `{name}`, and never asked that");
                    return Ok((Wait::Interruption, refuse("unknown_question", &message)));
                }
            }
        }
    };
    let begin = wait::on_question(&question, began, now);
    Ok((Wait::Question { name: question.name }, begin))
}

fn refuse(code: &str, message: &str) -> Begin {
    Begin::Fail(Failure::lasting(code, message))
}

/// Lets a task wait.
pub(super) fn wait(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    (wait, until): (Wait, Option<Timestamp>),
    attempt: i64,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut data = match &wait {
        Wait::Interruption => json!({ "reason": "interrupted" }),
        Wait::Children { which, of } => json!({ "reason": "children", "children": which, "of": of }),
        Wait::Question { name } => json!({ "reason": "question", "question": name }),
    };
    data["attempt"] = json!(attempt);
    data["until"] = json!(until);
    row.wait(write, wait, until)?;
    row.event(write, "waiting", &Json::of(&data), now)
}

fn input(
    write: &mut Write<'_>,
    task: TaskId,
    named: Option<&str>,
    answer: &Json,
    now: Timestamp,
) -> rusqlite::Result<InputOutcome> {
    let Some(mut row) = TaskRow::find(write, task)? else { return Ok(InputOutcome::NotFound) };
    if row.state.is_terminal() {
        return Ok(InputOutcome::Refused(row.state, InputRefused::NotWaiting));
    }
    let asked = questions(write.connection, row.ord)?;
    let way = match wait::input(row.wait.as_ref(), &asked, named, answer, now) {
        Ok(way) => way,
        Err(refused) => return Ok(InputOutcome::Refused(row.state, refused)),
    };
    let question = match &way {
        InputWay::Question { name, .. } => Some(&**name),
        InputWay::Interruption { .. } => None,
    };
    if let Some(name) = question {
        answered(write, row.ord, name, answer, now)?;
    }
    row.event(write, "input", &Json::of(&Said { question, answer }), now)?;
    match way {
        InputWay::Question { resumes: false, .. } => {}
        InputWay::Question { resumes: true, .. } | InputWay::Interruption { resume: true } => {
            ending::requeue(write, &mut row, (Hold::Ready, None), false, now)?;
        }
        InputWay::Interruption { resume: false } => {
            let message = "the attempt was interrupted, and a person said that it must not run again";
            let failure = Failure::lasting("interrupted", message);
            ending::fail(write, &mut row, failure, now)?;
        }
    }
    row.save(write)?;
    family::moved(write, &row, now)?;
    Ok(InputOutcome::Taken)
}

fn answered(write: &Write<'_>, ord: i64, name: &str, answer: &Json, now: Timestamp) -> rusqlite::Result<()> {
    write
        .connection
        .prepare_cached(
            "UPDATE question SET answered_at = ?3, answer = ?4 WHERE ord = ?1 AND name = ?2 AND answered_at IS NULL",
        )?
        .execute(params![ord, name, now.0, answer.text()])
        .map(drop)
}

/// Tasks that have waited for as long as they were to, at most `most`.
pub(super) fn time_out(write: &mut Write<'_>, most: usize, now: Timestamp) -> rusqlite::Result<()> {
    let due: Vec<i64> = write
        .connection
        .prepare_cached(
            "SELECT ord FROM task WHERE wait_until IS NOT NULL AND wait_until <= ?1 ORDER BY wait_until LIMIT ?2",
        )?
        .query_map(params![now.0, most as i64], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for ord in due {
        let mut row = TaskRow::load(write, ord)?;
        let Some(wait) = row.wait.clone() else { continue };
        let on_expiry = match &wait {
            Wait::Question { name } => {
                let asked = questions(write.connection, ord)?;
                asked.into_iter().find(|it| it.name == *name).map(|it| it.on_expiry)
            }
            _ => None,
        };
        row.event(write, "wait_timed_out", &Json::of(&json!({ "until": row.wait_until })), now)?;
        match wait::timed_out(&wait, on_expiry) {
            TimedOut::Resume => ending::requeue(write, &mut row, (Hold::Ready, None), false, now)?,
            TimedOut::Fail(failure) => ending::fail(write, &mut row, failure, now)?,
        }
        row.save(write)?;
        family::moved(write, &row, now)?;
    }
    Ok(())
}
