//! Starting a worker: the state it begins in, its end, and errors.

use std::error::Error;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use longshore_platform::process::{Signal, SignalError, StartError, WorkerEnd, WorkerSpec};
use nix::unistd::{Pid, getsid};

use super::scene::{Scene, ended, lives, status, until};

#[tokio::test]
async fn the_exit_status_reaches_everyone_who_waits() {
    let scene = Scene::new();
    nix::unistd::mkfifo(&scene.path("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let running = scene.start("read line < fifo; exit 42; :").await;
    let (early, other) = (running.clone(), running.clone());
    let waiting = tokio::spawn(async move { tokio::join!(ended(&early), ended(&other)) });
    std::fs::write(scene.path("fifo"), "go\n").expect("written");
    assert_eq!(waiting.await.expect("no panic"), (WorkerEnd::Exited(42), WorkerEnd::Exited(42)));
    assert_eq!(ended(&running).await, WorkerEnd::Exited(42), "late");
}

#[tokio::test]
async fn the_signal_that_ended_it_is_told() {
    let scene = Scene::new();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let running = scene.start("sleep 60; :").await;
        running.signal(signal).expect("sent");
        assert_eq!(ended(&running).await, WorkerEnd::Signaled(signal as i32));
    }
    assert_eq!(WorkerEnd::Signaled(9).to_string(), "killed by SIGKILL");
    assert_eq!(WorkerEnd::Signaled(35).to_string(), "killed by signal 35");
}

#[tokio::test]
async fn a_real_time_signal_is_told_too() {
    let scene = Scene::new();
    let running = scene.start("kill -35 $$; :").await;
    assert_eq!(ended(&running).await, WorkerEnd::Signaled(35));
}

#[tokio::test]
async fn signalling_a_worker_that_has_ended_is_an_error() {
    let scene = Scene::new();
    let running = scene.start("exit 0").await;
    ended(&running).await;
    let error = running.signal(Signal::SIGTERM).expect_err("it has ended");
    assert!(matches!(error, SignalError::Ended { pid } if pid == running.identity().pid), "{error}");
}

#[tokio::test]
async fn it_leads_a_session_of_its_own_with_its_id_in_the_environment() {
    let scene = Scene::new();
    let running = scene.start("echo \"id=$LONGSHORE_WORKER_ID in=$(pwd)\"; sleep 60; :").await;
    let pid = Pid::from_raw(running.identity().pid as i32);
    assert_eq!(getsid(Some(pid)), Ok(pid));
    until("its line", || scene.log().contains('\n').then_some(())).await;
    let folder = scene.path("").canonicalize().expect("there");
    assert_eq!(scene.log(), format!("id={} in={}\n", scene.id, folder.display()));
}

#[tokio::test]
async fn both_outputs_are_appended_to_a_private_log_and_the_input_is_empty() {
    let scene = Scene::new();
    std::fs::write(scene.path("log"), "earlier\n").expect("written");
    let running = scene.start("cat; echo out; echo err >&2").await;
    assert_eq!(ended(&running).await, WorkerEnd::Exited(0));
    assert_eq!(scene.log(), "earlier\nout\nerr\n");
    let mode = std::fs::metadata(scene.path("log")).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn the_environment_is_added_to_or_replaced() {
    let scene = Scene::new();
    let mut spec = scene.spec("echo \"${PATH:+path} $ADDED\"");
    spec.env = vec![("ADDED".into(), "yes".into()), ("LONGSHORE_WORKER_ID".into(), "other".into())];
    ended(&scene.platform.start(spec.clone()).await.expect("started")).await;
    assert_eq!(scene.log(), "path yes\n");

    spec.env_clear = true;
    std::fs::remove_file(scene.path("log")).expect("removed");
    spec.args = ["-c", "exec /usr/bin/env -u PWD", "worker", "--id", &scene.id].map(Into::into).to_vec();
    ended(&scene.platform.start(spec).await.expect("started")).await;
    let mut lines: Vec<String> = scene.log().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["ADDED=yes".to_owned(), format!("LONGSHORE_WORKER_ID={}", scene.id)]);
}

#[tokio::test]
async fn it_inherits_no_descriptor() {
    let scene = Scene::new();
    let open = std::fs::File::open("/dev/null").expect("there");
    // What a careless parent of ours would have left open.
    nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("set");
    assert!(open.as_raw_fd() > 2);
    let running = scene.start("sleep 60; :").await;
    let folder = std::fs::read_dir(format!("/proc/{}/fd", running.identity().pid)).expect("it runs");
    let mut fds: Vec<_> = folder.map(|fd| fd.expect("listed").file_name()).collect();
    fds.sort();
    assert_eq!(fds, ["0", "1", "2"]);
}

#[tokio::test]
async fn a_worker_that_nobody_waits_for_is_reaped() {
    let scene = Scene::new();
    let pid = scene.start("exit 3").await.identity().pid;
    until("its number to be free", || status(pid, "State").is_none().then_some(())).await;
}

#[tokio::test]
async fn a_start_that_was_given_up_is_reaped_too() {
    let scene = Scene::new();
    let start = scene.platform.start(scene.spec("sleep 60; :"));
    _ = tokio::time::timeout(Duration::ZERO, start).await;
    let seen = scene.seen().await;
    let running = scene.running(None).await;
    assert_eq!(running.identity(), &seen.identity);
    assert_eq!(scene.kill(&running).await, WorkerEnd::Signaled(9), "our child, whoever asked for it");
    assert_eq!(status(running.identity().pid, "State"), None, "reaped");
}

#[tokio::test]
async fn other_children_are_left_to_those_who_started_them() {
    let scene = Scene::new();
    let mut other = std::process::Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().expect("a child");
    until("it to end", || (!lives(other.id())).then_some(())).await;
    assert_eq!(ended(&scene.start("exit 0").await).await, WorkerEnd::Exited(0));
    assert_eq!(other.wait().expect("not reaped by others").code(), Some(7));
}

#[tokio::test]
async fn a_hundred_at_once_each_get_their_own_status() {
    let scene = Scene::new();
    let mut starts = tokio::task::JoinSet::new();
    for status in 0..100 {
        let (platform, spec) = (scene.platform.clone(), scene.spec(&format!("exit {status}")));
        starts.spawn(async move { (status, ended(&platform.start(spec).await.expect("started")).await) });
    }
    for (status, end) in starts.join_all().await {
        assert_eq!(end, WorkerEnd::Exited(status));
    }
}

/// Breaks a good spec and expects an error that names `path`, and no process.
async fn check_error(breaks: impl FnOnce(&Scene, &mut WorkerSpec) -> PathBuf, is: fn(&StartError) -> bool) {
    let scene = Scene::new();
    let mut spec = scene.spec("sleep 60; :");
    let path = breaks(&scene, &mut spec);
    let error = scene.platform.start(spec).await.expect_err("it cannot start");
    assert!(is(&error), "{error:?}");
    assert!(error.to_string().contains(path.to_str().expect("UTF-8")), "{error}");
    assert!(error.source().is_some(), "{error}");
    assert_eq!(scene.listed().await, []);
}

fn is_program(error: &StartError) -> bool {
    matches!(error, StartError::Program { .. })
}

fn script(scene: &Scene, text: &str, mode: u32) -> PathBuf {
    let path = scene.path("script");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
    path
}

#[tokio::test]
async fn a_program_that_cannot_run_is_named() {
    check_error(|scene, spec| (spec.program = scene.path("none"), spec.program.clone()).1, is_program).await;
    check_error(|scene, spec| (spec.program = scene.path(""), spec.program.clone()).1, is_program).await;
    let unexecutable = |scene: &Scene, spec: &mut WorkerSpec| {
        spec.program = script(scene, "#!/bin/sh\n", 0o600);
        spec.program.clone()
    };
    check_error(unexecutable, is_program).await;
    let without_interpreter = |scene: &Scene, spec: &mut WorkerSpec| {
        spec.program = script(scene, "#!/nowhere/sh\n", 0o700);
        spec.program.clone()
    };
    check_error(without_interpreter, is_program).await;
}

#[tokio::test]
async fn a_working_folder_that_cannot_be_used_is_named() {
    let is = |error: &StartError| matches!(error, StartError::WorkingDir { .. });
    check_error(|scene, spec| (spec.working_dir = scene.path("none"), spec.working_dir.clone()).1, is).await;
    let file = |scene: &Scene, spec: &mut WorkerSpec| {
        spec.working_dir = script(scene, "", 0o700);
        spec.working_dir.clone()
    };
    check_error(file, is).await;
}

#[tokio::test]
async fn a_log_file_that_cannot_be_written_is_named() {
    let is = |error: &StartError| matches!(error, StartError::LogFile { .. });
    check_error(|scene, spec| (spec.log_file = scene.path("no/log"), spec.log_file.clone()).1, is).await;
    check_error(|scene, spec| (spec.log_file = scene.path(""), spec.log_file.clone()).1, is).await;
}

#[tokio::test]
async fn a_worker_that_could_not_be_found_again_is_not_started() {
    let scene = Scene::new();
    for args in [vec!["-c", "sleep 60; :"], vec!["--id", "other"], vec!["--", "--id", &scene.id]] {
        let mut spec = scene.spec("");
        spec.args = args.into_iter().map(Into::into).collect();
        let error = scene.platform.start(spec).await.expect_err("it has no id");
        assert!(matches!(&error, StartError::NoId { worker_id } if *worker_id == scene.id), "{error}");
    }
}

#[tokio::test]
async fn a_relative_program_is_one_of_our_folder() {
    let scene = Scene::new();
    // Resolved before the worker's folder is entered, where `bin/sh` below does not exist.
    let depth = std::env::current_dir().expect("a folder").components().count() - 1;
    symlink("/bin/sh", scene.path("sh")).expect("linked");
    let mut spec = scene.spec("exit 5");
    let target = scene.path("sh");
    spec.program = PathBuf::from("../".repeat(depth)).join(target.strip_prefix("/").expect("absolute"));
    spec.working_dir = "/proc/self".into();
    assert_eq!(ended(&scene.platform.start(spec).await.expect("started")).await, WorkerEnd::Exited(5));
}
