//! A worker: claims tasks of one fleet from the control plane and runs the fleet's agent on them.
//!
//! Owns the agent's processes, its output, time-outs, probes and drain. Keeps nothing that matters: what it was given
//! is leased, and what its agents said is sent on. Decides nothing about a task's fate: the control plane does.

mod attempt;
mod command;
mod environment;
mod error;
mod exec;
mod folder;
mod health;
mod http;
mod ledger;
mod log;
mod memory;
mod metrics;
mod options;
mod outbox;
mod output;
mod probes;
mod process;
mod relay;
mod said;
mod signals;
mod supervisor;
mod verdict;

pub use error::WorkerError;
pub use options::{DEFAULT_CUT_OFF, DEFAULT_STAY, Exit, Options, RelayTimes, Secret};
pub use supervisor::run;
