//! Workers of one release take the place of another's, with real processes: whatever is killed on the way, tasks go on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use longshore_api::fleet::Worker;
use longshore_api::link::WorkerState;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use serde_json::{Value, json};

use crate::plane::{Plane, carriers, pause, python};
use crate::run::{Ran, command, ran};

/// Waits until the file of its input exists, if that is one; its result is the release that its worker runs.
const GATED: &str = r#"
import json, os, sys, time
given = json.load(sys.stdin)["task"]["input"]
while isinstance(given, str) and not os.path.exists(given):
    time.sleep(0.01)
if os.environ.get("FAILS"):
    sys.exit("this release cannot do it")
print(json.dumps({"longshore": "result", "data": os.environ.get("RELEASE", "none")}))
"#;

fn fleet(release: &str, more: &str) -> String {
    python("g", GATED, &format!("env = {{ RELEASE = \"{release}\" }}\n{more}"))
}

/// A control plane whose fleets come by the API.
async fn plane(fleets: &str) -> Plane {
    let plane = Plane::start_with("", &[("LONGSHORE__SERVER__FLEETS", "api")]).await;
    apply(&plane, fleets);
    plane
}

fn run(plane: &Plane, args: &[&str]) -> Ran {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    ran(command.output().expect("the binary runs"))
}

pub fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let ran = run(plane, args);
    assert_eq!(ran.status, status, "{args:?}: {ran:?}\n{}", plane.worker_logs());
    ran
}

pub fn told(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("JSON: {ran:?}"))
}

pub fn apply(plane: &Plane, fleets: &str) {
    plane.declare(fleets);
    check(plane, &["apply", "--yes"], 0);
}

pub async fn releases(plane: &Plane) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    for worker in plane.workers().await {
        *counts.entry(worker.release).or_default() += 1;
    }
    counts
}

pub async fn uninterrupted(plane: &Plane, ids: &[TaskId]) {
    plane.all_succeed(ids).await;
    for id in ids {
        let task = plane.task(*id).await;
        assert_eq!((task.interrupted, task.failed_attempts), (0, 0), "{task:#?}");
    }
}

/// A worker's process for each that is ready, and none beside.
async fn no_worker_is_left_over(plane: &Plane, ready: usize) {
    let crew = plane.crew(ready).await;
    let there: BTreeSet<String> = crew.into_iter().map(|worker| worker.id).collect();
    let gone = plane.worker_ids().into_iter().filter(|id| !there.contains(id)).collect();
    let end = Instant::now() + Duration::from_secs(10);
    while !carriers(&gone).is_empty() {
        assert!(Instant::now() < end, "left over: {:?}", carriers(&gone));
        pause().await;
    }
}

const THREE: &str = "scaling = { min = 3, max = 3 }\nrollout = { hold = \"300ms\" }";

#[tokio::test]
async fn a_changed_declaration_comes_in_while_tasks_go_on() {
    let plane = plane(&fleet("1", THREE)).await;
    plane.crew(3).await;
    let go = plane.dir().join("go");
    let running = plane.submit("g", json!(go)).await;
    plane.reaches(running, State::Running).await;
    apply(&plane, &fleet("2", THREE));
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(plane.submit("g", json!(1)).await);
        pause().await;
    }
    fs::write(&go, "").expect("the folder is writable");
    let waited = check(&plane, &["rollout", "wait", "g", "--json"], 0);
    assert_eq!((&told(&waited)["phase"], &told(&waited)["to"]), (&json!("done"), &json!(2)));
    uninterrupted(&plane, &ids).await;
    uninterrupted(&plane, &[running]).await;
    assert_eq!(plane.result(running).await, json!("1"), "what ran is finished by the worker that ran it");
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 3)]));
    let last = plane.submit("g", json!(1)).await;
    assert_eq!(plane.result(last).await, json!("2"));
    no_worker_is_left_over(&plane, 3).await;
    let attempts = plane.task(last).await.attempts;
    assert_eq!(attempts[0].release, Some(2));
    let history = told(&check(&plane, &["rollout", "history", "g", "--json"], 0));
    assert_eq!(history["items"].as_array().map(Vec::len), Some(1), "{history}");
    let known = check(&plane, &["rollout", "releases", "g"], 0).out;
    assert!(known.contains("yes") && known.lines().count() == 3, "{known}");
    // The same again is nothing.
    apply(&plane, &fleet("2", THREE));
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 3)]));
}

