//! The HTTP types that control plane, workers and command line share, the error body, the typed clients, and how connections
//! are held.
//!
//! Decides nothing: `longshore_core` does. Answers nothing: `longshore_server` and `longshore_worker` do.

pub mod batch;
pub mod bulk;
pub mod client;
pub mod conversation;
pub mod files;
pub mod fleet;
pub mod journal;
pub mod key;
pub mod link;
pub mod link_client;
pub mod llm;
pub mod llm_error;
pub mod problem;
pub mod rollout;
pub mod schedule;
pub mod search;
pub mod serve;
pub mod sse;
pub mod task;
pub mod tenant;
pub mod tls;
pub mod waiting;
pub mod webhook;
