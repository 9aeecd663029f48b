//! The queue's rules through the real thing: tenants, caps, pauses, deadlines, retries, conversations that are busy.

use std::time::{Duration, Instant};

use longshore_api::client::{ClientError, TaskQuery};
use longshore_api::task::{Backoff, Submit};
use longshore_core::id::{ConversationId, FleetName, TaskId, TenantName};
use longshore_core::json::Json;
use longshore_core::task::{Hold, OnBusy, State};
use serde_json::json;

use crate::plane::{Plane, is_alive, pause, python, shell};
use crate::run::{command, ran};

const EXTERNAL: &str = "command = [\"cat\"]\nplatform = \"external\"\n";

fn code(error: &ClientError) -> &str {
    error.problem().map_or("", |problem| &*problem.code)
}

/// What a test says in a submission.
type Change = fn(&mut Submit);

fn tenant(name: &str) -> Option<TenantName> {
    Some(TenantName::new(name).expect("valid"))
}

fn conversation(name: &str) -> Option<ConversationId> {
    Some(ConversationId::new(name).expect("valid"))
}

async fn longshore(plane: &Plane, args: &[&str]) -> String {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
    ran.out
}

#[tokio::test]
async fn the_depth_of_a_queue_says_what_each_task_waits_for() {
    let toml = format!(
        "[tenant.acme]\nweight = 4\nmax_running = 9\n[fleet.a]\n{EXTERNAL}max_running = 3\ntenants = {{ max_running = 2 }}\n"
    );
    let plane = Plane::start(&toml).await;
    for name in ["acme", "acme", "acme", "b", "b"] {
        plane.submit_with("a", json!(1), |task| task.tenant = tenant(name)).await;
    }
    plane.submit_with("a", json!(1), |task| task.run_at = "2999-01-01T00:00:00Z".parse().ok()).await;
    for _ in 0..2 {
        plane.submit_with("a", json!(1), |task| task.conversation = conversation("c")).await;
    }
    let fleet = plane.client.fleet("a").await.expect("it is declared");
    let depth = &fleet.depth;
    assert_eq!((depth.runnable, depth.held_by_cap), (3, 3), "{depth:?}");
    assert_eq!((depth.scheduled, depth.held_by_conversation, depth.held_by_pause), (1, 1, 0), "{depth:?}");
    assert_eq!((fleet.runnable, fleet.tasks.queued), (3, 8));
    assert_eq!(plane.metric("longshore_queue_depth").await, 8.0);
    let tenants = plane.client.tenants("a").await.expect("a list").items;
    let acme = tenants.iter().find(|it| it.tenant.as_str() == "acme").expect("it has tasks");
    assert_eq!((acme.weight, acme.max_running, acme.ready), (4, Some(9), 3));
    assert!(longshore(&plane, &["fleets", "tenants", "a"]).await.contains("acme"));
    let shown = longshore(&plane, &["fleets", "a"]).await;
    assert!(shown.contains("1 by time, 1 by conversations, 3 by caps"), "{shown}");
    assert!(shown.contains("3 running, 2 running of each tenant"), "{shown}");
    let listed = longshore(&plane, &["tasks", "list", "--tenant", "b"]).await;
    assert_eq!(listed.lines().count(), 3, "a head and two tasks: {listed}");
}

#[tokio::test]
async fn a_paused_fleet_starts_nothing_until_it_is_resumed() {
    let plane =
        Plane::start(&shell("a", "cat >/dev/null; echo done", "scaling = { min = 1, max = 3 }")).await;
    plane.crew(1).await;
    assert!(longshore(&plane, &["fleets", "pause", "a"]).await.contains("paused"));
    let ids = plane.submit_many("a", (0..40).map(|n| json!(n))).await;
    let fleet = plane.client.fleet("a").await.expect("it is declared");
    assert!(fleet.paused && fleet.depth.held_by_pause == 40 && fleet.runnable == 0, "{fleet:?}");
    // The scaler says why it holds, though forty tasks are queued.
    let end = Instant::now() + crate::plane::PATIENCE;
    loop {
        let decisions = plane.client.scale("a").await.expect("it decides").decisions;
        if decisions.first().is_some_and(|last| last.reason.contains("the fleet is paused")) {
            break;
        }
        assert!(Instant::now() < end, "{decisions:?}");
        pause().await;
    }
    assert_eq!(plane.workers().await.len(), 1);
    assert!(plane.task(ids[0]).await.attempts.is_empty());
    assert!(longshore(&plane, &["fleets", "resume", "a"]).await.contains("starts tasks"));
    plane.all_succeed(&ids).await;
}

