//! The parts of a control plane as processes of their own, on one Postgres and one Redis.

use std::fs;
use std::path::Path;

use longshore_core::id::TaskId;
use longshore_simulate::{Options, Sim};
use serde_json::{Value, json};

use crate::plane::Plane;
use crate::room::Room;
use crate::run::{command, ran};

const AGENT: &str = include_str!("replay/agent.py");

/// Only the gateway has it.
const KEY: &str = "ROLES_TEST_PROVIDER_KEY";

struct Scene {
    sim: Sim,
    home: tempfile::TempDir,
    api: Plane,
    link: Plane,
    gateway: Plane,
    controllers: Plane,
    /// Dropped last.
    _room: Room,
}

async fn part(home: &Path, roles: &str, more: &[(&str, &str)]) -> Plane {
    let env: Vec<_> = more.iter().copied().chain([("LONGSHORE_ROLES", roles)]).collect();
    Plane::part(home, &env).await
}

async fn gateway(home: &Path) -> Plane {
    part(home, "gateway", &[(KEY, "sk-of-the-gateway")]).await
}

impl Scene {
    async fn new() -> Option<Scene> {
        let room = Room::new()?;
        let sim = longshore_simulate::start(Options::default()).await.expect("a free port");
        let home = tempfile::tempdir().expect("a temporary folder");
        let agent = home.path().join("agent.py");
        fs::write(&agent, AGENT).expect("the folder is writable");
        let toml = format!(
            "{}[provider.openai]\nbase_url = \"{}\"\napi_key = {{ env = \"{KEY}\" }}\n\
             [fleet.f]\ncommand = [\"python3\", \"-S\", {agent:?}]\nscaling = {{ min = 1, max = 1 }}\n",
            room.toml(),
            sim.openai_base_url(),
        );
        fs::write(home.path().join("longshore.toml"), toml).expect("the folder is writable");
        let path = home.path();
        let (api, link, gateway) =
            tokio::join!(part(path, "api", &[]), part(path, "link", &[]), gateway(path));
        let controllers = part(path, "controllers", &[]).await;
        Some(Scene { sim, home, api, link, gateway, controllers, _room: room })
    }

    async fn submit(&self, text: &str) -> TaskId {
        self.api.submit("f", json!([{ "do": "chat", "text": text }])).await
    }
}

async fn readiness(plane: &Plane) -> Value {
    let answer = reqwest::get(format!("{}/readyz", plane.addresses.probes)).await.expect("an answer");
    serde_json::from_str(&answer.text().await.expect("text")).expect("JSON")
}

/// The status and the code of an answer to a POST.
async fn refusal(address: &str, path: &str) -> (u16, String) {
    let answer = reqwest::Client::new().post(format!("{address}{path}")).send().await.expect("an answer");
    let status = answer.status().as_u16();
    let problem: Value = serde_json::from_str(&answer.text().await.expect("text")).expect("JSON");
    (status, problem["code"].as_str().unwrap_or_default().to_owned())
}

async fn check_parts(scene: &Scene) {
    for (plane, roles, checks) in [
        (&scene.api, "api", &["database", "redis"][..]),
        (&scene.link, "link", &["database", "redis"]),
        (&scene.gateway, "gateway", &["database", "llm", "redis"]),
        (&scene.controllers, "controllers", &["database", "redis"]),
    ] {
        let ready = readiness(plane).await;
        assert_eq!((&ready["roles"], &ready["ready"]), (&json!([roles]), &json!(true)));
        let named: Vec<_> = ready["checks"].as_object().expect("checks").keys().collect();
        assert_eq!(named, checks, "{roles}");
        let Plane { addresses, .. } = plane;
        assert_eq!(addresses.api.is_empty(), roles != "api");
        assert_eq!(addresses.link.is_empty(), !matches!(roles, "link" | "gateway"));
    }
    let elsewhere = (421, "role_not_here".to_owned());
    let (link, gateway) = (&scene.link.addresses.link, &scene.gateway.addresses.link);
    assert_eq!(refusal(link, "/llm/openai/v1/chat/completions").await, elsewhere);
    assert_eq!(refusal(gateway, "/worker/v1/claim").await, elsewhere);
    assert_eq!(refusal(gateway, "/agent/v1/steps/a").await, elsewhere);
    assert_eq!(refusal(link, "/worker/v1/claim").await.0, 401);
    assert_eq!(refusal(gateway, "/llm/openai/v1/chat/completions").await.0, 401);
    let about = scene.api.client.about().await.expect("an answer");
    assert_eq!(&about.link, link, "not the gateway's");
}

#[tokio::test]
async fn each_role_in_a_process_of_its_own_and_a_gateway_killed_in_the_middle_of_a_call() {
    let Some(mut scene) = Scene::new().await else { return };
    let first = scene.submit("one").await;
    assert_eq!(scene.api.result(first).await.as_array().map(Vec::len), Some(1));
    check_parts(&scene).await;

    scene.sim.hold(true);
    let second = scene.submit("two").await;
    scene.sim.until_waiting(1).await;
    scene.gateway.kill();
    scene.sim.hold(false);
    // At another address and with another name: nothing leads from the old one to it but the store.
    scene.gateway = gateway(scene.home.path()).await;
    assert_eq!(scene.api.result(second).await.as_array().map(Vec::len), Some(1));
    let task = scene.api.task(second).await;
    let calls = task.calls.expect("it made one");
    assert_eq!((task.attempts_begun, calls.live, calls.maybe_billed), (1, 1, 1), "the agent saw nothing");
    assert_eq!(scene.sim.bill().totals.received, 3);
}

#[test]
fn one_file_is_one_process_and_a_role_is_one_of_four() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("longshore.toml"), "[fleet.a]\ncommand = [\"cat\"]\n").expect("written");
    let check = |roles: &str, by_variable: bool, status: i32, said: &[&str]| {
        let mut command = command(dir.path());
        command.arg("serve");
        match by_variable {
            true => command.env("LONGSHORE_ROLES", roles),
            false => command.args(["--roles", roles]),
        };
        let ran = ran(command.output().expect("the binary runs"));
        assert_eq!(ran.status, status, "{roles}: {ran:?}");
        let missing: Vec<_> = said.iter().filter(|said| !ran.err.contains(**said)).collect();
        assert!(missing.is_empty(), "{roles} should say {missing:?}: {ran:?}");
    };
    for by_variable in [false, true] {
        check("api,link", by_variable, 1, &["`api,link`", "embedded store", "[store] database"]);
        check("api,brain", by_variable, 2, &["brain", "controllers"]);
        check("", by_variable, 2, &["--roles"]);
        check("api,,link", by_variable, 2, &["--roles"]);
    }
}
