//! `longshore worker` as a process: signals, probes, exit statuses, and its duties as the first process of a container.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use longshore_api::link::WorkerState;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::by_hand::ByHand;
use crate::plane::{Plane, binary, is_alive, python, shell, skip, wait_for};
use crate::room::Room;

/// Says its pid, then waits until the file of its input exists; deaf to SIGTERM if told so.
const PATIENT: &str = r#"
import json, os, signal, sys, time
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
task = json.load(sys.stdin)["task"]
print(json.dumps({"longshore": "progress", "data": os.getpid()}), flush=True)
while not os.path.exists(task["input"]):
    time.sleep(0.01)
print(json.dumps({"longshore": "result", "data": os.environ["LONGSHORE_WORKER_ID"]}))
"#;

fn patient(more: &str) -> String {
    python("patient", PATIENT, &format!("platform = \"external\"\n{more}"))
}

/// Status and body of a worker's probe.
async fn probe(address: &str, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://{address}{path}")).await.expect("the probes answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

fn checks(body: &str) -> Vec<String> {
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["checks"].as_object().expect("checks").keys().cloned().collect()
}

/// `longshore probe`.
fn ask(what: &str, address: &str) -> Output {
    Command::new(binary()).args(["probe", what, "--addr", address]).output().expect("the binary runs")
}

#[tokio::test]
async fn sigterm_lets_a_worker_finish_and_its_probes_tell() {
    let plane = Plane::start(&patient("")).await;
    let mut worker = ByHand::ready(&plane, "patient", |_| {}).await;
    let address = worker.reaches(&plane, WorkerState::Ready).await.probe_addr.expect("it told its probes");
    let (status, body) = probe(&address, "/readyz").await;
    assert_eq!(status, 200, "{body}");
    for name in ["control_plane", "agent", "draining"] {
        assert!(checks(&body).iter().any(|check| check == name), "{name} is missing in {body}");
    }
    assert_eq!(ask("ready", &address).status.code(), Some(0));
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!(go)).await;
    plane.progress(id, 1).await;
    worker.signal(Signal::SIGTERM);
    worker.reaches(&plane, WorkerState::Draining).await;
    let (status, body) = probe(&address, "/readyz").await;
    assert_eq!(
        (status, serde_json::from_str::<Value>(&body).expect("JSON")["ready"].clone()),
        (503, json!(false))
    );
    let said = ask("ready", &address);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stdout).contains("draining"));
    assert_eq!((probe(&address, "/livez").await.0, ask("live", &address).status.code()), (200, Some(0)));
    // It claims nothing more.
    let other = plane.submit("patient", json!(go)).await;
    std::fs::write(&go, "").expect("the folder is writable");
    assert_eq!(plane.result(id).await, json!(worker.id));
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
    assert_eq!(plane.task(other).await.state, State::Queued);
    assert_eq!(ask("live", &address).status.code(), Some(1), "nobody is there");
    assert!(plane.workers().await.is_empty());
}

#[tokio::test]
async fn without_redis_a_worker_is_ready_all_the_same_and_takes_one_task_after_the_other() {
    let Some(room) = Room::without_redis() else { return };
    let fleet = shell("echo", "cat > /dev/null; echo done", "platform = \"external\"");
    let plane = Plane::start(&format!("{}{fleet}", room.toml())).await;
    let worker = ByHand::ready(&plane, "echo", |_| {}).await;
    let address = worker.reaches(&plane, WorkerState::Ready).await.probe_addr.expect("it told its probes");
    for n in 0..3 {
        let id = plane.submit("echo", json!(n)).await;
        assert_eq!(plane.result(id).await, json!("done"));
    }
    let (status, body) = probe(&address, "/readyz").await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let redis = &body["checks"]["redis"];
    assert_eq!((status, &redis["ok"]), (200, &json!(true)));
    assert!(redis["detail"].as_str().is_some_and(|detail| detail.starts_with("away")), "{body}");
}

#[tokio::test]
async fn a_second_signal_hands_over_at_once() {
    let plane = Plane::start(&patient("kill_grace = \"1s\"\ndrain = { timeout = \"10m\" }")).await;
    let mut first = ByHand::ready(&plane, "patient", |_| {}).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!(go)).await;
    let agent = plane.progress(id, 1).await[0].as_u64().expect("a pid") as u32;
    first.signal(Signal::SIGTERM);
    first.reaches(&plane, WorkerState::Draining).await;
    assert!(is_alive(agent), "it may finish");
    let second = ByHand::ready(&plane, "patient", |_| {}).await;
    first.signal(Signal::SIGINT);
    assert_eq!(first.exit().await.code(), Some(0), "{}", first.log());
    assert!(!is_alive(agent));
    plane.progress(id, 2).await;
    std::fs::write(&go, "").expect("the folder is writable");
    assert_eq!(plane.result(id).await, json!(second.id));
    let task = plane.task(id).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
}

