//! Renews what a worker still holds, and tells it what it lost.

use std::collections::HashSet;

use longshore_core::id::{Held, TaskId, WorkerId};
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use rusqlite::params;
use uuid::Uuid;

use super::column::int;
use super::lease::{self, Lease};
use super::register::{self, Known};
use super::writer::Write;
use super::{Embedded, ending};
use crate::error::LinkError;
use crate::model::{Heartbeat, HeartbeatNews, WorkerState};

impl Embedded {
    pub(crate) async fn heartbeat(
        &self,
        heartbeat: Heartbeat,
        now: Timestamp,
    ) -> Result<HeartbeatNews, LinkError> {
        self.write(move |write| beat(write, &heartbeat, now)).await
    }

    pub(crate) async fn news(
        &self,
        worker: WorkerId,
        nonce: Uuid,
        held: Vec<Held>,
    ) -> Result<HeartbeatNews, LinkError> {
        self.read(move |connection| {
            // A refusal is an answer, not a fault of the store.
            Ok(match register::known(connection, &worker, nonce) {
                Ok(known) => Ok(news(&lease::of_worker(connection, &worker)?, &held, &known, known.state)),
                Err(LinkError::Store(error)) => return Err(error),
                Err(refused) => Err(refused),
            })
        })
        .await?
    }
}

fn beat(write: &mut Write<'_>, it: &Heartbeat, now: Timestamp) -> Result<HeartbeatNews, LinkError> {
    let known = register::known(write.connection, &it.worker, it.nonce)?;
    let leases = lease::of_worker(write.connection, &it.worker)?;
    let listed: HashSet<Held> = it.held.iter().copied().collect();
    let (held, unlisted): (Vec<_>, Vec<_>) =
        leases.into_iter().partition(|(task, lease)| listed.contains(&as_held(*task, lease)));
    // Younger ones are on their way to the worker.
    let ghosts: Vec<_> =
        unlisted.into_iter().filter(|(_, lease)| lease.claim_seq <= int(it.last_claim)).collect();
    ending::interrupt(write, &ghosts, Interruption::NotHeld, 0.0, now)?;
    renew(write, &held, it)?;
    save(write, it, now)?;
    Ok(news(&held, &it.held, &known, it.condition.state))
}

fn as_held(task: TaskId, lease: &Lease) -> Held {
    Held { task, fence: lease.fence }
}

fn renew(write: &mut Write<'_>, held: &[(TaskId, Lease)], it: &Heartbeat) -> rusqlite::Result<()> {
    let expiry = write.expiry(it.lease);
    let mut update = write.connection.prepare_cached("UPDATE lease SET expires_ms = ?2 WHERE ord = ?1")?;
    for (_, lease) in held {
        update.execute(params![lease.ord, expiry.0])?;
    }
    Ok(())
}

fn save(write: &Write<'_>, it: &Heartbeat, now: Timestamp) -> rusqlite::Result<()> {
    // A worker that says it is gone says so by its goodbye; until then it is at most draining.
    let state = match it.condition.state {
        WorkerState::Gone => WorkerState::Draining,
        state => state,
    };
    write
        .connection
        .prepare_cached(
            "UPDATE worker SET state = ?2, reason = ?3, memory = ?4, last_seen = ?5 WHERE id = ?1",
        )?
        .execute(params![
            it.worker.as_str(),
            state.as_str(),
            it.condition.reason,
            int(it.condition.memory),
            now.0
        ])
        .map(drop)
}

/// What the worker does not know yet: `leases` are its own, `listed` what it thinks it holds.
fn news(leases: &[(TaskId, Lease)], listed: &[Held], worker: &Known, state: WorkerState) -> HeartbeatNews {
    let valid: HashSet<Held> = leases.iter().map(|(task, lease)| as_held(*task, lease)).collect();
    let cancelled =
        leases.iter().filter(|(_, lease)| lease.cancel).map(|(task, lease)| as_held(*task, lease));
    let knows_drain = matches!(state, WorkerState::Draining | WorkerState::Gone);
    HeartbeatNews {
        lost: listed.iter().copied().filter(|held| !valid.contains(held)).collect(),
        cancel: cancelled.collect(),
        drain: worker.drain.filter(|_| !knows_drain),
    }
}
