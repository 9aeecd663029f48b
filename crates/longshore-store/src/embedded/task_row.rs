//! The part of a task that changes, and its moves between the hot tables.
//!
//! Each move leaves one hot table, enters another, and counts: a task is in exactly one place.

use longshore_core::batch::BatchId;
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::retention::Dropped;
use longshore_core::retry::Backoff;
use longshore_core::task::{Failure, Hold, OnInterrupt, State};
use longshore_core::time::Timestamp;
use longshore_core::wait::Wait;
use rusqlite::{OptionalExtension, Row, params};

use super::column::{count, get, get_option, hold_text, id};
use super::writer::{Place, Write};
use super::{delivery, event, journal, lane};

pub(super) struct TaskRow {
    pub ord: i64,
    pub id: TaskId,
    pub fleet: FleetName,
    pub state: State,
    pub hold: Option<Hold>,
    /// Only while it waits.
    pub wait: Option<Wait>,
    pub wait_until: Option<Timestamp>,
    pub parent: Option<TaskId>,
    pub priority: i32,
    pub run_at: Option<Timestamp>,
    pub due_at: Option<Timestamp>,
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
    pub finished_at: Option<Timestamp>,
    pub last_event: i64,
    pub batch: Option<BatchId>,
    pub dropped: Dropped,
    pub tenant: TenantName,
    pub deadline_at: Option<Timestamp>,
    /// Its worker was told that the deadline has passed.
    pub expired: bool,
}

const COLUMNS: &str = "ord, id, fleet, state, hold, priority, run_at, due_at, max_attempts, on_interrupt,
    backoff_base_ms, backoff_cap_ms, conversation, conv_seq, publish_input, alone, failed_attempts, attempts,
    interrupted, strikes, cancel_requested, cancel_reason, failure, started_at, finished_at, last_event, batch, dropped,
    tenant, deadline_at, expired, wait_for, wait_until, parent";

impl TaskRow {
    pub(super) fn find(write: &Write<'_>, task: TaskId) -> rusqlite::Result<Option<TaskRow>> {
        write
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM task WHERE id = ?1"))?
            .query_row([id(&task)], TaskRow::read)
            .optional()
    }

    pub(super) fn load(write: &Write<'_>, ord: i64) -> rusqlite::Result<TaskRow> {
        write
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM task WHERE ord = ?1"))?
            .query_row([ord], TaskRow::read)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
        let conversation = get_option(row, 12)?;
        let state = get(row, 3)?;
        Ok(TaskRow {
            ord: row.get(0)?,
            id: get(row, 1)?,
            fleet: get(row, 2)?,
            state,
            hold: get_option(row, 4)?,
            wait: wait(row, 31, state)?,
            wait_until: get_option(row, 32)?,
            parent: get_option(row, 33)?,
            priority: row.get(5)?,
            run_at: get_option(row, 6)?,
            due_at: get_option(row, 7)?,
            max_attempts: count(row, 8)?,
            on_interrupt: get(row, 9)?,
            backoff: Backoff { base_ms: count(row, 10)?, cap_ms: count(row, 11)? },
            conversation: match conversation {
                Some(conversation) => Some((conversation, row.get(13)?)),
                None => None,
            },
            publish_input: row.get(14)?,
            alone: row.get(15)?,
            failed_attempts: count(row, 16)?,
            attempts: count(row, 17)?,
            interrupted: count(row, 18)?,
            strikes: count(row, 19)?,
            cancel_requested: row.get(20)?,
            cancel_reason: row.get(21)?,
            failure: get_option(row, 22)?,
            started_at: get_option(row, 23)?,
            finished_at: get_option(row, 24)?,
            last_event: row.get(25)?,
            batch: get_option(row, 26)?,
            dropped: get(row, 27)?,
            tenant: get(row, 28)?,
            deadline_at: get_option(row, 29)?,
            expired: row.get(30)?,
        })
    }

    pub(super) fn save(&self, write: &Write<'_>) -> rusqlite::Result<()> {
        let failure = self.failure.as_ref().map(|failure| Json::of(failure).text().to_owned());
        write
            .connection
            .prepare_cached(
                "UPDATE task SET state = ?2, hold = ?3, due_at = ?4, alone = ?5, failed_attempts = ?6, attempts = ?7,
                    interrupted = ?8, strikes = ?9, cancel_requested = ?10, cancel_reason = ?11, failure = ?12,
                    started_at = ?13, finished_at = ?14, last_event = ?15, dropped = ?16, expired = ?17,
                    wait_for = ?18, wait_until = ?19
                 WHERE ord = ?1",
            )?
            .execute(params![
                self.ord,
                self.state.as_str(),
                self.hold.map(hold_text),
                self.due_at.map(|at| at.0),
                self.alone,
                self.failed_attempts,
                self.attempts,
                self.interrupted,
                self.strikes,
                self.cancel_requested,
                self.cancel_reason,
                failure,
                self.started_at.map(|at| at.0),
                self.finished_at.map(|at| at.0),
                self.last_event,
                self.dropped.0,
                self.expired,
                self.wait.as_ref().map(Wait::text),
                self.wait_until.map(|at| at.0),
            ])
            .map(drop)
    }

