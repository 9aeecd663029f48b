//! Fleets: what was declared, how they stand, what the scaler decided.

use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, TenantName};
use longshore_core::json::Json;
use longshore_core::time::Timestamp;

#[derive(Clone, Debug, PartialEq)]
pub struct FleetRecord {
    pub name: FleetName,
    pub declaration: Fleet,
    /// The release that its workers are started on.
    pub release: u64,
    /// False when it is no longer declared: its tasks stay, new ones are refused.
    pub active: bool,
    /// Workers that an operator asked for; `None`: the scaler decides.
    pub replicas: Option<u32>,
    /// An operator said that nothing of it is to be started.
    pub paused: bool,
    pub changed_at: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetChangeKind {
    Added,
    Changed,
    Removed,
    Unchanged,
}

/// What a new declaration means for one fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetChange {
    pub name: FleetName,
    pub kind: FleetChangeKind,
    pub before: Option<Fleet>,
    pub after: Option<Fleet>,
    /// Its workers have to be replaced.
    pub restarts: bool,
    /// What its workers are to run; known once the change is made.
    pub release: u64,
}

/// Compares what is declared now with what is to be declared; writes nothing.
pub fn fleet_changes(now: &[FleetRecord], next: &[Fleet]) -> Vec<FleetChange> {
    let stays = |record: &&FleetRecord| next.iter().any(|fleet| fleet.name == record.name);
    let removed = now.iter().filter(|record| record.active && !stays(record)).map(removal);
    let declared =
        next.iter().map(|fleet| change(now.iter().find(|record| record.name == fleet.name), fleet));
    declared.chain(removed).collect()
}

fn removal(record: &FleetRecord) -> FleetChange {
    FleetChange {
        name: record.name.clone(),
        kind: FleetChangeKind::Removed,
        before: Some(record.declaration.clone()),
        after: None,
        restarts: false,
        release: record.release,
    }
}

fn change(record: Option<&FleetRecord>, next: &Fleet) -> FleetChange {
    let restarts = record.is_some_and(|record| !record.declaration.same_workers(next));
    let kind = match record {
        Some(record) if !record.active => FleetChangeKind::Added,
        Some(record) if record.declaration == *next => FleetChangeKind::Unchanged,
        Some(_) => FleetChangeKind::Changed,
        None => FleetChangeKind::Added,
    };
    FleetChange {
        name: next.name.clone(),
        kind,
        before: record.filter(|record| record.active).map(|record| record.declaration.clone()),
        after: Some(next.clone()),
        restarts,
        release: record.map_or(1, |record| record.release),
    }
}

/// How many tasks of a fleet are in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetCounts {
    pub fleet: FleetName,
    /// Queued and waiting for nothing but a worker, or for a cap, a rate or a pause to let them: see [`Load`].
    pub runnable: u64,
    /// Queued, scheduled or backing off.
    pub delayed: u64,
    /// Queued behind an earlier task of the same conversation.
    pub held: u64,
    pub running: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl FleetCounts {
    pub fn queued(&self) -> u64 {
        self.runnable + self.delayed + self.held
    }
}

/// What a fleet has to do. Each unfinished task is counted in one of the numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Could start now: only a free slot is missing.
    pub runnable: u64,
    /// Since when the oldest of them waits; where caps hold many older ones it may be younger than that.
    pub oldest_runnable_since: Option<Timestamp>,
    /// Held by a cap of the fleet or of a tenant, or by the fleet's rate.
    pub capped: u64,
    /// Held since the fleet is paused.
    pub paused: u64,
    pub running: u64,
    pub waiting: u64,
    /// Scheduled or backing off.
    pub delayed: u64,
    /// Behind an earlier task of the same conversation.
    pub held: u64,
}

/// How many tasks of a tenant a fleet has in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantCounts {
    pub tenant: TenantName,
    /// Waiting for nothing but a worker, a cap, a rate or the end of a pause.
    pub ready: u64,
    pub delayed: u64,
    pub held: u64,
    pub running: u64,
    pub waiting: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
}

/// What the scaler decided, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRecord {
    pub at: Timestamp,
    pub from: u32,
    pub to: u32,
    /// `grow`, `shrink`, `hold`, `replace`.
    pub kind: String,
    pub reason: String,
    /// The numbers that it was made from.
    pub inputs: Json,
}
