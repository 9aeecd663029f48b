//! What a transaction is going to write: gathered in memory, written in one round trip.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_core::batch::BatchId;
use longshore_core::id::{Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::task::State;
use longshore_core::time::Timestamp;
use longshore_core::wait::Wait;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::batch_counts::{self, BatchChanges};
use super::column::int;
use super::connection::Connection;
use super::counts::{Counts, Place};
use super::delivery::owe;
use super::fault::DbError;
use super::live::Live;
use super::sql::args;
use crate::embedded::hold_text;
use crate::model::Message;
use crate::signals::{Topic, Wakes};

pub(super) struct Changes {
    pub now: Timestamp,
    events: Vec<EventRow>,
    /// Where the newest row of a task's log stands, if more may be put into it.
    newest: HashMap<TaskId, usize>,
    counts: Counts,
    pub batches: BatchChanges,
    updated: Vec<Live>,
    ended: Vec<Ended>,
    /// Parents, locked, of tasks that are locked to be moved: those that wait may go on with what ends here.
    pub parents: HashMap<TaskId, Live>,
    /// Tasks that ran and were cancelled: their children are cancelled, too.
    orphaned: Vec<Uuid>,
    /// Known once they are written: webhooks are owed messages.
    owed: AtomicBool,
    pub messages: Vec<NewMessage>,
    /// Conversations that a task has left without a word.
    used: BTreeSet<String>,
    pub topics: Wakes,
    /// Positions that became runnable, so that nobody looks behind them only.
    pub positions: Vec<(FleetName, i64, Uuid)>,
}

struct Ended {
    row: Live,
    result: Option<Json>,
}

struct EventRow {
    task: Uuid,
    seq: i64,
    at: Timestamp,
    kind: String,
    data: Json,
    more: Vec<(String, Json)>,
    attempt: Option<i64>,
    fence: Option<i64>,
    by_worker: Option<bool>,
}

pub(super) struct NewMessage {
    pub conversation: String,
    seq: i64,
    task: Uuid,
    at: Timestamp,
    data: String,
}

impl NewMessage {
    pub(super) fn published(self) -> Option<Message> {
        let data = Json::trusted(self.data).ok()?;
        Some(Message { seq: u64::try_from(self.seq).ok()?, task: TaskId(self.task), at: self.at, data })
    }
}

pub(super) const INSERT_EVENTS: &str =
    "INSERT INTO @event (task, seq, at, kind, data, more, attempt, fence, by_worker)
     SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[],
        $8::bigint[], $9::boolean[])";

/// Webhooks are owed their messages by the same statement: who has none pays for none. Returns how many are owed.
pub(super) const INSERT_DONE: &str = concat!(
    "WITH ended AS (
     INSERT INTO @done (id, fleet, tenant, state, failed_attempts, attempts, interrupted, strikes, cancel_requested,
        failure, started_at, finished_at, last_event, result, dropped, batch, parent)
     SELECT id, fleet, tenant, state, failed_attempts, attempts, interrupted, strikes, cancel_requested, failure,
        started_at, $13, last_event, result, dropped, batch, parent
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[],
        $9::boolean[], $10::text[], $11::bigint[], $12::bigint[], $14::text[], $15::bigint[],
        $16::uuid[], $17::uuid[])
        AS n (id, fleet, tenant, state, failed_attempts, attempts, interrupted, strikes, cancel_requested, failure,
            started_at, last_event, result, dropped, batch, parent)
     RETURNING id, fleet, tenant, state) ",
    owe!()
);

pub(super) const DELETE_LIVE: &str = "DELETE FROM @live WHERE id = ANY($1)";

pub(super) const UPDATE_LIVE: &str =
    "UPDATE @live AS live SET state = n.state, hold = n.hold, due_at = n.due_at, since = n.since, alone = n.alone,
        failed_attempts = n.failed_attempts, interrupted = n.interrupted, strikes = n.strikes,
        cancel_requested = n.cancel_requested, cancel_reason = n.cancel_reason, failure = n.failure,
        last_event = n.last_event, fence = n.fence, worker = n.worker, claim_seq = n.claim_seq,
        attempt_at = n.attempt_at, last_n = n.last_n, expired = n.expired, wait_for = n.wait_for,
        wait_until = n.wait_until,
        expires_ms = CASE WHEN n.fence IS NULL THEN NULL ELSE live.expires_ms END
     FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bigint[],
        $8::bigint[], $9::bigint[], $10::boolean[], $11::text[], $12::text[], $13::bigint[], $14::bigint[], $15::text[],
        $16::bigint[], $17::bigint[], $18::bigint[], $19::boolean[], $20::text[], $21::bigint[])
        AS n (id, state, hold, due_at, since, alone, failed_attempts, interrupted, strikes, cancel_requested,
            cancel_reason, failure, last_event, fence, worker, claim_seq, attempt_at, last_n, expired, wait_for,
            wait_until)
     WHERE live.id = n.id";

