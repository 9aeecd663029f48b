//! The end of an attempt, and what becomes of its task: one transaction that deletes the lease by its fence
//! first.

use longshore_core::id::{Held, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::{self, Ending, Failure, Hold, Interruption, Next, Standing, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::{Begin, Wait};
use rusqlite::{OptionalExtension, params};
use serde_json::json;
use uuid::Uuid;

use super::column::{id, int};
use super::lease::{self, Lease};
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, conversation, event, family, journal, lane, waiting};
use crate::error::LinkError;
use crate::model::{EndAttempt, Ended};

impl Embedded {
    pub(crate) async fn end_attempts(
        &self,
        worker: WorkerId,
        _nonce: Uuid,
        endings: Vec<EndAttempt>,
        now: Timestamp,
    ) -> Result<Ended, LinkError> {
        self.write(move |write| Ok(end_attempts(write, &worker, &endings, now)?)).await
    }
}

fn end_attempts(
    write: &mut Write<'_>,
    worker: &WorkerId,
    endings: &[EndAttempt],
    now: Timestamp,
) -> rusqlite::Result<Ended> {
    // Before any of them ends: an agent that died with several tasks leaves several suspects.
    let only = lease::is_only(write, worker)?;
    let mut ended = Ended::default();
    for ending in endings {
        if end_one(write, worker, ending, only, now)? {
            ended.accepted.push(ending.held);
        } else {
            ended.refused.push(ending.held);
        }
    }
    Ok(ended)
}

fn end_one(
    write: &mut Write<'_>,
    worker: &WorkerId,
    it: &EndAttempt,
    only: bool,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let Some(lease) = lease::find(write, it.held)?.filter(|lease| lease.worker == *worker) else {
        return ended_before(write, it.held, worker);
    };
    let Some(lease) = lease::take(write, lease.ord, lease.fence)? else { return Ok(false) };
    event::append(write, it.held.task, &lease, &it.events)?;
    let end =
        End { ending: &it.ending, result: it.result.as_ref(), roll: it.roll, writer: Author::Worker, only };
    end.write(write, &lease, now)?;
    Ok(true)
}

/// Whether this very fence was ended by its worker before: then it only repeats itself.
fn ended_before(write: &Write<'_>, held: Held, worker: &WorkerId) -> rusqlite::Result<bool> {
    let writer: Option<Option<String>> = write
        .connection
        .prepare_cached(
            "SELECT writer FROM attempt
             WHERE ord = (SELECT ord FROM task WHERE id = ?1) AND fence = ?2 AND worker = ?3",
        )?
        .query_row(params![id(&held.task), int(held.fence.0), worker.as_str()], |row| row.get(0))
        .optional()?;
    Ok(writer.flatten().as_deref() == Some("worker"))
}

/// Interrupts attempts that their worker can no longer end; their leases are taken here.
pub(super) fn interrupt(
    write: &mut Write<'_>,
    leases: &[(longshore_core::id::TaskId, Lease)],
    cause: Interruption,
    roll: f64,
    now: Timestamp,
) -> rusqlite::Result<Vec<Held>> {
    let mut released = Vec::with_capacity(leases.len());
    let ending = Ending::Interrupted(cause);
    for (task, lease) in leases {
        let only = leases.len() == 1 && lease::is_only(write, &lease.worker)?;
        if let Some(lease) = lease::take(write, lease.ord, lease.fence)? {
            let end = End { ending: &ending, result: None, roll, writer: Author::Control, only };
            end.write(write, &lease, now)?;
            write.wake_worker(&lease.worker);
            released.push(Held { task: *task, fence: lease.fence });
        }
    }
    Ok(released)
}

/// Who ended an attempt.
#[derive(Clone, Copy)]
enum Author {
    Worker,
    Control,
}

impl Author {
    fn as_str(self) -> &'static str {
        match self {
            Author::Worker => "worker",
            Author::Control => "control",
        }
    }
}

struct End<'a> {
    ending: &'a Ending,
    result: Option<&'a Json>,
    roll: f64,
    writer: Author,
    /// It was the only task that its worker held.
    only: bool,
}

