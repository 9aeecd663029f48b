//! `longshore init`: what it writes is a valid configuration, and its agent runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::run::{feed, run};

fn init(language: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ran = run(dir.path(), ["init", language]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.contains("longshore up") && ran.out.contains("longshore submit hello"), "{ran:?}");
    check_image(dir.path());
    dir
}

/// Small, not as root, without configuration.
fn check_image(dir: &Path) {
    let image = fs::read_to_string(dir.join("Dockerfile")).expect("written");
    assert!(image.matches("\nFROM ").count() == 3 && image.contains("-slim"), "{image}");
    assert!(
        image.contains("\nUSER 10001")
            && image.contains("\nENTRYPOINT [\"/usr/local/bin/longshore\", \"worker\", \"--\"]\n"),
        "{image}"
    );
    let ignored = fs::read_to_string(dir.join(".dockerignore")).expect("written");
    assert!(ignored.lines().any(|line| line == "longshore.toml"), "{ignored}");
}

/// Runs the agent as a worker would; the result of this input.
fn result(dir: &Path, input: Value) -> Value {
    let told = run(dir, ["config", "--json"]);
    let told: Value = serde_json::from_str(&told.out).unwrap_or_else(|_| panic!("a configuration: {told:?}"));
    let command: Vec<String> = serde_json::from_value(told["fleets"][0]["command"].clone()).expect("words");
    let task = json!({"longshore": 1, "task": {
        "id": "0197a2c4-0000-7000-8000-000000000000", "fleet": "hello", "attempt": 1, "input": input, "labels": {},
        "conversation": null,
    }});
    let ran = feed(Command::new(&command[0]).args(&command[1..]).current_dir(dir), &format!("{task}\n"));
    assert_eq!(ran.status, 0, "{ran:?}");
    let events = ran.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let result = events.into_iter().find(|event| event["longshore"] == "result");
    result.map_or_else(|| json!(ran.out.trim_end()), |event| event["data"].clone())
}

/// Whether a program is here; says so where the test has to be skipped.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        assert!(std::env::var_os("LONGSHORE_TEST_REQUIRE").is_none(), "{program} is required");
        println!("SKIPPED: no {program}");
    }
    there
}

#[test]
fn python() {
    let dir = init("python");
    assert_eq!(result(dir.path(), json!("world")), json!("Hello, world!"));
    assert_eq!(result(dir.path(), json!({"a": 1})), json!("Hello, {\"a\": 1}!"));
}

#[test]
fn node() {
    if has("node") {
        assert_eq!(result(init("node").path(), json!("world")), json!("Hello, world!"));
    }
}

#[test]
fn shell() {
    let dir = init("shell");
    assert_eq!(result(dir.path(), json!("world")), json!("Hello, world!"));
    assert_eq!(result(dir.path(), json!(null)), json!("Hello, nobody in particular!"));
}

#[test]
fn rust() {
    let dir = init("rust");
    let build = |extra: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        // Beside the agent, where its longshore.toml looks for it.
        cargo
            .args(["build", "--quiet", "--release"])
            .args(extra)
            .env("CARGO_TARGET_DIR", dir.path().join("target"));
        cargo.current_dir(dir.path()).status().expect("cargo runs").success()
    };
    // What built this test has fetched all that the agent needs.
    assert!(build(&["--offline"]) || build(&[]));
    assert_eq!(result(dir.path(), json!("world")), json!("Hello, world!"));
}

#[test]
fn python_is_the_default_and_a_folder_is_made() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let ran = run(dir.path(), ["init", "--dir", "my agent", "--json"]);
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(told["next"][0], "cd 'my agent' && longshore up");
    assert!(dir.path().join("my agent/agent.py").is_file());
}

#[test]
fn nothing_is_overwritten_without_force() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("agent.py"), "mine").expect("written");
    let ran = run(dir.path(), ["init"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("`agent.py` is already in") && ran.err.contains("--force"), "{ran:?}");
    assert_eq!(fs::read_to_string(dir.path().join("agent.py")).expect("still there"), "mine");
    assert!(!dir.path().join("longshore.toml").exists(), "a refusal writes nothing at all");
    assert_eq!(run(dir.path(), ["init", "--force"]).status, 0);
    assert_ne!(fs::read_to_string(dir.path().join("agent.py")).expect("written"), "mine");
}