#[tokio::test]
async fn a_task_that_runs_is_stopped_at_its_deadline() {
    let program = "import os, time, sys, json\nsys.stdin.read()\nprint(json.dumps({'longshore': 'progress', 'data': os.getpid()}), flush=True)\ntime.sleep(600)";
    let plane =
        Plane::start(&python("a", program, "kill_grace = \"1s\"\nscaling = { min = 1, max = 1 }")).await;
    plane.crew(1).await;
    let running = plane.submit_with("a", json!(1), |task| task.expires_in = Some("4s".into())).await;
    let queued = plane.submit_with("a", json!(1), |task| task.expires_in = Some("2s".into())).await;
    let pid = plane.progress(running, 1).await[0].as_u64().expect("a pid") as u32;
    for id in [queued, running] {
        let task = plane.reaches(id, State::Failed).await;
        assert_eq!(task.failure.map(|failure| failure.code).as_deref(), Some("deadline_exceeded"));
    }
    assert!(!is_alive(pid), "its agent has ended");
    let found = TaskQuery { code: Some("deadline_exceeded".into()), ..TaskQuery::default() };
    assert_eq!(plane.client.tasks(&found).await.expect("a page").items.len(), 2);
    assert!(longshore(&plane, &["tasks", "list", "--code", "poison"]).await.is_empty());
}

#[tokio::test]
async fn a_fleets_total_timeout_counts_for_tasks_that_say_nothing() {
    let plane = Plane::start(&format!("[fleet.a]\n{EXTERNAL}task = {{ total_timeout = \"1s\" }}\n")).await;
    let id = plane.submit("a", json!(1)).await;
    let longer = plane.submit_with("a", json!(1), |task| task.expires_in = Some("1h".into())).await;
    let task = plane.reaches(id, State::Failed).await;
    assert_eq!(task.failure.map(|failure| failure.code).as_deref(), Some("deadline_exceeded"));
    assert_eq!(plane.task(longer).await.state, State::Queued);
}

#[tokio::test]
async fn an_agent_says_when_to_try_again_and_when_not() {
    let program = "import json, sys\ntask = json.loads(sys.stdin.readline())['task']\n\
        event = {'longshore': 'error', 'message': 'busy', **task['input']}\n\
        print(json.dumps(event) if task['attempt'] == 1 else 'done')";
    let plane = Plane::start(&python("a", program, "scaling = { min = 1, max = 1 }")).await;
    let asked = plane.submit("a", json!({ "retry_after": "1h" })).await;
    let never = plane.submit("a", json!({ "retry": false })).await;
    let soon = plane.submit("a", json!({ "retry_after": 0 })).await;
    let own = plane
        .submit_with("a", json!({}), |task| {
            task.backoff = Some(Backoff { base: Some("1ms".into()), cap: Some("2ms".into()) });
        })
        .await;
    assert_eq!(plane.result(soon).await, json!("done"));
    assert_eq!(plane.result(own).await, json!("done"));
    let task = plane.reaches(never, State::Failed).await;
    assert_eq!(task.attempts.len(), 1);
    let end = Instant::now() + crate::plane::PATIENCE;
    while plane.task(asked).await.hold != Some(Hold::Backoff) {
        assert!(Instant::now() < end, "it fails once");
        pause().await;
    }
    let queued = plane.client.events(asked, 0).await.expect("events").items;
    let again: serde_json::Value = queued.last().expect("one").data.read().expect("JSON");
    let due: longshore_core::time::Timestamp =
        again["due_at"].as_str().expect("a time").parse().expect("a time");
    let wait = due.since(queued.last().expect("one").at);
    assert!(wait >= Duration::from_secs(3600) && wait < Duration::from_secs(4000), "{wait:?}");
}

