//! Durable state: tasks, leases, events, conversations, workers, fleets.
//!
//! Owns every rule about what is written together. Never reads a clock, rolls a die or makes an id: callers
//! bring them along, and what follows from an attempt's ending is decided by [`longshore_core::task::after`].
//!
//! [`Store`] is a closed set of backends behind the same methods; one conformance suite holds for all of
//! them.

mod embedded;
pub mod error;
pub mod model;
#[allow(dead_code)]
mod redis;
mod scope_text;
mod shared;
pub mod signals;
mod store;

pub use embedded::open::{OpenError, OpenOptions};
pub use error::{
    AskError, CallError, CancelOutcome, ChildError, ClaimError, InputOutcome, LinkError, RegisterError,
    StoreError, SubmitError,
};
pub use model::*;
pub use redis::permits::{Answer as SharedAnswer, Permit as SharedPermit, Permits as SharedPermits};
pub use shared::companion::{RedisHealth, RedisKind, RedisOptions};
pub use shared::open::{ConnectError, ConnectOptions, Migrate, migrate_now, migration_script};
pub use signals::{Signals, Turn, Wake, Woken};
pub use store::{Embedded, Shared, Store};
