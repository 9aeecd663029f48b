//! Tasks that wait for their children or for a person, with real processes: no worker is held meanwhile, and whatever is
//! killed, nothing is doubled and nothing waits for ever.

use std::fs;
use std::path::Path;
use std::process::Command;

use longshore_api::client::TaskQuery;
use longshore_api::task::Task;
use longshore_api::waiting::Input;
use longshore_core::id::TaskId;
use longshore_core::json::Json;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::plane::{Plane, pause, python, shell, signal};
use crate::room::{Stage, on_both_stores};

/// One worker, one task at a time.
const ONE: &str = "concurrency = 1\nscaling = { min = 1, max = 1 }\n";

/// A parent submits a child for each number and adds up what they return; a child waits for a file, if it is told one.
const FAMILY: &str = r#"
import os, sys, time, longshore
task = longshore.task()
def gate(path):
    while path and not os.path.exists(path):
        time.sleep(0.01)
if "n" in task.input:
    gate(task.input.get("until"))
    longshore.result(task.input["n"] * 10)
    sys.exit()
for n in task.input["children"]:
    longshore.submit({"n": n, "until": task.input.get("until")})
longshore.progress("submitted")
gate(task.input.get("before_wait"))
done = longshore.wait_all()
longshore.result([child.result for child in done])
"#;

fn helper() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/python/src");
    let path = path.canonicalize().expect("it is there");
    format!("env = {{ PYTHONPATH = {path:?}, PYTHONDONTWRITEBYTECODE = \"1\" }}\n")
}

fn family() -> String {
    python("family", FAMILY, &(helper() + ONE))
}

on_both_stores! {
    a_parent_and_its_children_share_one_slot_of_one_worker,
    a_worker_that_is_killed_between_submit_and_wait_doubles_no_child,
    a_control_plane_that_is_killed_while_tasks_wait_forgets_none,
    a_cancelled_parent_ends_with_the_children_that_run,
    an_http_agents_task_waits_without_a_worker_too,
    a_person_answers_what_an_agent_asks,
    a_shell_script_asks_as_well_and_time_passes,
    agents_of_a_fleet_share_a_cache_and_others_do_not_see_it,
    what_cannot_be_is_refused_with_a_code,
}

async fn start(stage: &Stage, text: &str) -> Plane {
    Plane::start(&format!("{}{text}", stage.toml())).await
}

async fn children(plane: &Plane, parent: TaskId) -> Vec<Task> {
    let query = TaskQuery { parent: Some(parent.to_string()), ..TaskQuery::default() };
    plane.client.tasks(&query).await.expect("the control plane answers").items
}

fn outcomes(task: &Task) -> Vec<&str> {
    task.attempts.iter().map(|attempt| attempt.outcome.as_deref().unwrap_or("runs")).collect()
}

/// Every child ran once, and was submitted once.
async fn each_ran_once(plane: &Plane, parent: TaskId, wanted: usize) {
    let children = children(plane, parent).await;
    assert_eq!(children.len(), wanted);
    for child in children {
        assert_eq!((child.state, child.parent), (State::Succeeded, Some(parent)));
        let child = plane.task(child.id).await;
        assert_eq!(outcomes(&child), ["succeeded"], "{child:#?}");
    }
}

async fn a_parent_and_its_children_share_one_slot_of_one_worker(stage: &Stage) {
    let plane = start(stage, &family()).await;
    let parent = plane.submit("family", json!({ "children": [1, 2, 3] })).await;
    assert_eq!(plane.result(parent).await, json!([10, 20, 30]));
    let task = plane.task(parent).await;
    assert_eq!((task.failed_attempts, task.interrupted), (0, 0), "{task:#?}");
    assert_eq!(outcomes(&task), ["waited", "succeeded"]);
    each_ran_once(&plane, parent, 3).await;
}

async fn a_worker_that_is_killed_between_submit_and_wait_doubles_no_child(stage: &Stage) {
    let plane = start(stage, &family()).await;
    let go = plane.dir().join("go");
    let parent = plane.submit("family", json!({ "children": [1, 2, 3], "before_wait": go })).await;
    plane.progress(parent, 1).await;
    signal(plane.holder(parent).await.pid.expect("it told its pid"), Signal::SIGKILL);
    fs::write(&go, "").expect("the folder is writable");
    assert_eq!(plane.result(parent).await, json!([10, 20, 30]));
    let task = plane.task(parent).await;
    assert_eq!(outcomes(&task)[0], "interrupted", "{task:#?}");
    assert_eq!((task.failed_attempts, task.interrupted), (0, 1));
    each_ran_once(&plane, parent, 3).await;
}