#[tokio::test]
async fn what_does_not_come_up_goes_back_by_itself() {
    let three = "scaling = { min = 3, max = 3 }\nrollout = { hold = \"100ms\", ready = \"2s\" }";
    let plane = plane(&fleet("1", three)).await;
    let before = plane.crew(3).await;
    let mute = format!("[fleet.g]\ncommand = [\"sleep\", \"1000\"]\nprotocol = \"http\"\n{three}");
    apply(&plane, &mute);
    let ids = plane.submit_many("g", (0..20).map(|n| json!(n))).await;
    let waited = check(&plane, &["rollout", "wait", "g"], 3);
    assert!(
        waited.out.contains("was rolled back") && waited.out.contains("not ready within 2s"),
        "{waited:?}"
    );
    uninterrupted(&plane, &ids).await;
    let after = plane.crew(3).await;
    let names = |workers: &[Worker]| workers.iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "the old ones were never touched");
    no_worker_is_left_over(&plane, 3).await;
    let missing = format!("[fleet.g]\ncommand = [\"/nowhere/agent\"]\n{three}");
    apply(&plane, &missing);
    let waited = check(&plane, &["rollout", "wait", "g"], 3);
    assert!(waited.out.contains("ended by itself"), "{waited:?}");
    assert_eq!(releases(&plane).await, BTreeMap::from([(1, 3)]));
    let fleet = plane.client.fleet("g").await.expect("declared");
    assert_eq!((fleet.release, fleet.trouble), (1, None));
    // It is not tried again by itself, not even by a new start.
    apply(&plane, &missing);
    assert_eq!(plane.client.rollouts(Some("g")).await.expect("answers").items.len(), 2);
}

#[tokio::test]
async fn a_rollout_outlives_the_control_plane_at_every_step() {
    let four = "scaling = { min = 4, max = 4 }\nrollout = { hold = \"100ms\" }";
    let mut plane = plane(&fleet("1", four)).await;
    plane.crew(4).await;
    let mut ids = plane.submit_many("g", (0..8).map(|n| json!(n))).await;
    apply(&plane, &fleet("2", four));
    let mut kills = 0;
    loop {
        // Each time a little later than the last time: before, in and after each step.
        tokio::time::sleep(Duration::from_millis(60 + 35 * kills)).await;
        plane.kill();
        kills += 1;
        plane.restart().await;
        ids.push(plane.submit("g", json!(1)).await);
        let newest = plane.client.rollout("g", None).await.expect("it is there");
        assert!(newest.number == 1 && newest.phase != "rolled_back", "{newest:#?}\n{}", plane.worker_logs());
        let active: Vec<_> = plane.workers().await.into_iter().collect();
        let active = active.iter().filter(|worker| worker.state != WorkerState::Draining).count();
        assert!(active <= 5, "one beyond what is wanted at most: {active}");
        if newest.ended_at.is_some() {
            break;
        }
    }
    println!("killed {kills} times");
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 4)]));
    no_worker_is_left_over(&plane, 4).await;
    plane.all_succeed(&ids).await;
}

#[tokio::test]
async fn long_tasks_are_handed_over_in_seconds() {
    let ten = "scaling = { min = 10, max = 10 }\ndrain = { mode = \"handover\" }\nkill_grace = \"1s\"\n\
               rollout = { batch = 5, hold = \"0s\" }";
    let plane = plane(&fleet("1", ten)).await;
    plane.crew(10).await;
    let go = plane.dir().join("go");
    let ids = plane.submit_many("g", (0..10).map(|_| json!(go))).await;
    for id in &ids {
        plane.reaches(*id, State::Running).await;
    }
    let began = Instant::now();
    apply(&plane, &fleet("2", ten));
    check(&plane, &["rollout", "wait", "g"], 0);
    let took = began.elapsed();
    println!("ten workers with tasks in flight rolled in {took:?}");
    assert!(took < Duration::from_secs(120), "{took:?}");
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 10)]));
    fs::write(&go, "").expect("the folder is writable");
    plane.all_succeed(&ids).await;
    for id in &ids {
        assert_eq!(plane.result(*id).await, json!("2"));
        let task = plane.task(*id).await;
        assert_eq!((task.failed_attempts, task.interrupted >= 1), (0, true), "{task:#?}");
    }
}

