//! The contract of agent images: what an image may hold, read layer by layer, and then proven by running it.
//!
//! Reading is pure and bounded: [`read`] takes an archive as `docker save` or an OCI layout gives it and needs neither an
//! engine nor the disk. [`prove`] runs the image on an engine beside a stand-in for the control plane. Builds, changes and
//! pushes nothing.

pub mod allow;
mod archive;
mod baked;
mod check;
mod config;
mod content;
pub mod dockerfile;
pub mod engine;
pub mod finding;
mod layer;
mod limits;
mod merge;
mod paths;
pub mod prove;
mod report;
mod secret;
mod stack;
mod tar;

pub use archive::{Archive, ArchiveError, read};
pub use check::{Asked, check};
pub use finding::{Code, Finding, Severity, Where};
pub use limits::Limits;
pub use report::Report;
pub use stack::Stack;
