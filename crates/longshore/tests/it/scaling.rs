//! Fleets grow, shrink and change while tasks run, and the control plane says why.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longshore_api::client::Client;
use longshore_api::fleet::{Decision, Worker};
use longshore_api::link::WorkerState;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use serde_json::json;

use crate::plane::{PATIENCE, Plane, pause, python, script, shell};

/// Waits until the file of its input exists; its result is the version that its worker was declared with.
const GATED: &str = r#"
import json, os, sys, time
task = json.load(sys.stdin)["task"]
while not os.path.exists(task["input"]):
    time.sleep(0.01)
print(json.dumps({"longshore": "result", "data": os.environ.get("RELEASE", "none")}))
"#;

/// Grows above two pending tasks per worker, shrinks below one for a second.
const POLICY: &str = "scale_up_above = 2, scale_down_below = 1, scale_down_after = \"1s\", step = 1";

async fn decisions(plane: &Plane, fleet: &str) -> Vec<Decision> {
    plane.client.scale(fleet).await.expect("the fleet is there").decisions
}

/// Waits for a decision of this kind with these words in its reason.
async fn decided(plane: &Plane, fleet: &str, kind: &str, words: &str) -> Decision {
    let end = Instant::now() + PATIENCE;
    loop {
        let all = decisions(plane, fleet).await;
        if let Some(found) = all.iter().find(|one| one.kind == kind && one.reason.contains(words)) {
            return found.clone();
        }
        assert!(Instant::now() < end, "no `{kind}` of `{words}` among {all:#?}");
        pause().await;
    }
}

async fn uninterrupted(plane: &Plane, ids: &[TaskId]) {
    plane.all_succeed(ids).await;
    for id in ids {
        let task = plane.task(*id).await;
        assert_eq!((task.interrupted, task.failed_attempts), (0, 0), "{task:#?}");
    }
}

#[tokio::test]
async fn a_queue_adds_workers_up_to_max_and_quiet_drains_the_idle_ones() {
    let plane =
        Plane::start(&python("g", GATED, &format!("scaling = {{ min = 1, max = 3, {POLICY} }}"))).await;
    plane.crew(1).await;
    let (go, last) = (plane.dir().join("go"), plane.dir().join("last"));
    let ids = plane.submit_many("g", (0..12).map(|_| json!(go))).await;
    plane.crew(3).await;
    let grown = decided(&plane, "g", "grow", "pending per worker is above 2").await;
    assert!(grown.to > grown.from && grown.to <= 3, "{grown:?}");
    // It stays at max, whatever waits, and says so.
    let held = decided(&plane, "g", "hold", "3 is the most allowed").await;
    assert_eq!((held.from, held.to), (3, 3), "{held:?}");
    // One of the three gets a task that goes on.
    let busy = plane.submit_with("g", json!(last), |task| task.priority = 10).await;
    fs::write(&go, "").expect("the folder is writable");
    plane.reaches(busy, State::Running).await;
    let holder = plane.holder(busy).await;
    let left = plane.crew(1).await;
    assert_eq!(left[0].id, holder.id, "the one with work to lose stays");
    assert_eq!(plane.task(busy).await.state, State::Running);
    let shrunk = decided(&plane, "g", "shrink", "pending per worker is below 1").await;
    assert!(shrunk.to < shrunk.from && shrunk.to >= 1, "{shrunk:?}");
    fs::write(&last, "").expect("the folder is writable");
    uninterrupted(&plane, &ids).await;
    uninterrupted(&plane, &[busy]).await;
}

#[tokio::test]
async fn an_operators_number_counts_until_it_is_taken_back() {
    let plane =
        Plane::start(&python("g", GATED, &format!("scaling = {{ min = 1, max = 3, {POLICY} }}"))).await;
    plane.crew(1).await;
    plane.client.set_scale("g", Some(3)).await.expect("accepted");
    plane.crew(3).await;
    assert_eq!(plane.client.scale("g").await.expect("the fleet is there").replicas, Some(3));
    decided(&plane, "g", "grow", "the operator asked for 3").await;
    // More than max is not given, and that is said.
    plane.client.set_scale("g", Some(50)).await.expect("accepted");
    decided(&plane, "g", "hold", "asked for 50").await;
    assert_eq!(plane.crew(3).await.len(), 3);
    plane.client.set_scale("g", None).await.expect("accepted");
    plane.crew(1).await;
    assert_eq!(plane.client.scale("g").await.expect("the fleet is there").replicas, None);
    plane.client.set_scale("g", Some(0)).await.expect("accepted");
    plane.crew(0).await;
    let go = plane.dir().join("go");
    fs::write(&go, "").expect("the folder is writable");
    let id = plane.submit("g", json!(go)).await;
    plane.client.set_scale("g", None).await.expect("accepted");
    uninterrupted(&plane, &[id]).await;
}

