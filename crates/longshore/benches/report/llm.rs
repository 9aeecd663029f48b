//! LLM calls: what relay, gateway and journal add to a call, and what they take.
//!
//! Everything is a process of its own, as in use: a simulated provider, the control plane, a worker, and agents that sleep.
//! They hand their token to this program, which calls the relay in their place, and the provider directly beside it.

mod chart;
mod journal;
mod latency;
mod load;
mod memory;
mod stage;

pub use journal::growth_and_replay;
pub use latency::added;
pub use memory::of_streams;
