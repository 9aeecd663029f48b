//! Schedules against a real control plane. Nobody waits for a clock: the cursor is set back while it is down.

use longshore_api::client::TaskQuery;
use longshore_api::task::Task;
use longshore_core::task::State;
use serde_json::{Value, json};

use crate::plane::{Plane, is_logged, pause};
use crate::run::{Ran, command, ran};

const FLEET: &str = "[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n";

/// Ticks every hour, half an hour from now: so none comes while a test runs, and one lies in each hour before.
fn schedule(more: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let minute = (since.as_secs() / 60 + 30) % 60;
    format!(
        "{FLEET}[schedule.nightly]\nfleet = \"a\"\ncron = \"{minute} * * * *\"\ninput = {{ n = 1 }}\n{more}"
    )
}

fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    ran
}

/// Moves the cursor back while the control plane is down, as if it had been down since.
fn set_back(plane: &Plane, seconds: i64) {
    let file = plane.dir().join(".longshore/longshore.db");
    let connection = rusqlite::Connection::open(file).expect("the store");
    let update = "UPDATE schedule SET cursor = CAST(unixepoch('subsec') * 1000 AS INTEGER) - ?1 * 1000";
    assert_eq!(connection.execute(update, [seconds]).expect("a schedule"), 1);
}

/// The schedule's tasks, oldest first, once there are this many.
async fn tasks(plane: &Plane, count: usize) -> Vec<Task> {
    let query = TaskQuery { label: Some("longshore.schedule=nightly".into()), ..Default::default() };
    let end = std::time::Instant::now() + crate::plane::PATIENCE;
    loop {
        let mut items = plane.client.tasks(&query).await.expect("a list").items;
        assert!(items.len() <= count, "{items:#?}");
        if items.len() == count {
            items.reverse();
            return items;
        }
        assert!(std::time::Instant::now() < end, "{} tasks\n{}", items.len(), plane.log());
        pause().await;
    }
}

/// Waits until the schedule has counted this many ticks, whatever became of them.
async fn counted(plane: &Plane, ticks: u64) -> longshore_api::schedule::Schedule {
    let end = std::time::Instant::now() + crate::plane::PATIENCE;
    loop {
        let schedule = plane.client.schedule("nightly").await.expect("it is declared");
        let it = &schedule.ticks;
        if it.fired + it.missed + it.overlapped + it.refused >= ticks {
            return schedule;
        }
        assert!(std::time::Instant::now() < end, "{schedule:#?}\n{}", plane.log());
        pause().await;
    }
}

#[tokio::test]
async fn a_tick_becomes_one_task_and_no_second_after_a_restart() {
    let text = schedule("missed = \"once\"\nlabels = { team = \"ops\" }\npriority = 7\ntimeout = \"90s\"\n");
    let mut plane = Plane::start(&text).await;
    plane.kill();
    set_back(&plane, 3600);
    plane.restart().await;
    counted(&plane, 1).await;
    plane.kill();
    plane.restart().await;
    let schedule = counted(&plane, 1).await;
    let [task] = &tasks(&plane, 1).await[..] else { unreachable!("one task") };
    assert_eq!(schedule.last_task, Some(task.id));
    let tick = schedule.last_tick.expect("a tick");
    assert_eq!(
        (task.labels["team"].as_str(), task.labels["longshore.tick"].clone()),
        ("ops", tick.to_string())
    );
    assert_eq!((task.priority, task.timeout_ms, task.state), (7, 90_000, State::Queued));
    let input: Value = plane.task(task.id).await.input.expect("it has one").read().expect("JSON");
    assert_eq!(input, json!({ "n": 1 }));
    assert_eq!(schedule.events[0].kind, "fired");
}

