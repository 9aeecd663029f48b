//! Tests of the control plane as a whole, over real connections, which need to look inside.

mod access;
mod keys;
pub mod scene;
