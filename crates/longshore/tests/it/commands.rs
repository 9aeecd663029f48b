//! The commands against a real control plane with real workers: what they print and how they exit.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::plane::{Plane, carriers, signal, wait_for};
use crate::run::{Ran, command, ran};

/// Echoes its input as text; fails, or waits for a file, when the input says so.
const FLEET: &str = r#"
[fleet.echo]
command = ["python3", "-S", "-c", '''
import json, os, sys, time
given = json.load(sys.stdin)["task"]["input"]
print(json.dumps({"longshore": "progress", "data": "begins"}), flush=True)
if given == "fail":
    sys.exit("it was asked to fail")
while isinstance(given, dict) and not os.path.exists(given["until"]):
    time.sleep(0.02)
print(json.dumps({"longshore": "result", "data": given if isinstance(given, list) else "told: %s" % given}))
''']
concurrency = 1
kill_grace = "1s"
task = { max_attempts = 1 }
scaling = { min = 2, max = 2 }
drain = { timeout = "10s" }
"#;

/// A command that talks to this control plane.
fn to(plane: &Plane, args: &[&str]) -> Command {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    command
}

fn run(plane: &Plane, args: &[&str]) -> Ran {
    ran(to(plane, args).output().expect("the binary runs"))
}

fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let ran = run(plane, args);
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    ran
}

fn told(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("JSON: {ran:?}"))
}

/// An input that keeps its agent busy until [`release`].
fn held(plane: &Plane) -> String {
    json!({ "until": plane.dir().join("go") }).to_string()
}

fn release(plane: &Plane) {
    fs::write(plane.dir().join("go"), "").expect("the folder is writable");
}

#[tokio::test]
async fn a_result_is_printed_as_the_agent_gave_it() {
    let plane = Plane::start(FLEET).await;
    let wait = ["submit", "echo", "--wait", "--input"];
    let text = check(&plane, &[&wait[..], &["\"hello\""]].concat(), 0);
    assert_eq!((text.out.as_str(), text.err.as_str()), ("told: hello\n", ""));
    let quoted = check(&plane, &[&wait[..], &["\"hello\"", "--json"]].concat(), 0);
    assert_eq!(quoted.out, "\"told: hello\"\n");
    fs::write(plane.dir().join("in.json"), "[1, 2]\n").expect("written");
    let value = check(&plane, &[&wait[..], &["@in.json"]].concat(), 0);
    assert_eq!(told(&value), json!([1, 2]));
}

#[tokio::test]
async fn a_failed_task_is_status_three_with_its_reason() {
    let plane = Plane::start(FLEET).await;
    let ran = check(&plane, &["submit", "echo", "--input", "\"fail\"", "--wait"], 3);
    assert!(ran.out.is_empty() && ran.err.contains("it was asked to fail"), "{ran:?}");
    assert!(ran.err.contains("[exit_status]"), "{ran:?}");
}

#[tokio::test]
async fn a_wait_that_times_out_is_status_four_and_the_task_goes_on() {
    let plane = Plane::start(FLEET).await;
    let ran = check(&plane, &["submit", "echo", "--input", &held(&plane), "--wait", "--timeout", "300ms"], 4);
    assert!(ran.err.contains("it goes on") && ran.err.contains("tasks watch"), "{ran:?}");
    release(&plane);
    let list = told(&check(&plane, &["tasks", "list", "--json"], 0));
    let id = list["items"][0]["id"].as_str().expect("an id").to_owned();
    let watched = check(&plane, &["tasks", "watch", &id], 0);
    assert!(watched.out.starts_with("told: ") && watched.err.contains("succeeded"), "{watched:?}");
}

#[tokio::test]
async fn a_batch_gives_its_results_in_order_and_says_that_one_failed() {
    let plane = Plane::start(FLEET).await;
    fs::write(plane.dir().join("in.jsonl"), "\"a\"\n\n\"fail\"\n[3]\n").expect("written");
    let ran = check(&plane, &["submit", "echo", "--batch", "in.jsonl", "--wait"], 3);
    assert_eq!(ran.out, "\"told: a\"\nnull\n[3]\n", "{ran:?}");
    assert!(ran.err.contains("1 of 3 tasks did not succeed"), "{ran:?}");
}