#[tokio::test]
async fn a_drains_time_out_is_kept_even_if_the_agent_is_deaf() {
    let more = "kill_grace = \"1s\"\ndrain = { timeout = \"5s\" }\nenv = { DEAF = \"1\" }";
    let plane = Plane::start(&patient(more)).await;
    let mut worker = ByHand::ready(&plane, "patient", |command| {
        command.env("DEAF", "1");
    })
    .await;
    let id = plane.submit("patient", json!(plane.dir().join("never"))).await;
    let agent = plane.progress(id, 1).await[0].as_u64().expect("a pid") as u32;
    let told = Instant::now();
    worker.signal(Signal::SIGTERM);
    worker.reaches(&plane, WorkerState::Draining).await;
    assert!(is_alive(agent) && plane.task(id).await.state == State::Running, "it waits first");
    let task = plane.reaches(id, State::Queued).await;
    let handed_over = told.elapsed();
    assert!(!is_alive(agent), "the agent is gone before anybody else may get its task");
    assert_eq!(worker.exit().await.code(), Some(0), "{}", worker.log());
    let ended = told.elapsed();
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    // Not before time-out, grace and delivery make it necessary, and within the time-out; with room for a busy machine.
    assert!(handed_over > Duration::from_secs(1), "after {handed_over:?}");
    assert!(ended < Duration::from_secs(8), "after {ended:?}");
}

/// Starts a worker that must not come up; its status and what it said.
async fn refused(plane: &Plane, change: impl FnOnce(&mut Command)) -> (Option<i32>, String) {
    let mut worker = ByHand::start(plane, "patient", &[], change);
    let status = worker.exit().await;
    (status.code(), worker.log())
}

#[tokio::test]
async fn what_keeps_a_worker_from_starting_is_said_in_a_line() {
    let plane = Plane::start(&patient("")).await;
    let forged = plane.dir().join("forged");
    std::fs::write(&forged, "lsw1.patient.AAAA\n").expect("the folder is writable");
    let (code, said) = refused(&plane, |command| {
        command.env("LONGSHORE_WORKER_TOKEN_FILE", &forged);
    })
    .await;
    assert_eq!(code, Some(5), "not authorised: {said}");
    assert!(
        said.contains("token") && said.contains("`patient`") && said.contains("bad_worker_token"),
        "{said}"
    );
    assert!(!said.contains("lsw1."), "it does not repeat the token: {said}");

    let (code, said) = refused(&plane, |command| {
        command.env_remove("LONGSHORE_WORKER_TOKEN_FILE");
    })
    .await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("LONGSHORE_WORKER_TOKEN"), "{said}");

    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, said) = refused(&plane, |command| {
        command.env("LONGSHORE_PROBE_ADDR", &address);
    })
    .await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&address), "{said}");

    let (code, said) = refused(&plane, |command| {
        command.args(["--", "no-such-agent-here", "--flag"]);
    })
    .await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("`no-such-agent-here`"), "{said}");

    let (code, said) = refused(&plane, |command| {
        command.env("LONGSHORE_FLEET", "nobody");
    })
    .await;
    assert!(matches!(code, Some(1 | 5)), "{code:?} {said}");
    assert!(said.contains("`nobody`"), "{said}");
}

#[tokio::test]
async fn a_worker_that_is_started_twice_under_one_id_ends_the_older_one() {
    let plane = Plane::start(&patient("kill_grace = \"1s\"")).await;
    let mut older = ByHand::ready(&plane, "patient", |_| {}).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!(go)).await;
    let agent = plane.progress(id, 1).await[0].as_u64().expect("a pid") as u32;
    let name = older.id.clone();
    let mut newer = ByHand::start_as(&plane, "patient", &name, &[], |_| {});
    assert_eq!(older.exit().await.code(), Some(1), "{}", older.log());
    assert!(older.log().contains("another process was started as this worker"), "{}", older.log());
    wait_for("the older one's agent to end", || (!is_alive(agent)).then_some(())).await;
    plane.progress(id, 2).await;
    std::fs::write(&go, "").expect("the folder is writable");
    plane.result(id).await;
    newer.signal(Signal::SIGTERM);
    assert_eq!(newer.exit().await.code(), Some(0), "{}", newer.log());
}

/// Children of a process: pid and state.
fn children(parent: u32) -> Vec<(u32, char)> {
    let all = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()?.parse() == Ok(parent)).then_some((pid, state))
    })
    .collect()
}

#[tokio::test]
async fn as_the_first_process_of_a_container_it_reaps_orphans_and_drains() {
    const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let allowed = Command::new(NAMESPACE[0]).args(&NAMESPACE[1..]).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        return skip("no right to make a pid namespace");
    }
    // Its orphans leave the session, so they outlive their group's end and become the first process's children.
    let orphans = "cat >/dev/null; for i in 1 2 3; do setsid sh -c 'sleep 0.2' & done; echo $$";
    let plane = Plane::start(&shell("first", orphans, "platform = \"external\"\nconcurrency = 4")).await;
    let mut unshare = ByHand::start(&plane, "first", &NAMESPACE, |_| {});
    let worker = unshare.reaches(&plane, WorkerState::Ready).await;
    assert_eq!(worker.pid, Some(1), "it is the first process there");
    let first = children(unshare.pid()).first().expect("unshare runs it").0;
    let ids = plane.submit_many("first", (0..8).map(|n| json!(n))).await;
    plane.all_succeed(&ids).await;
    // They end a moment later; what is not reaped stays as a zombie for ever.
    wait_for("all orphans to be gone", || children(first).is_empty().then_some(())).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), Signal::SIGTERM).expect("it lives");
    assert_eq!(unshare.exit().await.code(), Some(0), "{}", unshare.log());
}
