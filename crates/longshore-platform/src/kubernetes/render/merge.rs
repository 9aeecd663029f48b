//! Strategic merge, as `kubectl patch` does it: mappings merge, lists of things with names merge by those, other lists
//! are replaced, and null takes away.

use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";

/// Where two texts cannot be merged, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clash {
    /// Such as `spec.containers[agent].env`.
    pub path: String,
    pub problem: String,
}

/// Lays `patch` over `target`; where they clash, `target` stays.
pub(super) fn merge(target: &mut Value, patch: &Value) -> Vec<Clash> {
    let mut clashes = Vec::new();
    lay(target, patch, "", &mut clashes);
    clashes
}

/// The field that tells the items of a list apart; `None`: such a list is one value.
fn key_of(field: &str, items: &[Value]) -> Option<&'static str> {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets"
        | "resourceClaims" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "hostAliases" => Some("ip"),
        "topologySpreadConstraints" => Some("topologyKey"),
        // A container's, or a Service's.
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => Some("containerPort"),
        "ports" => Some("port"),
        _ => None,
    }
}

fn lay(target: &mut Value, patch: &Value, path: &str, clashes: &mut Vec<Clash>) {
    match (&mut *target, patch) {
        (Value::Object(target), Value::Object(patch)) => lay_map(target, patch, path, clashes),
        (Value::Array(items), Value::Array(patch)) => {
            let field = path.rsplit('.').next().unwrap_or(path);
            match key_of(field, if items.is_empty() { patch } else { items }) {
                Some(key) => lay_list(items, patch, key, path, clashes),
                None => *items = patch.iter().map(|item| fresh(item, path, clashes)).collect(),
            }
        }
        (there, patch) if kind(there) != kind(patch) && kind(there) != "nothing" => clashes.push(Clash {
            path: path.to_owned(),
            problem: format!("is {} in what is rendered, and {} here", kind(there), kind(patch)),
        }),
        (there, patch) => *there = fresh(patch, path, clashes),
    }
}

fn lay_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    path: &str,
    clashes: &mut Vec<Clash>,
) {
    match directive(patch, path, clashes) {
        Some("replace") => target.clear(),
        Some("delete") => return target.clear(),
        _ => {}
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        if value.is_null() || is_deletion(value) {
            target.remove(key);
        } else {
            match target.get_mut(key) {
                Some(there) => lay(there, value, &path, clashes),
                None => drop(target.insert(key.clone(), fresh(value, &path, clashes))),
            }
        }
    }
}

fn lay_list(items: &mut Vec<Value>, patch: &[Value], key: &str, path: &str, clashes: &mut Vec<Clash>) {
    let replaces =
        |item: &Value| item.get(DIRECTIVE).is_some_and(|it| it == "replace") && item.get(key).is_none();
    if patch.iter().any(replaces) {
        items.clear();
    }
    for (index, item) in patch.iter().enumerate().filter(|(_, item)| !replaces(item)) {
        let Some(name) = item.get(key) else {
            let path = format!("{path}[{index}]");
            let problem = format!("has no `{key}`, which says which one of the list it is");
            clashes.push(Clash { path, problem });
            continue;
        };
        let shown = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
        let path = format!("{path}[{shown}]");
        let at = items.iter().position(|there| there.get(key) == Some(name));
        match (at, is_deletion(item)) {
            (Some(at), true) => drop(items.remove(at)),
            (None, true) => {
                clashes.push(Clash { path, problem: "is not there, so it cannot be deleted".into() })
            }
            (Some(at), false) => lay(&mut items[at], item, &path, clashes),
            (None, false) => items.push(fresh(item, &path, clashes)),
        }
    }
}

/// A value where nothing was: without what only speaks about what is there.
fn fresh(value: &Value, path: &str, clashes: &mut Vec<Clash>) -> Value {
    match value {
        Value::Object(map) => {
            let mut made = Map::new();
            lay_map(&mut made, map, path, clashes);
            made.into()
        }
        Value::Array(items) => {
            let items = items.iter().filter(|item| !is_deletion(item));
            let bare = |item: &&Value| {
                !(item.get(DIRECTIVE).is_some() && item.as_object().is_some_and(|it| it.len() == 1))
            };
            items.filter(bare).map(|item| fresh(item, path, clashes)).collect()
        }
        scalar => scalar.clone(),
    }
}

fn is_deletion(value: &Value) -> bool {
    value.get(DIRECTIVE).is_some_and(|directive| directive == "delete")
}

