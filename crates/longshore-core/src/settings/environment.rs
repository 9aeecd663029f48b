//! Lays `LONGSHORE__SECTION__KEY=value` over the file's tree.
//!
//! Checks only what the path needs: an unknown key is found later, by the reader of its section, which then names
//! the variable.

use super::section::Notes;
use super::tree::{self, Node, Table, Value};
use super::{Place, SettingsError, Warning};

const PREFIX: &str = "LONGSHORE__";

/// Variables that other programs use for the same thing, and the key of `[store]` that each fills when the file does not.
const COMMON: [(&str, &str, &str); 2] =
    [("DATABASE_URL", "database", "postgres"), ("REDIS_URL", "redis", "redis")];

pub(super) fn apply(root: &mut Table, env: &[(String, String)], notes: &mut Notes) {
    let mut overrides: Vec<&(String, String)> = env.iter().filter(|(name, _)| is_override(name)).collect();
    // By name, so that a whole table comes before the keys in it, and the result does not depend on luck.
    overrides.sort_by_key(|(name, _)| (name.to_ascii_uppercase(), name));
    for (name, value) in overrides {
        if let Err(problem) = lay(root, name, value) {
            let place = Place::Variable(name.clone());
            notes.errors.push(SettingsError { place, key: String::new(), problem });
        }
    }
    for (name, key, scheme) in COMMON {
        if let Some((_, value)) = env.iter().find(|(known, _)| known == name)
            && let Err(problem) = lay_common(root, name, key, value.starts_with(scheme))
        {
            let place = Place::Variable(name.to_owned());
            notes.warnings.push(Warning { place, key: String::new(), problem });
        }
    }
}

/// Its value is not copied: it may hold a password.
fn lay_common(root: &mut Table, name: &str, key: &str, fits: bool) -> Result<(), String> {
    let store = root.entry("store".into()).or_insert_with(|| empty(name));
    let Value::Table(store) = &mut store.value else { return Ok(()) };
    if store.contains_key(key) {
        return Ok(());
    }
    if !fits {
        return Err(format!("not used: it is no address of a {key} that longshore knows"));
    }
    if key == "redis" && !store.contains_key("database") {
        return Err("not used: there is no database, so all state is in the embedded store".into());
    }
    let mut source = empty(name);
    if let Value::Table(table) = &mut source.value {
        let place = Place::Variable(name.to_owned());
        let value = Value::Text(name.to_owned());
        table.insert("env".into(), Node { key_place: place.clone(), place, value, raw: None });
    }
    store.insert(key.into(), source);
    Ok(())
}

fn is_override(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn lay(root: &mut Table, name: &str, value: &str) -> Result<(), String> {
    let mut path: Vec<&str> = name[PREFIX.len()..].split("__").collect();
    if path.iter().any(|part| part.is_empty()) {
        return Err(
            "expected a name such as LONGSHORE__SERVER__API or LONGSHORE__FLEET__RESEARCH__CONCURRENCY"
                .into(),
        );
    }
    check_named(root, &path)?;
    let of_env = path.len() > 3 && same(path[0], "fleet") && same(path[2], "env");
    let variable_name = path[3.min(path.len())..].join("__");
    if of_env {
        // An agent's variable may have `__` in its name.
        path.truncate(3);
        path.push(&variable_name);
    }
    let last = path.pop().ok_or("expected a key")?;
    let mut table = root;
    let mut walked = Vec::new();
    for part in path {
        let key = key_for(table, part, as_written(&walked));
        walked.push(key.clone());
        let node = table.entry(key).or_insert_with(|| empty(name));
        let kind = node.value.kind();
        let Value::Table(inner) = &mut node.value else {
            return Err(format!("`{}` is {kind} and has no keys", walked.join(".")));
        };
        table = inner;
    }
    let key = key_for(table, last, as_written(&walked));
    table.insert(key, tree::variable(name, value));
    Ok(())
}

/// A variable changes what has a name and adds nothing: otherwise a typing error would make one.
fn check_named(root: &Table, path: &[&str]) -> Result<(), String> {
    let [section, given, ..] = path else { return Ok(()) };
    let Some(section) =
        ["fleet", "provider", "tenant", "schedule", "webhook"].into_iter().find(|named| same(named, section))
    else {
        return Ok(());
    };
    let known = match root.get(section).map(|node| &node.value) {
        Some(Value::Table(named)) => named.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    if known.iter().any(|known| same(known, given)) {
        return Ok(());
    }
    let given = normal(given).replace('_', "-");
    let hint =
        super::section::nearest(&given, &known).unwrap_or_else(|| "the file declares none like it".into());
    Err(format!("there is no {section} `{given}`; {hint}"))
}

/// Names in `env` and `secrets` belong to the agent, and names of models to the provider: they keep their case.
fn as_written(walked: &[String]) -> bool {
    let [section, _, table] = walked else { return false };
    match section.as_str() {
        "fleet" => matches!(table.as_str(), "env" | "secrets"),
        "provider" => matches!(table.as_str(), "limits" | "prices"),
        "schedule" => matches!(table.as_str(), "input" | "labels"),
        _ => false,
    }
}

/// The key that is there already under this name, or else the name as a key.
fn key_for(table: &Table, part: &str, as_written: bool) -> String {
    let found = if table.contains_key(part) { None } else { table.keys().find(|key| same(key, part)) };
    match found {
        Some(key) => key.clone(),
        None if as_written || table.contains_key(part) => part.to_owned(),
        None => normal(part),
    }
}

fn same(a: &str, b: &str) -> bool {
    normal(a) == normal(b)
}

fn normal(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

fn empty(name: &str) -> Node {
    let place = Place::Variable(name.to_owned());
    Node { key_place: place.clone(), place, value: Value::Table(Table::new()), raw: None }
}
