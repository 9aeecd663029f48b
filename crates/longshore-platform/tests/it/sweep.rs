//! Killing what a dead worker left, and nothing else.

use std::process::Command;

use longshore_platform::process::{ProcessIdentity, SweepError, Swept};

use super::scene::{Scene, Stranger, ended, id_variable, identity, lives, pids, start_time, status, until};
use super::starter;

/// Leaves four processes behind: an agent's child that moved to a session of its own, one that cleared its environment,
/// one that did both under a parent that did neither, and an orphan with a cleared environment in the session of the first.
const LEAVES_FOUR: &str = "
    setsid sh -c 'echo $$ > own_session; (env -i sh -c \"echo \\$\\$ > below; sleep 60; :\" $0 &); sleep 60; :' $2 &
    env -i sh -c 'echo $$ > cleared; sleep 60; :' $2 &
    sh -c 'env -i setsid sh -c \"echo \\$\\$ > both; sleep 60; :\" $0 & sleep 60; :' $2 &
    sleep 60; :";
const LEFT: [&str; 4] = ["own_session", "cleared", "both", "below"];

async fn swept(scene: &Scene, identity: Option<&ProcessIdentity>) -> Swept {
    scene.platform.sweep(&scene.id, identity).await.expect("swept")
}

#[tokio::test]
async fn everything_that_carries_a_dead_workers_id_is_killed() {
    let scene = Scene::new();
    let (running, left) = scene.start_with(LEAVES_FOUR, LEFT).await;
    scene.kill(&running).await;
    assert!(left.iter().all(|&pid| lives(pid)), "left behind");
    let swept = swept(&scene, Some(running.identity())).await;
    assert_eq!(left.map(lives), [false; 4], "gone by the time that sweep returns");
    assert!(swept.killed >= 8 && swept.survivors.is_empty(), "with their sleeps: {swept:?}");
}

#[tokio::test]
async fn without_a_saved_pid_the_environment_leads_to_them() {
    let scene = Scene::new();
    let script =
        "setsid sh -c 'echo $$ > a; env -i sh -c \"echo \\$\\$ > b; sleep 60; :\" $0; :' $2 & sleep 60; :";
    let (running, left) = scene.start_with(script, ["a", "b"]).await;
    scene.kill(&running).await;
    assert!(swept(&scene, None).await.killed >= 3);
    assert_eq!(left.map(lives), [false; 2]);
}

#[tokio::test]
async fn strangers_are_left_alone() {
    let scene = Scene::new();
    let other = Scene::new();
    let (running, _) = scene.start_with(LEAVES_FOUR, LEFT).await;
    let (worker, its) = other.start_with(LEAVES_FOUR, LEFT).await;
    let longer = format!("{}0", scene.id);
    let strangers = [
        Stranger::start(Command::new("sleep").arg("60")),
        Stranger::start(Command::new("sleep").arg("60").envs([id_variable(&longer)])),
        Stranger::start(Command::new("sleep").arg("60").envs([id_variable(&scene.id[..3])])),
        Stranger::start(Command::new("sleep").arg("60").env("OTHER", &scene.id)),
        Stranger::start(
            Command::new("setsid")
                .args(["sh", "-c", "sleep 60; :", "sh", "--id", &scene.id])
                .env("OTHER", &scene.id),
        ),
    ];
    scene.kill(&running).await;
    swept(&scene, Some(running.identity())).await;
    assert!(strangers.iter().all(|stranger| lives(stranger.pid())));
    assert!(its.iter().all(|&pid| lives(pid)) && lives(worker.identity().pid));
}

#[tokio::test]
async fn a_living_worker_is_not_swept() {
    let scene = Scene::new();
    let (running, left) = scene.start_with(LEAVES_FOUR, LEFT).await;
    for identity in [Some(running.identity()), None] {
        let error = scene.platform.sweep(&scene.id, identity).await.expect_err("it lives");
        let SweepError::WorkerLives { worker_id, pid } = &error else { panic!("{error}") };
        assert_eq!((worker_id, *pid), (&scene.id, running.identity().pid));
    }
    assert!(left.iter().all(|&pid| lives(pid)) && lives(running.identity().pid));
}

#[tokio::test]
async fn nothing_left_is_nothing_killed() {
    let scene = Scene::new();
    let running = scene.start("exit 0").await;
    ended(&running).await;
    assert_eq!(swept(&scene, Some(running.identity())).await, Swept::default());
    assert_eq!(swept(&scene, None).await, Swept::default());
}

#[tokio::test]
async fn a_recycled_pid_does_not_lead_to_a_strangers_session() {
    let scene = Scene::new();
    let script = "sh -c 'echo $$ > child; sleep 60; :' $2 & echo $$ > leader; sleep 60; :";
    let other = Scene::new();
    let (_worker, [child]) = other.start_with(script, ["child"]).await;
    let leader = other.pid_in("leader").await;
    let saved = ProcessIdentity { start_time: start_time(leader) - 1, ..identity(leader) };
    assert_eq!(swept(&scene, Some(&saved)).await, Swept::default());
    assert!(lives(leader) && lives(child));
}

