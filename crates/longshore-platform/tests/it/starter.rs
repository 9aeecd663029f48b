//! This test program once more, as another control plane: one that can be killed.

use std::path::PathBuf;
use std::process::Command;

use super::scene::{platform, shell_spec};

/// `$SCENE_ROLE` is `start` (then it waits to be killed) or `sweep`; answers in JSON in `$SCENE/answer`.
///
/// Not a test, and ignored as one: other tests run it.
#[tokio::test]
#[ignore = "other tests run it as a process of their own"]
async fn another_control_plane() {
    let Ok(role) = std::env::var("SCENE_ROLE") else { return };
    let folder = PathBuf::from(std::env::var_os("SCENE").expect("a folder"));
    let id = std::env::var("SCENE_ID").expect("an id");
    let script = std::env::var("SCENE_SCRIPT").expect("a script");
    let answer = match role.as_str() {
        "start" => {
            let running = platform().start(shell_spec(&id, &folder, &script)).await.expect("started");
            serde_json::to_string(running.identity()).expect("JSON")
        }
        "sweep" => {
            let swept = platform().sweep(&id, None).await.expect("swept");
            serde_json::json!({ "killed": swept.killed, "survivors": swept.survivors }).to_string()
        }
        other => panic!("unknown role {other}"),
    };
    // Under another name first, so that whoever waits for it never reads half of it.
    std::fs::write(folder.join("answer.new"), answer).expect("written");
    std::fs::rename(folder.join("answer.new"), folder.join("answer")).expect("renamed");
    if role == "start" {
        std::future::pending::<()>().await;
    }
}

/// The command line that plays `another_control_plane`.
pub fn arguments() -> [String; 5] {
    let program = std::env::current_exe().expect("this program");
    let program = program.to_str().expect("a UTF-8 path").to_owned();
    [&program, "--exact", "starter::another_control_plane", "--ignored", "--nocapture"].map(str::to_owned)
}

/// Runs `another_control_plane` in a shell that ignores signals, as `nohup` and some service managers do.
pub fn command(role: &str, scene: &super::scene::Scene, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "trap '' HUP INT TERM USR1; \"$@\"; echo $? > \"$SCENE/status\"", "sh"])
        .args(arguments())
        .envs([("SCENE_ROLE", role), ("SCENE_ID", &scene.id), ("SCENE_SCRIPT", script)])
        .env("SCENE", scene.path(""));
    command
}
