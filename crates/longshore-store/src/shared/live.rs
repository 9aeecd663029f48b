//! A task that is not finished: its row, and its moves.
//!
//! A move changes the row in memory and notes what is to be written in [`Changes`]; nothing is written here.

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::retry::Backoff;
use longshore_core::task::{Failure, Hold, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::Wait;
use tokio_postgres::Row;
use uuid::Uuid;

use super::changes::Changes;
use super::column::{count, get, get_option};
use super::counts::Place;
use super::fault::DbError;

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub id: TaskId,
    pub fleet: FleetName,
    pub tenant: TenantName,
    pub state: State,
    pub hold: Option<Hold>,
    /// The negated priority.
    pub rank: i64,
    pub run_at: Option<Timestamp>,
    pub due_at: Option<Timestamp>,
    pub since: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    /// Its worker was told that the deadline has passed.
    pub expired: bool,
    pub timeout_ms: u64,
    pub max_attempts: u32,
    pub on_interrupt: OnInterrupt,
    pub backoff: Backoff,
    pub conversation: Option<(ConversationId, i64)>,
    pub publish_input: bool,
    pub alone: bool,
    pub failed_attempts: u32,
    pub attempts: u32,
    pub interrupted: u32,
    pub strikes: u32,
    pub cancel_requested: bool,
    pub cancel_reason: Option<String>,
    pub failure: Option<Failure>,
    pub started_at: Option<Timestamp>,
    pub last_event: i64,
    pub lease: Option<Lease>,
    pub batch: Option<BatchId>,
    pub parent: Option<TaskId>,
    /// What it waits for, while it does, and until when.
    pub wait: Option<Wait>,
    pub wait_until: Option<Timestamp>,
    /// It has asked questions; written where they are.
    pub asked: bool,
    /// It has a journal or steps. No column: whoever ends a task finds out (`ending`).
    pub journaled: bool,
}

/// The proof that an attempt may still write.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub fence: Fence,
    pub worker: WorkerId,
    pub claim_seq: i64,
    pub attempt_at: Timestamp,
    /// Number of the newest event of its agent.
    pub last_n: i64,
}

/// The columns that [`Live::read`] reads, in its order.
macro_rules! live_columns {
    () => {
        "live.id, live.fleet, live.tenant, live.state, live.hold, live.rank, live.run_at, live.due_at, live.since,
         live.timeout_ms, live.max_attempts, live.on_interrupt, live.backoff_base_ms, live.backoff_cap_ms,
         live.conversation, live.conv_seq, live.publish_input, live.alone, live.failed_attempts, live.attempts,
         live.interrupted, live.strikes, live.cancel_requested, live.cancel_reason, live.failure, live.started_at,
         live.last_event, live.fence, live.worker, live.claim_seq, live.attempt_at, live.last_n, live.batch, live.parent,
         live.deadline_at, live.expired, live.wait_for, live.wait_until, live.asked"
    };
}
pub(super) use live_columns;

/// How many columns there are.
pub(super) const COLUMNS: usize = 39;

impl Live {
    pub(super) fn read(row: &Row) -> Result<Live, DbError> {
        let conversation = match get_option(row, 14)? {
            Some(conversation) => Some((conversation, row.try_get(15)?)),
            None => None,
        };
        Ok(Live {
            id: get(row, 0)?,
            fleet: get(row, 1)?,
            tenant: get(row, 2)?,
            state: get(row, 3)?,
            hold: get_option(row, 4)?,
            rank: row.try_get(5)?,
            run_at: get_option(row, 6)?,
            due_at: get_option(row, 7)?,
            since: get_option(row, 8)?,
            timeout_ms: count(row, 9)?,
            max_attempts: count(row, 10)?,
            on_interrupt: get(row, 11)?,
            backoff: Backoff { base_ms: count(row, 12)?, cap_ms: count(row, 13)? },
            conversation,
            publish_input: row.try_get(16)?,
            alone: row.try_get(17)?,
            failed_attempts: count(row, 18)?,
            attempts: count(row, 19)?,
            interrupted: count(row, 20)?,
            strikes: count(row, 21)?,
            cancel_requested: row.try_get(22)?,
            cancel_reason: row.try_get(23)?,
            failure: get_option(row, 24)?,
            started_at: get_option(row, 25)?,
            last_event: row.try_get(26)?,
            lease: read_lease(row)?,
            batch: get_option(row, 32)?,
            parent: get_option(row, 33)?,
            deadline_at: get_option(row, 34)?,
            expired: row.try_get(35)?,
            wait: get_option(row, 36)?,
            wait_until: get_option(row, 37)?,
            asked: row.try_get(38)?,
            journaled: false,
        })
    }

    /// The number of the attempt that runs, or ran last.
    pub(super) fn attempt(&self) -> u32 {
        self.attempts
    }

    fn place(&self) -> Place {
        Place::of(self.state, self.hold)
    }

    /// Counts a move from where it was to where it is now.
    pub(super) fn moved(&self, changes: &mut Changes, (place, state): (Place, State)) {
        changes.count(&self.fleet, &self.tenant, Some(place), self.place());
        changes.count_batch(self.batch, Some(state), self.state);
    }

    /// Queues it: to run now, at a time, or when its conversation comes to it.
    pub(super) fn queue(&mut self, changes: &mut Changes, hold: Hold, due: Option<Timestamp>) {
        let from = (self.place(), self.state);
        (self.state, self.hold, self.due_at, self.lease) = (State::Queued, Some(hold), due, None);
        (self.wait, self.wait_until) = (None, None);
        self.since = (hold == Hold::Ready).then_some(changes.now);
        self.moved(changes, from);
        if hold == Hold::Ready {
            changes.runnable(&self.fleet, self.rank, self.id);
            if self.alone {
                // Only an idle worker may take it.
                changes.wake_fleet(&self.fleet);
            }
        }
    }

    /// Lets it wait, without a worker.
    pub(super) fn wait(&mut self, changes: &mut Changes, wait: Wait, until: Option<Timestamp>) {
        let from = (self.place(), self.state);
        (self.state, self.hold, self.due_at, self.since, self.lease) =
            (State::Waiting, None, None, None, None);
        (self.wait, self.wait_until) = (Some(wait), until);
        self.moved(changes, from);
    }

    /// Ends it for ever; the row itself goes when the changes are written.
    pub(super) fn finish(&mut self, changes: &mut Changes, state: State) {
        debug_assert!(state.is_terminal() && !self.state.is_terminal());
        let from = (self.place(), self.state);
        (self.state, self.hold, self.due_at, self.since, self.lease) = (state, None, None, None, None);
        (self.wait, self.wait_until) = (None, None);
        self.moved(changes, from);
    }

    /// Appends to the task's log.
    pub(super) fn event(&mut self, changes: &mut Changes, kind: &str, data: &Json) {
        self.last_event += 1;
        changes.event(self.id, self.last_event, kind, data);
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.id.0
    }
}

fn read_lease(row: &Row) -> Result<Option<Lease>, DbError> {
    let Some(fence) = get_option(row, 27)? else { return Ok(None) };
    Ok(Some(Lease {
        fence,
        worker: get(row, 28)?,
        claim_seq: row.try_get(29)?,
        attempt_at: get(row, 30)?,
        last_n: row.try_get(31)?,
    }))
}
