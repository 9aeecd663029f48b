//! Agents that misbehave, through the real control plane and real workers: each ends its own attempt and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_api::task::Task;
use longshore_core::task::State;
use serde_json::{Value, json};

use crate::plane::{Plane, is_alive, pause, python, shell, wait_for};

/// One worker, one attempt.
const ONE: &str = "scaling = { min = 1, max = 1 }\ntask = { max_attempts = 1 }";

/// Runs one task of a shell agent to this state.
async fn ends(plane: &Plane, fleet: &str, input: Value, state: State) -> Task {
    let id = plane.submit(fleet, input).await;
    plane.reaches(id, state).await
}

fn failure(task: &Task) -> (&str, &str) {
    let failure = task.failure.as_ref().expect("a failed task says why");
    (&failure.code, &failure.message)
}

/// Peak of a process's resident memory, MiB.
fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[tokio::test]
async fn a_gigabyte_of_output_costs_no_memory_and_fails_only_its_own_task() {
    let gigabyte = "cat >/dev/null; head -c 1073741824 /dev/zero";
    let fleets = shell("out", gigabyte, &format!("{ONE}\nprotocol = \"exec\""))
        + &shell("err", "cat >/dev/null; yes $(printf '%0999d' 0) | head -c 268435456 >&2; echo ok", ONE);
    let plane = Plane::start(&fleets).await;
    let workers = plane.crew(2).await;
    let pids: Vec<u32> =
        workers.iter().map(|worker| worker.pid.expect("it told its pid")).chain([plane.pid()]).collect();
    let before: Vec<u64> = pids.iter().map(|pid| peak_memory(*pid)).collect();
    let task = ends(&plane, "out", json!(null), State::Failed).await;
    assert_eq!(failure(&task).0, "output_too_large", "{task:#?}");
    let task = ends(&plane, "err", json!(null), State::Succeeded).await;
    assert_eq!(task.result.expect("a result").text(), "\"ok\"");
    let grown: Vec<u64> = pids.iter().zip(before).map(|(pid, before)| peak_memory(*pid) - before).collect();
    assert!(grown.iter().all(|grown| *grown < 32), "grew by {grown:?} MiB");
    for worker in workers {
        let log = plane.worker_log(&worker.id).len();
        assert!(log < 4 << 20, "its log has {log} bytes");
        assert!(is_alive(worker.pid.expect("it told its pid")));
    }
}

#[tokio::test]
async fn output_that_is_odd_is_taken_as_it_comes() {
    let logs = r#"cat >/dev/null; echo '{"type":"result","data":1,"longshore_version":3}'; echo '{"type":"error"}'; echo '{"longshore":"result","data":"mine"}'"#;
    let fleets = shell("deaf", "exec 0<&-; echo 'never listened'", ONE)
        + &shell("half", r"cat >/dev/null; printf 'caf\303'", ONE)
        + &shell("logs", logs, ONE)
        + &shell("mute", "cat >/dev/null; exec 1>&- 2>&-; sleep 0.3; exit 0", ONE)
        + &shell("holds", "cat >/dev/null; sleep 300 & echo $!", ONE);
    let plane = Plane::start(&fleets).await;
    let result = async |fleet: &str, input: Value| {
        let task = ends(&plane, fleet, input, State::Succeeded).await;
        task.result.expect("a result").read::<Value>().expect("JSON")
    };
    let large = json!("x".repeat((1 << 20) - 16));
    assert_eq!(result("deaf", large).await, json!("never listened"));
    assert_eq!(result("half", json!(1)).await, json!("caf\u{fffd}"));
    assert_eq!(result("logs", json!(1)).await, json!("mine"));
    assert_eq!(result("mute", json!(1)).await, json!(""));
    let began = Instant::now();
    let child = result("holds", json!(1)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "waited for the pipe: {:?}", began.elapsed());
    let child: u32 = child.as_str().and_then(|pid| pid.parse().ok()).expect("a pid");
    wait_for("the child that held the pipe to end", || (!is_alive(child)).then_some(())).await;
}

