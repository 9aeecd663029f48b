//! Holds the direction of dependencies between the workspace's crates.
//!
//! Reads `cargo metadata`; owns the table of allowed edges, and never judges crates from outside, but for those that
//! would end the purity of `longshore-core`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate and the workspace crates that it may use, each after all that it may use: so the table has no cycle.
///
/// `longshore-gateway` is not written yet; its place is kept.
const ALLOWED: &[(&str, &[&str])] = &[
    ("longshore-core", &[]),
    ("longshore-api", &["longshore-core"]),
    ("longshore-store", &["longshore-core"]),
    ("longshore-platform", &["longshore-core"]),
    // The one adapter that may use another: a journal entry is written where the call was made.
    ("longshore-gateway", &["longshore-core", "longshore-api", "longshore-store"]),
    ("longshore-worker", &["longshore-core", "longshore-api"]),
    (
        "longshore-server",
        &["longshore-core", "longshore-api", "longshore-store", "longshore-platform", "longshore-gateway"],
    ),
    // Its stand-in for the control plane speaks the worker link.
    ("longshore-image", &["longshore-core", "longshore-api"]),
    ("longshore-simulate", &["longshore-core"]),
    // Real servers for tests. In nobody's list: only dev-dependencies may name it.
    ("longshore-testkit", &[]),
    // The binary wires everything, and nothing may use the binary.
    (
        "longshore",
        &[
            "longshore-core",
            "longshore-api",
            "longshore-store",
            "longshore-platform",
            "longshore-gateway",
            "longshore-worker",
            "longshore-server",
            "longshore-simulate",
            "longshore-image",
        ],
    ),
];

/// What `longshore-core` may not reach by any path: runtimes, sockets, databases.
const IMPURE: &[&str] = &[
    "async-std",
    "axum",
    "hyper",
    "mio",
    "redis",
    "reqwest",
    "rusqlite",
    "rustls",
    "smol",
    "socket2",
    "sqlx",
    "tokio",
    "tokio-postgres",
];

#[test]
fn dependencies_point_one_way() {
    let edges = workspace_edges(&metadata(&["--no-deps"]), |kind| kind != "dev");
    assert!(
        edges.iter().any(|(user, _)| user == "longshore-api"),
        "no edge was read: is the test blind? {edges:?}"
    );
    assert_eq!(faults(&edges), Vec::<String>::new());
}

#[test]
fn every_crate_has_a_place_in_the_table() {
    let known: BTreeSet<_> = ALLOWED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let unplaced: Vec<_> = members(&metadata(&["--no-deps"])).difference(&known).cloned().collect();
    assert!(unplaced.is_empty(), "say in ALLOWED what these may use: {unplaced:?}");
}

#[test]
fn the_table_itself_has_no_cycle() {
    for (at, (name, uses)) in ALLOWED.iter().enumerate() {
        let earlier: Vec<_> = ALLOWED[..at].iter().map(|(name, _)| *name).collect();
        for used in *uses {
            assert!(earlier.contains(used), "`{name}` uses `{used}`, which is not listed before it");
        }
    }
}

/// Dev-dependencies are freer: a test may use any crate as a tool. Two things stay: core's tests need nothing but core,
/// and the binary is nobody's library.
#[test]
fn tests_may_use_any_crate_but_core_tests_stay_pure() {
    let edges = workspace_edges(&metadata(&["--no-deps"]), |kind| kind == "dev");
    let wrong: Vec<_> =
        edges.iter().filter(|(user, used)| user == "longshore-core" || used == "longshore").collect();
    assert!(wrong.is_empty(), "dev-dependencies that are not allowed: {wrong:?}");
}

#[test]
fn core_reaches_no_runtime_socket_or_database() {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let all = metadata(&["--filter-platform", &platform]);
    assert!(impure_in(&all, "longshore-api").contains(&"tokio"), "the walk misses what is there");
    assert_eq!(impure_in(&all, "longshore-core"), Vec::<&str>::new());
}

#[test]
fn an_edge_against_the_grain_is_found() {
    check("longshore-core", "longshore-store", false);
    check("longshore-store", "longshore-platform", false);
    check("longshore-store", "longshore-api", false);
    check("longshore-worker", "longshore-server", false);
    check("longshore-server", "longshore-worker", false);
    check("longshore-api", "longshore", false);
    check("longshore-unknown", "longshore-core", false);
    check("longshore-store", "longshore-testkit", false);
    check("longshore", "longshore-testkit", false);
    check("longshore-gateway", "longshore-store", true);
    check("longshore", "longshore-server", true);
}

fn check(user: &str, used: &str, allowed: bool) {
    let found = faults(&[(user.to_owned(), used.to_owned())]);
    assert_eq!(found.is_empty(), allowed, "{user} -> {used}");
}

/// The edges that the table does not allow, as sentences.
fn faults(edges: &[(String, String)]) -> Vec<String> {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    edges
        .iter()
        .filter(|(user, used)| !allowed.get(user.as_str()).is_some_and(|uses| uses.contains(&used.as_str())))
        .map(|(user, used)| format!("`{user}` may not depend on `{used}`"))
        .collect()
}

/// Edges between workspace crates whose kind (`normal`, `build`, `dev`) is wanted.
fn workspace_edges(metadata: &Value, wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let members = members(metadata);
    let mut edges = Vec::new();
    for package in array(&metadata["packages"]) {
        for dependency in array(&package["dependencies"]) {
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            if wanted(kind) && members.contains(text(&dependency["name"])) {
                edges.push((text(&package["name"]).to_owned(), text(&dependency["name"]).to_owned()));
            }
        }
    }
    edges
}

/// With `--no-deps`, the packages are the workspace's own.
fn members(metadata: &Value) -> BTreeSet<String> {
    array(&metadata["packages"]).iter().map(|package| text(&package["name"]).to_owned()).collect()
}

/// Which of `IMPURE` a crate reaches over normal dependencies, however far.
fn impure_in(metadata: &Value, root: &str) -> Vec<&'static str> {
    let names: BTreeMap<_, _> = array(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let nodes: BTreeMap<_, _> =
        array(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let mut open: Vec<&str> = names.iter().filter(|(_, name)| **name == root).map(|(id, _)| *id).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(
                array(&nodes[id]["deps"]).iter().filter(|dep| is_normal(dep)).map(|dep| text(&dep["pkg"])),
            );
        }
    }
    let reached: BTreeSet<_> = seen.iter().map(|id| names[id]).collect();
    IMPURE.iter().copied().filter(|name| reached.contains(name)).collect()
}

/// `kind` is null for a normal dependency.
fn is_normal(dependency: &Value) -> bool {
    array(&dependency["dep_kinds"]).iter().any(|entry| entry["kind"].is_null())
}

fn metadata(arguments: &[&str]) -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, since it built this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("names and ids in cargo metadata are strings")
}
