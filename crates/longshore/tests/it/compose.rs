//! Fleets whose workers are replicas of a service that a real docker-compose started.

mod scene;
mod system;

use std::time::{Duration, Instant};

use longshore_core::task::State;
use serde_json::json;

use self::scene::{Project, project};
use crate::docker::door::Door;
use crate::plane::{Plane, pause};

const SCALING: &str = "scaling = { min = 2, max = 4, scale_up_above = 1, scale_down_below = 0.5, scale_down_after = \"1s\" }\n\
                       drain = { timeout = \"10s\" }\nkill_grace = \"1s\"";

/// An agent that works until its container's gate is opened.
const GATED: &str = "while ! [ -e /tmp/go ]; do sleep 0.2; done; echo done";

fn open_gates(project: &Project) {
    for name in project.names() {
        // One that drained without a task has ended meanwhile, and has no gate to open.
        let opened = project.engine.try_docker(&["exec", &name, "touch", "/tmp/go"]);
        let why = opened.err().unwrap_or_default();
        assert!(
            why.is_empty() || why.contains("not running") || why.contains("No such container"),
            "{name}: {why}"
        );
    }
}

/// Prints the control plane's log if its test fails.
struct Told(std::path::PathBuf);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", std::fs::read_to_string(self.0.join("serve.log")).unwrap_or_default());
        }
    }
}

async fn up(project: &mut Project, script: &str) -> Plane {
    let toml = project.toml(SCALING);
    up_with(project, &toml, script).await
}

async fn up_with(project: &mut Project, toml: &str, script: &str) -> Plane {
    let image = project.engine.worker_image();
    let plane = project.plane_of(toml).await;
    project.declare(&plane, &image, script);
    project.compose(&["up", "-d"]);
    plane.crew(2).await;
    plane
}

/// Waits until docker-compose lists so many replicas.
async fn listed(project: &Project, plane: &Plane, count: usize) -> Vec<String> {
    let what = format!("{count} replicas of {:?}", project.names());
    project
        .engine
        .eventually(plane, &what, || Some(project.listed("agent")).filter(|ids| ids.len() == count))
        .await
}

#[tokio::test]
async fn the_scaler_adds_and_removes_replicas_that_docker_compose_sees() {
    let Some(mut project) = project("scaled") else { return };
    let plane = up(&mut project, GATED).await;
    let fleet = project.engine.fleet.clone();
    let _told = Told(plane.dir().to_owned());
    let siblings = project.listed("agent");
    assert_eq!(siblings.len(), 2, "those that docker-compose started are counted: {:?}", project.names());
    // Somebody's own one, which is nobody's business.
    project.compose(&["run", "-d", "--no-deps", "agent", "sh", "-c", GATED]);
    plane.crew(3).await;
    let tasks = plane.submit_many(&fleet, (0..40).map(|n| json!(n))).await;
    let four = listed(&project, &plane, 4).await;
    let names = project.names();
    for number in 1..=4 {
        assert!(names.contains(&format!("{}_agent_{number}", project.name)), "{names:?}");
    }
    assert!(project.compose(&["ps"]).contains(&format!("{}_agent_4", project.name)));
    plane.crew(5).await;
    // It says what `up` would do, and what keeps it from that.
    let note = plane.client.fleet(&fleet).await.expect("it answers").notes.join("\n");
    assert!(note.contains("docker-compose up"), "{note}");
    let file = "docker-compose.override.yml";
    project
        .engine
        .eventually(&plane, "the override file", || project.read(file).contains("scale: 4").then_some(()))
        .await;
    project.compose(&["up", "-d"]);
    assert_eq!(project.listed("agent"), four, "`up` leaves them as they are");
    assert!(project.compose(&["logs", "--no-color", "agent"]).contains("agent_4"), "their logs are seen");
    open_gates(&project);
    plane.all_succeed(&tasks).await;
    let two = listed(&project, &plane, 2).await;
    project
        .engine
        .eventually(&plane, "the file to follow", || project.read(file).contains("scale: 2").then_some(()))
        .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(
        project.listed("agent"),
        two,
        "a drained one is not started again, whatever its restart policy says"
    );
    let names = project.names();
    assert!(names.iter().any(|name| name.contains("_run_")), "one-off containers are left alone: {names:?}");
    project.compose(&["down", "-t", "5"]);
    assert_eq!(project.names(), [""; 0], "nothing is left");
    // The next `up` goes by the project's own file.
    let cleared = || (!project.read(file).contains("scale:")).then_some(());
    project.engine.eventually(&plane, "the count to be taken out", cleared).await;
    project.compose(&["config", "-q"]);
}

