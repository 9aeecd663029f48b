//! `config`, `doctor`, and what `up` and `serve` say about a file that cannot be used.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

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

fn doctor(dir: &Path, extra: &[&str]) -> (i32, Vec<Value>) {
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

fn of_the_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn page(path: &str) -> String {
    fs::read_to_string(of_the_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_documented_file_is_a_configuration_and_shows_the_defaults() {
    let text = page("docs/configuration.md");
    let (_, rest) = text.split_once("```toml\n").expect("the page shows a file");
    let (sample, _) = rest.split_once("\n```").expect("the block ends");
    let told = |text: &str| {
        let dir = with(text);
        let ran = run(dir.path(), ["config", "--json"]);
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{ran:?}");
        let mut told: Value = serde_json::from_str(&ran.out).expect("JSON");
        // Which providers there are follows from the file.
        for chosen in ["env", "secrets", "providers", "working_dir"] {
            told["fleets"][0][chosen].take();
        }
        told
    };
    let documented = told(sample);
    let smallest = told("[fleet.research]\ncommand = [\"python\", \"agent.py\"]\n");
    assert_eq!(documented["fleets"], smallest["fleets"], "the page's values are the defaults");
    assert_eq!(documented["server"], smallest["server"], "the page's values are the defaults");
}

#[test]
fn commented_keys_of_the_documented_file_exist() {
    let text = page("docs/configuration.md");
    let (mut section, mut keys) = ("", Vec::new());
    for line in text.lines() {
        if let Some((header, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = header;
        } else if let Some(key) = line.strip_prefix("# ").filter(|line| line.contains(" = ")) {
            keys.push((section, key.split("  #").next().unwrap_or(key)));
        }
    }
    assert!(keys.len() > 5, "the page shows keys that are left out: {keys:?}");
    for (section, key) in keys {
        let dir = with(&format!("[{section}]\n{key}\n{GOOD}"));
        let ran = run(dir.path(), ["config", "--check"]);
        assert!(!ran.err.contains("unknown key"), "{section}.{key}: {ran:?}");
    }
}

/// Every `STATUS, "code"` of a folder's sources, as `status code`: how the server writes a problem.
fn problems_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            problems_in(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            problems_of(&fs::read_to_string(&path).expect("text"), found);
        }
    }
}

fn problems_of(source: &str, found: &mut BTreeSet<String>) {
    let parts: Vec<&str> = source.split('"').collect();
    for pair in parts.windows(2) {
        let Some(before) = pair[0].trim_end().strip_suffix(',') else { continue };
        let status = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        let is_code = !pair[1].is_empty()
            && pair[1].chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_code && status.parse().is_ok_and(|status: u32| (400..600).contains(&status)) {
            found.insert(format!("{status} {}", pair[1]));
        }
    }
}

/// Every code of the page's table with its status. A row with several statuses names one code for each.
fn documented_problems() -> BTreeSet<String> {
    let text = page("docs/api.md");
    let (_, errors) = text.split_once("\n## Errors\n").expect("the page has a section of errors");
    let table = errors.lines().skip_while(|line| !line.starts_with("| ---")).skip(1);
    let rows = table.take_while(|line| line.starts_with('|'));
    rows.flat_map(|row| {
        let (_, row) = row.split_once('|').expect("a row");
        let (statuses, codes) = row.split_once('|').expect("two columns");
        let codes = codes.split('`').skip(1).step_by(2);
        let statuses: Vec<&str> = statuses.split(',').map(str::trim).collect();
        codes
            .enumerate()
            .map(move |(at, code)| {
                let status = statuses.get(at).or(statuses.last()).expect("a row has a status");
                format!("{status} {code}")
            })
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn every_error_that_an_agents_call_may_meet_is_documented() {
    let text = page("docs/gateway.md");
    let mut codes = BTreeSet::new();
    codes_in(&of_the_repository("crates/longshore-gateway/src"), &mut codes);
    assert!(codes.contains("provider_timeout"), "the search finds codes: {codes:?}");
    let missing: Vec<_> = codes.iter().filter(|code| !text.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/gateway.md does not know {missing:?}");
}

/// Every `code: "…"` of a folder's sources, tests apart.
fn codes_in(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            codes_in(&path, found);
            continue;
        }
        let source = fs::read_to_string(&path).expect("text");
        let source = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
        let named = source.split("code: \"").skip(1).filter_map(|rest| rest.split('"').next());
        found.extend(named.map(str::to_owned));
    }
}

#[test]
fn every_error_code_is_documented_with_its_status_and_no_other() {
    let mut written = BTreeSet::new();
    problems_in(&of_the_repository("crates/longshore-server/src"), &mut written);
    assert!(written.contains("404 unknown_task"), "the search finds codes: {written:?}");
    assert_eq!(documented_problems(), written, "left: docs/api.md, right: the server's source");
}