#[tokio::test]
async fn an_operator_pauses_resumes_and_goes_back() {
    let three = "scaling = { min = 3, max = 3 }\nrollout = { hold = \"1s\" }";
    let plane = plane(&fleet("1", three)).await;
    plane.crew(3).await;
    let none = check(&plane, &["rollout", "status", "g"], 1);
    assert!(none.err.contains("has had no rollout"), "{none:?}");
    let none = check(&plane, &["rollout", "undo", "g"], 1);
    assert!(none.err.contains("has run no release before this one"), "{none:?}");
    apply(&plane, &fleet("2", three));
    check(&plane, &["rollout", "pause", "g"], 0);
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let paused = told(&check(&plane, &["rollout", "status", "g", "--json"], 0));
    assert_eq!((&paused["paused"], &paused["phase"]), (&json!(true), &json!("forward")), "{paused}");
    assert!(releases(&plane).await[&1] >= 2, "nothing has moved");
    check(&plane, &["rollout", "resume", "g"], 0);
    check(&plane, &["rollout", "wait", "g"], 0);
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 3)]));
    // Back to what ran before, and then back from there.
    let undone = check(&plane, &["rollout", "undo", "g"], 0);
    assert!(undone.out.contains("release 1 has replaced 2"), "{undone:?}");
    assert_eq!(releases(&plane).await, BTreeMap::from([(1, 3)]));
    let one = plane.submit("g", json!(1)).await;
    assert_eq!(plane.result(one).await, json!("1"));
    // In the middle of it.
    apply(&plane, &fleet("3", three));
    plane
        .workers_when("one of the new release", |workers| workers.iter().any(|worker| worker.release == 3))
        .await;
    let undone = check(&plane, &["rollout", "undo", "g"], 0);
    assert!(undone.out.contains("was rolled back to 1: an operator undid it"), "{undone:?}");
    assert_eq!(releases(&plane).await, BTreeMap::from([(1, 3)]));
    no_worker_is_left_over(&plane, 3).await;
    let unknown = check(&plane, &["rollout", "undo", "g", "--to", "9"], 1);
    assert!(unknown.err.contains("has no release 9"), "{unknown:?}");
    let image = check(&plane, &["deploy", "g", "registry.internal/g:2"], 1);
    assert!(image.err.contains("no image") && image.err.contains("longshore apply"), "{image:?}");
}

#[tokio::test]
async fn a_release_whose_tasks_fail_goes_back() {
    let three = "scaling = { min = 3, max = 3 }\ntask = { max_attempts = 9, backoff = { base = \"10ms\", cap = \"50ms\" } }\n\
                 rollout = { hold = \"60s\", canary = { min_samples = 5, failure_rate = 0.2 } }";
    let plane = plane(&fleet("1", three)).await;
    plane.crew(3).await;
    let ids = plane.submit_many("g", (0..10).map(|n| json!(n))).await;
    plane.all_succeed(&ids).await;
    let bad = python("g", GATED, &format!("env = {{ RELEASE = \"2\", FAILS = \"yes\" }}\n{three}"));
    apply(&plane, &bad);
    let mut ids = Vec::new();
    while plane.client.rollout("g", None).await.expect("it is there").ended_at.is_none() {
        ids.push(plane.submit("g", json!(1)).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(ids.len() < 1_000, "{}", plane.worker_logs());
    }
    let ended = plane.client.rollout("g", None).await.expect("it is there");
    assert!(ended.says.contains("attempts on the new release failed"), "{ended:#?}");
    plane.all_succeed(&ids).await;
    no_worker_is_left_over(&plane, 3).await;
    let known = plane.client.releases("g").await.expect("answers").items;
    assert!(known[0].failed >= 5 && known[1].serving, "{known:#?}");
}
