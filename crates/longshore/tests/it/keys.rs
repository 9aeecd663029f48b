//! `longshore keys` and the first key, from outside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::by_hand::ByHand;
use crate::plane::{Plane, binary, wait_for};
use crate::run::{Ran, command, ran, run};

const FLEET: &str = "[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n";

/// Runs a command against this control plane with a key.
fn with(plane: &Plane, key: Option<&str>, args: &[&str]) -> Ran {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    if let Some(key) = key {
        command.env("LONGSHORE_TOKEN", key);
    }
    ran(command.output().expect("the binary runs"))
}

fn good(plane: &Plane, key: &str, args: &[&str]) -> Ran {
    let ran = with(plane, Some(key), args);
    assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
    ran
}

/// A control plane that asks for keys, and its first one.
async fn locked(home: &Path) -> (Plane, String) {
    let file = home.join("first key");
    let name = file.to_str().expect("text");
    let plane = Plane::start_with(FLEET, &[("LONGSHORE_ADMIN_TOKEN_FILE", name)]).await;
    let mode = fs::metadata(&file).expect("it was made").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let key = fs::read_to_string(file).expect("ours").trim().to_owned();
    (plane, key)
}

#[tokio::test]
async fn keys_are_made_used_listed_and_revoked() {
    let home = tempfile::tempdir().expect("a folder");
    let (plane, admin) = locked(home.path()).await;
    let refused = with(&plane, None, &["fleets"]);
    assert_eq!(refused.status, 5, "{refused:?}");
    assert!(
        refused.err.contains("LONGSHORE_TOKEN") && refused.err.contains("[token_required]"),
        "{refused:?}"
    );

    let made = good(&plane, &admin, &["keys", "create", "web shop", "--fleet", "a", "--expires", "90d"]);
    let key = made.out.trim();
    assert!(longshore_core::access::is_key(key) && made.out.lines().count() == 1, "alone: {made:?}");
    assert!(!made.err.contains(key), "{made:?}");
    good(&plane, key, &["submit", "a"]);
    good(&plane, key, &["tasks", "list"]);
    let refused = with(&plane, Some(key), &["keys", "list"]);
    assert!(refused.status == 5 && refused.err.contains("[verb_not_allowed]"), "{refused:?}");

    let list = good(&plane, &admin, &["keys", "list"]);
    assert!(list.out.contains("web shop") && list.out.contains("read,submit"), "{list:?}");
    assert!(!list.out.contains(key), "{list:?}");
    let list: Value =
        serde_json::from_str(&good(&plane, &admin, &["keys", "list", "--json"]).out).expect("JSON");
    let id = list["items"][0]["id"].as_str().expect("an id").to_owned();
    assert!(list["items"][0]["expires_at"].is_string(), "{list}");
    good(&plane, &admin, &["keys", "revoke", &id]);
    let refused = with(&plane, Some(key), &["tasks", "list"]);
    assert!(refused.status == 5 && refused.err.contains("[key_revoked]"), "{refused:?}");
    assert_eq!(good(&plane, &admin, &["keys", "list"]).err.trim(), "no keys");
    assert!(good(&plane, &admin, &["keys", "list", "--all"]).out.contains("revoked"));

    let json: Value = serde_json::from_str(
        &good(&plane, &admin, &["keys", "create", "ci", "--verbs", "read", "--json"]).out,
    )
    .expect("JSON");
    let other = json["key"].as_str().expect("shown this once");
    good(&plane, other, &["fleets"]);
    // Nothing of them in what is written down.
    let config = good(&plane, &admin, &["config"]);
    let written = format!("{}{}{}", plane.log(), config.out, config.err);
    for secret in [admin.as_str(), key, other] {
        assert!(!written.contains(secret), "a key is in the log or in the configuration");
    }
}

#[tokio::test]
async fn a_worker_joins_with_a_key_of_its_fleet_and_ends_when_it_is_revoked() {
    let home = tempfile::tempdir().expect("a folder");
    let (plane, admin) = locked(home.path()).await;
    let made = good(&plane, &admin, &["keys", "create", "gpu box", "--join", "a", "--json"]);
    let made: Value = serde_json::from_str(&made.out).expect("JSON");
    let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
    let mut worker = ByHand::start(&plane, "a", &[], |command| {
        command.env_remove("LONGSHORE_WORKER_TOKEN_FILE").env("LONGSHORE_WORKER_TOKEN", key);
    });
    good(&plane, &admin, &["submit", "a", "--input", "7", "--wait"]);
    good(&plane, &admin, &["keys", "revoke", id]);
    let status = worker.exit().await;
    assert!(!status.success(), "{}", worker.log());
    assert!(worker.log().contains("revoked") && !worker.log().contains(key), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_with_a_key_of_another_fleet_is_refused() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("admin");
    let fleets = format!("{FLEET}[fleet.b]\ncommand = [\"cat\"]\nplatform = \"external\"\n");
    let plane =
        Plane::start_with(&fleets, &[("LONGSHORE_ADMIN_TOKEN_FILE", file.to_str().expect("text"))]).await;
    let admin = fs::read_to_string(&file).expect("made").trim().to_owned();
    let of_b = good(&plane, &admin, &["keys", "create", "b", "--join", "b"]).out.trim().to_owned();
    let mut worker = ByHand::start(&plane, "a", &[], |command| {
        command.env_remove("LONGSHORE_WORKER_TOKEN_FILE").env("LONGSHORE_WORKER_TOKEN", &of_b);
    });
    assert_eq!(worker.exit().await.code(), Some(5), "{}", worker.log());
    assert!(worker.log().contains("not of `a`"), "{}", worker.log());
}

#[tokio::test]
async fn beyond_loopback_serve_says_what_is_missing() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(
        dir.path().join("longshore.toml"),
        format!("[server]\napi = \"0.0.0.0:0\"\nlink = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"\n{FLEET}"),
    )
    .expect("written");
    let ran = run(dir.path(), ["serve"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.err.contains("no key to ask them for"), "{ran:?}");
    assert!(ran.err.contains("LONGSHORE_ADMIN_TOKEN_FILE"), "{ran:?}");
    let mut child = std::process::Command::new(binary())
        .arg("serve")
        .current_dir(dir.path())
        .env("LONGSHORE_ADMIN_TOKEN_FILE", dir.path().join("admin"))
        .env("LONGSHORE_LOG", "info")
        .stdout(fs::File::create(dir.path().join("out")).expect("writable"))
        .spawn()
        .expect("the binary runs");
    wait_for("it to come up", || {
        let out = fs::read_to_string(dir.path().join("out")).unwrap_or_default();
        assert!(child.try_wait().expect("our child").is_none(), "{out}");
        out.contains("control plane is up").then_some(())
    })
    .await;
    child.kill().expect("it runs");
    child.wait().expect("our child");
}
