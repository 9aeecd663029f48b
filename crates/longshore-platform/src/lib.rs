//! Where workers run: starts them, finds them again, tells when they end, and cleans up after them.
//!
//! [`Platform`] is a closed set, one module each. Decides nothing: how many workers there should be, how long a drain may
//! take and what becomes of a dead worker's tasks is its callers' business.

#[cfg(not(target_os = "linux"))]
compile_error!("platform `process` needs Linux: it is built on pidfds and /proc");

pub mod docker;
mod end;
pub mod kubernetes;
mod platform;
pub mod process;
pub mod registry;

pub use end::End;
pub use nix::sys::signal::Signal;
pub use platform::{Error, Found, Identity, Platform, Running, Spec};