pub(super) const INSERT_MESSAGES: &str = "INSERT INTO @message (conversation, seq, task, at, data)
     SELECT conversation, seq, task, $5, data
     FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::text[]) AS n (conversation, seq, task, data)";

/// Their rows are locked already.
const USED: &str = "UPDATE @conversation SET used_at = greatest(used_at, $2) WHERE id = ANY($1)";

/// Those that have children which have not ended.
const ORPHANED: &str = "INSERT INTO @orphaned (parent)
     SELECT DISTINCT parent FROM @live WHERE parent = ANY($1) ON CONFLICT (parent) DO NOTHING";

/// Statements that a commit may need.
pub(super) const STATEMENTS: &[&str] = &[
    INSERT_EVENTS,
    INSERT_DONE,
    DELETE_LIVE,
    UPDATE_LIVE,
    INSERT_MESSAGES,
    USED,
    ORPHANED,
    super::counts::SAVE,
    super::counts::SAVE_LANES,
    batch_counts::LOCK,
    batch_counts::SAVE,
];

impl Changes {
    pub(super) fn new(now: Timestamp) -> Changes {
        Changes {
            now,
            events: Vec::new(),
            newest: HashMap::new(),
            counts: Counts::default(),
            batches: BatchChanges::default(),
            updated: Vec::new(),
            ended: Vec::new(),
            parents: HashMap::new(),
            orphaned: Vec::new(),
            owed: AtomicBool::new(false),
            messages: Vec::new(),
            used: BTreeSet::new(),
            topics: Wakes::default(),
            positions: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, fleet: &FleetName, tenant: &TenantName, from: Option<Place>, to: Place) {
        if let Some(from) = from {
            self.counts.add(fleet, tenant, from, -1);
        }
        self.counts.add(fleet, tenant, to, 1);
    }

    /// Takes a tenant's lane forward.
    pub(super) fn pass(&mut self, fleet: &FleetName, tenant: &TenantName, pass: u64) {
        self.counts.pass(fleet, tenant, pass);
    }

    /// Ended tasks that are deleted are not counted any more.
    pub(super) fn uncount(&mut self, fleet: &FleetName, tenant: &TenantName, from: Place, number: i64) {
        self.counts.add(fleet, tenant, from, -number);
    }

    /// As [`Changes::count`], for the batch that the task belongs to, if it does.
    pub(super) fn count_batch(&mut self, batch: Option<BatchId>, from: Option<State>, to: State) {
        let Some(batch) = batch else { return };
        self.batches.count(batch, from, to);
        self.wake_batch(batch);
    }

    pub(super) fn wake_batch(&mut self, batch: BatchId) {
        self.topics.insert(Topic::Batch(batch));
    }

    /// One task more that any worker of the fleet may take.
    pub(super) fn runnable(&mut self, fleet: &FleetName, rank: i64, id: TaskId) {
        self.topics.runnable(fleet, 1);
        self.positions.push((fleet.clone(), rank, id.0));
    }

    /// All that wait for tasks of this fleet look again.
    pub(super) fn wake_fleet(&mut self, fleet: &FleetName) {
        self.topics.insert(Topic::Runnable(fleet.clone()));
    }

    pub(super) fn wake_worker(&mut self, worker: &WorkerId) {
        self.topics.insert(Topic::Worker(worker.clone()));
    }

    /// An entry of a task's log, at this instant: put into the row before it if that is of this instant, too.
    pub(super) fn event(&mut self, task: TaskId, seq: i64, kind: &str, data: &Json) {
        self.topics.insert(Topic::Task(task));
        if let Some(row) = self.newest.get(&task).and_then(|at| self.events.get_mut(*at)) {
            row.more.push((kind.to_owned(), data.clone()));
            return;
        }
        self.newest.insert(task, self.events.len());
        let row = self.row(task, seq, self.now, kind, data);
        self.events.push(row);
    }

    /// What an agent said, at its own time.
    pub(super) fn agent_event(&mut self, task: TaskId, seq: i64, at: Timestamp, kind: &str, data: &Json) {
        self.topics.insert(Topic::Task(task));
        self.newest.remove(&task);
        let row = self.row(task, seq, at, kind, data);
        self.events.push(row);
    }

    /// The beginning or the end of an attempt. Always a row of its own: it is looked up by its fence.
    pub(super) fn attempt_event(
        &mut self,
        (task, seq): (TaskId, i64),
        kind: &str,
        data: &Json,
        (attempt, fence): (u32, Fence),
        by_worker: Option<bool>,
    ) {
        self.topics.insert(Topic::Task(task));
        self.newest.insert(task, self.events.len());
        let row = EventRow {
            attempt: Some(i64::from(attempt)),
            fence: Some(int(fence.0)),
            by_worker,
            ..self.row(task, seq, self.now, kind, data)
        };
        self.events.push(row);
    }

    fn row(&self, task: TaskId, seq: i64, at: Timestamp, kind: &str, data: &Json) -> EventRow {
        EventRow {
            task: task.0,
            seq,
            at,
            kind: kind.to_owned(),
            data: data.clone(),
            more: Vec::new(),
            attempt: None,
            fence: None,
            by_worker: None,
        }
    }

    /// Notes a message that is published to its conversation.
    pub(super) fn message(&mut self, conversation: &str, seq: i64, task: Uuid, data: String) {
        let conversation = conversation.to_owned();
        self.messages.push(NewMessage { conversation, seq, task, at: self.now, data });
    }

    /// Tasks have left these conversations; those that are spoken in know that already.
    pub(super) fn left(&mut self, conversations: &[&str]) {
        let spoken: HashSet<&str> = self.messages.iter().map(|it| it.conversation.as_str()).collect();
        let silent = conversations.iter().filter(|name| !spoken.contains(*name));
        self.used.extend(silent.map(|name| (*name).to_owned()));
    }

    /// The row as it stands is written; a finished one goes to those that are done, with its result.
    pub(super) fn save(&mut self, row: Live, result: Option<Json>) {
        if row.state == State::Cancelled && row.attempts > 0 {
            self.orphaned.push(row.uuid());
        }
        if row.state.is_terminal() {
            self.ended.push(Ended { row, result });
        } else {
            self.updated.push(row);
        }
    }

    /// Whom to wake once all of it is durable.
    pub(super) fn wakes(&mut self) -> Wakes {
        if self.owed.load(Ordering::Relaxed) {
            self.topics.insert(Topic::Webhooks);
        }
        std::mem::take(&mut self.topics)
    }

    /// Sends everything; nothing depends on the answers but that they are no errors.
    pub(super) async fn write(&self, connection: &Connection, slot: i16) -> Result<(), DbError> {
        futures_util::try_join!(
            self.write_all_but_batches(connection, slot),
            self.batches.save(connection, self.now)
        )?;
        Ok(())
    }

    pub(super) async fn write_all_but_batches(
        &self,
        connection: &Connection,
        slot: i16,
    ) -> Result<(), DbError> {
        // Counts last, and those of batches after them: their rows are the ones that other transactions wait for.
        futures_util::try_join!(
            self.write_events(connection),
            self.write_ended(connection),
            self.delete_ended(connection),
            self.write_updated(connection),
            self.write_orphaned(connection),
            self.write_messages(connection),
            self.write_used(connection),
            self.counts.save(connection, slot),
        )?;
        Ok(())
    }

    async fn write_events(&self, connection: &Connection) -> Result<(), DbError> {
        let rows = &self.events;
        if rows.is_empty() {
            return Ok(());
        }
        connection
            .execute(
                INSERT_EVENTS,
                args![
                    rows.iter().map(|row| row.task).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.seq).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.at.0).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.kind.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.data.text()).collect::<Vec<_>>(),
                    rows.iter().map(|row| packed(&row.more)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.attempt).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.fence).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.by_worker).collect::<Vec<_>>(),
                ],
            )
            .await
            .map(drop)
    }

    async fn write_ended(&self, connection: &Connection) -> Result<(), DbError> {
        let rows = &self.ended;
        if rows.is_empty() {
            return Ok(());
        }
        let null = Json::null();
        let result = |ended: &Ended| match ended.row.state {
            State::Succeeded => Some(ended.result.as_ref().unwrap_or(&null).text().to_owned()),
            _ => None,
        };
        let owed = connection
            .execute(
                INSERT_DONE,
                args![
                    rows.iter().map(|it| it.row.uuid()).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.fleet.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.tenant.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.state.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|it| i64::from(it.row.failed_attempts)).collect::<Vec<_>>(),
                    rows.iter().map(|it| i64::from(it.row.attempts)).collect::<Vec<_>>(),
                    rows.iter().map(|it| i64::from(it.row.interrupted)).collect::<Vec<_>>(),
                    rows.iter().map(|it| i64::from(it.row.strikes)).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.cancel_requested).collect::<Vec<_>>(),
                    rows.iter().map(|it| failure_text(&it.row)).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.started_at.map(|at| at.0)).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.last_event).collect::<Vec<_>>(),
                    self.now.0,
                    rows.iter().map(result).collect::<Vec<_>>(),
                    rows.iter().map(|it| dropped(&it.row)).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.batch.map(|batch| batch.0)).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.row.parent.map(|parent| parent.0)).collect::<Vec<_>>(),
                ],
            )
            .await?;
        self.owed.store(owed > 0, Ordering::Relaxed);
        Ok(())
    }

    async fn delete_ended(&self, connection: &Connection) -> Result<(), DbError> {
        if self.ended.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = self.ended.iter().map(|it| it.row.uuid()).collect();
        connection.execute(DELETE_LIVE, args![ids]).await.map(drop)
    }

    async fn write_updated(&self, connection: &Connection) -> Result<(), DbError> {
        let rows = &self.updated;
        if rows.is_empty() {
            return Ok(());
        }
        let leases = || rows.iter().map(|row| row.lease.as_ref());
        connection
            .execute(
                UPDATE_LIVE,
                args![
                    rows.iter().map(Live::uuid).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.state.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.hold.map(hold_text)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.due_at.map(|at| at.0)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.since.map(|at| at.0)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.alone).collect::<Vec<_>>(),
                    rows.iter().map(|row| i64::from(row.failed_attempts)).collect::<Vec<_>>(),
                    rows.iter().map(|row| i64::from(row.interrupted)).collect::<Vec<_>>(),
                    rows.iter().map(|row| i64::from(row.strikes)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.cancel_requested).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.cancel_reason.as_deref()).collect::<Vec<_>>(),
                    rows.iter().map(failure_text).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.last_event).collect::<Vec<_>>(),
                    leases().map(|it| it.map(|it| int(it.fence.0))).collect::<Vec<_>>(),
                    leases().map(|it| it.map(|it| it.worker.as_str())).collect::<Vec<_>>(),
                    leases().map(|it| it.map(|it| it.claim_seq)).collect::<Vec<_>>(),
                    leases().map(|it| it.map(|it| it.attempt_at.0)).collect::<Vec<_>>(),
                    leases().map(|it| it.map_or(0, |it| it.last_n)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.expired).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.wait.as_ref().map(Wait::text)).collect::<Vec<_>>(),
                    rows.iter().map(|row| row.wait_until.map(|at| at.0)).collect::<Vec<_>>(),
                ],
            )
            .await
            .map(drop)
    }

    async fn write_orphaned(&self, connection: &Connection) -> Result<(), DbError> {
        if self.orphaned.is_empty() {
            return Ok(());
        }
        connection.execute(ORPHANED, args![self.orphaned]).await.map(drop)
    }

    async fn write_used(&self, connection: &Connection) -> Result<(), DbError> {
        if self.used.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.used.iter().map(String::as_str).collect();
        connection.execute(USED, args![names, self.now.0]).await.map(drop)
    }

    async fn write_messages(&self, connection: &Connection) -> Result<(), DbError> {
        let rows = &self.messages;
        if rows.is_empty() {
            return Ok(());
        }
        connection
            .execute(
                INSERT_MESSAGES,
                args![
                    rows.iter().map(|it| it.conversation.as_str()).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.seq).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.task).collect::<Vec<_>>(),
                    rows.iter().map(|it| it.data.as_str()).collect::<Vec<_>>(),
                    self.now.0,
                ],
            )
            .await
            .map(drop)
    }
}

fn dropped(row: &Live) -> i64 {
    i64::from(Dropped::at_end(row.state, row.journaled).0)
}

fn failure_text(row: &Live) -> Option<String> {
    row.failure.as_ref().map(|failure| Json::of(failure).text().to_owned())
}

/// Further entries of the same instant, as one text.
fn packed(more: &[(String, Json)]) -> Option<String> {
    (!more.is_empty()).then(|| Json::of(&more).text().to_owned())
}

/// What [`packed`] made.
pub(super) fn unpacked(text: &str) -> Result<Vec<(String, Box<RawValue>)>, DbError> {
    serde_json::from_str(text).map_err(|error| DbError::Text(Box::new(error)))
}
