//! The http protocol, with an agent that does what its task's input says.

use std::time::{Duration, Instant};

use longshore_api::link::Registered;
use longshore_core::fleet::Protocol;
use longshore_core::id::Held;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::control_plane::registered;
use super::scene::{Scene, eventually, get, words};
use super::worker::lives;

/// Writes its pid to `pid`; does what `input["do"]` says.
const AGENT: &str = r#"
import http.server, json, os, subprocess, sys, threading, time
folder = sys.argv[1]
sick = threading.Event()
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def answer(self, status, body, kind="application/json", retry_after=None):
        body = body.encode()
        self.send_response(status)
        if retry_after: self.send_header("retry-after", retry_after)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(500 if sick.is_set() else 404, "")
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        task = body["task"]
        do = task["input"]["do"]
        if do == "echo": self.answer(200, json.dumps(body))
        elif do == "text": self.answer(200, "plain", "text/plain")
        elif do == "nothing": self.answer(200, "")
        elif do == "half": self.answer(200, '{"a":')
        elif do == "error": self.answer(500, '{"message":"no quota","code":"quota","retry":false}')
        elif do == "busy": self.answer(503, "", retry_after="7")
        elif do == "busy, it says": self.answer(429, '{"message":"m","retry_after":"2s"}', retry_after="7")
        elif do == "broken": self.answer(500, "", retry_after="7")
        elif do == "busy stream":
            self.answer(200, 'data: {"longshore":"error","message":"m","retry_after":3}\n\n', "text/event-stream")
        elif do == "plain error": self.answer(502, "bad gateway")
        elif do == "stream":
            self.answer(200, ': hi\n\ndata: {"longshore":"progress","data":1}\n\ndata: a log line\n\n'
                        'data: {"longshore":"result","data":[2]}\n\n', "text/event-stream; charset=utf-8")
        elif do == "stream without result":
            self.answer(200, 'data: {"longshore":"progress","data":1}\n\n', "text/event-stream")
        elif do == "large": self.answer(200, '"' + "x" * (2 << 20) + '"')
        elif do == "break": self.connection.close()
        elif do == "hang":
            open(os.path.join(folder, "hanging"), "a").write("1\n")
            while True:
                time.sleep(0.02)
                self.connection.setblocking(False)
                try:
                    if self.connection.recv(1) == b"":
                        open(os.path.join(folder, "closed"), "w").write("1\n")
                        return
                except BlockingIOError: pass
        elif do == "crash":
            print("boom", file=sys.stderr, flush=True)
            os._exit(7)
        elif do == "leave":
            left = subprocess.Popen(["sleep", "300"], start_new_session=True)
            open(os.path.join(folder, "left"), "w").write(f"{left.pid}\n")
            os._exit(7)
        elif do == "fall sick":
            sick.set()
            time.sleep(300)
        elif do == "env": self.answer(200, json.dumps(dict(os.environ)))
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
open(os.path.join(folder, "pid"), "w").write(f"{os.getpid()}\n")
server.serve_forever()
"#;

async fn scene_with(change: impl FnOnce(&mut Registered)) -> Scene {
    let mut with = registered(Protocol::Http, 8);
    with.kill_grace_ms = 2000;
    change(&mut with);
    Scene::python(with, AGENT).await
}

async fn scene() -> Scene {
    scene_with(|_| {}).await
}

