//! Arguments, help and exit statuses, without a control plane.

use std::net::TcpListener;
use std::path::Path;

use crate::run::{Ran, run, run_with};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// An address at which nobody listens: a port that was free a moment ago.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

fn check(dir: &Path, args: &[&str], status: i32, said: &str) -> Ran {
    let ran = run(dir, args);
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    assert!(ran.err.contains(said), "{args:?} should say {said:?}: {ran:?}");
    ran
}

/// What people read first: a change here is a change of the product.
#[test]
fn help_of_every_command() {
    let dir = folder();
    let mut text = String::new();
    for command in [
        "",
        "demo",
        "up",
        "serve",
        "worker",
        "init",
        "apply",
        "config",
        "render",
        "render kubernetes",
        "submit",
        "tasks",
        "tasks list",
        "tasks show",
        "tasks watch",
        "tasks cancel",
        "tasks retry",
        "batches",
        "batches list",
        "batches watch",
        "batches cancel",
        "tenants erase",
        "fleets",
        "fleets pause",
        "fleets resume",
        "fleets tenants",
        "workers",
        "workers drain",
        "scale",
        "schedules",
        "schedules list",
        "schedules show",
        "schedules pause",
        "schedules resume",
        "schedules run",
        "webhooks",
        "webhooks list",
        "webhooks deliveries",
        "webhooks retry",
        "webhooks test",
        "webhooks enable",
        "keys",
        "keys create",
        "keys list",
        "keys revoke",
        "doctor",
        "probe",
        "llm-sim",
    ] {
        let ran = run(dir.path(), command.split_whitespace().chain(["--help"]));
        assert_eq!((ran.status, ran.err.as_str()), (0, ""), "{command}");
        text.push_str(&format!("$ longshore {command} --help\n{}\n", ran.out));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_not_a_command_or_a_value_is_a_usage_error() {
    let dir = folder();
    for args in [
        &["frobnicate"][..],
        &["submit"],
        &["submit", "Not-A-Fleet"],
        &["submit", "a", "--priority", "99999999999"],
        &["submit", "a", "--priority", "-1001"],
        &["submit", "a", "--max-attempts", "0"],
        &["submit", "a", "--run-at", "tomorrow"],
        &["submit", "a", "--label", "nothing"],
        &["submit", "a", "--wait", "--timeout", "60"],
        &["submit", "a", "--timeout", "60s"],
        &["submit", "a", "--input", "1", "--batch", "x"],
        &["tasks", "show", "not-an-id"],
        &["tasks", "list", "--state", "sleeping"],
        &["tasks", "list", "--created-after", "yesterday"],
        &["tasks", "cancel"],
        &["tasks", "retry", "--yes", "--dry-run"],
        &["submit", "a", "--name", "x"],
        &["batches", "show", "x"],
        &["scale", "a", "--auto", "--replicas", "3"],
        &["scale", "a", "--replicas", "-1"],
        &["worker"],
        &["worker", "--fleet", "a"],
        &["probe", "sideways"],
        &["llm-sim", "--latency", "fixed:soon"],
        &["llm-sim", "--speed", "0"],
        &["llm-sim", "--fault", "nth=3"],
        &["llm-sim", "--price", "gpt-5=cheap"],
        &["fleets", "--server", "nonsense"],
        &["fleets", "--ca", "sha256:12"],
        &["keys", "create"],
        &["keys", "create", "a", "--verbs", "fly"],
        &["keys", "create", "a", "--verbs", "join"],
        &["keys", "create", "a", "--join", "b", "--tenant", "c"],
        &["keys", "create", "a", "--expires", "0s"],
        &["keys", "revoke", "mine"],
    ] {
        let ran = run(dir.path(), args);
        assert_eq!(ran.status, 2, "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("error: ") && ran.out.is_empty(), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_closed_port_is_status_five_and_says_what_to_do() {
    let (dir, server) = (folder(), closed());
    for args in
        [&["fleets"][..], &["workers"], &["tasks", "list"], &["submit", "a"], &["submit", "a", "--wait"]]
    {
        let args: Vec<_> = args.iter().chain(&["--server", &server]).copied().collect();
        let ran = check(dir.path(), &args, 5, "hint: is it running?");
        assert_eq!(ran.err.matches("error: ").count(), 1, "said once: {ran:?}");
        assert!(ran.err.contains(&server), "{ran:?}");
    }
}

#[test]
fn a_token_is_never_shown() {
    let (dir, server) = (folder(), closed());
    let ran = run(dir.path(), ["fleets", "--server", &server, "--token", "hunter2"]);
    assert!(!ran.err.contains("hunter2"), "{ran:?}");
    let key = format!("lsk_{}", "x".repeat(43));
    let ran = check(dir.path(), &["keys", "revoke", &key], 2, "key id");
    assert!(!ran.err.contains(&key), "a key given in place of its id is not repeated: {ran:?}");
    let mut help = crate::run::command(dir.path());
    help.env("LONGSHORE_TOKEN", "hunter2").args(["fleets", "--help"]);
    let help = crate::run::ran(help.output().expect("the binary runs"));
    assert!(help.out.contains("LONGSHORE_TOKEN") && !help.out.contains("hunter2"), "{help:?}");
}

#[test]
fn something_else_that_listens_is_not_taken_for_a_control_plane() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let server = format!("http://{}", listener.local_addr().expect("bound"));
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().expect("the command connects");
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
    });
    check(folder().path(), &["fleets", "--server", &server], 5, "not longshore's");
    other.join().expect("it served once");
}

#[test]
fn a_bad_input_is_refused_before_anything_is_sent() {
    let (dir, server) = (folder(), closed());
    let bad = |args: &[&str], said: &str| {
        let args: Vec<_> = ["submit", "a", "--server", &server].iter().chain(args).copied().collect();
        check(dir.path(), &args, 2, said)
    };
    bad(&["--input", "plain text"], "quote a text");
    bad(&["--input", "@absent.json"], "could not read `absent.json`");
    let deep = "[".repeat(65) + &"]".repeat(65);
    bad(&["--input", &deep], "65 levels deep");
    std::fs::write(dir.path().join("latin1.json"), b"\"caf\xe9\"").expect("written");
    bad(&["--input", "@latin1.json"], "not UTF-8");
    let ran = run_with(dir.path(), &["submit", "a", "--server", &server, "--input", "-"], "{");
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("standard input"), "{ran:?}");
}

