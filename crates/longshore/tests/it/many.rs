//! Many tasks at once: batches, searches, changes by filter, retention, and the erasure of a tenant.

use std::collections::HashMap;
use std::fs;

use longshore_api::batch::BatchQuery;
use longshore_api::bulk::{Bulk, BulkDone};
use longshore_api::search::{Filter, TaskQuery};
use longshore_core::id::TaskId;
use longshore_core::task::State;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::plane::{PATIENCE, Plane, pause, shell};
use crate::run::{Ran, command, ran};

/// Nobody works for it: its tasks stay queued.
const IDLE: &str = "[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n";

fn run(plane: &Plane, args: &[&str]) -> Ran {
    let mut command = command(plane.dir());
    ran(command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args).output().expect("the binary runs"))
}

fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let ran = run(plane, args);
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    ran
}

fn lines(count: usize) -> Vec<u8> {
    "{\"fleet\":\"a\"}\n".repeat(count).into_bytes()
}

fn of_fleet(state: Option<&str>) -> Filter {
    Filter { fleet: Some("a".into()), state: state.map(Into::into), ..Filter::default() }
}

fn code<T: std::fmt::Debug>(answer: Result<T, longshore_api::client::ClientError>) -> String {
    let error = answer.expect_err("refused");
    error.problem().map(|problem| problem.code.to_string()).unwrap_or_else(|| panic!("{error:?}"))
}

/// All tasks of a list, page by page.
async fn all(plane: &Plane, filter: &Filter) -> Vec<longshore_api::task::Task> {
    let (mut tasks, mut cursor) = (Vec::new(), None);
    loop {
        let page = plane.client.tasks(&filter.clone().page(Some(500), cursor)).await.expect("a page");
        tasks.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            return tasks;
        }
    }
}

