//! Tenants: whoever tasks are run for, and what each may take.

use serde::{Deserialize, Serialize};

use crate::id::TenantName;

/// The largest weight: shares are told apart up to here.
pub const MOST_WEIGHT: u32 = 1_000;

/// A tenant that is declared. One that is not has weight 1 and no cap of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub name: TenantName,
    /// Its share beside others that have tasks to run; 1 to [`MOST_WEIGHT`].
    pub weight: u32,
    /// Tasks that it may have running at once, over all fleets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
}

impl Tenant {
    pub fn new(name: TenantName) -> Tenant {
        Tenant { name, weight: 1, max_running: None }
    }
}
