//! What a task leaves behind does not meet the next one, however it went out of the way.

use std::path::Path;

use longshore_api::link::ClaimedTask;
use longshore_core::fleet::Protocol;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::control_plane::{ControlPlane, registered};
use super::scene::{Scene, eventually, succeeded, task, words};
use super::worker::{children, lives, may_make_a_pid_namespace};

/// Leaves processes behind in every way there is, writes their numbers down, and ends as told; or looks whether any lives.
///
/// What it leaves reads the environments of all other processes of its worker again and again, and writes down the tokens in
/// them; those of other tests, which may run beside this one, are not its concern.
const AGENT: &str = r#"
import json, os, signal, sys, time
folder, task = sys.argv[1], json.load(sys.stdin)["task"]
do = task["input"]

def spy():
    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)
    with open(folder + "/left", "a") as left:
        left.write(f"{os.getpid()}\n")
    while True:
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if folder.encode() not in open(f"/proc/{pid}/cmdline", "rb").read():
                    continue
                text = open(f"/proc/{pid}/environ", "rb").read()
            except OSError:
                continue
            for pair in text.split(b"\0"):
                if pair.startswith(b"LONGSHORE_TASK_TOKEN="):
                    open(folder + "/seen", "ab").write(pair + b"\n")

def session():
    if os.fork() == 0:
        os.setsid()
        spy()

def twice():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(3):
                os.close(fd)
            spy()
        os._exit(0)

# Not even its environment tells whose it is.
def bare():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for fd in range(3):
                os.close(fd)
            note = f"echo $$ >> '{folder}/left'; while :; do sleep 0.05; done"
            os.execve("/bin/sh", ["sh", "-c", note], {})
        os._exit(0)

# Starts the next of its kind and ends, for as long as anybody looks on.
def restless():
    if os.fork() == 0:
        os.setsid()
        with open(folder + "/left", "a") as left:
            left.write(f"{os.getpid()}\n")
        for _ in range(20):
            if os.fork() == 0:
                end = time.monotonic() + 0.2
                while time.monotonic() < end:
                    if os.fork():
                        os._exit(0)
                spy()
        time.sleep(60)

def left():
    try:
        return [int(line) for line in open(folder + "/left")]
    except FileNotFoundError:
        return []

def lives(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1][0] != "Z"
    except OSError:
        return False

def leave(how, count):
    before = len(left())
    how()
    while len(left()) < before + count:
        time.sleep(0.005)

if do["leave"] == "nothing":
    living = [pid for pid in left() if lives(pid)]
    time.sleep(0.2)
    print(json.dumps({"longshore": "result", "data": living}))
    sys.exit(0)
if do["leave"] == "all":
    for how in (session, twice, bare):
        leave(how, 1)
if do["leave"] == "restless":
    leave(restless, 1)
if do["leave"] == "helper":
    leave(twice, 1)
    while not os.path.exists(folder + "/go"):
        time.sleep(0.01)
    print(json.dumps({"longshore": "result", "data": [pid for pid in left() if lives(pid)]}))
    sys.exit(0)
{
    "success": lambda: print("done"),
    "failure": lambda: sys.exit(3),
    "timeout": lambda: time.sleep(60),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}[do["end"]]()
"#;

