//! Hands runnable tasks to workers, each with a lease and a fence of its own.

use std::time::Duration;

use longshore_core::id::{ConversationId, FleetName, WorkerId};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;

use super::column::{count, get, get_option, int};
use super::lane::{self, Turn};
use super::lease::{self, Lease};
use super::register::{self, Known};
use super::task_row::TaskRow;
use super::writer::Write;
use super::{Embedded, conversation, waiting};
use crate::error::ClaimError;
use crate::model::{ClaimRequest, LeasedTask, WorkerState};

/// A worker that was silent for longer claims nothing, so nobody waits for it.
const HEARD_OF: Duration = Duration::from_secs(15);

/// The most that one claim gets, so that a greedy one does not hold up the writer.
const MOST: u32 = 1000;

/// A claim's answer is held in memory on both sides: it ends with the task whose input reaches this many bytes.
const MOST_BYTES: usize = 8 << 20;

impl Embedded {
    pub(crate) async fn claim(
        &self,
        request: ClaimRequest,
        now: Timestamp,
    ) -> Result<Vec<LeasedTask>, ClaimError> {
        self.write(move |write| claim(write, &request, now)).await
    }
}

fn claim(write: &mut Write<'_>, it: &ClaimRequest, now: Timestamp) -> Result<Vec<LeasedTask>, ClaimError> {
    let worker = register::known(write.connection, &it.worker, it.nonce)?;
    if it.seq < worker.claim_seq {
        return Err(ClaimError::OutOfOrder { newest: worker.claim_seq });
    }
    if it.seq == worker.claim_seq {
        return Ok(again(write, it)?);
    }
    if worker.state == WorkerState::Draining || worker.drain.is_some() {
        return Ok(Vec::new());
    }
    Ok(fresh(write, it, &worker, now)?)
}

/// The answer was lost on the way: the same leases, those that are still held.
fn again(write: &Write<'_>, it: &ClaimRequest) -> rusqlite::Result<Vec<LeasedTask>> {
    let leases = lease::of_worker(write.connection, &it.worker)?;
    let same = leases.iter().filter(|(_, lease)| lease.claim_seq == int(it.seq));
    same.map(|(_, lease)| leased(write.connection, lease)).collect()
}

fn fresh(
    write: &mut Write<'_>,
    it: &ClaimRequest,
    worker: &Known,
    now: Timestamp,
) -> rusqlite::Result<Vec<LeasedTask>> {
    let Some(turn) = pick(write, it, &worker.fleet, now)? else { return Ok(Vec::new()) };
    let mut tasks = Vec::with_capacity(turn.picks.len());
    let mut bytes = 0;
    for (ord, _) in &turn.picks {
        let lease = grant(write, it, *ord, now)?;
        let task = leased(write.connection, &lease)?;
        bytes += task.input.text().len();
        tasks.push(task);
        if bytes >= MOST_BYTES {
            break;
        }
    }
    if !tasks.is_empty() {
        turn.taken(write, tasks.len(), now)?;
        write
            .connection
            .prepare_cached("UPDATE worker SET claim_seq = ?2 WHERE id = ?1")?
            .execute(params![it.worker.as_str(), int(it.seq)])?;
    }
    Ok(tasks)
}

/// Chooses tasks in order, tenant by tenant; a suspect goes to a worker that does nothing else, and then alone.
fn pick(
    write: &mut Write<'_>,
    it: &ClaimRequest,
    fleet: &FleetName,
    now: Timestamp,
) -> rusqlite::Result<Option<Turn>> {
    let (holds, holds_suspect): (bool, bool) = write
        .connection
        .prepare_cached("SELECT count(*) > 0, coalesce(max(alone), 0) FROM lease WHERE worker = ?1")?
        .query_row([it.worker.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if holds_suspect || it.max == 0 {
        return Ok(None);
    }
    // Caps are held by what is counted: all that was done before has to be.
    write.settle_counts()?;
    let idle = it.in_flight == 0 && !holds;
    if let Some(suspect) = lane::suspect(write.connection, fleet, now)? {
        if idle {
            return Ok(Some(suspect));
        }
        if is_least_busy(write, &it.worker, fleet, now)? {
            // It runs dry and takes the suspect then: else a fleet that is always busy would never run it.
            return Ok(None);
        }
    }
    lane::turn(write.connection, fleet, it.max.min(MOST), now).map(Some)
}

/// Whether no other worker of the fleet that may claim holds fewer tasks; among equals the first by name.
fn is_least_busy(
    write: &Write<'_>,
    worker: &WorkerId,
    fleet: &FleetName,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut select = write.connection.prepare_cached(
        "SELECT worker.id FROM worker LEFT JOIN lease ON lease.worker = worker.id
         WHERE worker.fleet = ?1 AND worker.state = 'ready' AND worker.drain_mode IS NULL AND worker.last_seen > ?2
         GROUP BY worker.id ORDER BY count(lease.ord), worker.id LIMIT 1",
    )?;
    let first: Option<String> =
        select.query_row(params![fleet.as_str(), now.before(HEARD_OF).0], |row| row.get(0)).optional()?;
    Ok(first.as_deref() == Some(worker.as_str()))
}

fn grant(write: &mut Write<'_>, it: &ClaimRequest, ord: i64, now: Timestamp) -> rusqlite::Result<Lease> {
    let mut row = TaskRow::load(write, ord)?;
    row.run(write)?;
    row.attempts += 1;
    row.started_at = row.started_at.or(Some(now));
    let lease = Lease {
        ord,
        fence: write.next_fence(),
        worker: it.worker.clone(),
        claim_seq: int(it.seq),
        attempt: i64::from(row.attempts),
        alone: row.alone,
        cancel: false,
    };
    let expiry = write.expiry(it.lease);
    lease::grant(write, &lease, expiry)?;
    write
        .connection
        .prepare_cached(
            "INSERT INTO attempt (ord, number, fence, worker, started_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![ord, row.attempts, int(lease.fence.0), it.worker.as_str(), now.0])?;
    let data = json!({ "attempt": row.attempts, "worker": it.worker });
    row.event(write, "started", &Json::of(&data), now)?;
    row.save(write)?;
    Ok(lease)
}

/// All that a worker has to know of a task that it holds.
fn leased(connection: &Connection, lease: &Lease) -> rusqlite::Result<LeasedTask> {
    let mut select = connection.prepare_cached(
        "SELECT id, fleet, labels, timeout_ms, conversation, input.data FROM task JOIN input ON input.ord = task.ord
         WHERE task.ord = ?1",
    )?;
    let (conversation, mut task) = select.query_row([lease.ord], |row| {
        let task = LeasedTask {
            id: get(row, 0)?,
            fence: lease.fence,
            fleet: get(row, 1)?,
            attempt: u32::try_from(lease.attempt).unwrap_or(u32::MAX),
            input: get(row, 5)?,
            labels: super::list::labels(row, 2)?,
            conversation: None,
            questions: Vec::new(),
            timeout_ms: count(row, 3)?,
            alone: lease.alone,
        };
        Ok((get_option::<ConversationId>(row, 4)?, task))
    })?;
    if task.attempt > 1 {
        task.questions = waiting::questions(connection, lease.ord)?;
    }
    task.conversation = conversation.map(|id| conversation::history(connection, id)).transpose()?;
    Ok(task)
}
