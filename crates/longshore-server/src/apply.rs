//! What a new declaration changes: shown before it is applied.

use std::collections::BTreeMap;

use longshore_api::fleet::Change;
use longshore_core::fleet::Fleet;
use longshore_store::{FleetChange, FleetChangeKind, FleetRecord, fleet_changes};
use serde_json::Value;

/// Compares what is declared with what is wanted, fleet by fleet.
pub fn compare(declared: &[FleetRecord], wanted: &[Fleet]) -> Vec<Change> {
    fleet_changes(declared, wanted).into_iter().map(describe).collect()
}

fn describe(change: FleetChange) -> Change {
    let kind = match change.kind {
        FleetChangeKind::Added => "added",
        FleetChangeKind::Changed => "changed",
        FleetChangeKind::Removed => "removed",
        FleetChangeKind::Unchanged => "unchanged",
    };
    let differences = match (&change.before, &change.after) {
        (Some(old), Some(new)) => differences(old, new),
        _ => Vec::new(),
    };
    Change { fleet: change.name.to_string(), kind: kind.into(), differences, restarts: change.restarts }
}

fn differences(old: &Fleet, new: &Fleet) -> Vec<String> {
    let (old, new) = (flat(old), flat(new));
    let keys: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
    keys.into_iter()
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| format!("{key}: {} -> {}", show(old.get(key)), show(new.get(key))))
        .collect()
}

/// A declaration as dotted keys and their values.
fn flat(fleet: &Fleet) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let value = serde_json::to_value(fleet).expect("a declaration always serialises");
    flatten("", &value, &mut out);
    out
}

fn flatten(prefix: &str, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&path, value, out);
            }
        }
        other => {
            out.insert(prefix.to_owned(), other.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use longshore_core::id::FleetName;

    fn fleet(change: impl FnOnce(&mut Fleet)) -> Fleet {
        let mut fleet = Fleet::new(FleetName::new("a").expect("valid"), vec!["true".into()], "/".into());
        change(&mut fleet);
        fleet
    }

    #[test]
    fn a_difference_names_its_key_and_both_values() {
        let new = fleet(|fleet| fleet.scaling.max = 9);
        assert_eq!(differences(&fleet(|_| {}), &new), ["scaling.max: 20 -> 9"]);
        let new = fleet(|fleet| {
            fleet.env.insert("MODEL".into(), "x".into());
        });
        assert_eq!(differences(&fleet(|_| {}), &new), ["env.MODEL: nothing -> \"x\""]);
        assert!(differences(&new, &new).is_empty());
    }
}
