//! Finding workers again after the control plane that started them was killed.

use std::os::unix::process::CommandExt;
use std::process::Command;

use longshore_platform::process::{Found, Gone, ProcessIdentity, Signal, WorkerEnd};

use super::scene::{
    Scene, Stranger, boot_id, ended, id_variable, identity, lives, platform, start_time, status, until,
};
use super::starter;

/// Starts a worker from another control plane, which is then killed.
async fn orphan(scene: &Scene, script: &str) -> ProcessIdentity {
    let shell = Stranger::start(starter::command("start", scene, script).process_group(0));
    let answer = until("its answer", || std::fs::read_to_string(scene.path("answer")).ok()).await;
    let parent = nix::unistd::Pid::from_raw(shell.pid() as i32);
    nix::sys::signal::killpg(parent, Signal::SIGKILL).expect("killed");
    let identity: ProcessIdentity = serde_json::from_str(&answer).expect("an identity");
    drop(shell);
    let worker = identity.pid;
    until("another parent", || status(worker, "PPid").filter(|parent| !is_control_plane(parent))).await;
    identity
}

fn is_control_plane(pid: &str) -> bool {
    let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.contains("another_control_plane")
}

async fn gone(scene: &Scene, identity: Option<&ProcessIdentity>) -> Gone {
    match scene.platform.find_again(&scene.id, identity).await.expect("an answer") {
        Found::Gone(gone) => gone,
        Found::Running(running) => panic!("found: {running:?}"),
    }
}

#[tokio::test]
async fn a_worker_outlives_its_control_plane_and_is_found_by_what_was_saved() {
    let scene = Scene::new();
    let saved = orphan(&scene, "trap 'exit 0' TERM; while :; do sleep 0.01; done").await;
    assert!(lives(saved.pid));
    let running = scene.running(Some(&saved)).await;
    assert_eq!((running.worker_id(), running.identity()), (scene.id.as_str(), &saved));
    running.signal(Signal::SIGTERM).expect("sent");
    assert_eq!(ended(&running).await, WorkerEnd::Gone, "not our child");
    assert!(matches!(gone(&scene, Some(&saved)).await, Gone::NoProcess | Gone::Zombie));
}

#[tokio::test]
async fn a_worker_whose_pid_was_never_saved_is_found_by_its_command_line() {
    let scene = Scene::new();
    let started = orphan(&scene, "sleep 60; :").await;
    let listed = scene.listed().await;
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0].worker_id, &listed[0].identity), (&scene.id, &started));
    let running = scene.running(None).await;
    assert_eq!(running.identity(), &started);
    assert_eq!(scene.kill(&running).await, WorkerEnd::Gone);
    assert_eq!(gone(&scene, None).await, Gone::NoProcess, "reaped or a zombie");
    assert_eq!(scene.listed().await, []);
}

/// 1 to 31. Numbers 32 and 33 are the C library's, which leaves them ignored in what it spawns.
const STANDARD_SIGNALS: u64 = 0x7fff_ffff;

#[tokio::test]
async fn a_worker_does_not_inherit_what_its_control_plane_ignores() {
    let scene = Scene::new();
    let saved = orphan(&scene, "sleep 60; :").await;
    for mask in ["SigIgn", "SigBlk"] {
        // Waited for, because a shell blocks signals for a moment whenever it forks.
        let none_is = |signals: &u64| signals & STANDARD_SIGNALS == 0;
        let read = || u64::from_str_radix(&status(saved.pid, mask)?, 16).ok().filter(none_is);
        until(&format!("an empty {mask}"), read).await;
    }
}

#[tokio::test]
async fn an_undumpable_worker_is_found_by_its_command_line() {
    let scene = Scene::new();
    let code = "import ctypes, os, time\nctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n\
                open('ready', 'w').write(f'{os.getpid()}\\n')\ntime.sleep(60)\n";
    let mut spec = scene.spec("");
    spec.program = "/usr/bin/env".into();
    spec.args = ["python3", "-c", code, "--id", &scene.id].map(Into::into).to_vec();
    let running = scene.platform.start(spec).await.expect("started");
    assert_eq!(scene.pid_in("ready").await, running.identity().pid);
    assert_eq!(scene.running(None).await.identity(), running.identity());
}

#[tokio::test]
async fn a_recycled_pid_is_not_the_worker() {
    let scene = Scene::new();
    let stranger = Stranger::start(Command::new("sleep").arg("60"));
    let saved = ProcessIdentity { start_time: start_time(stranger.pid()) - 1, ..identity(stranger.pid()) };
    assert_eq!(gone(&scene, Some(&saved)).await, Gone::OtherProcess);
    assert!(lives(stranger.pid()));
}

