//! The demo's short form, as a program that reads its last line would run it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn demo(temporary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("demo").args(args).env("TMPDIR", temporary).env_remove("LONGSHORE_LOG").stdin(Stdio::null());
    command
}

/// Processes whose command line names something in this folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().expect("a temporary folder's path is text");
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[test]
fn the_short_tour_holds_and_ends_with_one_object() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let output =
        demo(temporary.path(), &["--json", "--tasks", "30", "--quick"]).output().expect("longshore runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stderr}\n{stdout}", output.status);
    let last = stdout.lines().last().expect("there is a line");
    let summary: Value = serde_json::from_str(last).expect("the last line is JSON");
    for (key, expected) in [
        ("submitted", 30),
        ("succeeded", 30),
        ("failed", 0),
        ("lost", 0),
        ("written_twice", 0),
        ("workers_killed", 1),
        ("workers_drained", 1),
        ("interrupted_by_rollout", 0),
    ] {
        assert_eq!(summary[key], expected, "{key} in {last}");
    }
    check_calls(&summary);
    let rolled = summary["workers_rolled"].as_u64().expect("a number");
    assert!(rolled >= 2 && summary["rollout_seconds"].as_f64().is_some_and(|took| took > 0.0), "{last}");
    let peak = summary["peak_workers"].as_u64().expect("a number");
    assert!((3..=8).contains(&peak), "{last}");
    assert!(summary["interrupted"].as_u64().is_some() && summary["seconds"].as_f64().is_some(), "{last}");
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("still there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Every answer was bought once, and the task of the killed worker was given some again.
fn check_calls(summary: &Value) {
    let count = |key: &str| summary[key].as_u64().unwrap_or_else(|| panic!("{key} in {summary}"));
    let live = count("llm_calls_live");
    assert!(live >= 60, "two calls a task at least: {summary}");
    assert_eq!((count("llm_calls_distinct"), count("llm_calls_received")), (live, live), "{summary}");
    assert_eq!(count("maybe_billed"), 0, "{summary}");
    assert!(count("llm_calls_replayed") > 0 && count("tokens_saved") > 0, "{summary}");
    let saved = summary["cost_saved"].as_str().and_then(|saved| saved.parse::<f64>().ok());
    assert!(saved.is_some_and(|saved| saved > 0.0), "{summary}");
}

#[test]
fn an_interrupt_stops_everything() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let mut child = demo(temporary.path(), &["--json", "--tasks", "100"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("longshore runs");
    wait_until("an agent runs", || {
        processes_of(temporary.path()).iter().any(|line| !line.contains(" worker "))
    });
    let pid = i32::try_from(child.id()).expect("a pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT)
        .expect("it runs");
    wait_until("it ends", || child.try_wait().expect("our child").is_some());
    assert_eq!(child.wait().expect("our child").code(), Some(130));
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
    let left: Vec<_> = std::fs::read_dir(temporary.path()).expect("still there").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_missing_python_is_said_and_nothing_is_left() {
    let temporary = tempfile::tempdir().expect("temporary folder");
    let output = demo(temporary.path(), &[]).env("PATH", temporary.path()).output().expect("longshore runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: python3 was not found"), "{stderr}");
    assert!(std::fs::read_dir(temporary.path()).expect("still there").next().is_none());
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