#[tokio::test]
async fn the_same_key_submits_once() {
    let plane = Plane::start(FLEET).await;
    let args = ["submit", "echo", "--input", "1", "--idempotency-key", "k1"];
    let first = check(&plane, &args, 0).out;
    assert_eq!(check(&plane, &args, 0).out, first);
}

/// Starts a command whose lines on standard error are read one by one.
fn start(plane: &Plane, args: &[&str]) -> (Child, Receiver<String>) {
    let mut child = to(plane, args).spawn().expect("the binary runs");
    let errors = lines(child.stderr.take().expect("piped"));
    (child, errors)
}

/// The lines of a pipe as they come.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = std::sync::mpsc::channel();
    let read = BufReader::new(pipe).lines().map_while(Result::ok);
    std::thread::spawn(move || read.into_iter().try_for_each(|line| send.send(line)));
    lines
}

/// Waits until the command says this; all that it said until then.
async fn says(lines: &Receiver<String>, wanted: &str) -> Vec<String> {
    let mut said = Vec::new();
    wait_for(wanted, || {
        said.extend(lines.try_iter());
        said.iter().any(|line| line.contains(wanted)).then_some(())
    })
    .await;
    said
}

#[tokio::test]
async fn following_outlives_a_kill_of_the_control_plane_and_repeats_nothing() {
    let mut plane = Plane::start(FLEET).await;
    let (mut follower, lines) = start(&plane, &["submit", "echo", "--input", &held(&plane), "--follow"]);
    let mut said = says(&lines, "progress").await;
    plane.kill();
    said.extend(says(&lines, "the control plane is away").await);
    plane.restart().await;
    release(&plane);
    let status = wait_for("the follower to end", || follower.try_wait().expect("our child")).await;
    said.extend(lines.iter());
    assert_eq!(status.code(), Some(0), "{said:#?}");
    for kind in ["submitted", "started", "progress", "succeeded"] {
        let times = said.iter().filter(|line| line.split_whitespace().nth(1) == Some(kind)).count();
        assert_eq!(times, 1, "{kind} is told once: {said:#?}");
    }
}

#[tokio::test]
async fn ctrl_c_ends_the_wait_and_not_the_task() {
    let plane = Plane::start(FLEET).await;
    let (mut follower, lines) = start(&plane, &["submit", "echo", "--input", &held(&plane), "--follow"]);
    says(&lines, "progress").await;
    signal(follower.id(), Signal::SIGINT);
    let status = wait_for("the follower to end", || follower.try_wait().expect("our child")).await;
    let said: Vec<String> = lines.iter().collect();
    assert_eq!(status.code(), Some(130), "{said:?}");
    assert!(said.iter().any(|line| line.contains("goes on")), "{said:?}");
    release(&plane);
    let list = told(&check(&plane, &["tasks", "list", "--json"], 0));
    let id = list["items"][0]["id"].as_str().expect("an id").parse().expect("an id");
    plane.reaches(id, longshore_core::task::State::Succeeded).await;
}

#[tokio::test]
async fn a_running_task_is_shown_cancelled_and_retried() {
    let plane = Plane::start(FLEET).await;
    let submitted = check(&plane, &["submit", "echo", "--input", &held(&plane), "--label", "who=me"], 0);
    let id = submitted.out.trim().to_owned();
    plane.reaches(id.parse().expect("an id"), longshore_core::task::State::Running).await;
    let shown = check(&plane, &["tasks", "show", &id], 0).out;
    assert!(shown.contains("running") && shown.contains("who=me") && shown.contains("ATTEMPT"), "{shown}");
    assert!(run(&plane, &["tasks", "list", "--state", "running", "--label", "who=me"]).out.contains(&id));
    check(&plane, &["tasks", "cancel", &id, "--reason", "no longer wanted"], 0);
    let watched = check(&plane, &["tasks", "watch", &id], 3);
    assert!(watched.err.contains("was cancelled"), "{watched:?}");
    let again = check(&plane, &["tasks", "retry", &id], 0).out;
    assert_ne!(again.trim(), id);
    release(&plane);
    check(&plane, &["tasks", "watch", again.trim()], 0);
    let missing = check(&plane, &["tasks", "show", "0197a2c4-0000-7000-8000-000000000000"], 1);
    assert!(missing.err.contains("[unknown_task]"), "{missing:?}");
}

