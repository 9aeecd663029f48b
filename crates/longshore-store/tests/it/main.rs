//! The store as its users see it: what every backend does, and what the embedded one survives.

mod conformance;
mod durability;
mod full_disk;
mod journal_model;
mod opening;
mod properties;
mod shared;
mod support;
