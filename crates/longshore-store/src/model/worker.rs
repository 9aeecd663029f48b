//! Workers as the store knows them.

use longshore_core::id::{FleetName, Held, WorkerId};
use longshore_core::json::Json;
use longshore_core::task::Interruption;
use longshore_core::time::Timestamp;
use uuid::Uuid;

use super::DrainOrder;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// Planned or registered, but its agent does not answer yet.
    Starting,
    Ready,
    NotReady,
    Draining,
    Gone,
}

impl WorkerState {
    const ALL: [WorkerState; 5] = [
        WorkerState::Starting,
        WorkerState::Ready,
        WorkerState::NotReady,
        WorkerState::Draining,
        WorkerState::Gone,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Starting => "starting",
            WorkerState::Ready => "ready",
            WorkerState::NotReady => "not_ready",
            WorkerState::Draining => "draining",
            WorkerState::Gone => "gone",
        }
    }

    pub fn parse(text: &str) -> Option<WorkerState> {
        WorkerState::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// First word of a worker that started.
#[derive(Clone, Debug)]
pub struct Registration {
    pub worker: WorkerId,
    pub nonce: Uuid,
    pub fleet: FleetName,
    /// Of the longshore binary.
    pub version: String,
    pub pid: Option<u32>,
    pub host: Option<String>,
    pub probe_addr: Option<String>,
    pub concurrency: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterOutcome {
    /// Newest claim recorded for this nonce.
    pub last_claim: u64,
    /// Leases of an older nonce that were taken back.
    pub released: Vec<Held>,
}

/// A worker that a controller is about to start.
#[derive(Clone, Debug)]
pub struct PlannedWorker {
    pub id: WorkerId,
    pub fleet: FleetName,
    pub release: u64,
    pub platform: String,
}

/// The end of a worker, as somebody saw it.
#[derive(Clone, Debug)]
pub struct WorkerEnd {
    pub worker: WorkerId,
    /// Only if this is still its nonce: a late goodbye must not end the worker's next start. `None`: whatever
    /// it is.
    pub nonce: Option<Uuid>,
    pub cause: Interruption,
    /// In words, such as `exited with status 1`.
    pub why: String,
}

#[derive(Clone, Debug, Default)]
pub struct WorkerFilter {
    pub fleet: Option<FleetName>,
    /// Those that ended, too.
    pub gone: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub fleet: FleetName,
    /// None before it registered for the first time.
    pub nonce: Option<Uuid>,
    pub last_claim: u64,
    pub state: WorkerState,
    /// Why it is not ready.
    pub reason: String,
    /// Bytes.
    pub memory: u64,
    pub concurrency: u32,
    pub version: String,
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub probe_addr: Option<String>,
    pub platform: String,
    /// What its platform needs to find it again.
    pub identity: Option<Json>,
    /// Of its fleet.
    pub release: u64,
    pub planned_at: Option<Timestamp>,
    pub registered_at: Option<Timestamp>,
    pub last_seen: Option<Timestamp>,
    pub drain: Option<DrainOrder>,
    pub drain_ordered_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// How it ended.
    pub end: Option<String>,
    /// Leases that it holds now.
    pub in_flight: u32,
}