#[tokio::test]
async fn after_another_boot_nothing_is_touched() {
    let scene = Scene::new();
    let (running, left) = scene.start_with(LEAVES_FOUR, LEFT).await;
    scene.kill(&running).await;
    let saved = ProcessIdentity { boot_id: "another".into(), ..running.identity().clone() };
    assert_eq!(swept(&scene, Some(&saved)).await, Swept::default());
    assert!(left.iter().all(|&pid| lives(pid)));
    swept(&scene, Some(running.identity())).await;
}

#[tokio::test]
async fn the_session_of_a_worker_that_nobody_reaps_is_swept() {
    let scene = Scene::new();
    // A zombie that leads its session, as under a PID 1 that never reaps.
    let script =
        "env -i sh -c 'echo $$ > left; sleep 60; :' $0 & while [ ! -s left ]; do sleep 0.01; done; exit 0";
    let mut leader = Command::new("setsid");
    leader.args(["sh", "-c", script, &scene.id]).envs([id_variable(&scene.id)]).current_dir(scene.path(""));
    let leader = Stranger::start(&mut leader);
    let left = scene.pid_in("left").await;
    until("a zombie", || status(leader.pid(), "State").filter(|state| state.starts_with('Z'))).await;
    let swept = swept(&scene, Some(&identity(leader.pid()))).await;
    assert_eq!((swept.killed, lives(left)), (2, false), "the shell and its sleep: {swept:?}");
}

#[tokio::test]
async fn a_recycled_pid_that_has_ended_too_does_not_lead_to_its_session() {
    let (scene, other) = (Scene::new(), Scene::new());
    let script = "sh -c 'echo $$ > left; sleep 60; :' $0 & while [ ! -s left ]; do sleep 0.01; done; exit 0";
    let mut leader = Command::new("setsid");
    let leader = Stranger::start(leader.args(["sh", "-c", script, &other.id]).current_dir(other.path("")));
    let left = other.pid_in("left").await;
    until("a zombie", || status(leader.pid(), "State").filter(|state| state.starts_with('Z'))).await;
    let saved = ProcessIdentity { start_time: start_time(leader.pid()) - 1, ..identity(leader.pid()) };
    assert_eq!(swept(&scene, Some(&saved)).await, Swept::default());
    assert!(lives(left));
}

#[tokio::test]
async fn those_who_start_others_meanwhile_are_killed_with_them() {
    let scene = Scene::new();
    let spawner = "setsid sh -c 'echo $$ > a; for n in $(seq 1000); do setsid sleep 60 & sleep 0.001; done' & sleep 60; :";
    let (running, [spawner]) = scene.start_with(spawner, ["a"]).await;
    scene.kill(&running).await;
    let first = swept(&scene, Some(running.identity())).await;
    assert!(first.killed > 1 && first.survivors.is_empty(), "{first:?}");
    assert!(!lives(spawner));
    assert_eq!(swept(&scene, Some(running.identity())).await, Swept::default(), "nothing was missed");
}

#[tokio::test]
async fn a_process_that_hides_its_children_while_it_is_swept_is_killed_with_them() {
    let scene = Scene::new();
    // Each of its children has neither the id nor its session; only their parent tells whose they are.
    let hider = "setsid sh -c 'echo $$ > a; for n in $(seq 1000); do env -i setsid sleep 61.$0 & sleep 0.001; done' $$ &
        echo $$ > worker; sleep 60; :";
    let (running, [hider, worker]) = scene.start_with(hider, ["a", "worker"]).await;
    scene.kill(&running).await;
    let swept = swept(&scene, Some(running.identity())).await;
    assert!(swept.killed > 1 && swept.survivors.is_empty(), "{swept:?}");
    assert!(!lives(hider));
    let hidden = format!("61.{worker}");
    let left = pids().into_iter().filter(|pid| command_line(*pid).contains(&hidden)).count();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_stopped_process_is_killed_too() {
    let scene = Scene::new();
    let (running, [left]) =
        scene.start_with("setsid sh -c 'echo $$ > a; kill -STOP $$' & sleep 60; :", ["a"]).await;
    until("it to stop", || status(left, "State").filter(|state| state.starts_with('T'))).await;
    scene.kill(&running).await;
    assert_eq!(swept(&scene, Some(running.identity())).await.survivors, Vec::<u32>::new());
    assert!(!lives(left));
}

#[tokio::test]
async fn a_control_plane_that_carries_the_id_spares_itself_and_its_parents() {
    let scene = Scene::new();
    let other = Stranger::start(Command::new("sleep").arg("60").envs([id_variable(&scene.id)]));
    let _shell = Stranger::start(starter::command("sweep", &scene, "").envs([id_variable(&scene.id)]));
    let read = |name| std::fs::read_to_string(scene.path(name)).ok().filter(|text| text.ends_with('\n'));
    let status = until("its exit", || read("status")).await;
    assert_eq!(status, "0\n", "neither it nor its shell was killed");
    let answer = std::fs::read_to_string(scene.path("answer")).expect("its answer");
    assert_eq!(answer, r#"{"killed":1,"survivors":[]}"#);
    assert!(!lives(other.pid()), "it carried the id");
}

fn command_line(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}
