//! Whatever is killed or frozen, no task is lost and none is written twice.

use std::time::{Duration, Instant};

use longshore_api::link::WorkerState;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::plane::{Plane, carriers, is_alive, pause, signal, wait_for};

/// Tells its pid and its grandchild's at once, then waits until a file appears; its result is the worker that ran it.
const PATIENT: &str = r#"
import json, os, subprocess, sys, time
task = json.load(sys.stdin)["task"]
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(json.dumps({"longshore": "progress", "data": {"pid": os.getpid(), "grandchild": child.pid}}), flush=True)
while not os.path.exists(task["input"]["until"]):
    time.sleep(0.01)
child.kill()
print(json.dumps({"longshore": "result", "data": os.environ["LONGSHORE_WORKER_ID"]}))
"#;

fn patient(extra: &str) -> String {
    let agent = serde_json::to_string(PATIENT).expect("a string");
    format!("[fleet.patient]\ncommand = [\"python3\", \"-c\", {agent}]\nkill_grace = \"1s\"\n{extra}")
}

/// What the agent of the newest attempt told of itself.
async fn told(plane: &Plane, id: longshore_core::id::TaskId, times: usize) -> Value {
    loop {
        let events = plane.client.events(id, 0).await.expect("it has events").items;
        let told: Vec<_> = events.into_iter().filter(|event| event.kind == "progress").collect();
        if told.len() >= times {
            return told[times - 1].data.read::<Value>().expect("JSON");
        }
        pause().await;
    }
}

fn pid_of(told: &Value, which: &str) -> u32 {
    // The control plane may wrap an agent's data: look for the field wherever it is.
    let data = told.get("data").unwrap_or(told);
    data[which].as_u64().expect("a pid") as u32
}

#[tokio::test]
async fn a_killed_workers_agents_die_and_its_task_runs_elsewhere_at_once() {
    let plane = Plane::start(&patient("scaling = { min = 2, max = 2 }\n")).await;
    plane.crew(2).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!({ "until": go })).await;
    let first = told(&plane, id, 1).await;
    let victim = plane.holder(id).await;
    let killed_at = Instant::now();
    signal(victim.pid.expect("it told its pid"), Signal::SIGKILL);
    told(&plane, id, 2).await;
    let took = killed_at.elapsed();
    assert!(
        !is_alive(pid_of(&first, "pid")) && !is_alive(pid_of(&first, "grandchild")),
        "the first agent lives on"
    );
    assert!(took < Duration::from_secs(15), "before its lease would have expired: {took:?}");
    std::fs::write(&go, "").expect("the folder is writable");
    assert_ne!(plane.result(id).await, json!(victim.id));
    let task = plane.task(id).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    plane.crew(2).await;
}

#[tokio::test]
async fn a_killed_control_plane_loses_nothing_and_agents_in_flight_carry_on() {
    let mut plane = Plane::start(&patient("scaling = { min = 2, max = 2 }\n")).await;
    let before = plane.crew(2).await;
    let go = plane.dir().join("go");
    let running = plane.submit("patient", json!({ "until": go })).await;
    let agent = pid_of(&told(&plane, running, 1).await, "pid");
    let holder = plane.holder(running).await;
    plane.kill();
    // It finishes while nobody is there to hear of it.
    std::fs::write(&go, "").expect("the folder is writable");
    wait_for("the agent to end", || (!is_alive(agent)).then_some(())).await;
    plane.restart().await;
    assert_eq!(plane.result(running).await, json!(holder.id));
    let task = plane.task(running).await;
    assert_eq!((task.attempts.len(), task.interrupted), (1, 0), "{task:#?}");
    let pids = |workers: &[longshore_api::fleet::Worker]| {
        workers.iter().map(|w| (w.id.clone(), w.pid)).collect::<Vec<_>>()
    };
    assert_eq!(pids(&plane.crew(2).await), pids(&before), "the same workers, found again, none doubled");
}

#[tokio::test]
async fn a_worker_that_dies_while_the_control_plane_is_down_is_noticed_after_its_restart() {
    let mut plane = Plane::start(&patient("scaling = { min = 2, max = 2 }\n")).await;
    plane.crew(2).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!({ "until": go })).await;
    let first = told(&plane, id, 1).await;
    let victim = plane.holder(id).await;
    plane.kill();
    signal(victim.pid.expect("it told its pid"), Signal::SIGKILL);
    plane.restart().await;
    told(&plane, id, 2).await;
    assert!(
        !is_alive(pid_of(&first, "grandchild")),
        "what it left behind is killed before its task is given away"
    );
    std::fs::write(&go, "").expect("the folder is writable");
    plane.result(id).await;
    plane.crew(2).await;
}

