//! The end of attempts, and what becomes of their tasks: whoever finds the lease with its fence may end it, once.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::future::BoxFuture;
use longshore_core::id::{ConversationId, Fence, FleetName, Held, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::{self, Ending, Failure, Hold, Interruption, Next, Standing, State, Verdict};
use longshore_core::time::Timestamp;
use longshore_core::wait::Wait;
use serde_json::json;
use uuid::Uuid;

use super::Shared;
use super::changes::{self, Changes};
use super::column::{get, int};
use super::connection::Connection;
use super::conversation::{self, Spoken};
use super::core::Core;
use super::event;
use super::family;
use super::fault::DbError;
use super::journal::{self, Followed, Have};
use super::lane;
use super::lease::held_by_workers;
use super::live::{Lease, Live};
use super::lock;
use super::sql::args;
use super::waiting::{self, Beginning};
use crate::embedded::queued;
use crate::error::LinkError;
use crate::model::{EndAttempt, Ended, NewAgentEvent};

/// A worker's report as it waits for its turn.
pub(super) struct Report {
    worker: WorkerId,
    endings: Vec<EndAttempt>,
    now: Timestamp,
}

pub(super) fn weigh(report: &Report) -> usize {
    report.endings.len().max(1)
}

/// One attempt that ends.
pub(super) struct EndOf {
    held: Held,
    /// Whose attempt it must be.
    worker: Option<WorkerId>,
    events: Vec<NewAgentEvent>,
    ending: Ending,
    result: Option<Json>,
    roll: f64,
    /// It ends with others of its worker: an agent that died with several tasks leaves several suspects.
    among_others: bool,
}

impl EndOf {
    pub(super) fn interruption(held: Held, cause: Interruption, roll: f64) -> EndOf {
        EndOf {
            held,
            worker: None,
            events: Vec::new(),
            ending: Ending::Interrupted(cause),
            result: None,
            roll,
            among_others: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Worker,
    Control,
}

impl Shared {
    pub(crate) async fn end_attempts(
        &self,
        worker: WorkerId,
        _nonce: Uuid,
        endings: Vec<EndAttempt>,
        now: Timestamp,
    ) -> Result<Ended, LinkError> {
        Ok(self.open.reports.ask(Report { worker, endings, now }).await?)
    }
}

pub(super) fn together<'a>(
    core: &'a Core,
    batch: &'a [Report],
) -> BoxFuture<'a, Result<Vec<Ended>, DbError>> {
    Box::pin(async move {
        let connection = core.connection().await?;
        let done = report(core, &connection, batch).await;
        if done.is_err() {
            connection.roll_back().await;
        }
        done
    })
}

async fn report(core: &Core, connection: &Connection, batch: &[Report]) -> Result<Vec<Ended>, DbError> {
    let now = batch.first().map_or(Timestamp::default(), |report| report.now);
    let mut changes = Changes::new(now);
    let ends: Vec<EndOf> = batch
        .iter()
        .flat_map(|report| report.endings.iter().map(move |ending| (report, ending)))
        .map(|(report, ending)| EndOf {
            held: ending.held,
            worker: Some(report.worker.clone()),
            events: ending.events.clone(),
            ending: ending.ending.clone(),
            result: ending.result.clone(),
            roll: ending.roll,
            among_others: false,
        })
        .collect();
    connection.ready(STATEMENTS).await?;
    connection.ready(changes::STATEMENTS).await?;
    let (begun, ended) =
        futures_util::join!(connection.begin(), end(connection, &mut changes, &ends, By::Worker));
    begun?;
    let accepted: HashSet<Held> = ended?.into_iter().collect();
    let mut answers = Vec::with_capacity(batch.len());
    let mut missing = Vec::new();
    for report in batch {
        let mut ended = Ended::default();
        for ending in &report.endings {
            if accepted.contains(&ending.held) {
                ended.accepted.push(ending.held);
            } else {
                missing.push((answers.len(), ending.held, report.worker.clone()));
            }
        }
        answers.push(ended);
    }
    for (at, held, worker) in missing {
        // Its answer was lost on the way: the same fence wrote it before.
        let answer: &mut Ended = &mut answers[at];
        if ended_before(connection, held, &worker).await? {
            answer.accepted.push(held);
        } else {
            answer.refused.push(held);
        }
    }
    core.commit(connection, changes).await?;
    Ok(answers)
}

const ENDED_BEFORE: &str =
    "SELECT 1 FROM @event AS ended JOIN @event AS began ON began.task = ended.task AND began.fence = ended.fence
     WHERE ended.task = $1 AND ended.fence = $2 AND ended.by_worker AND began.kind = 'started'
        AND began.data::json ->> 'worker' = $3";

async fn ended_before(connection: &Connection, held: Held, worker: &WorkerId) -> Result<bool, DbError> {
    let fence = int(held.fence.0);
    Ok(connection.query_opt(ENDED_BEFORE, args![held.task.0, fence, worker.as_str()]).await?.is_some())
}

const HELD_BY: &str =
    concat!("SELECT w.id, live.number ", held_by_workers!("count(*) AS number"), "WHERE live.number > 0");

/// Fleets in which a task that has to be alone could run now. First all that have to be: else it could be answered by going
/// through the index of all tasks that are ready.
const SUSPECTS: &str =
    "SELECT DISTINCT fleet FROM (SELECT fleet, hold FROM @live WHERE alone AND fleet = ANY($1) OFFSET 0) AS alone
     WHERE hold = 'ready'";

const STATEMENTS: &[&str] =
    &[lock::CONVERSATIONS, lock::TASKS, HELD_BY, SUSPECTS, lane::FREED, journal::HAVE, ENDED_BEFORE];

/// Ends attempts within a transaction that is begun; returns those whose fence was valid.
pub(super) async fn end(
    connection: &Connection,
    changes: &mut Changes,
    ends: &[EndOf],
    by: By,
) -> Result<Vec<Held>, DbError> {
    let ids: Vec<Uuid> = ends.iter().map(|end| end.held.task.0).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let (rows, journaled) =
        futures_util::try_join!(lock::tasks(connection, changes, &ids), journal::have(connection, &ids))?;
    let mut rows = rows;
    let held_by = held_by(connection, &rows, ends).await?;
    let mut ended = Vec::with_capacity(ends.len());
    let mut done: Vec<Done<'_>> = Vec::with_capacity(ends.len());
    let mut waits: Vec<(usize, Timestamp)> = Vec::new();
    for end in ends {
        let Some(row) = rows.get(&end.held.task) else { continue };
        let Some(lease) = row.lease.clone().filter(|lease| lease.fence == end.held.fence) else { continue };
        if end.worker.as_ref().is_some_and(|worker| *worker != lease.worker) {
            continue;
        }
        let Some(mut row) = rows.remove(&end.held.task) else { continue };
        let only = held_by.get(lease.worker.as_str()) == Some(&1) && !end.among_others;
        let was_alone = row.alone;
        let said = event::append(changes, &mut row, &end.events);
        row.journaled = journaled.any.contains(&end.held.task);
        let followed = match journaled.calls.contains(&end.held.task) {
            true => journal::attempt_ends(connection, &row, &lease, &end.ending).await?,
            false => Followed::default(),
        };
        let progressed = said.last_n > 0 || followed.progressed;
        let verdict = decide(&row, end, (progressed, only), changes.now);
        end_attempt(changes, &mut row, &lease, end, by);
        if let Some(data) = followed.diverged {
            row.event(changes, "diverged", &data);
        }
        note(&mut row, &verdict, end);
        if verdict.next == Next::Wait {
            waits.push((done.len(), lease.attempt_at));
        }
        settle(changes, &mut row, verdict.next);
        if by == By::Control {
            changes.wake_worker(&lease.worker);
        }
        ended.push(end.held);
        done.push(Done { row, end, fence: lease.fence, was_alone, messages: said.messages });
    }
    if !waits.is_empty() {
        let waiting = done.iter_mut().enumerate().filter_map(|(at, done)| {
            let (_, began) = waits.iter().find(|(wait, _)| *wait == at)?;
            let Ending::Waited(awaits) = &done.end.ending else { return None };
            Some(Beginning { row: &mut done.row, awaits, began: *began })
        });
        waiting::begin(connection, changes, waiting.collect()).await?;
    }
    // Those whose fence was stale are as they were, and may be parents.
    changes.parents.extend(rows);
    finish(connection, changes, done).await?;
    Ok(ended)
}

/// How many tasks their workers hold, where somebody may have to be blamed: for attempts that did not succeed.
async fn held_by(
    connection: &Connection,
    rows: &HashMap<TaskId, Live>,
    ends: &[EndOf],
) -> Result<HashMap<String, i64>, DbError> {
    let unhappy = ends.iter().filter(|end| !matches!(end.ending, Ending::Succeeded));
    let workers: BTreeSet<&str> = unhappy
        .filter_map(|end| rows.get(&end.held.task)?.lease.as_ref())
        .map(|lease| lease.worker.as_str())
        .collect();
    let workers: Vec<&str> = workers.into_iter().collect();
    if workers.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = connection.query(HELD_BY, args![workers]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn decide(row: &Live, end: &EndOf, (progressed, only): (bool, bool), now: Timestamp) -> Verdict {
    let standing = Standing {
        failed_attempts: row.failed_attempts,
        max_attempts: row.max_attempts,
        strikes: row.strikes,
        cancel_requested: row.cancel_requested,
        expired: row.expired || row.deadline_at.is_some_and(|at| at <= now),
        on_interrupt: row.on_interrupt,
        progressed,
        alone: row.alone || only,
    };
    task::after(&end.ending, &standing, &row.backoff, now, end.roll)
}

fn end_attempt(changes: &mut Changes, row: &mut Live, lease: &Lease, end: &EndOf, by: By) {
    let (outcome, detail) = match &end.ending {
        Ending::Succeeded => ("succeeded", json!({})),
        Ending::Failed(failure) => ("failed", json!({ "code": failure.code, "message": failure.message })),
        Ending::Interrupted(cause) => ("interrupted", json!({ "cause": cause })),
        Ending::Waited(_) => ("waited", json!({})),
    };
    let mut data = json!({ "attempt": row.attempt(), "outcome": outcome });
    if let (Some(data), serde_json::Value::Object(detail)) = (data.as_object_mut(), detail) {
        data.extend(detail);
    }
    row.last_event += 1;
    let (place, attempt) = ((row.id, row.last_event), (row.attempt(), lease.fence));
    changes.attempt_event(place, "attempt_ended", &Json::of(&data), attempt, Some(by == By::Worker));
}

fn note(row: &mut Live, verdict: &Verdict, end: &EndOf) {
    row.failed_attempts = verdict.failed_attempts;
    row.strikes = verdict.strikes;
    row.interrupted += u32::from(matches!(end.ending, Ending::Interrupted(_)));
    if let Ending::Failed(failure) = &end.ending {
        row.failure = Some(failure.clone());
    }
}

fn settle(changes: &mut Changes, row: &mut Live, next: Next) {
    match next {
        Next::Succeed => {
            row.failure = None;
            row.finish(changes, State::Succeeded);
            let attempt = row.attempt();
            row.event(changes, "succeeded", &Json::of(&json!({ "attempt": attempt })));
        }
        Next::Fail(failure) => fail(changes, row, failure),
        Next::Cancel => cancel(changes, row),
        Next::Ask => ask(changes, row),
        // Decided when all that end here are known (`waiting`).
        Next::Wait => {}
        Next::Requeue { alone } => requeue(changes, row, (Hold::Ready, None), alone),
        Next::RetryAt { at, .. } if at <= changes.now => requeue(changes, row, (Hold::Ready, None), false),
        Next::RetryAt { at, .. } => requeue(changes, row, (Hold::Backoff, Some(at)), false),
    }
}

/// Ends a task as failed.
pub(super) fn fail(changes: &mut Changes, row: &mut Live, failure: Failure) {
    row.finish(changes, State::Failed);
    let data = Json::of(&json!({ "code": failure.code, "message": failure.message }));
    row.failure = Some(failure);
    row.event(changes, "failed", &data);
}

/// Ends a task that was to be cancelled.
pub(super) fn cancel(changes: &mut Changes, row: &mut Live) {
    row.finish(changes, State::Cancelled);
    let data = Json::of(&json!({ "reason": row.cancel_reason }));
    row.event(changes, "cancelled", &data);
}

fn ask(changes: &mut Changes, row: &mut Live) {
    row.wait(changes, Wait::Interruption, None);
    let data = json!({ "reason": "interrupted", "attempt": row.attempt(), "answers": ["resume", "fail"] });
    row.event(changes, "waiting", &Json::of(&data));
}

pub(super) fn requeue(
    changes: &mut Changes,
    row: &mut Live,
    (hold, due): (Hold, Option<Timestamp>),
    alone: bool,
) {
    row.alone = alone;
    row.queue(changes, hold, due);
    row.event(changes, "queued", &queued(hold, due));
}

/// A task whose attempt has ended.
struct Done<'a> {
    row: Live,
    end: &'a EndOf,
    fence: Fence,
    was_alone: bool,
    /// What its last words add to its conversation.
    messages: Vec<String>,
}

/// What tasks that moved mean for others: words of their conversations, who is next there, who waits beside a suspect, or
/// for its children.
async fn finish(
    connection: &Connection,
    changes: &mut Changes,
    mut done: Vec<Done<'_>>,
) -> Result<(), DbError> {
    family::tell_parents(connection, changes, done.iter_mut().map(|done| &mut done.row).collect()).await?;
    let (mut fleets, mut tenants) = (BTreeSet::new(), BTreeSet::new());
    let mut spoken: Vec<Spoken> = Vec::new();
    let mut left: Vec<(ConversationId, TaskId)> = Vec::new();
    for Done { row, end, fence, was_alone, messages } in done {
        if was_alone {
            // Whoever waits for tasks may have looked while this lease still kept others away.
            changes.wake_fleet(&row.fleet);
        }
        if let Some((conversation, _)) = row.conversation.clone() {
            let publish = row.state == State::Succeeded;
            let input = publish && row.publish_input;
            if row.state.is_terminal() {
                left.push((conversation.clone(), row.id));
            }
            let tenant = row.tenant.clone();
            spoken.push(Spoken {
                task: row.id,
                fence,
                conversation,
                tenant: tenant.to_string(),
                publish,
                input,
                messages,
            });
        }
        fleets.insert(row.fleet.clone());
        tenants.insert(row.tenant.clone());
        changes.save(row, end.result.clone());
    }
    wake(connection, changes, &fleets, &tenants).await?;
    conversation::publish(connection, changes, &spoken).await?;
    conversation::advance(connection, changes, &left).await
}

/// Whoever waits for tasks of these fleets may get some now: those that must run alone, or those that a cap held.
async fn wake(
    connection: &Connection,
    changes: &mut Changes,
    fleets: &BTreeSet<FleetName>,
    tenants: &BTreeSet<TenantName>,
) -> Result<(), DbError> {
    let fleets: Vec<&str> = fleets.iter().map(FleetName::as_str).collect();
    let tenants: Vec<&str> = tenants.iter().map(TenantName::as_str).collect();
    if fleets.is_empty() {
        return Ok(());
    }
    let (suspects, ()) = futures_util::try_join!(
        async { connection.query(SUSPECTS, args![fleets]).await },
        lane::freed(connection, changes, &fleets, &tenants),
    )?;
    for row in &suspects {
        changes.wake_fleet(&get(row, 0)?);
    }
    Ok(())
}

/// Saves a row that did not run; if it has ended, its conversation goes on.
pub(super) async fn leave(connection: &Connection, changes: &mut Changes, row: Live) -> Result<(), DbError> {
    leave_all(connection, changes, vec![row]).await
}

/// As [`leave`], for many.
pub(super) async fn leave_all(
    connection: &Connection,
    changes: &mut Changes,
    mut rows: Vec<Live>,
) -> Result<(), DbError> {
    family::tell_parents(connection, changes, rows.iter_mut().collect()).await?;
    let ended = || rows.iter().filter(|row| row.state.is_terminal());
    let left: Vec<_> =
        ended().filter_map(|row| Some((row.conversation.as_ref()?.0.clone(), row.id))).collect();
    // Earlier attempts of theirs may have asked; one that never ran has nothing.
    let ran: Vec<Uuid> = ended().filter(|row| row.attempts > 0).map(Live::uuid).collect();
    let journaled = if ran.is_empty() { Have::default() } else { journal::have(connection, &ran).await? };
    for mut row in rows {
        row.journaled = journaled.any.contains(&row.id);
        changes.save(row, None);
    }
    conversation::advance(connection, changes, &left).await
}