async fn a_control_plane_that_is_killed_while_tasks_wait_forgets_none(stage: &Stage) {
    let mut plane = start(stage, &family()).await;
    let go = plane.dir().join("go");
    let parent = plane.submit("family", json!({ "children": [1, 2], "until": go })).await;
    let waits = plane.reaches(parent, State::Waiting).await;
    let waiting = waits.waiting.expect("it says for what");
    assert_eq!((&*waiting.what, waiting.children.as_deref()), ("children", Some("all")));
    let counts = plane.client.fleets().await.expect("it answers").items[0].tasks.clone();
    assert_eq!((counts.waiting, counts.queued + counts.running), (1, 2));
    plane.kill();
    // The child that runs ends while nobody is there to hear of it.
    fs::write(&go, "").expect("the folder is writable");
    plane.restart().await;
    assert_eq!(plane.result(parent).await, json!([10, 20]));
    assert_eq!(outcomes(&plane.task(parent).await), ["waited", "succeeded"]);
    each_ran_once(&plane, parent, 2).await;
}

async fn a_cancelled_parent_ends_with_the_children_that_run(stage: &Stage) {
    let plane = start(stage, &family()).await;
    let never = plane.dir().join("never");
    let parent = plane.submit("family", json!({ "children": [1, 2], "until": never })).await;
    plane.reaches(parent, State::Waiting).await;
    while !children(&plane, parent).await.iter().any(|child| child.state == State::Running) {
        pause().await;
    }
    plane.client.cancel(parent, None).await.expect("it waits");
    for child in children(&plane, parent).await {
        plane.reaches(child.id, State::Cancelled).await;
    }
}

const SERVED: &str = r#"
import longshore
def handler(task):
    if "n" in task.input:
        return task.input["n"] * 10
    if "ask" in task.input:
        longshore.progress("asks")
        return longshore.ask(task.input["ask"], name="the question", expires_in="24h", schema={"type": "string"})
    first = longshore.submit({"n": 1}, name="first")
    longshore.submit({"n": 2}, name="second", fleet="slow", detach=True)
    return [child.name for child in longshore.wait_any([first, "second"])]
longshore.serve(handler)
"#;

fn served() -> String {
    python("served", SERVED, &(helper() + ONE + "protocol = \"http\"\n"))
        + &shell("slow", "exit 1", "platform = \"external\"\n")
}

async fn an_http_agents_task_waits_without_a_worker_too(stage: &Stage) {
    let plane = start(stage, &served()).await;
    let parent = plane.submit("served", json!({})).await;
    assert_eq!(plane.result(parent).await, json!(["first"]));
    let task = plane.task(parent).await;
    assert_eq!(outcomes(&task), ["waited", "succeeded"], "{task:#?}");
}

async fn a_person_answers_what_an_agent_asks(stage: &Stage) {
    let plane = start(stage, &served()).await;
    let id = plane.submit("served", json!({ "ask": "which one?" })).await;
    let waits = plane.reaches(id, State::Waiting).await;
    let waiting = waits.waiting.expect("it says for what");
    assert_eq!((&*waiting.what, waiting.question.as_deref()), ("question", Some("the question")));
    assert!(waiting.until.is_some());
    let other = plane.submit("served", json!({ "n": 1 })).await;
    assert_eq!(plane.result(other).await, json!(10), "the only slot is free meanwhile");
    let shown = told(&plane, &["tasks", "show", &id.to_string()]);
    assert!(shown.contains("the question") && shown.contains("which one?"), "{shown}");
    assert!(shown.contains("tasks input"), "and says how to answer:\n{shown}");
    let said = told(&plane, &["tasks", "input", &id.to_string(), r#"{"this":"one"}"#]);
    // A worker may have it again by the time that it is told.
    assert!(said.contains("is queued again") || said.contains("has its answer"), "{said}");
    assert_eq!(plane.result(id).await, json!({ "this": "one" }));
    let task = plane.task(id).await;
    assert_eq!(outcomes(&task), ["waited", "succeeded"]);
    assert_eq!(task.questions.len(), 1);
    assert_eq!(task.questions[0].answer.as_ref().map(Json::text), Some(r#"{"this":"one"}"#));
    let late = Input { answer: Json::null(), question: None };
    let refused = plane.client.input(id, &late).await.expect_err("it has ended");
    assert_eq!(refused.problem().map(|problem| &*problem.code), Some("not_waiting"));
}

fn told(plane: &Plane, args: &[&str]) -> String {
    let output = Command::new(crate::plane::binary())
        .args(args)
        .env("LONGSHORE_SERVER", &plane.addresses.api)
        .current_dir(plane.dir())
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Reads the answer out of the task document, without any helper.
const ASKS: &str = r#"
read -r task
case "$task" in
  *'"answer":"yes"'*) echo said yes ;;
  *'"state":"expired"'*) echo nobody said anything ;;
  *'"on_expiry"'*) echo '{"longshore":"ask","data":{"question":"go on?","expires_in":"1s","on_expiry":"resume"}}' ;;
  *'"expires"'*) echo '{"longshore":"ask","data":{"question":"go on?","expires_in":"1s"}}' ;;
  *) echo '{"longshore":"ask","data":{"question":"go on?"}}' ;;
