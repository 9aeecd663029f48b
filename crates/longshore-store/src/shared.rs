//! The shared store: task state in Postgres, for any number of control planes.
//!
//! Each operation is in the file of its name. What many ask at the same time (submissions, claims, reports, heartbeats) is
//! done together: one transaction, a few round trips, whatever the number. What is to be written is gathered in
//! [`changes::Changes`] and sent at once with the commit.
//!
//! Locks are taken in one order everywhere: idempotency keys, schedules, workers, gates of fleets, conversations, tasks,
//! journals, counts, batches; each sorted by name.
//! Tasks are locked together with their parents, which wait for them: a parent's id is older, so it comes first.

mod address;
mod arrival;
mod batch;
mod batch_counts;
mod batch_opening;
mod cache;
mod changes;
mod children;
mod claim;
mod column;
pub(crate) mod companion;
mod connection;
mod conversation;
mod core;
mod counts;
mod days;
mod deadline;
mod delivery;
mod ending;
mod erase;
mod event;
mod family;
mod fault;
mod fleet;
mod floor;
mod forget;
mod heartbeat;
mod image;
mod journal;
mod key;
mod lane;
mod lease;
mod list;
mod live;
mod lock;
mod meta;
mod migrate;
pub(crate) mod open;
mod partition;
mod pin;
mod pool;
mod question;
mod register;
mod replica;
mod retention;
mod rollout;
mod schedule;
mod search;
mod sql;
mod step;
mod submit;
mod task_batch;
mod tenant;
mod tick;
mod usage;
mod waiting;
mod webhook;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use crate::error::StoreError;
use crate::model::Ended;
use crate::redis::permits::Permits as SharedPermits;
use crate::signals::Signals;
use batch::{Batches, Limits};
use core::Core;

/// An open shared store.
#[derive(Clone)]
pub struct Shared {
    open: Arc<Open>,
}

struct Open {
    core: Arc<Core>,
    submissions: Batches<submit::Submission, submit::Answer>,
    claims: Batches<claim::Asked, claim::Answer>,
    reports: Batches<ending::Report, Ended>,
    beats: Batches<heartbeat::Beat, heartbeat::Answer>,
}

impl Shared {
    fn new(core: Core) -> Shared {
        let core = Arc::new(core);
        const NOW: Duration = Duration::ZERO;
        let submissions = Limits { most: 2000, weigh: submit::weigh, parallel: 2, apart: NOW };
        // One at a time: two would look for the same tasks.
        let claims = Limits { most: 2000, weigh: claim::weigh, parallel: 1, apart: NOW };
        let reports = Limits { most: 2000, weigh: ending::weigh, parallel: 2, apart: NOW };
        // Nobody waits for a heartbeat, and a fleet of thousands sends them all the time.
        let beats = Limits {
            most: 500,
            weigh: |_: &heartbeat::Beat| 1,
            parallel: 1,
            apart: Duration::from_millis(20),
        };
        let open = Open {
            submissions: Batches::start(Arc::clone(&core), submissions, submit::together),
            claims: Batches::start(Arc::clone(&core), claims, claim::together),
            reports: Batches::start(Arc::clone(&core), reports, ending::together),
            beats: Batches::start(Arc::clone(&core), beats, heartbeat::together),
            core,
        };
        Shared { open: Arc::new(open) }
    }

    fn core(&self) -> &Core {
        &self.open.core
    }

    pub(crate) fn signals(&self) -> &Signals {
        self.core().signals()
    }

    /// `None`: there is none in the settings.
    pub fn redis(&self) -> Option<companion::RedisHealth> {
        self.core().companion.as_ref().map(|companion| companion.health())
    }

    /// Takes a seat among the gateways that share the providers' limits; `None` without Redis.
    pub(crate) async fn permits(&self, seat: &str) -> Result<Option<SharedPermits>, StoreError> {
        let Some(companion) = &self.core().companion else { return Ok(None) };
        // Nothing was ever called: there is nothing that a Redis without state could have forgotten.
        let quiet = "SELECT NOT EXISTS (SELECT 1 FROM @journal)";
        let row = self.core().run(async |it| it.query_one(quiet, sql::args![]).await).await?;
        let quiet = row.try_get(0).map_err(fault::DbError::from)?;
        Ok(Some(companion.permits(seat, quiet)))
    }

    /// Whether wake-ups of other replicas arrive; without Redis they never do.
    pub fn wakes(&self) -> bool {
        self.core().companion.as_ref().is_some_and(|companion| *companion.bus_up().borrow())
    }

    pub(crate) async fn close(&self) -> Result<(), StoreError> {
        self.core().close();
        Ok(())
    }
}
