//! The one place where a caller's tenant meets tasks that are made, listed or changed by the many.
//!
//! Tasks that are there already are held against it by their owner (`caller.rs`).

use longshore_core::id::TenantName;
use longshore_store::TaskFilter;

use crate::caller::Caller;

/// The tenant of a task that this caller submits: what it says, or its own. That it may is asked elsewhere.
pub fn of_submission(caller: &Caller, named: Option<&TenantName>) -> TenantName {
    named.or(caller.tenant()).cloned().unwrap_or_default()
}

/// The same filter, of this caller's tenant only. Its fleets are seen to where tasks are looked for.
pub fn narrowed(caller: &Caller, filter: TaskFilter) -> TaskFilter {
    TaskFilter { tenant: caller.tenant().cloned().or(filter.tenant), ..filter }
}
