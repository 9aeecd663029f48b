//! The scope of an API key as text, the same in every store.

use std::collections::BTreeSet;

use longshore_core::access::Verb;
use longshore_core::id::FleetName;

pub(crate) fn verbs_text(verbs: &BTreeSet<Verb>) -> String {
    verbs.iter().map(|verb| verb.as_str()).collect::<Vec<_>>().join(",")
}

/// A verb of a newer version is none here: the key can do less, never more.
pub(crate) fn verbs(text: &str) -> BTreeSet<Verb> {
    text.split(',').filter_map(Verb::parse).collect()
}

pub(crate) fn fleets_text(fleets: &BTreeSet<FleetName>) -> String {
    serde_json::to_string(fleets).expect("names are text")
}

/// An error where it is not understood: nothing would mean all fleets.
pub(crate) fn fleets(text: &str) -> serde_json::Result<BTreeSet<FleetName>> {
    serde_json::from_str(text)
}