fn directive<'a>(patch: &'a Map<String, Value>, path: &str, clashes: &mut Vec<Clash>) -> Option<&'a str> {
    let mut clash = |problem: String| clashes.push(Clash { path: path.to_owned(), problem });
    for key in patch.keys().filter(|key| key.starts_with('$') && *key != DIRECTIVE) {
        clash(format!("`{key}` is not known here: use `$patch: replace`, `$patch: delete` or null"));
    }
    let directive = patch.get(DIRECTIVE)?;
    match directive.as_str() {
        Some(word @ ("replace" | "delete" | "merge")) => Some(word),
        _ => {
            clash(format!("`$patch: {directive}` is not known: expected replace, delete or merge"));
            None
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Object(_) => "a mapping",
        Value::Array(_) => "a list",
        _ => "one value",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::yaml::read_all;
    use super::*;

    fn yaml(text: &str) -> Value {
        read_all(text).expect("it reads").pop().expect("one document")
    }

    fn check(target: &str, patch: &str, expected: &str) {
        let mut merged = yaml(target);
        assert_eq!(super::merge(&mut merged, &yaml(patch)), [], "{patch}");
        assert_eq!(merged, yaml(expected), "{patch}");
    }

    fn clash(target: &str, patch: &str, path: &str, problem: &str) {
        let mut merged = yaml(target);
        let clashes = super::merge(&mut merged, &yaml(patch));
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert_eq!(clashes[0].path, path);
        assert!(clashes[0].problem.contains(problem), "{clashes:?}");
    }

    #[test]
    fn mappings_merge_and_null_takes_away() {
        check(
            "{a: 1, b: {c: 2, d: 3}}",
            "{b: {c: 4, e: 5}, f: {g: null, h: 6}}",
            "{a: 1, b: {c: 4, d: 3, e: 5}, f: {h: 6}}",
        );
        check("{a: 1, b: {c: 2}}", "{a: null, b: {c: null}}", "{b: {}}");
        check("{a: {b: 1}}", "{a: {$patch: replace, c: 2}}", "{a: {c: 2}}");
        check("{a: {b: 1}, c: 1}", "{a: {$patch: delete}}", "{c: 1}");
        check("{a: {b: 1}}", "{a: {$patch: merge, c: 2}}", "{a: {b: 1, c: 2}}");
    }

    #[test]
    fn lists_of_things_with_names_merge_by_those() {
        let pod = "{containers: [{name: agent, image: i, env: [{name: A, value: x}, {name: B, value: y}]}]}";
        check(
            pod,
            "{containers: [{name: agent, env: [{name: B, value: z}, {name: C, value: w}]}, {name: side, image: s}]}",
            "{containers: [{name: agent, image: i, env: [{name: A, value: x}, {name: B, value: z}, {name: C, value: w}]}, \
             {name: side, image: s}]}",
        );
        check(
            pod,
            "{containers: [{name: agent, env: [{name: A, $patch: delete}]}]}",
            "{containers: [{name: agent, image: i, env: [{name: B, value: y}]}]}",
        );
        check(
            pod,
            "{containers: [{name: agent, env: [{$patch: replace}, {name: D, value: d}]}]}",
            "{containers: [{name: agent, image: i, env: [{name: D, value: d}]}]}",
        );
        check(
            pod,
            "{containers: [{name: agent, $patch: replace, image: j}]}",
            "{containers: [{name: agent, image: j}]}",
        );
        check(
            "{volumeMounts: [{name: tmp, mountPath: /tmp}]}",
            "{volumeMounts: [{mountPath: /tmp, readOnly: true}, {name: a, mountPath: /a}]}",
            "{volumeMounts: [{name: tmp, mountPath: /tmp, readOnly: true}, {name: a, mountPath: /a}]}",
        );
        check(
            "{ports: [{containerPort: 7119, name: probes}]}",
            "{ports: [{containerPort: 8080}]}",
            "{ports: [{containerPort: 7119, name: probes}, {containerPort: 8080}]}",
        );
        check(
            "{ports: [{port: 7117, name: api}]}",
            "{ports: [{port: 7117, nodePort: 30000}]}",
            "{ports: [{port: 7117, name: api, nodePort: 30000}]}",
        );
    }

    #[test]
    fn other_lists_are_replaced_and_what_was_not_there_is_added() {
        check("{args: [a, b]}", "{args: [c]}", "{args: [c]}");
        check("{tolerations: [{key: a}]}", "{tolerations: [{key: b}]}", "{tolerations: [{key: b}]}");
        check("{}", "{tolerations: [{key: b, value: null}]}", "{tolerations: [{key: b}]}");
        check(
            "{}",
            "{env: [{name: A, $patch: delete}, {name: B, value: b}]}",
            "{env: [{name: B, value: b}]}",
        );
        check("{}", "{env: [{$patch: replace}, {name: B, value: b}]}", "{env: [{name: B, value: b}]}");
    }

    #[test]
    fn what_cannot_be_merged_is_said_with_its_place() {
        clash(
            "{spec: {containers: []}}",
            "{spec: {containers: [{image: a}]}}",
            "spec.containers[0]",
            "has no `name`",
        );
        clash(
            "{a: {b: [1]}}",
            "{a: {b: {c: 1}}}",
            "a.b",
            "is a list in what is rendered, and a mapping here",
        );
        clash("{a: {b: 1}}", "{a: 3}", "a", "is a mapping in what is rendered, and one value here");
        clash("{env: [{name: A}]}", "{env: [{name: B, $patch: delete}]}", "env[B]", "is not there");
        clash("{a: {b: 1}}", "{a: {$patch: remove}}", "a", "expected replace, delete or merge");
        clash("{a: [1]}", "{$deleteFromPrimitiveList/a: [1]}", "", "is not known here");
        let mut kept = json!({ "a": [1] });
        super::merge(&mut kept, &json!({ "a": {} }));
        assert_eq!(kept, json!({ "a": [1] }));
    }

    #[test]
    fn a_patch_twice_is_a_patch_once() {
        let patch =
            yaml("{containers: [{name: agent, env: [{name: A, value: z}]}, {name: b}], args: [x], n: null}");
        let mut once = yaml("{containers: [{name: agent, image: i}], n: 1}");
        super::merge(&mut once, &patch);
        let mut twice = once.clone();
        super::merge(&mut twice, &patch);
        assert_eq!(once, twice);
    }
}
