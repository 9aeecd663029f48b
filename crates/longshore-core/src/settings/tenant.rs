//! Reads `[tenant.NAME]`.

use super::section::Section;
use super::tree::Node;
use crate::id::TenantName;
use crate::tenant::{MOST_WEIGHT, Tenant};

/// Reads all tenants, in order of name.
pub(super) fn read_tenants(root: &mut Section<'_>) -> Vec<Tenant> {
    let Some(mut tenants) = root.section("tenant") else { return Vec::new() };
    let named = tenants.drain();
    named.into_iter().filter_map(|(name, node)| read_named(&mut tenants, &name, node)).collect()
}

fn read_named(tenants: &mut Section<'_>, name: &str, node: Node) -> Option<Tenant> {
    let key_place = node.key_place.clone();
    let named =
        TenantName::new(name).map_err(|error| tenants.error_in(key_place, name, error.to_string())).ok();
    let section = tenants.open(name, node, "a table such as [tenant.acme] with the tenant's keys in it")?;
    // The keys of a tenant with a bad name are checked all the same.
    let tenant = read_tenant(section, named.clone().unwrap_or_default());
    named.map(|_| tenant)
}

fn read_tenant(mut section: Section<'_>, name: TenantName) -> Tenant {
    let mut tenant = Tenant::new(name);
    tenant.weight = section.whole("weight", 1..=MOST_WEIGHT).unwrap_or(tenant.weight);
    tenant.max_running = section.whole("max_running", 1..=u32::MAX);
    section.finish();
    tenant
}
