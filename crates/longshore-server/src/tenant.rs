//! The one place where a caller's tenant meets tasks that are made or listed.
//!
//! Tasks that are there already are held against it by their owner (`caller.rs`).

use longshore_core::id::TenantName;

use crate::caller::Caller;
use crate::error::{Answer, Refused};

/// The tenant of a task that this caller submits.
///
/// Errors: 501 `tenants_unavailable` for any other than `default`: new tasks carry no tenant yet, so it would be filed
/// where its owner cannot see it.
pub fn of_submission(caller: &Caller) -> Answer<TenantName> {
    only_default(caller)
}

/// The tenant that a list of tasks is narrowed to; `None`: all.
///
/// Errors: as for a submission: lists cannot be narrowed to a tenant yet.
pub fn of_list(caller: &Caller) -> Answer<Option<TenantName>> {
    match caller.tenant() {
        Some(_) => Err(unavailable()),
        None => Ok(None),
    }
}

fn only_default(caller: &Caller) -> Answer<TenantName> {
    match caller.tenant() {
        Some(tenant) if *tenant != TenantName::default() => Err(unavailable()),
        _ => Ok(TenantName::default()),
    }
}

fn unavailable() -> Refused {
    Refused::new(501, "tenants_unavailable", "this version cannot submit or list tasks for one tenant yet")
}