#[tokio::test]
async fn a_replica_that_cannot_be_removed_holds_nothing_up() {
    let Some(mut project) = project("heavy") else { return };
    let door = Door::open(project.engine.socket());
    let toml = door.before(&project.engine, &project.toml(SCALING));
    let plane = up_with(&mut project, &toml, GATED).await;
    let fleet = project.engine.fleet.clone();
    let _told = Told(plane.dir().to_owned());
    let tasks = plane.submit_many(&fleet, (0..12).map(|n| json!(n))).await;
    listed(&project, &plane, 4).await;
    plane.crew(4).await;
    door.refuse("DELETE", "/containers/");
    open_gates(&project);
    plane.all_succeed(&tasks).await;
    let told = async |expected: bool| {
        for _ in 0..1200 {
            let notes = plane.client.fleet(&fleet).await.expect("it answers").notes.join("\n");
            if notes.contains("cannot be removed") == expected {
                return;
            }
            pause().await;
        }
        panic!("waited for the note to be told or not");
    };
    project.engine.eventually(&plane, "a try to remove one", || (door.refusals() > 0).then_some(())).await;
    plane.crew(2).await;
    // Others come all the same.
    plane.client.set_scale(&fleet, Some(4)).await.expect("it is obeyed");
    plane.crew(4).await;
    told(true).await;
    assert_eq!(plane.client.fleet(&fleet).await.expect("it answers").trouble, None);
    plane.client.set_scale(&fleet, None).await.expect("it is obeyed");
    door.allow();
    told(false).await;
    listed(&project, &plane, 2).await;
}