#[tokio::test]
async fn ends_that_are_failures_say_what_happened() {
    let large = r#"import json; print(json.dumps({"longshore": "result", "data": "x" * 2000}))"#;
    let never = r#"cat >/dev/null; echo '{"longshore":"error","message":"no such customer","code":"not_found","retry":false}'"#;
    let again = r#"cat >/dev/null; echo '{"longshore":"error","message":"try later"}'"#;
    let thrice = "scaling = { min = 1, max = 1 }\ntask = { max_attempts = 2, backoff = { base = \"10ms\" } }";
    let fleets = shell("signal", "cat >/dev/null; echo 'at the end' >&2; kill -SEGV $$", ONE)
        + &shell("never", never, thrice)
        + &shell("again", again, thrice)
        + &python(
            "large",
            large,
            "scaling = { min = 1, max = 1 }\ntask = { max_attempts = 3, result_limit = \"1Ki\" }",
        )
        + &shell(
            "slow",
            "cat >/dev/null; trap '' TERM; while :; do sleep 0.1; done",
            &format!("{ONE}\nkill_grace = \"300ms\""),
        );
    let plane = Plane::start(&fleets).await;
    let task = ends(&plane, "signal", json!(1), State::Failed).await;
    assert_eq!(failure(&task), ("killed_by_signal", "killed by SIGSEGV (11): at the end"));
    let task = ends(&plane, "never", json!(1), State::Failed).await;
    assert_eq!((failure(&task), task.attempts.len()), (("not_found", "no such customer"), 1));
    let task = ends(&plane, "again", json!(1), State::Failed).await;
    assert_eq!((failure(&task), task.attempts.len()), (("agent_error", "try later"), 2));
    let task = ends(&plane, "large", json!(1), State::Failed).await;
    assert_eq!((failure(&task).0, task.attempts.len()), ("output_too_large", 1), "no retry makes it smaller");
    let began = Instant::now();
    let id = plane.submit_with("slow", json!(1), |task| task.timeout = Some("300ms".into())).await;
    let task = plane.reaches(id, State::Failed).await;
    assert_eq!(failure(&task).0, "timeout", "{task:#?}");
    assert!(began.elapsed() < Duration::from_secs(20), "SIGKILL follows the grace: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_cancelled_agent_that_ignores_sigterm_is_killed_after_its_grace() {
    let stubborn = r#"
import json, os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"longshore": "progress", "data": os.getpid()}), flush=True)
while True:
    time.sleep(0.05)
"#;
    let plane = Plane::start(&python("stubborn", stubborn, &format!("{ONE}\nkill_grace = \"300ms\""))).await;
    let id = plane.submit("stubborn", json!(1)).await;
    let pid = plane.progress(id, 1).await[0].as_u64().expect("a pid") as u32;
    let began = Instant::now();
    plane.client.cancel(id, Some("enough".into())).await.expect("requested");
    plane.reaches(id, State::Cancelled).await;
    assert!(!is_alive(pid), "the task ended before its agent");
    assert!(began.elapsed() < Duration::from_secs(20), "took {:?}", began.elapsed());
}

/// Everything under a folder, read as bytes.
fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap_or_default()));
        }
    }
}

