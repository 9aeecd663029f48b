//! What a command works with: the connection, the numbers that only grow, and the effects that wait for the
//! commit.

use std::time::Duration;

use longshore_core::batch::BatchId;
use longshore_core::id::{Fence, FleetName, TaskId, TenantName, WorkerId};
use longshore_core::task::State;
use longshore_core::time::{ServiceTime, Timestamp};
use rusqlite::{Connection, params};

use super::counts::{Deltas, Place};
use crate::embedded::lane;
use crate::signals::{Topic, Wakes};

/// The row `clock`, kept by the writer: nobody else changes it.
pub(super) struct Memory {
    service: ServiceTime,
    next_fence: i64,
    next_ord: i64,
    /// Differs from the row in a way that must not be lost.
    unsaved: bool,
    /// No lease expires before this; a hint, so that most ticks need not look.
    none_expires_before: ServiceTime,
    /// There may be a cap; a hint, so that most endings need not look.
    capped: bool,
}

impl Memory {
    pub(super) fn load(connection: &Connection) -> rusqlite::Result<Memory> {
        let capped = lane::any_caps(connection)?;
        connection.query_row("SELECT service_ms, next_fence, next_ord FROM clock", [], |row| {
            Ok(Memory {
                service: ServiceTime(row.get(0)?),
                next_fence: row.get(1)?,
                next_ord: row.get(2)?,
                unsaved: false,
                none_expires_before: ServiceTime(i64::MIN),
                capped,
            })
        })
    }

    pub(super) fn save(&self, connection: &Connection, deltas: &Deltas) -> rusqlite::Result<()> {
        if self.unsaved || !deltas.is_empty() {
            connection
                .prepare_cached("UPDATE clock SET service_ms = ?1, next_fence = ?2, next_ord = ?3")?
                .execute(params![self.service.0, self.next_fence, self.next_ord])?;
        }
        deltas.save(connection)
    }

    pub(super) fn saved(&mut self) {
        self.unsaved = false;
    }

    /// Something was rolled back: hints may be wrong. Numbers that were given out are not given out again.
    pub(super) fn distrust(&mut self) {
        self.none_expires_before = ServiceTime(i64::MIN);
    }
}

/// One command's view of the store.
pub(in crate::embedded) struct Write<'a> {
    pub(in crate::embedded) connection: &'a Connection,
    memory: &'a mut Memory,
    topics: Wakes,
    /// Changes of counts by earlier commands of the group that are not written yet.
    before: Deltas,
    /// Such changes by this command.
    deltas: Deltas,
    /// Earlier ones that this command wrote: taken back with it.
    settled: Deltas,
}

/// What a command leaves to be done once it is known whether it is kept.
pub(super) struct Effects {
    topics: Wakes,
    before: Deltas,
    deltas: Deltas,
    settled: Deltas,
}

impl Effects {
    pub(super) fn kept(mut self) -> (Wakes, Deltas) {
        self.before.add(self.deltas);
        (self.topics, self.before)
    }

    pub(super) fn taken_back(mut self) -> Deltas {
        self.before.add(self.settled);
        self.before
    }
}