/// Looks at a fleet's workers all the time; what it saw is judged at the end.
struct Watch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Vec<Worker>>>,
}

impl Watch {
    fn begin(client: Client) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(workers) = client.workers(None, false).await {
                    seen.push(workers.items);
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            seen
        });
        Watch { stop, task }
    }

    async fn end(self) -> Vec<Vec<Worker>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("it does not panic")
    }
}

#[tokio::test]
async fn a_changed_declaration_replaces_workers_one_by_one_under_load() {
    let release = |n: u32| {
        let more = "scaling = { min = 3, max = 3 }\nrollout = { hold = \"500ms\" }";
        python("g", GATED, &format!("env = {{ RELEASE = \"{n}\" }}\n{more}"))
    };
    let mut plane = Plane::start(&release(1)).await;
    let old: BTreeSet<String> = plane.crew(3).await.into_iter().map(|worker| worker.id).collect();
    let (go, slow) = (plane.dir().join("go"), plane.dir().join("slow"));
    fs::write(&go, "").expect("the folder is writable");
    let running = plane.submit("g", json!(slow)).await;
    plane.reaches(running, State::Running).await;
    plane.declare(&release(2));
    assert!(plane.stop().await.success());
    plane.restart().await;
    let watch = Watch::begin(Client::new(&plane.addresses.api, None).expect("a client"));
    let mut ids = Vec::new();
    plane
        .workers_when("three new workers, and the busy old one on its way out", |workers| {
            let new = |worker: &&Worker| !old.contains(&worker.id) && worker.state == WorkerState::Ready;
            let leaving = |worker: &Worker| old.contains(&worker.id) && worker.state == WorkerState::Draining;
            workers.iter().filter(new).count() == 3 && workers.iter().filter(|w| !new(w)).all(leaving)
        })
        .await;
    for _ in 0..10 {
        ids.extend(plane.submit_many("g", (0..3).map(|_| json!(go))).await);
    }
    fs::write(&slow, "").expect("the folder is writable");
    let new = plane.crew(3).await;
    assert!(new.iter().all(|worker| !old.contains(&worker.id)), "{new:#?}");
    assert_eq!(plane.result(running).await, json!("1"), "what ran is finished by the worker that ran it");
    uninterrupted(&plane, &[running]).await;
    uninterrupted(&plane, &ids).await;
    for id in &ids {
        assert_eq!(plane.result(*id).await, json!("2"));
    }
    for workers in watch.end().await {
        let ready = workers.iter().filter(|worker| worker.state == WorkerState::Ready).count();
        let active = workers.iter().filter(|worker| worker.state != WorkerState::Draining).count();
        assert!(ready >= 3, "never fewer than min: {workers:#?}");
        assert!(active <= 4, "one by one: {workers:#?}");
    }
}

#[tokio::test]
async fn a_fleet_that_is_no_longer_declared_drains_and_keeps_its_tasks() {
    let fleet = |name: &str| python(name, GATED, "scaling = { min = 1, max = 1 }");
    let mut plane = Plane::start(&(fleet("stays") + &fleet("goes"))).await;
    plane.crew(2).await;
    let go = plane.dir().join("go");
    let running = plane.submit("goes", json!(go)).await;
    plane.reaches(running, State::Running).await;
    let waiting = plane.submit("goes", json!(go)).await;
    plane.declare(&fleet("stays"));
    assert!(plane.stop().await.success());
    plane.restart().await;
    plane
        .workers_when("the busy one to drain", |workers| {
            workers
                .iter()
                .any(|worker| worker.fleet.as_str() == "goes" && worker.state == WorkerState::Draining)
        })
        .await;
    fs::write(&go, "").expect("the folder is writable");
    uninterrupted(&plane, &[running]).await;
    let left = plane.crew(1).await;
    assert_eq!(left[0].fleet.as_str(), "stays");
    assert!(!plane.client.fleet("goes").await.expect("it is still shown").active);
    assert_eq!(plane.task(waiting).await.state, State::Queued, "what waits is kept");
    // Declared again, it goes on.
    plane.declare(&(fleet("stays") + &fleet("goes")));
    assert!(plane.stop().await.success());
    plane.restart().await;
    uninterrupted(&plane, &[waiting]).await;
}

