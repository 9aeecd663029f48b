//! What a test starts ends with it, however that ends.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use longshore_testkit::{Postgres, Redis};

const CHILD: &str = "LONGSHORE_TESTKIT_CHILD";

#[test]
fn servers_outlive_the_thread_that_started_them_and_end_with_their_value() {
    let Some(redis) = thread::spawn(Redis::start).join().unwrap() else { return };
    assert_eq!(redis.cli(&["PING"]), "PONG");
    let port = redis.port();
    drop(redis);
    std::net::TcpListener::bind(("127.0.0.1", port)).expect("nobody listens there any more");
}

/// Starts itself as another process, which starts a Postgres, stops it, and is killed.
#[test]
fn stopped_servers_end_with_a_process_that_is_killed() {
    if env::var_os(CHILD).is_some() {
        return hold_a_stopped_postgres();
    }
    let Some(probe) = Postgres::start() else { return };
    drop(probe);
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "life::stopped_servers_end_with_a_process_that_is_killed", "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", temporary.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let processes = processes_named(BufReader::new(child.stdout.take().unwrap()));
    assert!(processes.len() > 3, "a Postgres has a few processes: {processes:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    while processes.iter().any(|id| runs(id)) {
        thread::sleep(Duration::from_millis(1));
    }
    remove_shared_memory(temporary.path());
}

/// A killed Postgres leaves a segment behind, of which a system has few: key and id are the seventh line of its file.
fn remove_shared_memory(temporary: &Path) {
    let mut folders = fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path().join("data"));
    let file = folders.find_map(|data| fs::read_to_string(data.join("postmaster.pid")).ok()).unwrap();
    let id = file.lines().nth(6).unwrap().split_whitespace().nth(1).unwrap();
    assert!(Command::new("ipcrm").args(["--shmem-id", id]).status().unwrap().success());
}

fn hold_a_stopped_postgres() {
    let postgres = Postgres::start().expect("the parent started one");
    let first = postgres.id().unwrap();
    let others = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap();
    postgres.pause();
    println!("\nprocesses {first} {others}");
    // Until we are killed, or the parent is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn processes_named(output: impl BufRead) -> Vec<String> {
    let lines = output.lines().map(Result::unwrap);
    let line = lines.into_iter().find(|line| line.starts_with("processes ")).expect("the child says it");
    line.split_whitespace().skip(1).map(str::to_owned).collect()
}

fn runs(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
