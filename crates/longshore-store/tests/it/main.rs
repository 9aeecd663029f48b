//! The store as its users see it: what every backend does, and what the embedded one survives.

mod conformance;
mod days;
mod durability;
mod erasure;
mod full_disk;
mod growth;
mod journal_model;
mod opening;
mod properties;
mod shared;
mod support;
