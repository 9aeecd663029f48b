//! No LLM call is paid for twice: whatever is killed, stopped, retried or cancelled, the provider's own bill says so.
//!
//! The provider is the simulated one, in the test's process; control plane, workers and agents are the real ones.

use std::fs;
use std::path::PathBuf;

use longshore_api::journal::Journal;
use longshore_api::waiting::Input;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use longshore_simulate::{Bill, Options, Sim};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::plane::{Plane, pause, signal, wait_for};

const AGENT: &str = include_str!("replay/agent.py");

/// A provider, a control plane, and a fleet whose agent does what it is told.
struct Scene {
    sim: Sim,
    plane: Plane,
    files: tempfile::TempDir,
}

impl Scene {
    async fn new(fleet: &str) -> Scene {
        Scene::with(Options::default(), "", fleet).await
    }

    async fn with(options: Options, provider: &str, fleet: &str) -> Scene {
        let sim = longshore_simulate::start(options).await.expect("a free port");
        let files = tempfile::tempdir().expect("a temporary folder");
        let agent = files.path().join("agent.py");
        fs::write(&agent, AGENT).expect("the folder is writable");
        let toml = format!(
            "[provider.openai]\nbase_url = \"{}\"\n{provider}\n\
             prices.\"*\" = {{ input = \"1\", output = \"2\" }}\n\
             [fleet.f]\ncommand = [\"python3\", \"-S\", {:?}]\nkill_grace = \"1s\"\n\
             task = {{ max_attempts = 3, backoff = {{ base = \"10ms\", cap = \"10ms\" }} }}\n{fleet}\n",
            sim.openai_base_url(),
            agent,
        );
        let plane = Plane::start(&toml).await;
        Scene { sim, plane, files }
    }