fn input(what: &str) -> String {
    format!(r#"{{"do":"{what}"}}"#)
}

async fn hanging(scene: &Scene, count: usize) -> Vec<Held> {
    let held = (0..count).map(|_| scene.submit(&input("hang"))).collect();
    eventually("hanging tasks", || {
        let text = std::fs::read_to_string(scene.folder.path().join("hanging")).unwrap_or_default();
        (text.lines().count() == count).then_some(())
    })
    .await;
    held
}

#[tokio::test]
async fn an_agent_that_is_busy_says_for_how_long() {
    let scene = scene().await;
    for (what, wait_ms) in [
        ("busy", Some(7_000)),
        ("busy, it says", Some(2_000)),
        ("broken", None),
        ("busy stream", Some(3_000)),
    ] {
        match scene.run(&input(what)).await {
            longshore_api::link::Outcome::Failed(failure) => {
                assert_eq!((failure.retry_after_ms, failure.retryable), (wait_ms, true), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn answers_of_all_kinds_become_outcomes() {
    let scene = scene().await;
    for (what, expected) in [
        ("text", r#"succeeded "plain""#),
        ("nothing", "succeeded null"),
        ("stream", "succeeded [2]"),
        ("error", "failed quota: no quota"),
        ("plain error", "failed agent_error: the agent answered with status 502 Bad Gateway: bad gateway"),
        ("stream without result", "failed agent_error: the agent's stream ended without a result"),
        ("half", "failed agent_error: the agent's answer cannot be kept"),
        ("large", "failed output_too_large"),
        ("break", "failed agent_unreachable"),
    ] {
        let outcome = words(&scene.run(&input(what)).await);
        assert!(outcome.starts_with(expected), "{what}: {outcome}");
    }
    assert_eq!(scene.plane.record().events.len(), 2);
}

#[tokio::test]
async fn the_task_its_token_and_its_environment_arrive_in_the_body() {
    let scene = scene().await;
    let held = scene.submit(&input("echo"));
    let outcome = words(&scene.plane.ending(held).await);
    let body: serde_json::Value =
        serde_json::from_str(outcome.trim_start_matches("succeeded ")).expect("JSON");
    assert_eq!(body["longshore"], 1);
    let token = body["token"].as_str().expect("a token");
    assert_eq!(token, format!("lst1.{}", held.fence));
    assert_eq!(
        body["env"]["LONGSHORE_URL"].as_str().map(|url| url.starts_with("http://127.0.0.1:")),
        Some(true)
    );
    assert_eq!(body["task"]["id"], held.task.to_string());
    let environment = words(&scene.run(&input("env")).await);
    assert!(
        !environment.contains("LONGSHORE_TASK") && !environment.contains("LONGSHORE_LINK"),
        "{environment}"
    );
    assert!(environment.contains("LONGSHORE_WORKER_ID"), "{environment}");
}

#[tokio::test]
async fn a_crash_with_one_task_in_flight_is_its_failure() {
    let scene = scene().await;
    let outcome = words(&scene.run(&input("crash")).await);
    assert_eq!(outcome, "failed exit_status: exit status 7: boom");
    // It is started again.
    assert_eq!(words(&scene.run(&input("text")).await), r#"succeeded "plain""#);
}

#[tokio::test]
async fn a_crash_with_three_in_flight_is_nobodys_failure() {
    let scene = scene().await;
    let mut all = hanging(&scene, 2).await;
    all.push(scene.submit(&input("crash")));
    for held in all {
        assert_eq!(words(&scene.plane.ending(held).await), "interrupted AgentCrashed");
    }
    assert_eq!(words(&scene.run(&input("text")).await), r#"succeeded "plain""#);
}

#[tokio::test]
async fn what_left_the_group_of_an_agent_does_not_outlive_it() {
    let scene = scene().await;
    assert_eq!(words(&scene.run(&input("leave")).await), "failed exit_status: exit status 7");
    let left = scene.number("left").await;
    assert_eq!(words(&scene.run(&input("text")).await), r#"succeeded "plain""#, "by the next agent");
    assert!(!lives(left));
}

#[tokio::test]
async fn an_agent_killed_by_a_signal_is_named() {
    let scene = scene().await;
    let held = hanging(&scene, 1).await[0];
    kill(Pid::from_raw(scene.number("pid").await), Signal::SIGKILL).expect("it lives");
    assert_eq!(words(&scene.plane.ending(held).await), "failed killed_by_signal: killed by SIGKILL (9)");
}

#[tokio::test]
async fn an_agent_that_fails_its_health_check_hands_its_tasks_over_and_is_restarted() {
    let scene = scene_with(|with| (with.probe_interval_ms, with.probe_failures) = (100, 3)).await;
    let first =
        eventually("the agent", || Some(scene.folder.path().join("pid")).filter(|path| path.exists())).await;
    let held = scene.submit(&input("fall sick"));
    let pid = scene.number("pid").await;
    assert_eq!(words(&scene.plane.ending(held).await), "interrupted HandedOver");
    assert_eq!(scene.plane.record().released, [held]);
    eventually("another agent", || {
        std::fs::read_to_string(&first).ok()?.trim().parse().ok().filter(|new: &i32| *new != pid)
    })
    .await;
    assert!(!lives(pid));
    assert_eq!(words(&scene.run(&input("text")).await), r#"succeeded "plain""#);
}

#[tokio::test]
async fn a_cancelled_tasks_connection_is_closed_and_the_agent_lives_on() {
    let scene = scene().await;
    let held = hanging(&scene, 1).await[0];
    let pid = scene.number("pid").await;
    scene.plane.cancel(held);
    assert_eq!(words(&scene.plane.ending(held).await), "interrupted Cancelled");
    scene.number("closed").await;
    assert!(lives(pid));
}

#[tokio::test]
async fn a_task_that_takes_too_long_fails() {
    let scene = scene().await;
    let mut slow = super::scene::task(&input("hang"));
    slow.timeout_ms = 500;
    let held = scene.plane.submit(slow);
    assert!(words(&scene.plane.ending(held).await).starts_with("failed timeout"));
}

#[tokio::test]
async fn an_agent_that_never_starts_fails_the_liveness_probe() {
    let scene = Scene::shell_with(registered(Protocol::Http, 8), "echo broken >&2; exit 1").await;
    let addr = scene.plane.probe_addr().await;
    let (_, body) =
        eventually("a failed probe", || get(addr, "/livez").filter(|(status, _)| *status == 503)).await;
    assert!(body.contains("did not start"), "{body}");
    let (status, body) = get(addr, "/readyz").expect("answers");
    assert!(status == 503 && body.contains("exit status 1: broken"), "{body}");
    assert!(scene.plane.record().claims.is_empty());
}

#[tokio::test]
async fn a_drain_hands_over_and_stops_the_agent() {
    let mut scene = scene_with(|with| with.drain_timeout_ms = 5000).await;
    let held = hanging(&scene, 2).await;
    let pid = scene.number("pid").await;
    let began = Instant::now();
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let released = scene.plane.record().released.clone();
    assert!(held.iter().all(|held| released.contains(held)), "{released:?}");
    assert!(!lives(pid));
}

#[tokio::test]
async fn waiting_tasks_cost_little_memory() {
    const TASKS: usize = 500;
    // An agent that takes connections and never answers, so that only the worker's memory is at stake.
    let script = r#"
import os, selectors, socket, sys
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=1024)
kept = []
while True:
    connection, _ = server.accept()
    kept.append(connection)
    open(os.path.join(sys.argv[1], "count"), "w").write(f"{len(kept)}\n")
"#;
    let mut with = registered(Protocol::Http, TASKS as u32);
    with.health_path = String::new();
    with.probe_interval_ms = 600_000;
    let scene = Scene::python(with, script).await;
    eventually("a claim", || (!scene.plane.record().claims.is_empty()).then_some(())).await;
    let before = scene.worker.peak_memory();
    (0..TASKS).for_each(|_| _ = scene.submit("null"));
    let path = scene.folder.path().join("count");
    eventually("all tasks to wait", || {
        let count: usize = std::fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        (count >= TASKS).then_some(())
    })
    .await;
    let each = (scene.worker.peak_memory() - before) / TASKS as u64;
    assert!(each < 40, "{each} KiB for each task");
    assert!(each < 40, "{each} KiB for each task");
}