#[tokio::test]
async fn agents_get_what_is_declared_and_nothing_else_of_the_control_planes_environment() {
    const CANARY: &str = "canary-6f1c";
    const DECLARED: &str = "declared-93ab";
    // Values stay out of its output: where else they turn up is asked below.
    let agent = r#"
import hashlib, json, os, stat
e = os.environ
digest = lambda name: hashlib.sha256(e.get(name, "").encode()).hexdigest()
print(json.dumps({"longshore": "result", "data": {
    "names": sorted(e), "declared": digest("TOOL_KEY"), "plain": e.get("MODEL"),
    "folders": [e["HOME"], e["TMPDIR"]], "modes": [oct(stat.S_IMODE(os.stat(e[n]).st_mode)) for n in ("HOME", "TMPDIR")],
    "canary": any("canary" in value for value in e.values()),
    "token": any(value.startswith("lsw1.") or "/tokens/" in value for value in e.values()),
}}))
open(os.path.join(e["HOME"], "left"), "w").close()
"#;
    let more = format!(
        "{ONE}\nenv = {{ MODEL = \"small\" }}\nsecrets = {{ TOOL_KEY = {{ env = \"KEY_OF_THE_TOOL\" }} }}"
    );
    let env = [("SECRET_CANARY", CANARY), ("KEY_OF_THE_TOOL", DECLARED), ("LONGSHORE_TOKEN", CANARY)];
    let plane = Plane::start_with(&python("env", agent, &more), &env).await;
    let task = ends(&plane, "env", json!(null), State::Succeeded).await;
    let seen: Value = task.result.expect("a result").read().expect("JSON");
    let names: Vec<&str> =
        seen["names"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    let ours: Vec<&str> = names.iter().copied().filter(|name| name.contains("LONGSHORE")).collect();
    assert_eq!(
        ours,
        [
            "LONGSHORE_ATTEMPT",
            "LONGSHORE_TASK_ID",
            "LONGSHORE_TASK_TOKEN",
            "LONGSHORE_URL",
            "LONGSHORE_WORKER_ID"
        ]
    );
    assert!(!names.contains(&"SECRET_CANARY") && !names.contains(&"KEY_OF_THE_TOOL"), "{names:?}");
    assert_eq!((&seen["canary"], &seen["token"]), (&json!(false), &json!(false)), "{seen}");
    assert_eq!((&seen["plain"], &seen["modes"]), (&json!("small"), &json!(["0o700", "0o700"])));
    // sha256 of DECLARED.
    assert_eq!(
        seen["declared"],
        json!("104d107deec6a87c9aa3e595755f65676c8411815bd9d28207826eb9b1913327"),
        "{seen}"
    );
    for folder in seen["folders"].as_array().expect("two") {
        let folder = Path::new(folder.as_str().expect("a path"));
        wait_for("the agent's folders to be removed", || (!folder.exists()).then_some(())).await;
    }
    let worker = plane.crew(1).await.remove(0);
    let environment = fs::read(format!("/proc/{}/environ", worker.pid.expect("it told its pid")));
    let environment = String::from_utf8_lossy(&environment.unwrap_or_default()).into_owned();
    assert!(!environment.contains(CANARY), "the worker itself need not know it");
    let mut written = Vec::new();
    files(plane.dir(), &mut written);
    for (file, bytes) in written {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(CANARY) && !text.contains(DECLARED), "{file} holds a secret");
    }
}

/// Answers `POST /run` by what its input says.
const SERVICE: &str = r#"
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.time()