#[tokio::test]
async fn a_batch_is_followed_to_its_end_and_the_end_is_told_once() {
    let agent = "cat > /dev/null; while [ ! -e \"$GO\" ]; do sleep 0.02; done; echo '{\"longshore\":\"result\",\"data\":1}'";
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let more = format!("env = {{ GO = \"{}\" }}\nscaling = {{ min = 2, max = 2 }}", go.display());
    let plane = Plane::start(&shell("a", agent, &more)).await;
    let query =
        BatchQuery { name: Some("march".into()), label: Some("of=reports".into()), ..Default::default() };
    let accepted = plane.client.submit_part(&query, lines(3), None).await.expect("accepted");
    let id = accepted.batch.expect("it is a batch");
    let batch = plane.client.batch(id).await.expect("it is there");
    assert_eq!((batch.name.as_str(), batch.counts.total, batch.finished_at), ("march", 3, None));
    assert_eq!(batch.labels.get("of").map(String::as_str), Some("reports"));

    let mut stream = plane.client.follow_batch(id, 0).await.expect("a stream");
    let mut told = Vec::new();
    while let Some(event) = stream.next().await.expect("an event") {
        if told.is_empty() {
            fs::write(&go, "").expect("written");
        }
        told.push(event);
    }
    let last = told.last().expect("events");
    assert_eq!((last.kind.as_str(), last.seq), ("finished", Some(2)));
    assert_eq!(last.data.read::<Value>().expect("counts")["succeeded"], 3);
    assert!(told.iter().any(|event| event.kind == "progress" && event.seq.is_none()), "{told:?}");
    assert_eq!(told.iter().filter(|event| event.kind == "finished").count(), 1);

    let mut late = plane.client.follow_batch(id, 1).await.expect("a stream");
    assert_eq!(late.next().await.expect("an event").map(|event| event.kind).as_deref(), Some("finished"));
    assert!(late.next().await.expect("the end").is_none(), "a stream of a batch that ended is over at once");

    let task = plane.task(accepted.ids[0]).await;
    assert_eq!(task.batch, Some(id));
    let shown = check(&plane, &["batches", "show", &id.to_string()], 0);
    assert!(shown.out.contains("3 of 3 ended: 3 succeeded"), "{shown:?}");
    let listed = check(&plane, &["batches", "list"], 0);
    assert!(listed.out.contains("march") && listed.out.contains("ended"), "{listed:?}");
    let watched = check(&plane, &["batches", "watch", &id.to_string()], 0);
    assert!(watched.out.contains("3 of 3 ended") && watched.err.contains("finished"), "{watched:?}");
    let of_batch = ["tasks", "list", "--batch", &id.to_string(), "--json"];
    let page: Value = serde_json::from_str(&check(&plane, &of_batch, 0).out).expect("JSON");
    assert_eq!(page["items"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_batch_in_parts_ends_after_its_last_part_and_takes_no_more() {
    let plane = Plane::start(IDLE).await;
    let id = Uuid::now_v7().to_string();
    let part =
        |more: bool| BatchQuery { batch: Some(id.clone()), more: more.then_some(true), ..Default::default() };
    plane.client.submit_part(&part(true), lines(2), Some("k-1")).await.expect("accepted");
    let repeated = BatchQuery { batch: Some(Uuid::now_v7().to_string()), ..part(true) };
    let again = plane.client.submit_part(&repeated, lines(2), Some("k-1")).await.expect("repeated");
    assert_eq!(
        again.batch.map(|batch| batch.to_string()),
        Some(id.clone()),
        "it is told the first one's batch"
    );
    let batch = again.batch.expect("a batch");
    assert!(plane.client.batch(batch).await.expect("it is there").open);
    plane.client.submit_part(&part(false), lines(1), Some("k-2")).await.expect("accepted");
    let late = plane.client.submit_part(&part(false), lines(1), Some("k-3")).await;
    assert_eq!(code(late), "batch_closed");
    let done = plane.client.cancel_batch(batch, Some("enough".into())).await.expect("cancelled");
    assert_eq!((done.cancelled, done.requested, done.batch.counts.cancelled), (3, 0, 3));
    assert!(done.batch.finished_at.is_some());
    let watched = check(&plane, &["batches", "watch", &id], 3);
    assert!(watched.err.contains("3 of 3 tasks did not succeed"), "{watched:?}");
    let nameless = BatchQuery { more: Some(true), ..Default::default() };
    assert_eq!(code(plane.client.submit_part(&nameless, lines(1), None).await), "invalid_value");
    let old = BatchQuery { batch: Some(Uuid::new_v4().to_string()), ..Default::default() };
    assert_eq!(code(plane.client.submit_part(&old, lines(1), None).await), "invalid_value");
}

#[tokio::test]
async fn searches_take_all_filters_and_refuse_what_they_do_not_know() {
    let plane = Plane::start(IDLE).await;
    let ids = plane.submit_many("a", (0..3).map(|n| json!(n))).await;
    let found = async |query: TaskQuery| {
        let page = plane.client.tasks(&query).await.expect("a page");
        page.items.into_iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let newest_first: Vec<TaskId> = ids.iter().rev().copied().collect();
    let batch = plane.task(ids[0]).await.batch.map(|batch| batch.to_string());
    assert_eq!(
        found(TaskQuery { batch, state: Some("queued,waiting".into()), ..Default::default() }).await,
        newest_first
    );
    let created = plane.task(ids[0]).await.created_at;
    let since = |text: String| TaskQuery { created_after: Some(text), ..Default::default() };
    assert_eq!(found(since(created.to_string())).await, newest_first);
    assert_eq!(found(since("2999-01-01T00:00:00Z".into())).await, []);
    assert_eq!(found(TaskQuery { tenant: Some("default".into()), ..Default::default() }).await, newest_first);
    assert_eq!(found(TaskQuery { code: Some("timeout".into()), ..Default::default() }).await, []);
    assert_eq!(found(TaskQuery { parent: Some(ids[0].to_string()), ..Default::default() }).await, []);
    for (query, expected) in [
        ("colour=red", "invalid_query"),
        ("created_after=yesterday", "invalid_value"),
        ("batch=x", "invalid_value"),
        ("parent=x", "invalid_value"),
        ("limit=501", "invalid_value"),
    ] {
        let answer =
            reqwest::get(format!("{}/v1/tasks?{query}", plane.addresses.api)).await.expect("an answer");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], expected, "{query}: {problem}");
    }
    let recent = check(&plane, &["tasks", "list", "--created-after", "1h", "--json"], 0);
    assert!(recent.out.contains(&ids[0].to_string()), "{recent:?}");
    let old = check(&plane, &["tasks", "list", "--created-before", "1h"], 0);
    assert_eq!((old.out.as_str(), old.err.as_str()), ("", "no tasks\n"));
}

#[tokio::test]
async fn many_tasks_are_counted_then_cancelled_then_retried_and_none_twice() {
    let plane = Plane::start(IDLE).await;
    plane.submit_many("a", (0..130).map(|n| json!(n))).await;
    let bulk = |filter: Filter| Bulk { filter, ..Bulk::default() };
    assert_eq!(code(plane.client.cancel_many(&Bulk::default()).await), "empty_filter");
    assert_eq!(code(plane.client.cancel_many(&bulk(of_fleet(Some("failed")))).await), "invalid_value");
    let counted =
        plane.client.cancel_many(&Bulk { dry_run: true, ..bulk(of_fleet(None)) }).await.expect("counted");
    assert_eq!(counted, BulkDone { dry_run: true, matched: 130, ..BulkDone::default() });
    let few = Bulk { at_most: Some(129), ..bulk(of_fleet(None)) };
    assert_eq!(code(plane.client.cancel_many(&few).await), "more_than_expected");
    assert_eq!(all(&plane, &of_fleet(Some("cancelled"))).await.len(), 0, "nothing was done so far");

    let first =
        Bulk { at_most: Some(130), limit: Some(70), reason: Some("old".into()), ..bulk(of_fleet(None)) };
    let page = plane.client.cancel_many(&first).await.expect("cancelled");
    assert_eq!((page.matched, page.changed, page.skipped), (70, 70, 0));
    let cursor = page.next_cursor.expect("there are more");
    let other = Bulk { cursor: Some(cursor.clone()), ..bulk(of_fleet(Some("queued"))) };
    assert_eq!(code(plane.client.cancel_many(&other).await), "cursor_of_another_list");
    let rest = Bulk { cursor: Some(cursor), ..bulk(of_fleet(None)) };
    let page = plane.client.cancel_many(&rest).await.expect("cancelled");
    assert_eq!((page.changed, page.next_cursor), (60, None));

    let again = bulk(of_fleet(Some("cancelled")));
    let done = plane.client.retry_many(&again, Some("k")).await.expect("retried");
    assert_eq!((done.changed, done.created.len()), (130, 130));
    let repeated = plane.client.retry_many(&again, Some("k")).await.expect("repeated");
    assert_eq!((repeated.changed, repeated.skipped), (0, 130));
    let other = plane.client.retry_many(&bulk(of_fleet(Some("cancelled,failed"))), Some("k")).await;
    assert_eq!(code(other), "idempotency_key_reused");
    assert_eq!(all(&plane, &of_fleet(Some("queued"))).await.len(), 130);
}

#[tokio::test]
async fn a_retry_of_many_that_was_cut_off_goes_on_and_doubles_nothing() {
    let mut plane = Plane::start(IDLE).await;
    plane.client.submit_batch(lines(4000), None).await.expect("accepted");
    let bulk = |state| Bulk { filter: of_fleet(Some(state)), limit: Some(10_000), ..Bulk::default() };
    let cancelled = plane.client.cancel_many(&bulk("queued")).await.expect("cancelled");
    assert_eq!(cancelled.changed, 4000);
    let client = plane.client.clone();
    let asked = bulk("cancelled");
    let cut_off = tokio::spawn(async move { client.retry_many(&asked, Some("k")).await });
    let end = std::time::Instant::now() + PATIENCE;
    let queued = async |plane: &Plane| plane.client.fleet("a").await.expect("it is there").tasks.queued;
    while queued(&plane).await < 200 {
        assert!(std::time::Instant::now() < end, "the retry never began");
        pause().await;
    }
    plane.kill();
    let cut_off = cut_off.await.expect("it does not panic");
    plane.restart().await;
    let before = queued(&plane).await;
    assert!(cut_off.is_err() && (200..4000).contains(&before), "{cut_off:?}, {before} were retried");
    let done = plane.client.retry_many(&bulk("cancelled"), Some("k")).await.expect("it goes on");
    assert_eq!((done.matched, done.changed + done.skipped), (4000, 4000));
    assert_eq!(done.skipped, before);
    let mut retries: HashMap<TaskId, usize> = HashMap::new();
    for task in all(&plane, &of_fleet(Some("queued"))).await {
        *retries.entry(task.retry_of.expect("a retry")).or_default() += 1;
    }
    assert_eq!(retries.len(), 4000);
    assert!(retries.values().all(|times| *times == 1), "one was retried twice");
}

#[tokio::test]
async fn the_command_line_counts_asks_and_says_what_it_did() {
    let plane = Plane::start(IDLE).await;
    plane.submit_many("a", (0..5).map(|n| json!(n))).await;
    let filtered = ["tasks", "cancel", "--fleet", "a", "--state", "queued"];
    let counted = check(&plane, &[&filtered[..], &["--dry-run"]].concat(), 0);
    assert_eq!(counted.out, "5 tasks match; nothing was changed\n");
    let nobody = check(&plane, &filtered, 2);
    assert!(
        nobody.err.contains("nobody to ask whether to cancel 5 tasks") && nobody.err.contains("--yes"),
        "{nobody:?}"
    );
    let done = check(&plane, &[&filtered[..], &["--yes", "--reason", "old"]].concat(), 0);
    assert_eq!(done.out, "5 tasks are cancelled or told to stop\n");
    let retry = ["tasks", "retry", "--fleet", "a", "--state", "cancelled", "--yes", "--idempotency-key", "k"];
    assert_eq!(check(&plane, &retry, 0).out, "5 tasks run again as new tasks\n");
    let again = check(&plane, &retry, 0);
    assert!(again.out.starts_with("0 tasks") && again.out.contains("5 were left alone"), "{again:?}");
    let everything = check(&plane, &["tasks", "cancel", "--yes"], 1);
    assert!(everything.err.contains("[empty_filter]"), "{everything:?}");
    let id = all(&plane, &of_fleet(Some("queued"))).await[0].id.to_string();
    let both = check(&plane, &["tasks", "cancel", &id, "--fleet", "a"], 2);
    assert!(both.err.contains("not both"), "{both:?}");
    assert!(check(&plane, &["tasks", "retry"], 2).err.contains("no task is named"));
    assert_eq!(
        check(&plane, &["tasks", "cancel", "--all", "--yes"], 0).out,
        "5 tasks are cancelled or told to stop\n"
    );
}

#[tokio::test]
async fn a_large_file_is_one_batch_and_its_end_ends_the_wait() {
    let plane = Plane::start(IDLE).await;
    let inputs: String = (0..10_050).map(|n| format!("{n}\n")).collect();
    fs::write(plane.dir().join("in.jsonl"), inputs).expect("written");
    let args = ["submit", "a", "--batch", "in.jsonl", "--name", "big", "--idempotency-key", "k", "--json"];
    let accepted: Value = serde_json::from_str(&check(&plane, &args, 0).out).expect("JSON");
    let batches = plane.client.batches(true, None, None).await.expect("a list").items;
    assert_eq!((batches.len(), batches[0].counts.total, batches[0].open), (1, 10_050, false));
    assert_eq!(accepted["batch"], json!(batches[0].id));
    let again: Value = serde_json::from_str(&check(&plane, &args, 0).out).expect("JSON");
    assert_eq!(again, accepted, "nothing is doubled");
    let late = check(
        &plane,
        &[
            "submit",
            "a",
            "--batch",
            "in.jsonl",
            "--idempotency-key",
            "k",
            "--name",
            "big",
            "--wait",
            "--timeout",
            "500ms",
        ],
        4,
    );
    assert!(late.err.contains("batches watch"), "{late:?}");
    let cancelled = check(&plane, &["batches", "cancel", &batches[0].id.to_string()], 0);
    assert_eq!(cancelled.out, "10050 tasks are cancelled\n");
}

#[tokio::test]
async fn a_result_that_was_dropped_says_so_and_the_task_goes_later() {
    let keep =
        "retention = { journal = \"1s\", results = \"1s\", tasks = \"1h\" }\nscaling = { min = 1, max = 1 }";
    let mut plane =
        Plane::start(&shell("a", "cat > /dev/null; echo '{\"longshore\":\"result\",\"data\":7}'", keep))
            .await;
    let id = plane.submit("a", json!(1)).await;
    plane.reaches(id, State::Succeeded).await;
    let end = std::time::Instant::now() + PATIENCE;
    while !plane.task(id).await.result_expired {
        assert!(std::time::Instant::now() < end, "its result was never dropped");
        pause().await;
    }
    let task = plane.task(id).await;
    assert!(task.result.is_none() && task.input.is_some());
    let shown = check(&plane, &["tasks", "show", &id.to_string()], 0);
    assert!(shown.out.contains("expired") && shown.out.contains("deleted"), "{shown:?}");
    plane.kill();
    plane.declare(&shell("a", "true", "retention = { tasks = \"1s\" }\nscaling = { min = 1, max = 1 }"));
    plane.restart().await;
    while plane.client.task(id).await.is_ok() {
        assert!(std::time::Instant::now() < end, "the task was never dropped");
        pause().await;
    }
    assert_eq!(code(plane.client.task(id).await), "unknown_task");
}

#[tokio::test]
async fn a_tenant_is_erased_running_tasks_first() {
    let plane =
        Plane::start(&shell("a", "exec sleep 600", "kill_grace = \"1s\"\nscaling = { min = 1, max = 1 }"))
            .await;
    let running = plane.submit("a", json!("zebra-crossing-4711")).await;
    plane.reaches(running, State::Running).await;
    plane.submit_many("a", (0..20).map(|_| json!("zebra-crossing-4711"))).await;
    let nobody = check(&plane, &["tenants", "erase", "default"], 2);
    assert!(nobody.err.contains("nobody to ask"), "{nobody:?}");
    let erased = check(&plane, &["tenants", "erase", "default", "--yes", "--json"], 0);
    let erased: Value = serde_json::from_str(&erased.out).expect("JSON");
    assert_eq!(
        (&erased["tasks"], &erased["cancelled"], &erased["batches"]),
        (&json!(21), &json!(21), &json!(1))
    );
    assert_eq!((&erased["complete"], &erased["compacted"]), (&json!(true), &json!(true)));
    assert_eq!(code(plane.client.task(running).await), "unknown_task");
    let store = plane.dir().join(".longshore");
    for file in ["longshore.db", "longshore.db-wal"] {
        let bytes = fs::read(store.join(file)).unwrap_or_default();
        assert!(!bytes.windows(19).any(|window| window == b"zebra-crossing-4711"), "it is still in {file}");
    }
    let again = check(&plane, &["tenants", "erase", "default", "--yes"], 0);
    assert!(again.out.starts_with("erased: 0 tasks"), "{again:?}");
    assert_eq!(all(&plane, &Filter::default()).await.len(), 0);
}
