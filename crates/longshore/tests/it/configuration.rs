//! `config`, `doctor`, and what `up` and `serve` say about a file that cannot be used.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::run::{command, ran, run};

const GOOD: &str = "[fleet.a]\ncommand = [\"sh\", \"-c\", \"cat\"]\n";

fn with(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("longshore.toml"), text).expect("the folder is writable");
    dir
}

#[test]
fn without_a_file_the_way_to_one_is_shown() {
    if fs::exists("/etc/longshore/longshore.toml").unwrap_or(false) {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    for args in [&["up"][..], &["serve"], &["config"], &["apply"]] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.status, 1, "{args:?}: {ran:?}");
        assert!(ran.err.contains("longshore init"), "{args:?}: {ran:?}");
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let dir = with("[fleet.a]\ncomand = [\"cat\"]\nconcurrency = 0\n");
    for args in [&["config"][..], &["config", "--check"], &["up"], &["serve"]] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.status, 1, "{args:?}: {ran:?}");
        for said in ["longshore.toml:2:1: fleet.a.comand", "did you mean `command`?", "longshore.toml:3:"] {
            assert!(ran.err.contains(said), "{args:?} should say {said:?}: {ran:?}");
        }
    }
}

#[test]
fn the_effective_configuration_is_told_without_secrets() {
    let dir = with(&format!("{GOOD}secrets = {{ KEY = {{ env = \"MY_KEY\" }} }}\n"));
    let mut command = command(dir.path());
    command.env("MY_KEY", "hunter2").env("LONGSHORE__FLEET__A__CONCURRENCY", "7").args(["config", "--json"]);
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(!ran.out.contains("hunter2") && ran.out.contains("MY_KEY"), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(told["fleets"][0]["concurrency"], 7);
}

#[test]
fn what_config_prints_is_a_configuration() {
    let dir = with(GOOD);
    let first = run(dir.path(), ["config"]);
    fs::write(dir.path().join("again.toml"), &first.out).expect("written");
    let again = run(dir.path(), ["config", "--config", "again.toml"]);
    let body = |text: &str| text.split_once('\n').map(|(_, body)| body.to_owned());
    assert_eq!(body(&first.out), body(&again.out), "{again:?}");
}

fn doctor(dir: &std::path::Path, extra: &[&str]) -> (i32, Vec<Value>) {
    let ran = run(dir, ["doctor", "--json"].iter().chain(extra));
    let told: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("JSON: {ran:?}"));
    (ran.status, told["checks"].as_array().expect("a list").clone())
}

fn level(checks: &[Value], what: &str, said: &str) -> String {
    let check = checks.iter().find(|check| {
        check["what"] == what && check["found"].as_str().is_some_and(|found| found.contains(said))
    });
    let check = check.unwrap_or_else(|| panic!("no check of {what} says {said:?}: {checks:#?}"));
    check["level"].as_str().expect("text").to_owned()
}

/// Free ports, so that neither another test nor a control plane of this machine is in the way.
fn free_ports() -> String {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [api, link, probes] = listeners.map(|listener| listener.local_addr().expect("bound"));
    format!("[server]\napi = \"{api}\"\nlink = \"{link}\"\nprobes = \"{probes}\"\n")
}

#[test]
fn the_doctor_finds_nothing_wrong_before_the_first_start() {
    let dir = with(&format!("{}{GOOD}", free_ports()));
    let (status, checks) = doctor(dir.path(), &[]);
    assert_eq!(status, 0, "{checks:#?}");
    assert_eq!(level(&checks, "command", "fleet a"), "ok");
    assert_eq!(level(&checks, "store", "will be made"), "ok");
    assert_eq!(level(&checks, "control plane", "nothing answers"), "warn");
    assert!(!dir.path().join(".longshore").exists(), "the doctor changes nothing");
}

#[test]
fn the_doctor_names_what_is_wrong_and_fails() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound");
    // An api that nobody serves, and a link that somebody else holds.
    let ports = free_ports();
    let ports = ports.lines().filter(|line| !line.starts_with("link")).collect::<Vec<_>>().join("\n");
    let text = format!(
        "{ports}\nlink = \"{addr}\"\n[store]\ndir = \"file\"\n[fleet.a]\ncommand = [\"no-such-program-here\"]\n"
    );
    let dir = with(&text);
    fs::write(dir.path().join("file"), "x").expect("written");
    let (status, checks) = doctor(dir.path(), &[]);
    assert_eq!(status, 1);
    assert_eq!(level(&checks, "command", "no-such-program-here"), "fail");
    assert_eq!(level(&checks, "port", &addr.to_string()), "fail");
    assert_eq!(level(&checks, "store", "is not a folder"), "fail");
    let advised = checks.iter().filter(|check| check["level"] == "fail");
    assert!(
        advised.clone().count() >= 3 && advised.clone().all(|check| check["todo"].is_string()),
        "{checks:#?}"
    );
}

#[test]
fn the_doctor_tells_a_broken_file_and_a_named_control_plane_that_is_away() {
    let dir = with("[fleet.a]\ncomand = []\n");
    let (status, checks) = doctor(dir.path(), &["--server", "http://127.0.0.1:1"]);
    assert_eq!(status, 1);
    assert_eq!(level(&checks, "config", "longshore.toml:2:1"), "fail");
    assert_eq!(level(&checks, "control plane", "could not reach"), "fail");
}
