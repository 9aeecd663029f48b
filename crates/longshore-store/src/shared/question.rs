//! Questions of agents to people, as they are stored.

use std::collections::HashMap;
use std::time::Duration;

use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use longshore_core::wait::{self, Ask, OnExpiry, QUESTIONS, Question};
use serde::Serialize;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Shared;
use super::changes::Changes;
use super::column::{get, get_option};
use super::connection::Connection;
use super::fault::DbError;
use super::live::Live;
use super::sql::args;
use crate::error::StoreError;

pub(super) const OF: &str =
    "SELECT task, name, question, schema, asked_at, expires_at, on_expiry, answered_at, answer
     FROM @question WHERE task = ANY($1) ORDER BY asked_at, name";

/// Claims look for questions only where there are some.
pub(super) const INSERT: &str = "WITH asked AS (UPDATE @live SET asked = true WHERE id = ANY($1) AND NOT asked)
     INSERT INTO @question (task, name, question, schema, asked_at, expires_at, on_expiry)
     SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[])";

pub(super) const ANSWERED: &str = "UPDATE @question SET answered_at = $3, answer = $4
     WHERE task = $1 AND name = $2 AND answered_at IS NULL";

impl Shared {
    pub(crate) async fn questions(&self, task: TaskId) -> Result<Vec<Question>, StoreError> {
        let found = self.core().run(async |it| of(&it, vec![task.0]).await).await?;
        Ok(found.into_values().next().unwrap_or_default())
    }
}

/// Each task's questions, oldest first.
pub(super) async fn of(
    connection: &Connection,
    tasks: Vec<Uuid>,
) -> Result<HashMap<TaskId, Vec<Question>>, DbError> {
    let mut questions: HashMap<TaskId, Vec<Question>> = HashMap::new();
    if tasks.is_empty() {
        return Ok(questions);
    }
    for row in &connection.query(OF, args![tasks]).await? {
        questions.entry(get(row, 0)?).or_default().push(read(row)?);
    }
    Ok(questions)
}

fn read(row: &Row) -> Result<Question, DbError> {
    Ok(Question {
        name: get(row, 1)?,
        question: get(row, 2)?,
        schema: get_option(row, 3)?,
        asked_at: get(row, 4)?,
        expires_at: get_option(row, 5)?,
        on_expiry: get(row, 6)?,
        answered_at: get_option(row, 7)?,
        answer: get_option(row, 8)?,
    })
}

/// A question that was put.
pub(super) struct Put {
    pub question: Question,
    /// It was not there before, and is to be written.
    pub new: bool,
}

/// Asks, unless a question of this name is among those that are there: then that is the question. `None`: there are too many.
pub(super) fn put(changes: &mut Changes, row: &mut Live, ask: &Ask, there: &[Question]) -> Option<Put> {
    let now = changes.now;
    let name = ask.name.clone().unwrap_or_else(|| wait::next_name(there, now));
    if let Some(found) = there.iter().find(|it| it.name == name) {
        return Some(Put { question: found.clone(), new: false });
    }
    if there.len() >= QUESTIONS {
        return None;
    }
    let question = Question {
        name,
        question: ask.question.clone(),
        schema: ask.schema.clone(),
        asked_at: now,
        expires_at: ask.expires_ms.map(|ms| now.after(Duration::from_millis(ms))),
        on_expiry: ask.on_expiry,
        answered_at: None,
        answer: None,
    };
    let asked = Asked {
        name: &question.name,
        question: &question.question,
        schema: question.schema.as_ref(),
        expires_at: question.expires_at,
        on_expiry: question.on_expiry,
    };
    row.event(changes, "asked", &Json::of(&asked));
    Some(Put { question, new: true })
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

/// Writes new questions of tasks, whose rows are locked.
pub(super) async fn insert(connection: &Connection, new: &[(Uuid, Question)]) -> Result<(), DbError> {
    if new.is_empty() {
        return Ok(());
    }
    let all = || new.iter().map(|(_, question)| question);
    let args = args![
        new.iter().map(|(task, _)| *task).collect::<Vec<_>>(),
        all().map(|it| it.name.as_str()).collect::<Vec<_>>(),
        all().map(|it| it.question.text()).collect::<Vec<_>>(),
        all().map(|it| it.schema.as_ref().map(Json::text)).collect::<Vec<_>>(),
        all().map(|it| it.asked_at.0).collect::<Vec<_>>(),
        all().map(|it| it.expires_at.map(|at| at.0)).collect::<Vec<_>>(),
        all().map(|it| it.on_expiry.as_str()).collect::<Vec<_>>(),
    ];
    connection.execute(INSERT, args).await.map(drop)
}