class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        sick = os.environ.get("SICK")
        ill = sick and os.path.exists(sick) and os.path.getmtime(sick) >= STARTED
        self.send_response(500 if ill else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        task = json.loads(self.rfile.read(int(self.headers["content-length"])))["task"]
        what = task["input"]
        if what["do"] == "stream":
            return self.stream()
        first = task["attempt"] == 1
        if first and "here" in what:
            open(what["here"], "w").close()
        while (first or what["do"] == "bomb") and "until" in what and not os.path.exists(what["until"]):
            time.sleep(0.01)
        if what["do"] == "bomb":
            print("boom", file=sys.stderr, flush=True)
            os._exit(7)
        if what["do"] == "hang" and first:
            time.sleep(600)
        self.answer("application/json", json.dumps({"attempt": task["attempt"]}).encode())

    def stream(self):
        events = [{"longshore": "progress", "data": n} for n in range(3)] + [{"longshore": "result", "data": "streamed"}]
        self.answer("text/event-stream", "".join(f": hello\ndata: {json.dumps(event)}\n\n" for event in events).encode())

    def answer(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
"#;

fn service(more: &str) -> String {
    python(
        "service",
        SERVICE,
        &format!("protocol = \"http\"\nconcurrency = 4\nscaling = {{ min = 1, max = 1 }}\n{more}"),
    )
}

#[tokio::test]
async fn an_http_agent_that_dies_beside_others_runs_each_again_alone_and_fails_only_the_bomb() {
    let plane = Plane::start(&service("task = { max_attempts = 1 }")).await;
    plane.crew(1).await;
    let gate = plane.dir().join("gate");
    let here: Vec<_> = (0..4).map(|n| plane.dir().join(format!("here-{n}"))).collect();
    // The bomb waits for the gate, the others for ever: all four are in flight when it goes off.
    let never = plane.dir().join("never");
    let inputs = here.iter().enumerate().map(|(n, here)| match n {
        0 => json!({"do": "bomb", "here": here, "until": gate}),
        _ => json!({"do": "answer", "here": here, "until": never}),
    });
    let ids = plane.submit_many("service", inputs).await;
    wait_for("all four to be in flight", || here.iter().all(|here| here.exists()).then_some(())).await;
    let began = Instant::now();
    fs::write(&gate, "").expect("the folder is writable");
    let bomb = plane.reaches(ids[0], State::Failed).await;
    assert_eq!(failure(&bomb), ("exit_status", "exit status 7: boom"));
    assert_eq!((bomb.interrupted, bomb.failed_attempts), (1, 1), "{bomb:#?}");
    for id in &ids[1..] {
        let task = plane.reaches(*id, State::Succeeded).await;
        assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    }
    // Alone: no two of the second attempts overlap.
    let mut spans = Vec::new();
    for id in &ids {
        let second = plane.task(*id).await.attempts.remove(1);
        spans.push((second.started_at, second.ended_at.expect("it ended")));
    }
    spans.sort();
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
    assert_eq!(plane.metric("longshore_leases_expired_total").await, 0.0);
    // One follows the other as soon as the agent is up again: none waits for a long poll to run out.
    assert!(began.elapsed() < Duration::from_secs(18), "took {:?}", began.elapsed());
    plane.crew(1).await;
}

#[tokio::test]
async fn an_http_agents_stream_of_events_is_followed() {
    let plane = Plane::start(&service("")).await;
    let id = plane.submit("service", json!({"do": "stream"})).await;
    assert_eq!(plane.result(id).await, json!("streamed"));
    assert_eq!(plane.progress(id, 3).await, [json!(0), json!(1), json!(2)]);
}

#[tokio::test]
async fn an_unhealthy_http_agents_tasks_are_handed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let sick = folder.path().join("sick");
    let more = format!(
        "env = {{ SICK = {sick:?} }}\nkill_grace = \"300ms\"\nprobe = {{ interval = \"200ms\", timeout = \"2s\", failures = 2 }}"
    );
    let plane = Plane::start(&service(&more)).await;
    let here = plane.dir().join("here");
    let id = plane.submit("service", json!({"do": "hang", "here": here})).await;
    wait_for("the task to arrive", || here.exists().then_some(())).await;
    let worker = plane.crew(1).await.remove(0);
    fs::write(&sick, "").expect("the folder is writable");
    let task = plane.reaches(id, State::Succeeded).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    assert_eq!(plane.crew(1).await[0].id, worker.id, "its agent was restarted, not the worker");
}

#[tokio::test]
async fn what_agents_do_wrong_never_takes_their_worker_down() {
    let agents: BTreeMap<&str, &str> = BTreeMap::from([
        ("kills-parent", "cat >/dev/null; kill -9 0"),
        ("no-shell", "exec /no/such/program"),
        ("closes-all", "exec 0<&- 1>&- 2>&-; exit 9"),
    ]);
    let fleets: String = agents.iter().map(|(name, script)| shell(name, script, ONE)).collect();
    let plane = Plane::start(&fleets).await;
    let before: Vec<_> =
        plane.crew(agents.len()).await.into_iter().map(|worker| (worker.id, worker.pid)).collect();
    for name in agents.keys() {
        let id = plane.submit(name, json!(1)).await;
        while !plane.task(id).await.state.is_terminal() {
            pause().await;
        }
        let task = plane.task(id).await;
        assert_eq!((task.state, task.attempts.len()), (State::Failed, 1), "{task:#?}");
    }
    let after: Vec<_> =
        plane.crew(agents.len()).await.into_iter().map(|worker| (worker.id, worker.pid)).collect();
    assert_eq!(before, after);
}
