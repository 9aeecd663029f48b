//! Schedules against real control planes. Nobody waits for a clock: the cursor is set back.

use longshore_api::client::TaskQuery;
use longshore_api::task::Task;
use longshore_core::task::State;
use serde_json::{Value, json};

use crate::plane::{Plane, is_logged, pause};
use crate::room::{Room, Stage, on_both_stores};
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

async fn start(stage: &Stage, text: &str) -> Plane {
    Plane::start(&format!("{}{text}", stage.toml())).await
}

fn declare(stage: &Stage, plane: &Plane, text: &str) {
    plane.declare(&format!("{}{text}", stage.toml()));
}

fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    ran
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

on_both_stores! {
    a_tick_becomes_one_task_and_no_second_after_a_restart,
    ticks_missed_while_it_was_down_are_made_up_for_once_each_and_not_again,
    skipped_ticks_are_counted_told_and_logged,
    a_task_that_has_not_ended_keeps_the_next_tick_away,
    ticks_whose_fleet_is_not_declared_are_told_and_over,
    another_cron_does_not_make_up_for_ticks_of_the_old_one,
    people_list_show_pause_resume_and_run_schedules,
}

async fn a_tick_becomes_one_task_and_no_second_after_a_restart(stage: &Stage) {
    let text = schedule("missed = \"once\"\nlabels = { team = \"ops\" }\npriority = 7\ntimeout = \"90s\"\n");
    let mut plane = start(stage, &text).await;
    plane.kill();
    stage.set_back(&plane, 3600).await;
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

async fn ticks_missed_while_it_was_down_are_made_up_for_once_each_and_not_again(stage: &Stage) {
    let mut plane = start(stage, &schedule("missed = \"all\"\nmissed_limit = 3\n")).await;
    plane.kill();
    // Five hours are five ticks, of which the newest three count.
    stage.set_back(&plane, 5 * 3600).await;
    plane.restart().await;
    let schedule = counted(&plane, 5).await;
    let made = tasks(&plane, 3).await;
    let at: Vec<&str> = made.iter().map(|task| task.labels["longshore.tick"].as_str()).collect();
    assert!(at.windows(2).all(|two| two[0] < two[1]), "oldest first: {at:?}");
    assert_eq!(schedule.ticks.fired, 3);
    assert_eq!(plane.metric("longshore_schedule_ticks").await, 5.0);
    plane.kill();
    // The cursor back again, as by a copy of the store from before: the ticks are the same, and so are their tasks.
    stage.set_back(&plane, 5 * 3600).await;
    plane.restart().await;
    counted(&plane, 10).await;
    let again = tasks(&plane, 3).await;
    assert_eq!(
        made.iter().map(|it| it.id).collect::<Vec<_>>(),
        again.iter().map(|it| it.id).collect::<Vec<_>>()
    );
}

async fn skipped_ticks_are_counted_told_and_logged(stage: &Stage) {
    let mut plane = start(stage, &schedule("")).await;
    plane.kill();
    stage.set_back(&plane, 5 * 3600).await;
    plane.restart().await;
    let schedule = counted(&plane, 5).await;
    assert_eq!((schedule.ticks.missed, schedule.ticks.fired), (5, 0), "{schedule:#?}");
    assert!(schedule.events.iter().any(|event| event.kind == "missed"), "{schedule:#?}");
    is_logged(&plane, "schedule missed ticks").await;
}

async fn a_task_that_has_not_ended_keeps_the_next_tick_away(stage: &Stage) {
    let mut plane = start(stage, &schedule("overlap = \"skip\"\nmissed = \"once\"\n")).await;
    let running = check(&plane, &["schedules", "run", "nightly"], 0).out.trim().to_owned();
    plane.kill();
    stage.set_back(&plane, 2 * 3600).await;
    plane.restart().await;
    let schedule = counted(&plane, 2).await;
    assert_eq!((schedule.ticks.fired, schedule.ticks.overlapped), (0, 1), "{schedule:#?}");
    assert_eq!(tasks(&plane, 1).await[0].id.to_string(), running);
    plane.client.cancel(running.parse().expect("an id"), None).await.expect("it is queued");
    plane.kill();
    stage.set_back(&plane, 2 * 3600).await;
    plane.restart().await;
    assert_eq!(counted(&plane, 4).await.ticks.fired, 1);
}

async fn ticks_whose_fleet_is_not_declared_are_told_and_over(stage: &Stage) {
    let text = format!("[server]\nfleets = \"api\"\n{}", schedule("missed = \"once\"\n").replace(FLEET, ""));
    let mut plane = start(stage, &text).await;
    plane.kill();
    stage.set_back(&plane, 3600).await;
    plane.restart().await;
    let schedule = counted(&plane, 1).await;
    assert_eq!((schedule.ticks.refused, schedule.ticks.fired), (1, 0));
    let told = schedule.events.iter().find(|event| event.kind == "refused").expect("told");
    assert!(told.data.text().contains("there is no fleet `a`"), "{told:?}");
}

async fn another_cron_does_not_make_up_for_ticks_of_the_old_one(stage: &Stage) {
    let mut plane = start(stage, &schedule("missed = \"all\"\n")).await;
    plane.kill();
    stage.set_back(&plane, 5 * 3600).await;
    // Never today.
    declare(stage, &plane, &schedule("missed = \"all\"\n").replace(" * * * *\"", " 0 29 2 *\""));
    plane.restart().await;
    let schedule = plane.client.schedule("nightly").await.expect("it is declared");
    assert_eq!((schedule.ticks.fired, schedule.ticks.missed), (0, 0));
    assert!(schedule.next[0].local.contains("-02-29T00:"), "{schedule:#?}");
    declare(stage, &plane, FLEET);
    plane.kill();
    plane.restart().await;
    let schedule = plane.client.schedule("nightly").await.expect("it is still known");
    assert!(!schedule.active && schedule.next.is_empty());
    let refused = plane.client.run_schedule("nightly", None).await.expect_err("not declared");
    assert_eq!(refused.problem().map(|problem| problem.code.as_ref()), Some("schedule_not_declared"));
}

async fn people_list_show_pause_resume_and_run_schedules(stage: &Stage) {
    let plane = start(stage, &schedule("timezone = \"Europe/Berlin\"\n")).await;
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

/// Two control planes with the same file.
async fn two(room: &Room, text: &str) -> (tempfile::TempDir, [Plane; 2]) {
    let home = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(home.path().join("longshore.toml"), format!("{}{text}", room.toml())).expect("writable");
    let one = Plane::of(home.path()).await;
    is_logged(&one, "this replica leads").await;
    let two = Plane::of(home.path()).await;
    (home, [one, two])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tick_is_one_task_while_leaders_are_killed_and_the_time_is_set_back() {
    let Some(room) = Room::new() else { return };
    let (_home, [mut leader, mut other]) = two(&room, &schedule("missed = \"all\"\n")).await;
    let mut ticks = 0;
    let mut ids: Option<Vec<longshore_core::id::TaskId>> = None;
    for _ in 0..3 {
        // With both up: the cursor goes back under the feet of the one that leads.
        room.set_back(5 * 3600).await;
        ticks += 5;
        counted(&other, ticks).await;
        let made: Vec<_> = tasks(&other, 5).await.iter().map(|task| task.id).collect();
        assert_eq!(*ids.get_or_insert(made.clone()), made, "the same ticks, and so the same tasks");
        leader.kill();
        room.set_back(5 * 3600).await;
        is_logged(&other, "this replica leads").await;
        ticks += 5;
        let schedule = counted(&other, ticks).await;
        assert_eq!((schedule.ticks.fired, tasks(&other, 5).await.len()), (ticks, 5));
        leader.restart().await;
        std::mem::swap(&mut leader, &mut other);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_at_one_control_plane_holds_at_the_other_that_leads() {
    let Some(room) = Room::new() else { return };
    let (_home, [leader, other]) = two(&room, &schedule("missed = \"all\"\n")).await;
    assert!(check(&other, &["schedules", "pause", "nightly"], 0).out.contains("paused"));
    room.set_back(3 * 3600).await;
    let id = check(&other, &["schedules", "run", "nightly"], 0).out;
    assert_eq!(tasks(&leader, 1).await[0].id.to_string(), id.trim());
    check(&other, &["schedules", "resume", "nightly"], 0);
    let schedule = leader.client.schedule("nightly").await.expect("it is declared");
    assert_eq!((schedule.ticks.fired, schedule.paused), (0, false), "what was paused is not made up for");
    room.set_back(3 * 3600).await;
    counted(&leader, 3).await;
    tasks(&leader, 4).await;
}