#[tokio::test]
async fn a_worker_of_another_boot_is_gone() {
    let scene = Scene::new();
    let stranger = Stranger::start(Command::new("sleep").arg("60"));
    let saved = ProcessIdentity { boot_id: boot_id().replace('-', "_"), ..identity(stranger.pid()) };
    assert_eq!(gone(&scene, Some(&saved)).await, Gone::OtherBoot);
}

#[tokio::test]
async fn a_worker_that_was_reaped_is_gone() {
    let scene = Scene::new();
    let running = scene.start("exit 0").await;
    ended(&running).await;
    assert_eq!(gone(&scene, Some(running.identity())).await, Gone::NoProcess);
    assert_eq!(gone(&scene, None).await, Gone::NoProcess);
}

#[tokio::test]
async fn a_zombie_has_ended() {
    let scene = Scene::new();
    // Our child, whom nobody reaps until the end of this test; like an orphan under a PID 1 that never does.
    let zombie = Stranger::start(
        Command::new("setsid")
            .args(["sh", "-c", "exit 0", "worker", "--id", &scene.id])
            .envs([id_variable(&scene.id)]),
    );
    until("a zombie", || status(zombie.pid(), "State").filter(|state| state.starts_with('Z'))).await;
    assert_eq!(gone(&scene, Some(&identity(zombie.pid()))).await, Gone::Zombie);
    assert_eq!(gone(&scene, None).await, Gone::NoProcess);
}

#[tokio::test]
async fn the_end_of_an_orphan_that_nobody_reaps_is_seen() {
    let scene = Scene::new();
    let folder = scene.path("");
    // Its parent is alive and never reaps it.
    let script =
        "setsid sh -c 'echo $$ > pid; while :; do sleep 0.01; done' worker --id \"$1\" & exec sleep 60";
    let mut parent = Command::new("sh");
    parent.args(["-c", script, "sh", &scene.id]).envs([id_variable(&scene.id)]).current_dir(folder);
    let _parent = Stranger::start(&mut parent);
    let pid = scene.pid_in("pid").await;
    let running = scene.running(Some(&identity(pid))).await;
    assert_eq!(scene.kill(&running).await, WorkerEnd::Gone);
    assert!(status(pid, "State").is_some_and(|state| state.starts_with('Z')));
}

#[tokio::test]
async fn our_own_child_found_again_keeps_its_status() {
    let scene = Scene::new();
    let running = scene.start("trap 'exit 9' TERM; echo $$ > ready; while :; do sleep 0.01; done").await;
    scene.pid_in("ready").await;
    let (by_identity, by_id) = (scene.running(Some(running.identity())).await, scene.running(None).await);
    by_id.signal(Signal::SIGTERM).expect("sent");
    for handle in [running, by_identity, by_id] {
        assert_eq!(ended(&handle).await, WorkerEnd::Exited(9));
    }
}

#[tokio::test]
async fn what_only_mentions_the_id_is_not_the_worker() {
    let scene = Scene::new();
    let id = scene.id.as_str();
    let script = "echo $$ > $0; sleep 60; :";
    let start = |command: &mut Command| Stranger::start(command.current_dir(scene.path("")));
    let _in_our_session =
        start(Command::new("sh").args(["-c", script, "a", "--id", id]).envs([id_variable(id)]));
    let _without_id =
        start(Command::new("setsid").args(["sh", "-c", script, "b", "--id", id]).env("OTHER", id));
    let _an_agents = start(
        Command::new("setsid").args(["sh", "-c", script, "c", "--", "--id", id]).envs([id_variable(id)]),
    );
    let longer = format!("{id}0");
    let _another = start(
        Command::new("setsid").args(["sh", "-c", script, "d", "--id", &longer]).envs([id_variable(&longer)]),
    );
    for name in ["a", "b", "c", "d"] {
        scene.pid_in(name).await;
    }
    assert_eq!(gone(&scene, None).await, Gone::NoProcess);
    let listed: Vec<String> = scene.listed().await.into_iter().map(|sighting| sighting.worker_id).collect();
    assert_eq!(listed, [longer]);
}

#[tokio::test]
async fn two_platforms_see_the_same_worker_end() {
    let scene = Scene::new();
    let running = scene.start("sleep 60; :").await;
    let Ok(Found::Running(other)) = platform().find_again(&scene.id, Some(running.identity())).await else {
        panic!("not found")
    };
    scene.kill(&running).await;
    ended(&other).await;
    assert_eq!(status(running.identity().pid, "State"), None, "reaped");
}

#[test]
fn an_identity_survives_being_saved() {
    let saved = ProcessIdentity { pid: 12, start_time: 345, boot_id: "b".into() };
    let json = serde_json::to_string(&saved).expect("JSON");
    assert_eq!(json, r#"{"pid":12,"start_time":345,"boot_id":"b"}"#);
    assert_eq!(serde_json::from_str::<ProcessIdentity>(&json).expect("JSON"), saved);
}
