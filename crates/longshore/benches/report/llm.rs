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

use crate::Row;

pub async fn llm() -> Vec<Row> {
    let mut rows = latency::added().await;
    rows.extend(memory::of_streams().await);
    rows.extend(journal::growth_and_replay().await);
    rows
}