#[tokio::test]
async fn fleets_workers_and_the_scalers_reasons_are_shown() {
    let plane = Plane::start(FLEET).await;
    let crew = plane.crew(2).await;
    let fleets = check(&plane, &["fleets"], 0).out;
    assert!(fleets.starts_with("FLEET") && fleets.contains("echo"), "{fleets}");
    assert_eq!(told(&check(&plane, &["fleets", "echo", "--json"], 0))["workers"]["ready"], 2);
    let workers = check(&plane, &["workers", "--fleet", "echo"], 0).out;
    assert!(crew.iter().all(|worker| workers.contains(&worker.id)), "{workers}");
    let why = check(&plane, &["scale", "echo", "--explain"], 0).out;
    assert!(why.contains("workers") && why.contains("load.runnable"), "{why}");
    let set = told(&check(&plane, &["scale", "echo", "--replicas", "1", "--json"], 0));
    assert_eq!(set["replicas"], 1);
    let auto = told(&check(&plane, &["scale", "echo", "--auto", "--json"], 0));
    assert_eq!(auto["replicas"], Value::Null);
    check(&plane, &["workers", "drain", &crew[0].id, "--handover"], 0);
    let drained =
        |workers: &[longshore_api::fleet::Worker]| workers.iter().all(|worker| worker.id != crew[0].id);
    plane.workers_when("the drained worker to end", drained).await;
}

#[tokio::test]
async fn apply_is_explained_where_a_file_declares_the_fleets() {
    let plane = Plane::start(FLEET).await;
    plane.declare(&FLEET.replace("max = 2", "max = 3"));
    let plan = check(&plane, &["apply", "--dry-run"], 0).out;
    assert!(plan.contains("~ fleet echo") && plan.contains("scaling.max: 2 -> 3"), "{plan}");
    let nobody = check(&plane, &["apply"], 2);
    assert!(nobody.err.contains("--yes"), "{nobody:?}");
    let refused = check(&plane, &["apply", "--yes"], 1);
    assert!(
        refused.err.contains("[managed_by_file]") && refused.err.contains("fleets = \"api\""),
        "{refused:?}"
    );
}

#[tokio::test]
async fn apply_declares_fleets_where_the_api_does() {
    let plane = Plane::start("[server]\nfleets = \"api\"\n").await;
    plane.declare(FLEET);
    let applied = check(&plane, &["apply", "--yes"], 0);
    assert!(applied.out.contains("+ fleet echo") && applied.out.contains("applied"), "{applied:?}");
    assert_eq!(check(&plane, &["submit", "echo", "--input", "1", "--wait"], 0).out, "told: 1\n");
    assert_eq!(check(&plane, &["apply", "--yes"], 0).out, "no changes\n");
}

#[tokio::test]
async fn a_worker_that_nobody_lets_in_says_so_on_one_line() {
    let plane = Plane::start(FLEET).await;
    let args = ["worker", "--fleet", "echo", "--probe-addr", "127.0.0.1:0", "--link", &plane.addresses.link];
    let mut worker = command(plane.dir());
    let ran = ran(worker.args(args).env("LONGSHORE_WORKER_TOKEN", "hunter2").output().expect("it runs"));
    assert_eq!(ran.status, 5, "{ran:?}");
    assert!(ran.err.starts_with("error: ") && ran.err.lines().count() == 1, "{ran:?}");
    assert!(!ran.err.contains("hunter2") && !ran.out.contains("hunter2"), "{ran:?}");
}

