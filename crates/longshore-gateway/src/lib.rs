//! Speaks the model providers' protocols on behalf of agents.
//!
//! These modules know what requests, answers, streams and errors look like, and open no socket: bytes are arguments.

pub mod body;
pub mod facts;
pub mod fault;
mod fields;
pub mod scan;
pub mod shape;
pub mod sse;
pub mod usage;
pub mod whole;
