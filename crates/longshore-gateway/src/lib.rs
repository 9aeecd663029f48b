//! The gateway: agents' calls to LLM APIs, made once, journaled, and given again.
//!
//! Owns what the providers' protocols look like, and the live calls. Who may call is told by whoever mounts it (the
//! server checks tokens); what a call becomes is decided in `longshore_core::journal` and kept by the store.

// Pure: bytes are arguments.
pub mod body;
pub mod facts;
pub mod fault;
mod fields;
pub mod scan;
pub mod shape;
pub mod sse;
pub mod usage;
pub mod whole;

// With sockets, clocks and the store.
mod decode;
mod drive;
mod gateway;
mod incoming;
mod live;
mod metrics;
mod permits;
mod respond;
mod upstream;

pub use gateway::{Gateway, Options, StartError};
pub use incoming::{Caller, Incoming};
pub use metrics::Metrics;
pub use respond::Frames;