    /// Appends to the task's log; the number is kept when the row is saved.
    pub(super) fn event(
        &mut self,
        write: &mut Write<'_>,
        kind: &str,
        data: &Json,
        at: Timestamp,
    ) -> rusqlite::Result<()> {
        self.last_event += 1;
        event::insert(write, self.ord, self.last_event, kind, data, at)?;
        write.wake_task(self.id);
        Ok(())
    }

    /// Queues it: to run now, at a time, or when its conversation comes to it.
    pub(super) fn queue(
        &mut self,
        write: &mut Write<'_>,
        hold: Hold,
        due: Option<Timestamp>,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        self.leave(write, State::Queued, Some(hold))?;
        (self.state, self.hold, self.due_at) = (State::Queued, Some(hold), due);
        (self.wait, self.wait_until) = (None, None);
        self.enter(write, now)
    }

    /// Takes it out of the queue; its lease is the caller's matter.
    pub(super) fn run(&mut self, write: &mut Write<'_>) -> rusqlite::Result<()> {
        self.leave(write, State::Running, None)?;
        (self.state, self.hold, self.due_at) = (State::Running, None, None);
        Ok(())
    }

    /// Lets it wait for a person or for its children: it is in no hot table.
    pub(super) fn wait(
        &mut self,
        write: &mut Write<'_>,
        wait: Wait,
        until: Option<Timestamp>,
    ) -> rusqlite::Result<()> {
        self.leave(write, State::Waiting, None)?;
        (self.state, self.hold, self.due_at) = (State::Waiting, None, None);
        (self.wait, self.wait_until) = (Some(wait), until);
        Ok(())
    }

    /// Ends it for ever.
    pub(super) fn finish(
        &mut self,
        write: &mut Write<'_>,
        state: State,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        debug_assert!(state.is_terminal() && !self.state.is_terminal());
        self.leave(write, state, None)?;
        if let Some(batch) = self.batch {
            write.touch_batch(batch, now);
        }
        self.dropped = Dropped::at_end(state, journal::exists(write, self.ord)?);
        (self.state, self.hold, self.due_at, self.finished_at) = (state, None, None, Some(now));
        (self.wait, self.wait_until) = (None, None);
        delivery::owe(write, &self.id, &self.fleet, state, now)
    }

    fn place(&self) -> Place {
        Place::of(self.state, self.hold).alone(self.alone)
    }

    fn leave(&self, write: &mut Write<'_>, state: State, hold: Option<Hold>) -> rusqlite::Result<()> {
        let from = self.place();
        let to = Place::of(state, hold).alone(self.alone);
        write.count(&self.fleet, &self.tenant, Some(from), to);
        if let Some(batch) = self.batch {
            write.count_batch(batch, Some(self.state), state);
        }
        match (from, self.due_at) {
            (Place::Runnable | Place::Suspect, _) => write
                .connection
                .prepare_cached(
                    "DELETE FROM runnable WHERE fleet = ?1 AND tenant = ?2 AND rank = ?3 AND ord = ?4",
                )?
                .execute(params![
                    self.fleet.as_str(),
                    self.tenant.as_str(),
                    -i64::from(self.priority),
                    self.ord
                ])
                .map(drop),
            (Place::Delayed, Some(due)) => write
                .connection
                .prepare_cached("DELETE FROM delayed WHERE due_at = ?1 AND ord = ?2")?
                .execute(params![due.0, self.ord])
                .map(drop),
            (Place::Running, _) => lane::freed(write, &self.fleet, &self.tenant),
            _ => Ok(()),
        }
    }

    fn enter(&self, write: &mut Write<'_>, now: Timestamp) -> rusqlite::Result<()> {
        let lane = (&self.fleet, &self.tenant);
        enter(write, lane, (-i64::from(self.priority), self.ord), (self.place(), self.due_at), now)
    }
}

/// What a task waits for, if it does.
pub(super) fn wait(row: &Row<'_>, at: usize, state: State) -> rusqlite::Result<Option<Wait>> {
    if state != State::Waiting {
        return Ok(None);
    }
    let text: Option<String> = row.get(at)?;
    Wait::parse(text.as_deref()).map(Some).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Enters the hot table of a place.
pub(super) fn enter(
    write: &mut Write<'_>,
    (fleet, tenant): (&FleetName, &TenantName),
    (rank, ord): (i64, i64),
    (place, due): (Place, Option<Timestamp>),
    now: Timestamp,
) -> rusqlite::Result<()> {
    match (place, due) {
        (Place::Runnable | Place::Suspect, _) => {
            let alone = place == Place::Suspect;
            // Only an idle worker may take one that has to run alone.
            if alone {
                write.wake_fleet(fleet)
            } else {
                write.wake_one(fleet)
            }
            write
                .connection
                .prepare_cached(
                    "INSERT INTO runnable (fleet, tenant, rank, ord, alone, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                )?
                .execute(params![fleet.as_str(), tenant.as_str(), rank, ord, alone, now.0])
                .map(drop)
        }
        (Place::Delayed, Some(due)) => write
            .connection
            .prepare_cached("INSERT INTO delayed (due_at, ord) VALUES (?1, ?2)")?
            .execute(params![due.0, ord])
            .map(drop),
        _ => Ok(()),
    }
}