#[test]
fn each_bad_line_of_a_batch_is_named() {
    let (dir, server) = (folder(), closed());
    std::fs::write(dir.path().join("in.jsonl"), "{\"a\":1}\n\n{\"a\":\nnope\n2\n").expect("written");
    let ran =
        check(dir.path(), &["submit", "a", "--server", &server, "--batch", "in.jsonl"], 2, "in.jsonl:3: ");
    assert!(ran.err.contains("in.jsonl:4: ") && ran.err.contains("2 of 4 lines"), "{ran:?}");
    assert!(!ran.err.contains("in.jsonl:1:") && !ran.err.contains("in.jsonl:5:"), "{ran:?}");
    std::fs::write(dir.path().join("empty.jsonl"), "\n\n").expect("written");
    check(dir.path(), &["submit", "a", "--server", &server, "--batch", "empty.jsonl"], 2, "holds no task");
}

#[test]
fn a_probe_without_an_answer_is_a_no() {
    let addr = closed().replace("http://", "");
    check(folder().path(), &["probe", "ready", "--addr", &addr], 1, "could not ask");
}

#[test]
fn a_log_filter_that_is_none_is_a_usage_error() {
    let dir = folder();
    let mut command = crate::run::command(dir.path());
    let ran = crate::run::ran(command.env("LONGSHORE_LOG", "a=b=c").arg("fleets").output().expect("it runs"));
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.err.contains("LONGSHORE_LOG is not a log filter"), "{ran:?}");
}