#[tokio::test]
async fn a_command_that_crashes_is_started_less_and_less_often_and_recovers_when_it_is_mended() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = folder.path().join("agent");
    let fleet = format!("[fleet.c]\ncommand = [{agent:?}]\nscaling = {{ min = 1, max = 1 }}\n");
    let plane = Plane::start(&fleet).await;
    let id = plane.submit("c", json!(1)).await;
    // Each start has a log file. Backing off by 0.1 s at least, doubled each time: six starts take 3.1 s.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        pause().await;
    }
    let starts = plane.worker_ids().len();
    assert!((1..=7).contains(&starts), "{starts} starts in 3 s");
    let trouble = plane.client.fleet("c").await.expect("declared").trouble.expect("it does not come up");
    assert!(trouble.contains(agent.to_str().expect("UTF-8")), "{trouble}");
    script(folder.path(), "agent", "#!/bin/sh\ncat >/dev/null\necho mended\n");
    assert_eq!(plane.result(id).await, json!("mended"));
    let end = Instant::now() + PATIENCE;
    while plane.client.fleet("c").await.expect("declared").trouble.is_some() {
        assert!(Instant::now() < end, "it is up, and still said to be in trouble");
        pause().await;
    }
}

#[tokio::test]
async fn an_http_agent_that_never_comes_up_is_told_as_trouble_and_does_not_spin() {
    let more = "protocol = \"http\"\nscaling = { min = 1, max = 1 }\nprobe = { startup = \"1s\" }";
    let plane = Plane::start(&shell("h", "echo 'no module named agent' >&2; exit 1", more)).await;
    let id = plane.submit("h", json!(1)).await;
    let worker = plane.workers_when("a worker", |workers| workers.len() == 1).await.remove(0);
    let end = Instant::now() + PATIENCE;
    while !plane.worker_log(&worker.id).contains("no module named agent") {
        assert!(Instant::now() < end, "{}", plane.worker_logs());
        pause().await;
    }
    assert_eq!(plane.task(id).await.state, State::Queued);
    assert!(plane.workers().await.iter().all(|worker| worker.state != WorkerState::Ready));
    let reason =
        plane.workers_when("a reason", |all| all.iter().any(|worker| !worker.reason.is_empty())).await;
    assert!(reason.iter().any(|worker| worker.reason.contains("agent")), "{reason:#?}");
}

#[tokio::test]
async fn no_more_workers_are_started_than_the_providers_limit_can_feed() {
    let provider = "[provider.openai]\nbase_url = \"http://127.0.0.1:9/v1\"\nlimits.\"gpt-5\" = { requests_per_minute = 30 }\n";
    let more = format!(
        "scaling = {{ min = 1, max = 9, {POLICY} }}\nllm_use = {{ model = \"gpt-5-mini\", requests_per_minute = 10 }}"
    );
    let plane = Plane::start(&format!("{provider}{}", python("g", GATED, &more))).await;
    let go = plane.dir().join("go");
    let ids = plane.submit_many("g", (0..40).map(|_| json!(go))).await;
    let held = decided(&plane, "g", "hold", "3 is the most allowed").await;
    assert!(held.reason.contains("the limit of `gpt-5` at provider `openai` feeds no more"), "{held:?}");
    assert_eq!(plane.crew(3).await.len(), 3);
    fs::write(&go, "").expect("the folder is writable");
    plane.all_succeed(&ids).await;
    let most = decisions(&plane, "g").await.iter().map(|one| one.to).max();
    assert_eq!(most, Some(3), "never more than 30 requests a minute can feed at 10 each");
}
