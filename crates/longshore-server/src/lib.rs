//! The control plane: public API, worker link, probes, and the controllers that keep fleets as declared.
//!
//! Keeps nothing in memory that matters: the store does. Decides nothing itself: `longshore_core` does.

mod admin;
mod admit;
mod app;
mod apply;
mod caller;
mod controller;
mod convert;
mod cursor;
mod depth;
mod door;
mod ends;
mod error;
mod external_metrics;
mod extract;
mod images;
mod keys;
mod lately;
mod link;
mod look;
mod metrics;
mod moved;
mod open_store;
mod owned;
mod probes;
mod reach;
mod rooms;
mod routes;
mod rules;
mod start;
mod tenant;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod wanted;
mod webhook;

pub use admin::TokenError;
pub use app::Limits;
pub use longshore_store::migration_script;
pub use open_store::migrate;
pub use start::{Addresses, Options, Server, StartError, start};

/// The OpenAPI document, as `/openapi.json` serves it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes::documented().1
}