#[tokio::test]
async fn an_engine_that_refuses_is_asked_again_that_a_drained_replica_stays_down() {
    let Some(mut project) = project("refuses") else { return };
    let door = Door::open(project.engine.socket());
    let toml = door.before(&project.engine, &project.toml(SCALING));
    let script = format!("echo '{{\"longshore\":\"progress\",\"data\":1}}'; {GATED}");
    let plane = up_with(&mut project, &toml, &script).await;
    let id = plane.submit(&project.engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let worker = plane.holder(id).await;
    let before = project.listed("agent");
    let container =
        before.iter().find(|container| container.starts_with(&worker.id)).expect("named by its id");
    door.refuse("POST", "/update");
    let how = longshore_api::fleet::DrainWorker { mode: None, timeout: Some("10m".into()) };
    plane.client.drain_worker(&worker.id, &how).await.expect("it is told");
    project.engine.eventually(&plane, "it to be asked", || (door.refusals() > 0).then_some(())).await;
    door.allow();
    let policy = || project.engine.inspect(container, "{{.HostConfig.RestartPolicy.Name}}");
    project.engine.eventually(&plane, "it to stay down", || (policy() == "no").then_some(())).await;
    open_gates(&project);
    plane.result(id).await;
    let gone = || (!project.listed("agent").contains(container)).then_some(());
    project.engine.eventually(&plane, "it to be removed", gone).await;
}

#[tokio::test]
async fn a_fleet_that_got_another_name_takes_its_service_along() {
    let Some(mut project) = project("renamed") else { return };
    let mut plane = up(&mut project, "sleep 1; echo done").await;
    let image = project.engine.worker_image();
    // Before and after the old one, by the alphabet.
    for begins in ["a", "z"] {
        plane.kill();
        project.engine.fleet = format!("{begins}-{}", project.engine.fleet);
        plane.declare(&project.toml(SCALING));
        plane.restart().await;
        project.declare(&plane, &image, "sleep 1; echo done");
        project.compose(&["up", "-d"]);
        let tasks = plane.submit_many(&project.engine.fleet, (0..12).map(|n| json!(n))).await;
        listed(&project, &plane, 4).await;
        plane.all_succeed(&tasks).await;
        let fleet = plane.client.fleet(&project.engine.fleet).await.expect("it answers");
        assert_eq!(fleet.trouble, None);
        listed(&project, &plane, 2).await;
    }
}

#[tokio::test]
async fn the_engine_brings_a_dead_replica_back_and_it_is_not_doubled() {
    let Some(mut project) = project("revived") else { return };
    let script = "echo '{\"longshore\":\"progress\",\"data\":1}'; [ \"$LONGSHORE_ATTEMPT\" = 1 ] && sleep 600; echo done";
    let plane = up(&mut project, script).await;
    let before = project.listed("agent");
    let id = plane.submit(&project.engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let holder = plane.holder(id).await;
    let container =
        before.iter().find(|container| container.starts_with(&holder.id)).expect("named by its id");
    let pid = project.engine.inspect(container, "{{.State.Pid}}");
    crate::plane::signal(pid.parse().expect("a pid"), nix::sys::signal::Signal::SIGKILL);
    let task = plane.reaches(id, State::Succeeded).await;
    assert_eq!(task.attempts[0].outcome.as_deref(), Some("interrupted"), "{task:#?}");
    plane.workers_when("the same two", |all| all.len() == 2 && all.iter().any(|it| it.id == holder.id)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(project.listed("agent"), before);
}

#[tokio::test]
async fn a_restarted_control_plane_finds_all_replicas_again() {
    let Some(mut project) = project("again") else { return };
    let mut plane = up(&mut project, GATED).await;
    let tasks = plane.submit_many(&project.engine.fleet, (0..4).map(|n| json!(n))).await;
    let four = listed(&project, &plane, 4).await;
    plane.crew(4).await;
    plane.kill();
    plane.restart().await;
    let mut ids: Vec<String> = plane.crew(4).await.into_iter().map(|worker| worker.id).collect();
    ids.sort();
    for _ in 0..20 {
        pause().await;
    }
    assert_eq!(project.listed("agent"), four, "none added, none lost");
    open_gates(&project);
    plane.all_succeed(&tasks).await;
    for id in tasks {
        assert_eq!(plane.task(id).await.attempts.len(), 1);
    }
    // Drained by the new one.
    listed(&project, &plane, 2).await;
}

#[tokio::test]
async fn what_cannot_be_copied_is_said_and_a_deploy_is_refused() {
    let Some(mut project) = project("refused") else { return };
    let image = project.engine.worker_image();
    let plane = project.plane(SCALING).await;
    let fleet = project.engine.fleet.clone();
    let trouble = async |expected: &str| {
        for _ in 0..400 {
            let said = plane.client.fleet(&fleet).await.expect("it answers").trouble.unwrap_or_default();
            if said.contains(expected) {
                return;
            }
            pause().await;
        }
        panic!("waited for {expected:?}\n{}", plane.log());
    };
    trouble("docker-compose up -d agent").await;
    project.declare(&plane, &image, "echo done");
    let file = project.read("docker-compose.yml");
    project.write(
        "docker-compose.yml",
        &file.replace("scale: 2", "scale: 1\n    container_name: only-one-here"),
    );
    let file = project.read("docker-compose.yml");
    project.write("docker-compose.yml", &file.replace("only-one-here", &format!("{}-own", project.name)));
    project.compose(&["up", "-d"]);
    trouble("remove `container_name`").await;
    let args = ["deploy", &fleet, "acme/agent:2", "--server", &plane.addresses.api];
    let refused = crate::run::run(plane.dir(), args);
    assert!(refused.status == 1 && refused.err.contains("docker-compose up -d"), "{refused:?}");
}

/// The key of one worker's fleet, as the sample's README makes it.
fn worker_key(project: &Project) -> String {
    let token = format!("LONGSHORE_TOKEN={}", project.read("secrets/token").trim());
    let longshore = ["control-1", "/usr/local/bin/longshore", "keys", "create", "agents", "--join", "agent"];
    let args = [&["exec", "-T", "-e", &token][..], &longshore].concat();
    let key = project.compose(&args).trim().to_owned();
    assert!(key.starts_with("lsk_") && !key.contains(char::is_whitespace), "{key:?}");
    key
}

async fn eventually<T>(project: &Project, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(90);
    while Instant::now() < end {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited for {what}: {}", project.compose(&["ps"]));
}

#[tokio::test]
async fn the_sample_runs_the_whole_system_and_goes_away_again() {
    let Some(mut project) = project("system") else { return };
    let Some(()) = system::install(&mut project) else { return };
    let quick = "max = 5, scale_down_after = \"2s\"";
    project.write("longshore.toml", &project.read("longshore.toml").replace("max = 10", quick));
    project.compose(&["config"]);
    project.compose(&["up", "-d", "controllers", "control-1", "control-2"]);
    let healthy = async |service: &str| {
        eventually(&project, &format!("{service} to be healthy"), async || {
            let id = project.compose(&["ps", "-q", service]);
            (project.engine.inspect(id.trim(), "{{.State.Health.Status}}") == "healthy").then_some(())
        })
        .await;
    };
    for service in ["postgres", "redis", "control-1", "control-2", "controllers"] {
        healthy(service).await;
    }
    let key = worker_key(&project);
    project.set("LONGSHORE_WORKER_TOKEN", key);
    project.compose(&["up", "-d"]);
    // Who decides has the socket, nobody else.
    for service in ["controllers", "control-1", "control-2", "agent"] {
        for id in project.listed(service) {
            let mounts = project.engine.inspect(&id, "{{range .Mounts}}{{.Destination}} {{end}}");
            assert_eq!(mounts.contains("docker.sock"), service == "controllers", "{service}: {mounts}");
        }
    }
    let api = format!("http://127.0.0.1:{}", project.get("LONGSHORE_PORT"));
    let token = project.read("secrets/token").trim().to_owned();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = longshore_api::client::Client::new(&api, Some(token)).expect("a client");
    let ready = async |count: u32| {
        eventually(&project, &format!("{count} ready workers"), async || {
            let fleet = client.fleet("agent").await.ok()?;
            (fleet.workers.ready == count).then_some(fleet)
        })
        .await
    };
    ready(2).await;
    let submit = async |count: usize| {
        let line = |n| format!("{{\"fleet\":\"agent\",\"input\":{n}}}\n");
        let lines: String = (0..count).map(line).collect();
        client.submit_batch(lines.into_bytes(), None).await.expect("they are accepted").ids
    };
    let tasks = submit(150).await;
    let most = eventually(&project, "more replicas", async || {
        Some(project.listed("agent").len()).filter(|count| *count > 2)
    })
    .await;
    println!("docker-compose ps lists {most} replicas");
    let fleet = client.fleet("agent").await.expect("it answers");
    // The replica that people ask has no socket, and tells what the one says that has it.
    eventually(&project, "the note", async || {
        let notes = client.fleet("agent").await.ok()?.notes.join(" ");
        notes.contains("/scaled/docker-compose.longshore.yml").then_some(())
    })
    .await;
    assert_eq!(fleet.trouble, None);
    // One of the two that serve goes away, and nothing is lost.
    project.compose(&["kill", "control-2"]);
    for id in &tasks {
        eventually(&project, "the task", async || {
            (client.task(*id).await.ok()?.state == State::Succeeded).then_some(())
        })
        .await;
    }
    eventually(&project, "two replicas", async || (project.listed("agent").len() == 2).then_some(())).await;
    assert!(project.read("scaled/docker-compose.longshore.yml").contains("scale: "), "the override file");
    // Not in the very moment in which one is added, which `down` would not know of.
    submit(300).await;
    ready(5).await;
    let file = "scaled/docker-compose.longshore.yml";
    eventually(&project, "the count", async || project.read(file).contains("scale: 5").then_some(())).await;
    let before = (project.listed("agent"), project.listed("controllers"));
    project.set("COMPOSE_FILE", format!("docker-compose.yml:{file}"));
    project.compose(&["up", "-d"]);
    assert_eq!(
        (project.listed("agent"), project.listed("controllers")),
        before,
        "`up` leaves them as they are"
    );
    project.compose(&["down", "-v", "-t", "20"]);
    assert_eq!(project.names(), [""; 0], "what the scaler added is gone, too");
    let network = format!("{}_default", project.name);
    assert!(project.engine.try_docker(&["network", "inspect", &network]).is_err(), "and so is the network");
}

/// A container as compose 2 makes it: by the labels of its contract, and with its names.
fn start_as_compose_2(project: &Project, plane: &Plane, image: &str, number: u32) {
    let (name, fleet) = (&project.name, &project.engine.fleet);
    let port = plane.addresses.link.rsplit(':').next().expect("a port");
    let token = std::fs::read_to_string(plane.dir().join(".longshore/tokens").join(fleet)).expect("a token");
    let mut args = vec!["run".to_owned(), "-d".into(), "--restart".into(), "unless-stopped".into()];
    let mut pair = |key: &str, value: String| args.extend([key.to_owned(), value]);
    pair("--name", format!("{name}-agent-{number}"));
    pair("--network", format!("{name}_default"));
    pair("--network-alias", "agent".into());
    pair("--add-host", "host:host-gateway".into());
    for (label, value) in [
        ("project", name.as_str()),
        ("service", "agent"),
        ("container-number", &number.to_string()),
        ("oneoff", "False"),
        ("config-hash", "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"),
        ("version", "2.24.5"),
        ("project.working_dir", "/nowhere/shop"),
        ("project.config_files", "/nowhere/shop/compose.yaml"),
        ("depends_on", ""),
    ] {
        pair("--label", format!("com.docker.compose.{label}={value}"));
    }
    for (variable, value) in [
        ("LINK", format!("http://host:{port}")),
        ("FLEET", fleet.clone()),
        ("WORKER_TOKEN", token),
        ("PROBE_ADDR", "0.0.0.0:7119".into()),
    ] {
        pair("--env", format!("LONGSHORE_{variable}={value}"));
    }
    args.extend([image, "sh", "-c", "sleep 1; echo done"].map(str::to_owned));
    project.engine.docker(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_service_of_compose_2_is_known_by_its_labels() {
    let Some(mut project) = project("second") else { return };
    let image = project.engine.worker_image();
    let plane = project.plane(SCALING).await;
    let network = format!("{}_default", project.name);
    let label = format!("com.docker.compose.project={}", project.name);
    project.engine.docker(&["network", "create", "--label", &label, &network]);
    for number in [1, 3] {
        start_as_compose_2(&project, &plane, &image, number);
    }
    let fleet = project.engine.fleet.clone();
    let tasks = plane.submit_many(&fleet, (0..20).map(|n| json!(n))).await;
    let expected = [1, 2, 3, 4].map(|number| format!("{}-agent-{number}", project.name));
    let names = || Some(project.names()).filter(|names| names[..] == expected);
    project.engine.eventually(&plane, "the lowest free numbers", names).await;
    let added = project.engine.docker(&["inspect", "--format", "{{.Id}}", &expected[1]]);
    let aliases = "{{range .NetworkSettings.Networks}}{{.Aliases}}{{end}}";
    assert!(project.engine.inspect(&added, aliases).contains("agent"), "it is reached by its service's name");
    let notes = plane.client.fleet(&fleet).await.expect("it answers").notes.join("\n");
    assert!(notes.contains("no override file"), "the folder is not here: {notes}");
    plane.all_succeed(&tasks).await;
    let left = || Some(()).filter(|()| project.names().len() == 2);
    project.engine.eventually(&plane, "two to be left", left).await;
}

#[tokio::test]
async fn another_image_is_docker_composes_own_update() {
    let Some(mut project) = project("updated") else { return };
    let plane = up(&mut project, "sleep 1; echo old").await;
    let fleet = project.engine.fleet.clone();
    let tasks = plane.submit_many(&fleet, (0..12).map(|n| json!(n))).await;
    listed(&project, &plane, 4).await;
    plane.crew(4).await;
    let file = project.read("docker-compose.yml");
    project.write("docker-compose.yml", &file.replace("echo old", "echo new"));
    project.compose(&["up", "-d"]);
    plane.all_succeed(&tasks).await;
    let id = plane.submit(&fleet, json!({})).await;
    assert_eq!(plane.result(id).await, json!("new"));
    listed(&project, &plane, 2).await;
    for container in project.listed("agent") {
        let command = project.engine.inspect(&container, "{{.Config.Cmd}}");
        assert!(command.contains("echo new"), "{command}");
    }
}
