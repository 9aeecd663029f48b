//! Agents that write more than anybody can keep.

use longshore_core::fleet::Protocol;

use super::control_plane::registered;
use super::scene::{Scene, eventually, words};

/// How far the worker's memory may grow over that of a worker that ran one small task, KiB.
const GROWTH: u64 = 24 << 10;

/// Runs a small task, then one that writes too much, and compares the worker's memory.
async fn check(script: &str, expected: &str) -> Scene {
    let script = format!(r#"case "$(cat)" in *'"input":"small"'*) echo small;; *) {script};; esac"#);
    let scene = Scene::shell_with(registered(Protocol::Exec, 1), &script).await;
    assert_eq!(words(&scene.run(r#""small""#).await), r#"succeeded "small""#);
    let before = scene.worker.peak_memory();
    let outcome = words(&scene.run(r#""large""#).await);
    assert!(outcome.starts_with(expected), "{outcome}");
    let grown = scene.worker.peak_memory() - before;
    assert!(grown < GROWTH, "grew by {grown} KiB");
    scene
}

#[tokio::test]
async fn a_gigabyte_of_output_without_a_result_fails_in_constant_memory() {
    check("head -c 1G /dev/zero", "failed output_too_large").await;
    check("yes | head -c 30M", "failed output_too_large").await;
    check("printf '{'; head -c 1G /dev/zero | tr '\\0' x", "failed output_too_large").await;
}

#[tokio::test]
async fn a_gigabyte_of_standard_error_is_read_and_cut() {
    let scene = check("head -c 1G /dev/zero | tr '\\0' x >&2; echo done", r#"succeeded "done""#).await;
    assert!(scene.worker.log().len() < 4 << 20);
}

#[tokio::test]
async fn a_flood_of_log_lines_is_cut_and_that_is_said_once() {
    let scene = check("yes line | head -c 50M >&2; echo done", r#"succeeded "done""#).await;
    eventually("the count", || scene.log().iter().find(|line| line["message"] == "output was cut").cloned())
        .await;
    let said = scene.log().iter().filter(|line| line["message"] == "output was cut").count();
    assert_eq!(said, 1);
    let logged: usize = scene.log().iter().filter_map(|line| line["line"].as_str()).map(str::len).sum();
    assert!(logged <= 1 << 20, "{logged}");
}

#[tokio::test]
async fn a_flood_of_progress_neither_fails_nor_grows() {
    let script =
        r#"yes '{"longshore":"progress","data":1}' | head -n 200000; echo '{"longshore":"result","data":1}'"#;
    let scene = check(script, "succeeded 1").await;
    let events = scene.plane.record().events.len();
    assert!(events > 0, "{events}");
}
