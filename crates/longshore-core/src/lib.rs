//! The words of longshore as types, and every decision as a pure function.
//!
//! Nothing here reads a clock, rolls a die, opens a socket or looks at the environment: time and chance are
//! arguments, so that a controller, `--explain`, the tests and the simulator run the very same code.

pub mod access;
pub mod batch;
pub mod bulk;
pub mod cache;
pub mod call;
pub mod canonical;
pub mod cap;
pub mod child;
pub mod container;
pub mod drain;
pub mod errors;
pub mod fleet;
pub mod id;
pub mod journal;
pub mod json;
pub mod kubernetes;
pub mod limit;
pub mod provider;
pub mod rate;
pub mod restart;
pub mod retention;
pub mod retry;
pub mod role;
pub mod rollout;
pub mod room;
pub mod scale;
pub mod schedule;
pub mod search;
pub mod settings;
pub mod share;
pub mod task;
pub mod tenant;
pub mod time;
pub mod units;
pub mod useful;
pub mod wait;
pub mod webhook;
