//! The shared store: one control plane on Postgres, with fsync on, and Redis; everything on this machine.
//!
//! The servers are those that `./dev bench` starts, or those in LONGSHORE_TEST_POSTGRES and LONGSHORE_TEST_REDIS; each figure
//! is taken in a database of its own.

mod chart;
mod claims;
mod depth;
mod heartbeats;
mod pick_up;
mod process;
mod recovery;
mod stage;
mod throughput;
mod waiting;

pub use claims::claims;
pub use depth::depth;
pub use heartbeats::heartbeats;
pub use pick_up::pick_up;
pub use recovery::recovery;
pub use throughput::{features, throughput};
pub use waiting::waiting;
