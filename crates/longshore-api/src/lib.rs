//! The HTTP types that control plane, workers and command line share, the error body, and the typed clients.
//!
//! Decides nothing: `longshore_core` does. Serves nothing: `longshore_server` does.

pub mod batch;
pub mod bulk;
pub mod client;
pub mod conversation;
pub mod fleet;
pub mod journal;
pub mod key;
pub mod link;
pub mod link_client;
pub mod llm;
pub mod llm_error;
pub mod problem;
pub mod schedule;
pub mod search;
pub mod sse;
pub mod task;
pub mod tenant;
pub mod tls;
pub mod waiting;
pub mod webhook;