#[tokio::test]
async fn a_busy_conversation_refuses_or_gives_way() {
    let program = "import json, sys, time\ntask = json.loads(sys.stdin.readline())['task']\n\
        print(json.dumps({'longshore': 'progress', 'data': 1}), flush=True)\n\
        time.sleep(600) if task['input'] == 'hang' else print('done')";
    let more = "kill_grace = \"1s\"\ntask = { on_busy = \"reject\" }\nscaling = { min = 1, max = 1 }";
    let plane = Plane::start(&python("a", program, more)).await;
    let submit = |input: &str, on_busy: Option<OnBusy>| Submit {
        conversation: conversation("c"),
        on_busy,
        ..Submit::new(FleetName::new("a").expect("valid"), Json::string(input))
    };
    let first = plane.client.submit(&submit("hang", None), None).await.expect("nothing is before it").id;
    plane.progress(first, 1).await;
    let refused = plane.client.submit(&submit("hang", None), None).await.expect_err("it is busy");
    assert_eq!(code(&refused), "conversation_busy");
    let queued = plane.client.submit(&submit("x", Some(OnBusy::Enqueue)), None).await.expect("it waits").id;
    let newest =
        plane.client.submit(&submit("x", Some(OnBusy::Interrupt)), None).await.expect("it pushes in").id;
    assert_eq!(plane.result(newest).await, json!("done"));
    for id in [first, queued] {
        plane.reaches(id, State::Cancelled).await;
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_with_its_place() {
    let plane = Plane::start(&format!("[fleet.a]\n{EXTERNAL}")).await;
    let cases: [(&str, Change); 5] = [
        ("deadline", |task| task.deadline = "2020-01-01T00:00:00Z".parse().ok()),
        ("expires_in", |task| task.expires_in = Some("soon".into())),
        ("expires_in", |task| task.expires_in = Some("0s".into())),
        ("backoff.base", |task| task.backoff = Some(Backoff { base: Some("90d".into()), cap: None })),
        ("backoff.cap", |task| {
            task.backoff = Some(Backoff { base: Some("2s".into()), cap: Some("1s".into()) });
        }),
    ];
    for (place, change) in cases {
        let mut task = Submit::new(FleetName::new("a").expect("valid"), Json::null());
        change(&mut task);
        let refused = plane.client.submit(&task, None).await.expect_err(place);
        let problem = refused.problem().expect("a problem");
        assert_eq!((&*problem.code, problem.errors[0].at.as_str()), ("invalid_value", place));
    }
    for verb in ["pause", "resume"] {
        let refused = plane.client.set_paused("nobody", verb == "pause").await.expect_err("no such fleet");
        assert_eq!(code(&refused), "unknown_fleet");
    }
    let http = reqwest::Client::new();
    for (query, place) in [("tenant=a%20b", "tenant"), ("fleet=A", "fleet")] {
        let asked = http.get(format!("{}/v1/tasks?{query}", plane.addresses.api)).send().await;
        let problem: serde_json::Value = asked.expect("an answer").json().await.expect("JSON");
        assert_eq!(problem["errors"][0]["at"], *place, "{problem}");
    }
}

#[tokio::test]
async fn a_rate_spreads_starts_out_and_outlives_a_restart() {
    let fleet = shell(
        "a",
        "cat >/dev/null; echo done",
        "rate = { tasks = 2, per = \"1h\" }\nscaling = { min = 1, max = 1 }",
    );
    let mut plane = Plane::start(&fleet).await;
    let ids = plane.submit_many("a", (0..4).map(|n| json!(n))).await;
    plane.all_succeed(&ids[..2]).await;
    let held = async |plane: &Plane| {
        let depth = plane.client.fleet("a").await.expect("it is declared").depth;
        (depth.runnable, depth.held_by_cap)
    };
    assert_eq!(held(&plane).await, (0, 2));
    plane.kill();
    plane.restart().await;
    assert_eq!(held(&plane).await, (0, 2), "what was started is not forgotten");
    let untouched: Vec<TaskId> = ids[2..].to_vec();
    for id in untouched {
        assert!(plane.task(id).await.attempts.is_empty());
    }
}