fn doing(leave: &str, end: &str) -> ClaimedTask {
    let mut task = task(&format!(r#"{{"leave":"{leave}","end":"{end}"}}"#));
    if end == "timeout" {
        task.timeout_ms = 15_000;
    }
    task
}

/// Also ends what a worker did not end that should have.
struct Spied(Scene);

impl std::ops::Deref for Spied {
    type Target = Scene;

    fn deref(&self) -> &Scene {
        &self.0
    }
}

impl Drop for Spied {
    fn drop(&mut self) {
        let folder = self.0.folder.path();
        for pid in left(folder) {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.contains(folder.to_str().expect("UTF-8")) {
                _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

async fn scene(concurrency: u32) -> Spied {
    Spied(Scene::python(registered(Protocol::Exec, concurrency), AGENT).await)
}

fn left(folder: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(folder.join("left")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// One task that leaves processes behind, and the next one, which was there already.
async fn check(scene: &Scene, leave: &str, end: &str, expected: &str) {
    let first = doing(leave, end);
    let (first, next) = (scene.plane.submit(first), doing("nothing", "success"));
    let token = next.token.clone();
    let next = scene.plane.submit(next);
    let outcome = words(&scene.plane.ending(first).await);
    assert!(outcome.starts_with(expected), "{end}: {outcome}");
    assert_eq!(succeeded(&scene.plane.ending(next).await), "[]", "{leave}, {end}: nothing lives beside it");
    let seen = std::fs::read_to_string(scene.folder.path().join("seen")).unwrap_or_default();
    assert!(!seen.contains(&token), "{leave}, {end}: {seen}");
    assert!(leave != "all" || seen.contains("lst1."), "whoever spies sees something: {seen}");
}

#[tokio::test]
async fn what_a_task_left_behind_is_gone_before_the_next_one_begins_whatever_became_of_it() {
    let scene = scene(1).await;
    check(&scene, "all", "success", r#"succeeded "done""#).await;
    check(&scene, "all", "failure", "failed exit_status").await;
    check(&scene, "all", "timeout", "failed timeout").await;
    check(&scene, "all", "kill", "failed").await;
    assert_eq!(left(scene.folder.path()).len(), 12);
    assert!(children(scene.worker.pid()).is_empty());
}

#[tokio::test]
async fn nothing_gets_away_by_starting_others_all_the_time() {
    let scene = scene(1).await;
    check(&scene, "restless", "success", "succeeded").await;
    eventually("all to be gone", || children(scene.worker.pid()).is_empty().then_some(())).await;
}

#[tokio::test]
async fn the_first_process_of_a_container_clears_what_it_cannot_list() {
    if !may_make_a_pid_namespace() {
        return;
    }
    // Its /proc is that of the system around it, whose numbers are others.
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let script = "cat >/dev/null; setsid sleep 300 >/dev/null 2>&1 </dev/null & sleep 0.1; echo done";
    let command = |_: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let scene = Scene::with(plane, command, |config| config.first_process = true);
    for _ in 0..2 {
        assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
        assert!(children(scene.worker.pid()).is_empty());
    }
}

#[tokio::test]
async fn beside_others_only_what_is_known_to_be_the_tasks_own_is_ended_and_at_last_all() {
    let scene = scene(2).await;
    let folder = scene.folder.path();
    let first = scene.plane.submit(doing("helper", ""));
    eventually("the first one's helper", || (!left(folder).is_empty()).then_some(())).await;
    let helper = left(folder)[0];
    let second = scene.plane.submit(doing("all", "success"));
    assert_eq!(words(&scene.plane.ending(second).await), r#"succeeded "done""#);
    let [_, session, twice, bare] = left(folder)[..] else { panic!("{:?}", left(folder)) };
    assert!(!lives(session) && !lives(twice), "by their environment they are of the task that has ended");
    assert!(lives(helper) && lives(bare), "which may be the other one's");
    std::fs::write(folder.join("go"), "").expect("the folder is writable");
    let living: Vec<i32> =
        serde_json::from_str(succeeded(&scene.plane.ending(first).await)).expect("numbers");
    assert_eq!(living, [helper, bare], "until the other one's end");
    assert!(!lives(helper) && !lives(bare), "then nobody's is left");
}

#[tokio::test]
async fn what_was_there_before_the_worker_lives_on() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let script = "cat >/dev/null; setsid sleep 300 >/dev/null 2>&1 </dev/null & sleep 0.1; echo done";
    let command = |_: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let scene = Scene::with(plane, command, |config| {
        let file = config.run_dir.with_file_name("before");
        config.before = format!("sleep 300 & echo $! >'{}'", file.display());
    });
    let before = scene.number("before").await;
    for _ in 0..2 {
        assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
        let left: Vec<i32> = children(scene.worker.pid()).into_iter().map(|(pid, _)| pid).collect();
        assert_eq!(left, [before], "and only that");
        assert!(lives(before));
    }
    kill(Pid::from_raw(before), Signal::SIGKILL).expect("it lives");
    eventually("it to be reaped", || children(scene.worker.pid()).is_empty().then_some(())).await;
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
    assert!(children(scene.worker.pid()).is_empty());
}

/// What the worker says at each look that finds something.
const FOUND: &str = "left processes behind";

#[tokio::test]
async fn a_task_that_leaves_nothing_is_not_held_up() {
    let scene = scene(1).await;
    for _ in 0..3 {
        scene.run(r#"{"leave":"nothing"}"#).await;
    }
    assert!(!scene.worker.log().contains(FOUND), "nothing was looked for twice");
    scene.run(r#"{"leave":"all","end":"success"}"#).await;
    assert!(scene.worker.log().contains(FOUND), "it would have said so");
}