#[tokio::test]
async fn the_doctor_sees_a_control_plane_that_runs() {
    let plane = Plane::start(FLEET).await;
    plane.crew(2).await;
    let told = told(&check(&plane, &["doctor", "--json"], 0));
    let found = told["checks"].to_string();
    assert!(found.contains("runs longshore") && found.contains("echo: 2 workers ready"), "{found}");
    let addr = plane.addresses.probes.replace("http://", "");
    assert!(check(&plane, &["probe", "ready", "--addr", &addr], 0).out.contains("\"ready\":true"));
}

/// `up` in a folder of its own; it and its workers are ended by their ids if the test ends early.
struct Up {
    dir: tempfile::TempDir,
    child: Child,
    said: Receiver<String>,
    noted: Receiver<String>,
}

impl Up {
    fn start(fleets: &str) -> Up {
        let dir = tempfile::tempdir().expect("a temporary folder");
        fs::write(dir.path().join("longshore.toml"), fleets).expect("written");
        let mut command = command(dir.path());
        for listener in ["API", "LINK", "PROBES"] {
            command.env(format!("LONGSHORE__SERVER__{listener}"), "127.0.0.1:0");
        }
        let mut child = command.arg("up").spawn().expect("the binary runs");
        let said = lines(child.stdout.take().expect("piped"));
        let noted = lines(child.stderr.take().expect("piped"));
        Up { dir, child, said, noted }
    }

    /// Its API, once it has greeted.
    async fn server(&self) -> String {
        let said = says(&self.said, "try: longshore submit echo").await;
        said.iter().find_map(|line| line.split("  api").nth(1)).expect("its address").trim().to_owned()
    }

    async fn ends(&mut self) -> Option<i32> {
        let child = &mut self.child;
        wait_for("up to end", || child.try_wait().expect("our child")).await.code()
    }

    /// Processes of workers that it started and of their agents.
    fn crew(&self) -> Vec<u32> {
        let Ok(logs) = fs::read_dir(self.dir.path().join(".longshore/logs")) else { return Vec::new() };
        let id = |log: fs::DirEntry| log.path().file_stem()?.to_str().map(ToOwned::to_owned);
        carriers(&logs.filter_map(|log| id(log.ok()?)).collect())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.crew().into_iter().for_each(|pid| signal(pid, Signal::SIGKILL));
    }
}

#[tokio::test]
async fn up_tells_what_to_try_and_leaves_no_worker_behind() {
    let mut up = Up::start(FLEET);
    let server = up.server().await;
    let submit = ["submit", "echo", "--input", "1", "--wait", "--server", &server];
    let done = ran(command(up.dir.path()).args(submit).output().expect("the binary runs"));
    assert_eq!((done.status, done.out.as_str()), (0, "told: 1\n"), "{done:?}");
    signal(up.child.id(), Signal::SIGINT);
    assert_eq!(up.ends().await, Some(0));
    // It waits for its workers, so none may be there any more, nor come up late.
    assert_eq!(up.crew(), Vec::<u32>::new());
}

#[tokio::test]
async fn a_second_ctrl_c_does_not_wait_for_running_tasks() {
    let mut up = Up::start(&FLEET.replace("timeout = \"10s\"", "timeout = \"10m\""));
    let server = up.server().await;
    let input = json!({ "until": up.dir.path().join("go") }).to_string();
    let mut submit = command(up.dir.path());
    submit.args(["submit", "echo", "--follow", "--server", &server, "--input", &input]);
    let mut follower = submit.stdout(Stdio::null()).spawn().expect("the binary runs");
    says(&lines(follower.stderr.take().expect("piped")), "progress").await;
    follower.kill().and_then(|()| follower.wait()).expect("our child");
    signal(up.child.id(), Signal::SIGINT);
    says(&up.noted, "draining workers").await;
    assert!(up.child.try_wait().expect("our child").is_none(), "the first one waits for the task");
    signal(up.child.id(), Signal::SIGINT);
    assert_eq!(up.ends().await, Some(0));
}
