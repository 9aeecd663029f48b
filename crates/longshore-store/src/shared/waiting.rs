//! Tasks that wait: how a wait begins, what a person says, what passes with time.

use longshore_core::id::{FleetName, Held, TaskId};
use longshore_core::json::Json;
use longshore_core::task::{Failure, Hold};
use longshore_core::time::Timestamp;
use longshore_core::wait::{self, Ask, Awaits, Begin, InputRefused, InputWay, Question, TimedOut, Wait};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::changes::{self, Changes};
use super::column::int;
use super::connection::Connection;
use super::fault::DbError;
use super::live::{Live, live_columns};
use super::question::{self, Put};
use super::sql::args;
use super::{Shared, ending, family, list, lock};
use crate::error::{AskError, CallError, InputOutcome, StoreError};

/// One row, whose conversation is not touched, and whose parent learns nothing.
const LOCK: &str =
    concat!("SELECT ", live_columns!(), " FROM @live AS live WHERE id = $1 AND fence = $2 FOR UPDATE");

const TIMED_OUT: &str = "SELECT id FROM @live WHERE wait_until <= $1 ORDER BY wait_until LIMIT $2";

impl Shared {
    pub(crate) async fn ask(
        &self,
        held: Held,
        fleet: FleetName,
        ask: Ask,
        now: Timestamp,
    ) -> Result<Question, AskError> {
        let core = self.core();
        let asked = core.run(async |it| {
            it.begin().await?;
            let Some(row) = it.query_opt(LOCK, args![held.task.0, int(held.fence.0)]).await? else {
                it.roll_back().await;
                return Ok(Err(CallError::StaleFence.into()));
            };
            let mut row = Live::read(&row)?;
            if row.fleet != fleet {
                it.roll_back().await;
                return Ok(Err(CallError::OtherFleet.into()));
            }
            let mut changes = Changes::new(now);
            let there = questions(&it, &row).await?;
            let Some(Put { question, new }) = question::put(&mut changes, &mut row, &ask, &there) else {
                it.roll_back().await;
                return Ok(Err(AskError::TooMany));
            };
            if !new {
                it.roll_back().await;
                return Ok(Ok(question));
            }
            question::insert(&it, &[(held.task.0, question.clone())]).await?;
            changes.save(row, None);
            core.commit(&it, changes).await?;
            Ok(Ok(question))
        });
        asked.await?
    }

    /// A person's word.
    pub(crate) async fn input(
        &self,
        task: TaskId,
        question: Option<String>,
        answer: Json,
        now: Timestamp,
    ) -> Result<InputOutcome, StoreError> {
        let core = self.core();
        let (named, answer) = (question.as_deref(), &answer);
        let done = core.run(async |it| {
            it.begin().await?;
            let mut changes = Changes::new(now);
            let Some(mut row) = lock::tasks(&it, &mut changes, &[task.0]).await?.remove(&task) else {
                it.roll_back().await;
                let state = list::done_state(&it, task).await?;
                return Ok(state.map_or(InputOutcome::NotFound, |state| {
                    InputOutcome::Refused(state, InputRefused::NotWaiting)
                }));
            };
            let asked = questions(&it, &row).await?;
            let way = match wait::input(row.wait.as_ref(), &asked, named, answer, now) {
                Ok(way) => way,
                Err(refused) => {
                    it.roll_back().await;
                    return Ok(InputOutcome::Refused(row.state, refused));
                }
            };
            take(&it, &mut changes, &mut row, way, answer).await?;
            ending::leave(&it, &mut changes, row).await?;
            it.ready(changes::STATEMENTS).await?;
            core.commit(&it, changes).await?;
            Ok(InputOutcome::Taken)
        });
        Ok(done.await?)
    }

    /// Ends waits that have lasted for as long as they were to, at most `most`.
    pub(super) async fn time_out(&self, most: i64, now: Timestamp) -> Result<(), StoreError> {
        let core = self.core();
        let done = core.run(async |it| {
            let rows = it.query(TIMED_OUT, args![now.0, most]).await?;
            let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<Uuid>, _>>()?;
            if ids.is_empty() {
                return Ok(());
            }
            it.begin().await?;
            let mut changes = Changes::new(now);
            let mut rows: Vec<Live> = lock::tasks(&it, &mut changes, &ids).await?.into_values().collect();
            rows.sort_by_key(|row| row.id);
            end_waits(&it, &mut changes, &mut rows).await?;
            ending::leave_all(&it, &mut changes, rows).await?;
            it.ready(changes::STATEMENTS).await?;
            core.commit(&it, changes).await
        });
        Ok(done.await?)
    }
}

/// A task's questions, if it has any.
async fn questions(connection: &Connection, row: &Live) -> Result<Vec<Question>, DbError> {
    if !row.asked {
        return Ok(Vec::new());
    }
    let found = question::of(connection, vec![row.uuid()]).await?;
    Ok(found.into_values().next().unwrap_or_default())
}

/// The data of an event `input`.
#[derive(Serialize)]
struct Said<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    question: Option<&'a str>,
    answer: &'a Json,
}

