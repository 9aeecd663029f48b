//! Tenants on the public API.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How to erase.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EraseQuery {
    /// Rewrite the store's file afterwards, so that no byte is left in it; true if absent. The store stands still
    /// meanwhile, and needs as much room again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact: Option<bool>,
}

/// What was erased by this request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TenantErased {
    pub tenant: String,
    /// Tasks that had not ended.
    pub cancelled: u64,
    /// Tasks that still run: they are told to stop, and deleted by the next request.
    pub running: u64,
    /// Tasks with their inputs, results, events, journals and steps.
    pub tasks: u64,
    /// Conversations with their messages.
    pub conversations: u64,
    pub batches: u64,
    /// Nothing of the tenant is left. Otherwise ask again.
    pub complete: bool,
    /// The store's file was rewritten.
    pub compacted: bool,
}