#[tokio::test]
async fn a_frozen_worker_loses_its_lease_and_cannot_write_when_it_wakes_up() {
    // No liveness probe in time: this is about leases.
    let fleet = patient("probe = { interval = \"10m\" }\nscaling = { min = 2, max = 2 }\n");
    let plane = Plane::start(&fleet).await;
    plane.crew(2).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!({ "until": go })).await;
    told(&plane, id, 1).await;
    let frozen = plane.holder(id).await;
    signal(frozen.pid.expect("it told its pid"), Signal::SIGSTOP);
    told(&plane, id, 2).await;
    let taker = plane.holder(id).await;
    assert_ne!(taker.id, frozen.id);
    // Its agent ends well while it is frozen, so that it has something to write when it wakes up.
    std::fs::write(&go, "").expect("the folder is writable");
    assert_eq!(plane.result(id).await, json!(taker.id));
    signal(frozen.pid.expect("it told its pid"), Signal::SIGCONT);
    plane.crew(2).await;
    let task = plane.task(id).await;
    assert_eq!(task.result.map(|result| result.text().to_owned()), Some(format!("{:?}", taker.id)));
    let outcomes: Vec<_> =
        task.attempts.iter().map(|attempt| attempt.outcome.clone().unwrap_or_default()).collect();
    assert_eq!(outcomes, ["interrupted", "succeeded"]);
}

#[tokio::test]
async fn a_frozen_worker_is_replaced_by_its_liveness_probe() {
    let probe = "probe = { interval = \"300ms\", timeout = \"300ms\", failures = 3 }\n";
    let plane = Plane::start(&patient(&format!("{probe}scaling = {{ min = 1, max = 1 }}\n"))).await;
    let frozen = plane.crew(1).await.remove(0);
    signal(frozen.pid.expect("it told its pid"), Signal::SIGSTOP);
    plane
        .workers_when("a new worker", |workers| {
            workers.iter().any(|worker| worker.id != frozen.id && worker.state == WorkerState::Ready)
        })
        .await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_burst_loses_nothing_and_writes_nothing_twice() {
    let mut plane = Plane::start(
        "[fleet.burst]\ncommand = [\"sh\", \"-c\", \"cat >/dev/null; sleep 0.05; echo done\"]\n\
         scaling = { min = 3, max = 3 }\n",
    )
    .await;
    plane.crew(3).await;
    let ids = plane.submit_many("burst", (0..120).map(|n| json!(n))).await;
    for _ in 0..3 {
        let busy =
            plane.workers_when("a busy worker", |workers| workers.iter().any(|w| w.in_flight > 0)).await;
        let victim = busy.iter().find(|worker| worker.in_flight > 0).expect("just waited for one");
        signal(victim.pid.expect("it told its pid"), Signal::SIGKILL);
        plane.crew(3).await;
    }
    plane.kill();
    plane.restart().await;
    plane.all_succeed(&ids).await;
}

#[tokio::test]
async fn drained_workers_finish_what_they_have_and_hand_over_what_is_left() {
    let fleet = patient("scaling = { min = 1, max = 1 }\ndrain = { timeout = \"60s\" }\n");
    let plane = Plane::start(&fleet).await;
    let go = plane.dir().join("go");
    let id = plane.submit("patient", json!({ "until": go })).await;
    told(&plane, id, 1).await;
    let first = plane.holder(id).await;
    let how = longshore_api::fleet::DrainWorker::default();
    plane.client.drain_worker(&first.id, &how).await.expect("it is told");
    plane
        .workers_when("a replacement", |workers| {
            workers.iter().any(|w| w.id != first.id && w.state == WorkerState::Ready)
        })
        .await;
    std::fs::write(&go, "").expect("the folder is writable");
    assert_eq!(plane.result(id).await, json!(first.id), "the drained worker finished it");
    plane.crew(1).await;

    let never = plane.dir().join("never");
    let id = plane.submit("patient", json!({ "until": never })).await;
    told(&plane, id, 1).await;
    let second = plane.holder(id).await;
    let how = longshore_api::fleet::DrainWorker {
        mode: Some(longshore_core::fleet::DrainMode::Handover),
        timeout: None,
    };
    plane.client.drain_worker(&second.id, &how).await.expect("it is told");
    told(&plane, id, 2).await;
    assert_ne!(plane.holder(id).await.id, second.id);
    std::fs::write(&never, "").expect("the folder is writable");
    let task = plane.reaches(id, State::Succeeded).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0));
}

#[tokio::test]
async fn workers_outlive_serve_and_the_next_start_finds_them() {
    let mut plane = Plane::start(&patient("scaling = { min = 2, max = 2 }\n")).await;
    let crew = plane.crew(2).await;
    let status = plane.stop().await;
    assert!(status.success(), "{status}");
    assert!(
        crew.iter().all(|worker| is_alive(worker.pid.expect("it told its pid"))),
        "workers outlive `serve`"
    );
    plane.restart().await;
    assert_eq!(plane.crew(2).await.len(), 2);
    assert!(!carriers(&plane.worker_ids()).is_empty());
}