impl End<'_> {
    /// Decides and writes what follows; the lease is gone already.
    fn write(&self, write: &mut Write<'_>, lease: &Lease, now: Timestamp) -> rusqlite::Result<()> {
        let mut row = TaskRow::load(write, lease.ord)?;
        let standing = self.standing(write, &row, lease, now)?;
        let verdict = task::after(self.ending, &standing, &row.backoff, now, self.roll);
        self.end_attempt(write, &mut row, lease, now)?;
        journal::attempt_ends(write, &mut row, lease, now)?;
        if let Ending::Failed(_) = self.ending {
            journal::attempt_failed(write, lease.ord, lease.fence)?;
        }
        row.failed_attempts = verdict.failed_attempts;
        row.strikes = verdict.strikes;
        row.interrupted += u32::from(matches!(self.ending, Ending::Interrupted(_)));
        if let Ending::Failed(failure) = self.ending {
            row.failure = Some(failure.clone());
        }
        match verdict.next {
            Next::Succeed => self.succeed(write, &mut row, lease, now)?,
            Next::Fail(failure) => fail(write, &mut row, failure, now)?,
            Next::Cancel => cancel(write, &mut row, now)?,
            Next::Ask => ask(write, &mut row, lease, now)?,
            Next::Wait => self.wait(write, &mut row, lease, now)?,
            Next::Requeue { alone } => requeue(write, &mut row, (Hold::Ready, None), alone, now)?,
            Next::RetryAt { at, .. } if at <= now => {
                requeue(write, &mut row, (Hold::Ready, None), false, now)?
            }
            Next::RetryAt { at, .. } => requeue(write, &mut row, (Hold::Backoff, Some(at)), false, now)?,
        }
        row.save(write)?;
        // Whoever waits for tasks may have looked while this lease still kept a suspect, or others beside it, away.
        if lease.alone || lane::has_suspects(write.connection, &row.fleet)? {
            write.wake_fleet(&row.fleet);
        }
        conversation::drop_staged(write, &row, lease.fence)?;
        family::moved(write, &row, now)
    }

    fn standing(
        &self,
        write: &Write<'_>,
        row: &TaskRow,
        lease: &Lease,
        now: Timestamp,
    ) -> rusqlite::Result<Standing> {
        let last_n: i64 = write
            .connection
            .prepare_cached("SELECT last_n FROM attempt WHERE ord = ?1 AND number = ?2")?
            .query_row(params![lease.ord, lease.attempt], |row| row.get(0))?;
        Ok(Standing {
            failed_attempts: row.failed_attempts,
            max_attempts: row.max_attempts,
            strikes: row.strikes,
            cancel_requested: row.cancel_requested,
            expired: row.expired || row.deadline_at.is_some_and(|at| at <= now),
            on_interrupt: row.on_interrupt,
            progressed: last_n > 0 || journal::progressed(write, lease.ord, lease.fence)?,
            alone: lease.alone || self.only,
        })
    }

    fn end_attempt(
        &self,
        write: &mut Write<'_>,
        row: &mut TaskRow,
        lease: &Lease,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let (outcome, reason, detail) = match self.ending {
            Ending::Succeeded => ("succeeded", None, None),
            Ending::Failed(failure) => {
                let detail = json!({ "code": failure.code, "message": failure.message });
                ("failed", Some(format!("{}: {}", failure.code, failure.message)), Some(detail))
            }
            Ending::Waited(_) => ("waited", None, None),
            Ending::Interrupted(cause) => {
                let cause = json!(cause);
                ("interrupted", cause.as_str().map(str::to_owned), Some(json!({ "cause": cause })))
            }
        };
        write
            .connection
            .prepare_cached(
                "UPDATE attempt SET ended_at = ?3, outcome = ?4, reason = ?5, writer = ?6
                 WHERE ord = ?1 AND number = ?2",
            )?
            .execute(params![lease.ord, lease.attempt, now.0, outcome, reason, self.writer.as_str()])?;
        let mut data = json!({ "attempt": lease.attempt, "outcome": outcome });
        if let (Some(data), Some(serde_json::Value::Object(detail))) = (data.as_object_mut(), detail) {
            data.extend(detail);
        }
        row.event(write, "attempt_ended", &Json::of(&data), now)
    }

    /// What it waits for may be there already: that is seen here, in the transaction that ends the attempt.
    fn wait(
        &self,
        write: &mut Write<'_>,
        row: &mut TaskRow,
        lease: &Lease,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let Ending::Waited(awaits) = self.ending else { return Ok(()) };
        let (wait, begin) = waiting::begin(write, row, lease, awaits, now)?;
        match begin {
            Begin::Fail(failure) => fail(write, row, failure, now),
            Begin::Resume => requeue(write, row, (Hold::Ready, None), false, now),
            Begin::Wait { until } => waiting::wait(write, row, (wait, until), lease.attempt, now),
        }
    }

    fn succeed(
        &self,
        write: &mut Write<'_>,
        row: &mut TaskRow,
        lease: &Lease,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let null = Json::null();
        write
            .connection
            .prepare_cached("INSERT INTO result (ord, data) VALUES (?1, ?2)")?
            .execute(params![row.ord, self.result.unwrap_or(&null).text()])?;
        conversation::publish(write, row, lease.fence, now)?;
        row.failure = None;
        row.finish(write, State::Succeeded, now)?;
        row.event(write, "succeeded", &Json::of(&json!({ "attempt": lease.attempt })), now)
    }
}

/// Ends a task as failed.
pub(super) fn fail(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    failure: Failure,
    now: Timestamp,
) -> rusqlite::Result<()> {
    row.finish(write, State::Failed, now)?;
    let data = Json::of(&json!({ "code": failure.code, "message": failure.message }));
    row.failure = Some(failure);
    row.event(write, "failed", &data, now)
}

/// Ends a task as cancelled, with the reason that was given for it.
pub(super) fn cancel(write: &mut Write<'_>, row: &mut TaskRow, now: Timestamp) -> rusqlite::Result<()> {
    row.finish(write, State::Cancelled, now)?;
    row.event(write, "cancelled", &Json::of(&json!({ "reason": row.cancel_reason })), now)
}

/// It waits until a person says whether it may run again.
fn ask(write: &mut Write<'_>, row: &mut TaskRow, lease: &Lease, now: Timestamp) -> rusqlite::Result<()> {
    row.wait(write, Wait::Interruption, None)?;
    let data = json!({ "reason": "interrupted", "attempt": lease.attempt, "answers": ["resume", "fail"] });
    row.event(write, "waiting", &Json::of(&data), now)
}

pub(super) fn requeue(
    write: &mut Write<'_>,
    row: &mut TaskRow,
    (hold, due): (Hold, Option<Timestamp>),
    alone: bool,
    now: Timestamp,
) -> rusqlite::Result<()> {
    row.alone = alone;
    row.queue(write, hold, due, now)?;
    row.event(write, "queued", &event::queued(hold, due), now)
}