    /// A file that a test makes to let an agent go on.
    fn gate(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn open(&self, name: &str) {
        fs::write(self.gate(name), "").expect("the folder is writable");
    }

    async fn submit(&self, operations: Value) -> TaskId {
        self.plane.submit("f", operations).await
    }

    async fn kill_worker_of(&self, task: TaskId) {
        let holder = self.plane.holder(task).await;
        signal(holder.pid.expect("a process"), Signal::SIGKILL);
    }

    async fn journal(&self, task: TaskId) -> Journal {
        self.plane.client.journal(task).await.expect("it has a journal")
    }

    async fn until_received(&self, times: u64) -> Bill {
        wait_for(&format!("{times} calls at the provider"), || {
            let bill = self.sim.bill();
            (bill.totals.received >= times).then_some(bill)
        })
        .await
    }

    async fn attempt_begins(&self, task: TaskId, number: u32) {
        loop {
            if self.plane.task(task).await.attempts_begun >= number {
                return;
            }
            pause().await;
        }
    }
}

/// How often requests with this text arrived at the provider.
fn received(bill: &Bill, text: &str) -> u64 {
    bill.requests.iter().filter(|line| line.label.contains(text)).map(|line| line.totals.received).sum()
}

#[tokio::test]
async fn a_killed_worker_costs_nothing_twice() {
    let scene = Scene::new("").await;
    let gate = scene.gate("go");
    let task = scene
        .submit(json!([
            { "do": "chat", "text": "one" },
            { "do": "chat", "text": "two", "stream": true },
            { "do": "wait", "until": gate },
            { "do": "chat", "text": "three" },
        ]))
        .await;
    scene.plane.progress(task, 3).await;
    scene.kill_worker_of(task).await;
    scene.attempt_begins(task, 2).await;
    scene.open("go");
    let result = scene.plane.result(task).await;
    assert_eq!(result.as_array().map(Vec::len), Some(4));
    let bill = scene.sim.bill();
    assert_eq!((bill.distinct, bill.totals.received), (3, 3), "{bill:?}");
    let calls = scene.plane.task(task).await.calls.expect("it made some");
    assert_eq!((calls.live, calls.replayed, calls.maybe_billed, calls.bought_again), (3, 2, 0, 0));
    assert_ne!(calls.saved, "0");
    assert_eq!(scene.plane.metric("longshore_replay_ratio").await, 1.0);
}

#[tokio::test]
async fn a_task_that_waited_buys_nothing_twice() {
    let scene = Scene::new("").await;
    let task = scene
        .submit(json!([
            { "do": "chat", "text": "one" },
            { "do": "person", "name": "first" },
            { "do": "chat", "text": "two", "stream": true },
            { "do": "person", "name": "second" },
            { "do": "chat", "text": "three" },
        ]))
        .await;
    for name in ["first", "second"] {
        let waiting = scene.plane.reaches(task, State::Waiting).await.waiting.expect("it says for what");
        assert_eq!(waiting.question.as_deref(), Some(name));
        let answer = Input { answer: longshore_core::json::Json::string(name), question: None };
        scene.plane.client.input(task, &answer).await.expect("it waits");
    }
    let result = scene.plane.result(task).await;
    assert_eq!((&result[1], &result[3]), (&json!("first"), &json!("second")));
    let bill = scene.sim.bill();
    assert_eq!((bill.distinct, bill.totals.received), (3, 3), "{bill:?}");
    let calls = scene.plane.task(task).await.calls.expect("it made some");
    assert_eq!((calls.live, calls.replayed, calls.bought_again), (3, 3, 0));
}

#[tokio::test]
async fn equal_samples_in_parallel_stay_as_many_as_they_are() {
    let scene = Scene::new("").await;
    let task = scene
        .submit(json!([
            { "do": "parallel", "text": "same", "times": 5 },
            { "do": "wait", "until": scene.gate("go") },
        ]))
        .await;
    scene.plane.progress(task, 2).await;
    assert_eq!(scene.sim.bill().totals.received, 5);
    scene.kill_worker_of(task).await;
    scene.attempt_begins(task, 2).await;
    scene.open("go");
    scene.plane.result(task).await;
    assert_eq!(scene.sim.bill().totals.received, 5, "all five are given again");
    let calls = scene.journal(task).await.totals;
    assert_eq!((calls.live, calls.replayed), (5, 5));
}

#[tokio::test]
async fn an_sdks_retry_gets_the_answer_that_it_missed() {
    let scene = Scene::new("").await;
    scene.sim.hold(true);
    let task = scene
        .submit(json!([
            { "do": "abandon", "text": "patience", "until": scene.gate("away") },
            { "do": "chat", "text": "patience", "retry": 1 },
        ]))
        .await;
    scene.sim.until_waiting(1).await;
    scene.open("away");
    // The second ask joins: nothing more may arrive at the provider.
    wait_for_asks(&scene, task, 2).await;
    scene.sim.hold(false);
    scene.plane.result(task).await;
    let bill = scene.sim.bill();
    assert_eq!((bill.totals.received, bill.totals.answered), (1, 1), "{bill:?}");
}

async fn wait_for_asks(scene: &Scene, task: TaskId, asks: usize) {
    loop {
        let journal = scene.journal(task).await;
        if journal.calls.iter().map(|call| call.asks.len()).sum::<usize>() >= asks {
            return;
        }
        pause().await;
    }
}

#[tokio::test]
async fn a_call_in_flight_outlives_its_killed_worker() {
    let scene = Scene::new("").await;
    for stream in [false, true] {
        scene.sim.hold(true);
        let text = format!("in flight {stream}");
        let task = scene.submit(json!([{ "do": "chat", "text": text, "stream": stream }])).await;
        scene.sim.until_waiting(1).await;
        scene.kill_worker_of(task).await;
        wait_for_asks(&scene, task, 2).await;
        scene.sim.hold(false);
        scene.plane.result(task).await;
        let bill = scene.sim.bill();
        assert_eq!(received(&bill, &text), 1, "{bill:?}");
        let calls = scene.journal(task).await.totals;
        assert_eq!((calls.live, calls.maybe_billed), (1, 0));
    }
}

#[tokio::test]
async fn a_stream_that_its_agent_was_reading_is_given_again_whole() {
    let scene = Scene::new("").await;
    scene.sim.hold_streams_after(2);
    let reads = json!([{ "do": "chat", "text": "a long story", "stream": true, "tells": true }]);
    let task = scene.submit(reads).await;
    scene.plane.progress(task, 1).await;
    scene.kill_worker_of(task).await;
    wait_for_asks(&scene, task, 2).await;
    scene.sim.hold(false);
    let told = scene.plane.result(task).await;
    assert_eq!(scene.sim.bill().totals.received, 1);
    let again = scene.submit(json!([{ "do": "chat", "text": "a long story", "stream": true }])).await;
    assert_eq!(scene.plane.result(again).await, told, "nothing was cut out of it");
}

#[tokio::test]
async fn a_call_in_flight_goes_on_when_its_task_is_handed_over() {
    let scene = Scene::new("drain = { timeout = \"20s\", mode = \"handover\" }").await;
    scene.sim.hold(true);
    let task = scene.submit(json!([{ "do": "chat", "text": "handed over" }])).await;
    scene.sim.until_waiting(1).await;
    let holder = scene.plane.holder(task).await;
    signal(holder.pid.expect("a process"), Signal::SIGTERM);
    wait_for_asks(&scene, task, 2).await;
    scene.sim.hold(false);
    scene.plane.result(task).await;
    assert_eq!(scene.sim.bill().totals.received, 1);
    assert_eq!(scene.plane.task(task).await.interrupted, 1);
}

#[tokio::test]
async fn a_cancelled_tasks_call_is_aborted() {
    let scene = Scene::new("").await;
    scene.sim.hold(true);
    let task = scene.submit(json!([{ "do": "chat", "text": "never mind" }])).await;
    scene.sim.until_waiting(1).await;
    scene.plane.client.cancel(task, None).await.expect("it runs");
    scene.plane.reaches(task, State::Cancelled).await;
    // The provider sees its caller go away, though nobody lets it answer.
    wait_for("the call to be aborted", || (scene.sim.waiting() == 0).then_some(())).await;
    let calls = scene.journal(task).await.totals;
    assert_eq!((calls.live, calls.maybe_billed), (0, 1));
    assert_eq!(scene.sim.bill().totals.answered, 0);
}

#[tokio::test]
async fn a_stopped_control_plane_finishes_its_calls_first() {
    let mut scene = Scene::new("").await;
    scene.sim.hold(true);
    let task = scene
        .submit(
            json!([{ "do": "chat", "text": "finish" }, { "do": "chat", "text": "after", "stream": true }]),
        )
        .await;
    scene.sim.until_waiting(1).await;
    signal(scene.plane.pid(), Signal::SIGTERM);
    let log = || scene.plane.log();
    wait_for("the gateway to finish its calls", || {
        log().contains("gateway finishes its calls").then_some(())
    })
    .await;
    let ready =
        reqwest::get(format!("{}/readyz", scene.plane.addresses.probes)).await.expect("it still answers");
    assert_eq!(ready.status(), 503, "it takes no new calls");
    scene.sim.hold(false);
    assert!(scene.plane.ended().await.success());
    scene.plane.restart().await;
    scene.plane.result(task).await;
    let bill = scene.sim.bill();
    assert_eq!((bill.distinct, bill.totals.received), (2, 2), "{bill:?}");
    let done = scene.plane.task(task).await;
    assert_eq!((done.attempts_begun, done.calls.map(|calls| calls.maybe_billed)), (1, Some(0)));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_calls_and_says_what_that_may_cost() {
    let mut scene = Scene::new("").await;
    scene.sim.hold(true);
    let task = scene.submit(json!([{ "do": "chat", "text": "in a hurry" }])).await;
    scene.sim.until_waiting(1).await;
    signal(scene.plane.pid(), Signal::SIGTERM);
    let log = || scene.plane.log();
    wait_for("the gateway to finish its calls", || {
        log().contains("gateway finishes its calls").then_some(())
    })
    .await;
    assert!(scene.plane.stop().await.success());
    assert!(scene.plane.log().contains("LLM calls were cut off"), "{}", scene.plane.log());
    scene.plane.restart().await;
    scene.until_received(2).await;
    scene.sim.hold(false);
    scene.plane.result(task).await;
    let calls = scene.plane.task(task).await.calls.expect("it made one");
    assert_eq!((calls.live, calls.maybe_billed), (1, 1));
}

#[tokio::test]
async fn a_control_plane_killed_before_the_answer_buys_again_and_says_so() {
    let mut scene = Scene::new("").await;
    scene.sim.hold(true);
    let task = scene.submit(json!([{ "do": "chat", "text": "killed before" }])).await;
    scene.sim.until_waiting(1).await;
    scene.plane.kill();
    scene.plane.restart().await;
    scene.until_received(2).await;
    scene.sim.hold(false);
    scene.plane.result(task).await;
    let bill = scene.sim.bill();
    assert_eq!((bill.distinct, bill.totals.received), (1, 2), "{bill:?}");
    let done = scene.plane.task(task).await;
    let calls = done.calls.expect("it made one");
    assert_eq!((calls.live, calls.maybe_billed), (1, 1), "distinct and maybe billed add up to what arrived");
    assert_eq!(done.attempts_begun, 1, "the agent noticed nothing");
}

#[tokio::test]
async fn a_control_plane_killed_in_mid_stream_breaks_the_stream_and_costs_no_try() {
    let mut scene = Scene::new("").await;
    scene.sim.hold_streams_after(2);
    let reads = json!([{ "do": "chat", "text": "killed during", "stream": true, "tells": true }]);
    let task = scene.submit(reads).await;
    // Its agent has seen the beginning.
    scene.plane.progress(task, 1).await;
    scene.plane.kill();
    scene.plane.restart().await;
    scene.until_received(2).await;
    scene.sim.hold(false);
    let told = scene.plane.result(task).await;
    let done = scene.plane.task(task).await;
    assert_eq!((done.failed_attempts, done.interrupted), (0, 1), "{done:?}");
    let calls = done.calls.expect("it made one");
    assert_eq!((calls.live, calls.maybe_billed, scene.sim.bill().totals.received), (1, 1, 2));
    let again = scene.submit(json!([{ "do": "chat", "text": "killed during", "stream": true }])).await;
    assert_eq!(scene.plane.result(again).await, told, "no half of one answer was continued with another");
}

#[tokio::test]
async fn a_control_plane_killed_after_the_answer_buys_nothing_again() {
    let mut scene = Scene::new("").await;
    let gate = scene.gate("go");
    let task = scene
        .submit(json!([{ "do": "chat", "text": "killed after" }, { "do": "wait", "until": gate },
            { "do": "chat", "text": "killed after", "retry": 1 }]))
        .await;
    scene.plane.progress(task, 2).await;
    scene.plane.kill();
    scene.plane.restart().await;
    scene.open("go");
    let result = scene.plane.result(task).await;
    assert_eq!(result[0], result[2]);
    assert_eq!(scene.sim.bill().totals.received, 1);
}

#[tokio::test]
async fn worker_and_control_plane_killed_together_lose_no_answer() {
    let mut scene = Scene::new("").await;
    let gate = scene.gate("go");
    let task = scene
        .submit(json!([{ "do": "chain", "text": "history", "times": 6 }, { "do": "wait", "until": gate }]))
        .await;
    scene.plane.progress(task, 2).await;
    let holder = scene.plane.holder(task).await;
    scene.plane.kill();
    signal(holder.pid.expect("a process"), Signal::SIGKILL);
    scene.open("go");
    scene.plane.restart().await;
    scene.plane.result(task).await;
    let bill = scene.sim.bill();
    assert_eq!((bill.distinct, bill.totals.received), (6, 6), "{bill:?}");
    assert_eq!(scene.journal(task).await.totals.replayed, 6);
}

#[tokio::test]
async fn a_failed_attempts_last_answer_is_asked_for_anew() {
    let scene = Scene::new("").await;
    let mark = scene.gate("mark");
    let task = scene
        .submit(json!([
            { "do": "chat", "text": "first" },
            { "do": "chat", "text": "second" },
            { "do": "fail_once", "mark": mark },
        ]))
        .await;
    scene.plane.result(task).await;
    let bill = scene.sim.bill();
    assert_eq!((received(&bill, "first"), received(&bill, "second")), (1, 2));
    let journal = scene.journal(task).await;
    assert_eq!((journal.generation, journal.totals.live, journal.totals.replayed), (1, 3, 1));
}

#[tokio::test]
async fn what_a_clock_in_the_prompt_costs_is_counted_and_shown() {
    let scene = Scene::new("").await;
    let gate = scene.gate("go");
    let task = scene
        .submit(json!([
            { "do": "chat", "text": "the same" },
            { "do": "clock", "text": "what next?" },
            { "do": "clock", "text": "and then?" },
            { "do": "wait", "until": gate },
        ]))
        .await;
    scene.plane.progress(task, 4).await;
    scene.kill_worker_of(task).await;
    scene.attempt_begins(task, 2).await;
    scene.open("go");
    scene.plane.result(task).await;
    let journal = scene.journal(task).await;
    assert_eq!((journal.totals.replayed, journal.totals.bought_again), (1, 2));
    let [divergence] = &journal.divergences[..] else { panic!("one attempt diverged: {journal:?}") };
    let difference = divergence.difference.as_ref().expect("both requests are known");
    assert_eq!(difference.path, "messages[0].content");
    assert!(difference.was.contains("what next?") && difference.now.contains("what next?"), "{difference:?}");
    let ratio = scene.plane.metric("longshore_replay_ratio").await;
    assert!((ratio - 1.0 / 3.0).abs() < 0.01, "{ratio}");
}

#[tokio::test]
async fn a_call_that_waits_for_its_permit_is_not_sent_for_a_stale_fence() {
    let provider = "limits.\"*\" = { requests_per_minute = 1 }";
    let scene = Scene::with(Options::default(), provider, "").await;
    let first = scene.submit(json!([{ "do": "chat", "text": "takes the minute" }])).await;
    scene.plane.result(first).await;
    let task = scene.submit(json!([{ "do": "chat", "text": "has to wait" }])).await;
    wait_for_asks(&scene, task, 1).await;
    scene.plane.client.cancel(task, None).await.expect("it runs");
    scene.plane.reaches(task, State::Cancelled).await;
    loop {
        if scene.journal(task).await.calls.is_empty() {
            break;
        }
        pause().await;
    }
    assert_eq!(scene.sim.bill().totals.received, 1, "the intent is gone and nothing was sent");
    assert_eq!(scene.plane.metric("longshore_llm_open_calls").await, 0.0);
}

#[tokio::test]
async fn a_step_runs_once_and_a_begun_one_is_told() {
    let scene = Scene::new("").await;
    let (log, gate) = (scene.gate("log"), scene.gate("go"));
    let task = scene
        .submit(json!([
            { "do": "step", "name": "charge card/1", "log": log },
            { "do": "step", "name": "mail", "log": log, "until": gate },
        ]))
        .await;
    scene.plane.progress(task, 2).await;
    scene.kill_worker_of(task).await;
    scene.attempt_begins(task, 2).await;
    scene.open("go");
    let result = scene.plane.result(task).await;
    assert_eq!(result, json!([{ "by": "1" }, { "by": "2" }]));
    let ran = fs::read_to_string(log).expect("steps ran");
    assert_eq!(ran, "charge card/1 ran, begun 1\nmail ran, begun 1\nmail ran, begun 2\n");
    let steps = scene.journal(task).await.steps;
    assert_eq!(steps.iter().map(|step| step.begun).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn an_interrupted_task_that_asks_waits_for_a_person() {
    let scene = Scene::new("").await;
    let gate = scene.gate("go");
    let submit = |on: &'static str| {
        let operations = json!([{ "do": "chat", "text": "dangerous" }, { "do": "wait", "until": gate }]);
        scene.plane.submit_with("f", operations, move |task| {
            task.on_interrupt = serde_json::from_value(json!(on)).expect("a policy");
        })
    };
    let (asks, fails) = (submit("ask").await, submit("fail").await);
    for task in [asks, fails] {
        scene.plane.progress(task, 2).await;
        scene.kill_worker_of(task).await;
    }
    let failed = scene.plane.reaches(fails, State::Failed).await;
    assert_eq!(failed.failure.map(|failure| failure.code).as_deref(), Some("interrupted"));
    scene.plane.reaches(asks, State::Waiting).await;
    scene.open("go");
    let word = |answer| Input { answer: longshore_core::json::Json::string(answer), question: None };
    scene.plane.client.input(asks, &word("resume")).await.expect("it waits");
    scene.plane.result(asks).await;
    assert_eq!(scene.journal(asks).await.totals.replayed, 1, "its answers waited as well");
    let refused = scene.plane.client.input(asks, &word("fail")).await.expect_err("it has ended");
    assert_eq!(refused.problem().map(|problem| &*problem.code), Some("not_waiting"));
}

#[tokio::test]
async fn a_task_without_any_call_is_marked_when_its_fleet_has_providers() {
    let scene = Scene::new("").await;
    let task = scene.submit(json!([])).await;
    scene.plane.result(task).await;
    assert!(scene.plane.task(task).await.no_gateway_calls);
    let other = scene.submit(json!([{ "do": "chat", "text": "hello" }])).await;
    scene.plane.result(other).await;
    assert!(!scene.plane.task(other).await.no_gateway_calls);
}

#[tokio::test]
async fn an_agent_reads_its_conversation() {
    let scene = Scene::new("").await;
    let say = |text: &str| {
        longshore_api::conversation::PostMessage::new(
            longshore_core::id::FleetName::new("f").expect("valid"),
            longshore_core::json::Json::of(
                &json!([{ "do": "conversation" }, { "do": "chat", "text": text }]),
            ),
        )
    };
    let first = scene.plane.client.post_message("c", &say("a")).await.expect("accepted").id;
    assert_eq!(scene.plane.result(first).await[0], json!([]));
    let second = scene.plane.client.post_message("c", &say("b")).await.expect("accepted").id;
    let seen = scene.plane.result(second).await;
    assert_eq!(seen[0][0]["role"], "user", "{seen}");
}