esac
"#;

async fn a_shell_script_asks_as_well_and_time_passes(stage: &Stage) {
    let plane = start(stage, &shell("asks", ASKS, ONE)).await;
    let id = plane.submit("asks", json!({})).await;
    plane.reaches(id, State::Waiting).await;
    let said = told(&plane, &["tasks", "input", &id.to_string(), "yes", "--question", "ask-1"]);
    // A worker may have it again by the time that it is told.
    assert!(said.contains("is queued again") || said.contains("has its answer"), "{said}");
    assert_eq!(plane.result(id).await, json!("said yes"));
    let goes_on = plane.submit("asks", json!("on_expiry")).await;
    assert_eq!(plane.result(goes_on).await, json!("nobody said anything"));
    let fails = plane.submit("asks", json!("expires")).await;
    let failed = plane.reaches(fails, State::Failed).await;
    assert_eq!(failed.failure.map(|failure| failure.code).as_deref(), Some("input_expired"));
}

const CACHES: &str = r#"
import longshore
task = longshore.task()
if "put" in task.input:
    longshore.cache.put("a key/with", task.input["put"], ttl="15m")
    try:
        longshore.cache.put("large", b"x" * (1 << 20) + b"x")
    except longshore.Refused as refused:
        longshore.result(refused.code)
else:
    found = longshore.cache.get("a key/with", "nothing")
    longshore.result([found, longshore.cache.delete("a key/with"), longshore.cache.get("a key/with", "nothing")])
"#;

async fn agents_of_a_fleet_share_a_cache_and_others_do_not_see_it(stage: &Stage) {
    let fleets = python("one", CACHES, &(helper() + ONE)) + &python("two", CACHES, &(helper() + ONE));
    let plane = start(stage, &fleets).await;
    let put = plane.submit("one", json!({ "put": { "a": [1, null] } })).await;
    assert_eq!(plane.result(put).await, json!("value_too_large"));
    let elsewhere = plane.submit("two", json!({})).await;
    assert_eq!(plane.result(elsewhere).await, json!(["nothing", false, "nothing"]));
    let got = plane.submit("one", json!({})).await;
    assert_eq!(plane.result(got).await, json!([{ "a": [1, null] }, true, "nothing"]));
}

/// What the API says no to, and in which words.
const REFUSED: &str = r#"
import longshore
task = longshore.task()
def code(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except longshore.Refused as refused:
        return refused.code
longshore.result([
    code(longshore.submit, fleet="nowhere"),
    code(longshore.submit, conversation=task.conversation.id),
    code(longshore.submit, priority=5000),
    code(longshore.submit, colour="red"),
    code(longshore.ask, "?", expires_in="soon"),
    code(longshore.wait_all, ["unknown"]),
    code(longshore.cache.put, "k", 1, ttl="1000d"),
])
"#;

async fn what_cannot_be_is_refused_with_a_code(stage: &Stage) {
    let plane = start(stage, &python("refused", REFUSED, &(helper() + ONE))).await;
    let id = plane
        .submit_with("refused", Value::Null, |task| {
            task.conversation = Some(longshore_core::id::ConversationId::new("c").expect("valid"));
        })
        .await;
    let codes = [
        "unknown_fleet",
        "conversation_of_ancestor",
        "invalid_value",
        "invalid_value",
        "invalid_value",
        "unknown_child",
        "invalid_value",
    ];
    assert_eq!(plane.result(id).await, json!(codes));
}
