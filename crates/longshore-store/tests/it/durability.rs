//! Acknowledged means durable: across kill -9, and never after a failed sync.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use longshore_core::id::TaskId;
use longshore_store::{OpenOptions, Store, StoreError, SubmitError};

use crate::support::{World, folder, new_task, skip};

/// Submits for ever and prints each id when it was acknowledged; breaks its disk after the fifth, if told to.
#[test]
#[ignore = "run by other tests as a process of its own"]
fn child_submits() {
    let dir = std::env::var("LONGSHORE_TEST_DIR").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new(Store::open(&OpenOptions::new(dir)).unwrap(), None).await;
        for count in 1.. {
            let id = world.submit(new_task()).await;
            // In one write, so that a line is whole or not there.
            std::io::stdout().write_all(format!("ack {id}\n").as_bytes()).unwrap();
            std::io::stdout().flush().unwrap();
            if let (5, Some(switch)) = (count, std::env::var_os(FAIL_SYNC)) {
                std::fs::write(switch, "").unwrap();
                println!("syncs fail from here");
            }
        }
    });
}

fn spawn(dir: &Path, environment: &[(&str, &Path)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "durability::child_submits", "--nocapture"])
        .env("LONGSHORE_TEST_DIR", dir)
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn acknowledged(lines: &[String]) -> Vec<TaskId> {
    lines.iter().filter_map(|line| line.strip_prefix("ack ")).map(|id| id.parse().unwrap()).collect()
}

async fn all_there(dir: &Path, ids: &[TaskId]) {
    let store = Store::open(&OpenOptions::new(dir)).unwrap();
    for id in ids {
        assert!(store.task(*id).await.unwrap().is_some(), "{id} was acknowledged");
    }
    let load = store
        .load(crate::support::fleet("a"), longshore_core::time::Timestamp(1_795_000_000_000))
        .await
        .unwrap();
    assert!(load.runnable >= ids.len() as u64);
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    // A real disk, where there is one: the log of the store is what is under test.
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for round in 1..=3 {
        let mut child = spawn(dir.path(), &[]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut seen: Vec<_> =
            lines.by_ref().filter(|line| line.starts_with("ack ")).take(40 * round).collect();
        child.kill().unwrap();
        seen.extend(lines.filter(|line| line.starts_with("ack ")));
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        ids.extend(acknowledged(&seen));
        all_there(dir.path(), &ids).await;
    }
    assert!(ids.len() >= 240);
}

/// Names the file whose existence makes syncs fail.
const FAIL_SYNC: &str = "LONGSHORE_TEST_FAIL_SYNC";

const SHIM: &str = r#"
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fails(void) {
    const char *switch_file = getenv("LONGSHORE_TEST_FAIL_SYNC");
    if (!switch_file || access(switch_file, F_OK) != 0) return 0;
    if (write(1, "sync failed\n", 12) != 12) _exit(99);
    errno = EIO;
    return 1;
}
int fsync(int fd) { return fails() ? -1 : (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails() ? -1 : (int)syscall(SYS_fdatasync, fd); }
"#;

/// Compiles the library that makes syncs fail once a file is there.
fn shim(dir: &Path) -> Option<std::path::PathBuf> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    let cc = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .output()
        .ok()?;
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    Some(library)
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_and_the_process_ends() {
    let (tools, dir) = (folder(), folder());
    let Some(library) = shim(tools.path()) else { return skip("no C compiler") };
    let mut child = spawn(dir.path(), &[("LD_PRELOAD", &library), (FAIL_SYNC, &tools.path().join("fail"))]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (mut before, mut failing, mut after) = (Vec::new(), false, Vec::new());
    for line in lines {
        failing |= line == "syncs fail from here";
        if failing {
            after.push(line)
        } else {
            before.push(line)
        }
        if after.iter().any(|line| line.starts_with("ack ")) {
            child.kill().unwrap();
            panic!("acknowledged although nothing can be synced: {after:?}");
        }
    }
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(6), "it aborts: {errors}");
    assert!(errors.contains("the disk failed to keep"), "{errors}");
    assert!(after.contains(&"sync failed".to_owned()), "a sync was made to fail: {after:?}");
    assert_eq!(acknowledged(&before).len(), 5);
    all_there(dir.path(), &acknowledged(&before)).await;
}

#[tokio::test]
async fn a_command_that_fails_takes_back_only_itself() {
    let world = World::embedded().await;
    let (good, same) = (new_task(), new_task());
    world.submit(same.clone()).await;
    let twice = world.store.submit(vec![good.clone(), same], None, world.now()).await;
    assert!(matches!(twice, Err(SubmitError::Store(StoreError::Internal { .. }))), "{twice:?}");
    assert_eq!(world.store.task(good.id).await.unwrap(), None);
    assert_eq!(world.load("a").await.runnable, 1);
    world.submit(good).await;
}