#[tokio::test]
async fn ticks_missed_while_it_was_down_are_made_up_for_once_each_and_not_again() {
    let mut plane = Plane::start(&schedule("missed = \"all\"\nmissed_limit = 3\n")).await;
    plane.kill();
    // Five hours are five ticks, of which the newest three count.
    set_back(&plane, 5 * 3600);
    plane.restart().await;
    let schedule = counted(&plane, 5).await;
    let made = tasks(&plane, 3).await;
    let at: Vec<&str> = made.iter().map(|task| task.labels["longshore.tick"].as_str()).collect();
    assert!(at.windows(2).all(|two| two[0] < two[1]), "oldest first: {at:?}");
    assert_eq!(schedule.ticks.fired, 3);
    assert_eq!(plane.metric("longshore_schedule_ticks").await, 5.0);
    plane.kill();
    // The cursor back again, as by a copy of the store from before: the ticks are the same, and so are their tasks.
    set_back(&plane, 5 * 3600);
    plane.restart().await;
    counted(&plane, 10).await;
    let again = tasks(&plane, 3).await;
    assert_eq!(
        made.iter().map(|it| it.id).collect::<Vec<_>>(),
        again.iter().map(|it| it.id).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn skipped_ticks_are_counted_told_and_logged() {
    let mut plane = Plane::start(&schedule("")).await;
    plane.kill();
    set_back(&plane, 5 * 3600);
    plane.restart().await;
    let schedule = counted(&plane, 5).await;
    assert_eq!((schedule.ticks.missed, schedule.ticks.fired), (5, 0), "{schedule:#?}");
    assert!(schedule.events.iter().any(|event| event.kind == "missed"), "{schedule:#?}");
    is_logged(&plane, "schedule missed ticks").await;
}

#[tokio::test]
async fn a_task_that_has_not_ended_keeps_the_next_tick_away() {
    let mut plane = Plane::start(&schedule("overlap = \"skip\"\nmissed = \"once\"\n")).await;
    let running = check(&plane, &["schedules", "run", "nightly"], 0).out.trim().to_owned();
    plane.kill();
    set_back(&plane, 2 * 3600);
    plane.restart().await;
    let schedule = counted(&plane, 2).await;
    assert_eq!((schedule.ticks.fired, schedule.ticks.overlapped), (0, 1), "{schedule:#?}");
    assert_eq!(tasks(&plane, 1).await[0].id.to_string(), running);
    plane.client.cancel(running.parse().expect("an id"), None).await.expect("it is queued");
    plane.kill();
    set_back(&plane, 2 * 3600);
    plane.restart().await;
    assert_eq!(counted(&plane, 4).await.ticks.fired, 1);
}

#[tokio::test]
async fn ticks_whose_fleet_is_not_declared_are_told_and_over() {
    let text = format!("[server]\nfleets = \"api\"\n{}", schedule("missed = \"once\"\n").replace(FLEET, ""));
    let mut plane = Plane::start(&text).await;
    plane.kill();
    set_back(&plane, 3600);
    plane.restart().await;
    let schedule = counted(&plane, 1).await;
    assert_eq!((schedule.ticks.refused, schedule.ticks.fired), (1, 0));
    let told = schedule.events.iter().find(|event| event.kind == "refused").expect("told");
    assert!(told.data.text().contains("there is no fleet `a`"), "{told:?}");
}

#[tokio::test]
async fn another_cron_does_not_make_up_for_ticks_of_the_old_one() {
    let mut plane = Plane::start(&schedule("missed = \"all\"\n")).await;
    plane.kill();
    set_back(&plane, 5 * 3600);
    // Never today.
    plane.declare(&schedule("missed = \"all\"\n").replace(" * * * *\"", " 0 29 2 *\""));
    plane.restart().await;
    let schedule = plane.client.schedule("nightly").await.expect("it is declared");
    assert_eq!((schedule.ticks.fired, schedule.ticks.missed), (0, 0));
    assert!(schedule.next[0].local.contains("-02-29T00:"), "{schedule:#?}");
    plane.declare(FLEET);
    plane.kill();
    plane.restart().await;
    let schedule = plane.client.schedule("nightly").await.expect("it is still known");
    assert!(!schedule.active && schedule.next.is_empty());
    let refused = plane.client.run_schedule("nightly", None).await.expect_err("not declared");
    assert_eq!(refused.problem().map(|problem| problem.code.as_ref()), Some("schedule_not_declared"));
}

#[tokio::test]
async fn people_list_show_pause_resume_and_run_schedules() {
    let plane = Plane::start(&schedule("timezone = \"Europe/Berlin\"\n")).await;
    let listed = check(&plane, &["schedules", "list"], 0).out;
    assert!(listed.contains("nightly") && listed.contains("Europe/Berlin"), "{listed}");
    let shown = check(&plane, &["schedules", "show", "nightly"], 0).out;
    assert_eq!(shown.lines().filter(|line| line.starts_with("next ")).count(), 5, "{shown}");
    assert!(shown.contains("[Europe/Berlin]") && shown.contains(r#"{"n":1}"#), "{shown}");
    assert!(check(&plane, &["schedules", "pause", "nightly"], 0).out.contains("paused"));
    assert!(check(&plane, &["schedules", "list"], 0).out.contains("paused"));
    let id = check(&plane, &["schedules", "run", "nightly"], 0).out;
    assert_eq!(tasks(&plane, 1).await[0].id.to_string(), id.trim());
    let key = plane.client.run_schedule("nightly", Some("k")).await.expect("a task").id;
    assert_eq!(plane.client.run_schedule("nightly", Some("k")).await.expect("the same").id, key);
    assert!(check(&plane, &["schedules", "resume", "nightly"], 0).out.contains("goes on; next: "));
    assert!(check(&plane, &["schedules", "show", "other"], 1).err.contains("there is no schedule `other`"));
    let json: Value =
        serde_json::from_str(&check(&plane, &["schedules", "show", "nightly", "--json"], 0).out)
            .expect("JSON");
    let kinds: Vec<&str> =
        json["events"].as_array().expect("events").iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["resumed", "run", "run", "paused", "changed"]);
}
