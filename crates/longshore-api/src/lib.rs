//! The HTTP types that control plane, workers and command line share, the error body, and the typed clients.
//!
//! Decides nothing: `longshore_core` does. Serves nothing: `longshore_server` does.

pub mod link;
pub mod problem;
