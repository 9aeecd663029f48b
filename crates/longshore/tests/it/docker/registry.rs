//! Images of a private registry: pulled with what `docker login` kept, and told in words where that is not enough.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::scene::{Engine, engine};
use super::{fleet_of, trouble};
use crate::plane::{Plane, script};
use crate::registry::{PASSWORD, Registry, USER};
use crate::rollouts::check;

impl Registry {
    /// Puts an image there and takes it off the engine, so that it has to be pulled.
    fn push(&self, engine: &mut Engine, image: &str, name: &str) -> String {
        let there = format!("{}/{name}", self.address);
        let config = self.dir.path().join("pusher").display().to_string();
        self.login(engine, &config);
        engine.docker(&["tag", image, &there]);
        engine.docker(&["--config", &config, "push", "-q", &there]);
        engine.docker(&["rmi", &there]);
        engine.owns(&there);
        there
    }

    /// `docker login`, as people do it.
    fn login(&self, engine: &Engine, config: &str) {
        let mut login = Command::new("docker")
            .env("DOCKER_HOST", engine.host())
            .args(["--config", config, "login", "-u", USER, "--password-stdin", &self.address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker runs");
        login.stdin.take().expect("piped").write_all(PASSWORD.as_bytes()).expect("docker reads it");
        assert!(login.wait().expect("it ends").success(), "docker login");
    }
}

#[tokio::test]
async fn a_private_image_is_pulled_with_what_docker_login_kept() {
    let Some(mut engine) = engine("private") else { return };
    let Some(registry) = Registry::start() else { return };
    let image = engine.worker_image();
    let there = registry.push(&mut engine, &image, "agents/worker:1");
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = home.path().display().to_string();
    let settings = engine.settings(&fleet_of(&there, "echo done", ""));
    let mut plane = Plane::start_with(&settings, &[("DOCKER_CONFIG", &config)]).await;
    let said = trouble(&plane, &engine, "lets nobody in without a login").await;
    assert!(said.contains(&format!("`docker login {}`", registry.address)), "{said}");
    registry.login(&engine, &config);
    // A pull that failed is not tried again for a while; a new control plane tries at once.
    plane.stop().await;
    plane.restart().await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    assert_eq!(plane.result(id).await, json!("done"));
    let said = plane.log();
    assert!(!said.contains(PASSWORD) && !said.contains("bWU6"), "{said}");
}

#[tokio::test]
async fn what_a_registry_refuses_is_told_in_words() {
    let Some(mut engine) = engine("refused") else { return };
    let Some(mut registry) = Registry::start() else { return };
    let worker = engine.worker_image();
    let there = registry.push(&mut engine, &worker, "agents/worker:1");
    let home = tempfile::tempdir().expect("a temporary folder");
    // A helper whose keyring a test can change.
    let keyring = home.path().join("keyring.json");
    let helper = script(home.path(), "docker-credential-test", &format!("#!/bin/sh\ncat {keyring:?}\n"));
    let hold = |password: &str| {
        let kept = json!({ "ServerURL": registry.address, "Username": USER, "Secret": password });
        fs::write(&keyring, kept.to_string()).expect("the folder is writable");
    };
    let config = json!({ "credHelpers": { &registry.address: "test" } });
    fs::write(home.path().join("config.json"), config.to_string()).expect("the folder is writable");
    let path = format!(
        "{}:{}",
        helper.parent().expect("a folder").display(),
        std::env::var("PATH").expect("there is one")
    );
    let settings =
        engine.settings(&fleet_of(&worker, "echo done", "rollout = { hold = \"0s\", ready = \"10s\" }"));
    let config = home.path().display().to_string();
    let plane = Plane::start_with(&settings, &[("DOCKER_CONFIG", &config), ("PATH", &path)]).await;
    plane.crew(1).await;
    let name = engine.fleet.clone();
    let deploys = |image: &str, status: i32, says: &str| {
        let ran = check(&plane, &["deploy", &name, image], status);
        assert!(format!("{}{}", ran.out, ran.err).contains(says), "{says}: {ran:?}");
    };
    hold("wrong");
    deploys(&there, 3, "refuses what `docker login` kept for it");
    hold(PASSWORD);
    deploys(&format!("{}/agents/nobody:1", registry.address), 3, "has no such image");
    let other = registry.push(&mut engine, &worker, "agents/other:1");
    deploys(&other, 0, "has replaced");
    registry.stop();
    deploys(&format!("{}/agents/late:1", registry.address), 3, "does not answer");
}