impl<'a> Write<'a> {
    pub(super) fn new(connection: &'a Connection, memory: &'a mut Memory, before: Deltas) -> Write<'a> {
        let (topics, deltas, settled) = (Wakes::default(), Deltas::default(), Deltas::default());
        Write { connection, memory, topics, before, deltas, settled }
    }

    pub(super) fn into_effects(self) -> Effects {
        Effects { topics: self.topics, before: self.before, deltas: self.deltas, settled: self.settled }
    }

    /// Writes the counts that wait for the commit, so that they can be read.
    pub(in crate::embedded) fn settle_counts(&mut self) -> rusqlite::Result<()> {
        for deltas in [&self.before, &self.deltas] {
            deltas.save(self.connection)?;
            self.memory.unsaved |= !deltas.is_empty();
        }
        self.deltas = Deltas::default();
        self.settled.add(std::mem::take(&mut self.before));
        Ok(())
    }

    /// Whether the end of a task may let others start.
    pub(in crate::embedded) fn capped(&self) -> bool {
        self.memory.capped
    }

    /// Caps may have been declared: from now on it is looked at them.
    pub(in crate::embedded) fn caps_changed(&mut self) -> rusqlite::Result<()> {
        self.memory.capped |= lane::any_caps(self.connection)?;
        Ok(())
    }

    pub(in crate::embedded) fn next_fence(&mut self) -> Fence {
        self.memory.unsaved = true;
        self.memory.next_fence += 1;
        Fence(self.memory.next_fence as u64 - 1)
    }

    /// Numbers tasks in order of submission.
    pub(in crate::embedded) fn next_ord(&mut self) -> i64 {
        self.memory.unsaved = true;
        self.memory.next_ord += 1;
        self.memory.next_ord - 1
    }

    pub(in crate::embedded) fn service(&self) -> ServiceTime {
        self.memory.service
    }

    /// Advances service time. It is saved with what depends on it: without leases nothing does.
    pub(in crate::embedded) fn advance(&mut self, elapsed: Option<Duration>, link_seen: bool, leases: bool) {
        let now = self.memory.service.tick(elapsed, link_seen);
        self.memory.unsaved |= leases && now != self.memory.service;
        self.memory.service = now;
    }

    /// When a lease of this length that begins now expires.
    pub(in crate::embedded) fn expiry(&mut self, length: Duration) -> ServiceTime {
        let expiry = self.memory.service.after(length);
        self.memory.none_expires_before = self.memory.none_expires_before.min(expiry);
        expiry
    }

    pub(in crate::embedded) fn may_expire(&self) -> bool {
        self.memory.service >= self.memory.none_expires_before
    }

    pub(in crate::embedded) fn none_expires_before(&mut self, at: ServiceTime) {
        self.memory.none_expires_before = at;
    }

    pub(in crate::embedded) fn count(
        &mut self,
        fleet: &FleetName,
        tenant: &TenantName,
        from: Option<Place>,
        to: Place,
    ) {
        self.deltas.count(fleet, tenant, from, Some(to));
    }

    /// A task that ended is deleted: it is counted no more.
    pub(in crate::embedded) fn uncount(&mut self, fleet: &FleetName, tenant: &TenantName, place: Place) {
        self.deltas.count(fleet, tenant, Some(place), None);
    }

    pub(in crate::embedded) fn count_batch(&mut self, batch: BatchId, from: Option<State>, to: State) {
        if from != Some(to) {
            self.deltas.batches.count(batch, from, to);
            self.topics.insert(Topic::Batch(batch));
        }
    }

    /// Looks, when the group is written, whether the batch has ended.
    pub(in crate::embedded) fn touch_batch(&mut self, batch: BatchId, now: Timestamp) {
        self.deltas.batches.touch(batch, now);
        self.topics.insert(Topic::Batch(batch));
    }

    /// One task more that any worker of the fleet may take.
    pub(in crate::embedded) fn wake_one(&mut self, fleet: &FleetName) {
        self.topics.runnable(fleet, 1);
    }

    /// All that wait for tasks of this fleet look again.
    pub(in crate::embedded) fn wake_fleet(&mut self, fleet: &FleetName) {
        self.topics.insert(Topic::Runnable(fleet.clone()));
    }

    pub(in crate::embedded) fn wake_task(&mut self, task: TaskId) {
        self.topics.insert(Topic::Task(task));
    }

    pub(in crate::embedded) fn wake_journal(&mut self, task: TaskId) {
        self.topics.insert(Topic::Journal(task));
    }

    pub(in crate::embedded) fn wake_schedules(&mut self) {
        self.topics.insert(Topic::Schedules);
    }

    pub(in crate::embedded) fn wake_webhooks(&mut self) {
        self.topics.insert(Topic::Webhooks);
    }

    pub(in crate::embedded) fn wake_worker(&mut self, worker: &WorkerId) {
        self.topics.insert(Topic::Worker(worker.clone()));
    }
}