async fn take(
    connection: &Connection,
    changes: &mut Changes,
    row: &mut Live,
    way: InputWay,
    answer: &Json,
) -> Result<(), DbError> {
    let question = match &way {
        InputWay::Question { name, .. } => Some(&**name),
        InputWay::Interruption { .. } => None,
    };
    if let Some(name) = question {
        let args = args![row.uuid(), name, changes.now.0, answer.text()];
        connection.execute(question::ANSWERED, args).await?;
    }
    row.event(changes, "input", &Json::of(&Said { question, answer }));
    match way {
        InputWay::Question { resumes: false, .. } => {}
        InputWay::Question { resumes: true, .. } | InputWay::Interruption { resume: true } => {
            ending::requeue(changes, row, (Hold::Ready, None), false);
        }
        InputWay::Interruption { resume: false } => {
            let message = "the attempt was interrupted, and a person said that it must not run again";
            ending::fail(changes, row, Failure::lasting("interrupted", message));
        }
    }
    Ok(())
}

/// Those that go on or fail by now; one that was woken meanwhile is left as it is.
async fn end_waits(connection: &Connection, changes: &mut Changes, rows: &mut [Live]) -> Result<(), DbError> {
    let asked = rows.iter().filter(|row| row.asked).map(Live::uuid).collect();
    let questions = question::of(connection, asked).await?;
    for row in rows {
        let Some(wait) = row.wait.clone().filter(|_| row.wait_until.is_some_and(|at| at <= changes.now))
        else {
            continue;
        };
        let on_expiry = match &wait {
            Wait::Question { name } => {
                let asked = questions.get(&row.id).into_iter().flatten();
                asked.filter(|it| it.name == *name).map(|it| it.on_expiry).next()
            }
            _ => None,
        };
        row.event(changes, "wait_timed_out", &Json::of(&json!({ "until": row.wait_until })));
        match wait::timed_out(&wait, on_expiry) {
            TimedOut::Resume => ending::requeue(changes, row, (Hold::Ready, None), false),
            TimedOut::Fail(failure) => ending::fail(changes, row, failure),
        }
    }
    Ok(())
}

/// A task whose attempt ends by waiting; its row is locked, so no child of it ends meanwhile, and nobody answers.
pub(super) struct Beginning<'a> {
    pub row: &'a mut Live,
    pub awaits: &'a Awaits,
    /// When the attempt did.
    pub began: Timestamp,
}

/// Decides whether these tasks have to wait.
pub(super) async fn begin(
    connection: &Connection,
    changes: &mut Changes,
    waits: Vec<Beginning<'_>>,
) -> Result<(), DbError> {
    let parents = waits.iter().filter(|it| matches!(it.awaits, Awaits::Children { .. }));
    let parents = parents.map(|it| it.row.uuid()).collect();
    let asked = waits.iter().filter(|it| it.row.asked && !matches!(it.awaits, Awaits::Children { .. }));
    let asked = asked.map(|it| it.row.uuid()).collect();
    let (seen, questions) =
        (family::seen(connection, parents).await?, question::of(connection, asked).await?);
    let mut new = Vec::new();
    for Beginning { row, awaits, began } in waits {
        let there = questions.get(&row.id).map_or(&[][..], Vec::as_slice);
        let (wait, begin) = match awaits {
            Awaits::Children { which, of, timeout_ms } => {
                let seen = seen.get(&row.id).map_or(&[][..], Vec::as_slice);
                let begin = wait::on_children((*which, of, *timeout_ms), seen, began, changes.now);
                (Wait::Children { which: *which, of: of.clone() }, begin)
            }
            Awaits::Ask(ask) => match question::put(changes, row, ask, there) {
                Some(put) => {
                    let begun = on_question(&put.question, began, changes.now);
                    new.extend(put.new.then_some((row.uuid(), put.question)));
                    begun
                }
                None => refuse("too_many_questions", &AskError::TooMany.to_string()),
            },
            Awaits::Answer { question: name } => match there.iter().find(|it| it.name == *name) {
                Some(question) => on_question(question, began, changes.now),
                None => {
                    let message = format!("it waits for the answer to `{name}`, and never asked that");
                    refuse("unknown_question", &message)
                }
            },
        };
        match begin {
            Begin::Fail(failure) => ending::fail(changes, row, failure),
            Begin::Resume => ending::requeue(changes, row, (Hold::Ready, None), false),
            Begin::Wait { until } => let_wait(changes, row, wait, until),
        }
    }
    question::insert(connection, &new).await
}

fn on_question(question: &Question, began: Timestamp, now: Timestamp) -> (Wait, Begin) {
    (Wait::Question { name: question.name.clone() }, wait::on_question(question, began, now))
}

fn refuse(code: &str, message: &str) -> (Wait, Begin) {
    (Wait::Interruption, Begin::Fail(Failure::lasting(code, message)))
}

/// Lets a task wait.
fn let_wait(changes: &mut Changes, row: &mut Live, wait: Wait, until: Option<Timestamp>) {
    let mut data = match &wait {
        Wait::Interruption => json!({ "reason": "interrupted" }),
        Wait::Children { which, of } => json!({ "reason": "children", "children": which, "of": of }),
        Wait::Question { name } => json!({ "reason": "question", "question": name }),
    };
    data["attempt"] = json!(row.attempt());
    data["until"] = json!(until);
    row.wait(changes, wait, until);
    row.event(changes, "waiting", &Json::of(&data));
}
