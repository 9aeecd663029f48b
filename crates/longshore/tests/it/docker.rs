//! Workers as containers of a real Docker engine: how they run, how they end, and what is said when they cannot.

pub mod door;
mod planes;
mod registry;
mod rollouts;
pub mod scene;
mod space;
mod trouble;

use std::time::{Duration, Instant};

use longshore_core::task::State;
use serde_json::json;

use self::scene::{Engine, engine, static_binary};
use crate::plane::{PATIENCE, Plane, is_logged};

/// Waits until the fleet's trouble says this.
async fn trouble(plane: &Plane, engine: &Engine, expected: &str) -> String {
    let end = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < end {
        last = plane.client.fleet(&engine.fleet).await.expect("it answers").trouble;
        if let Some(said) = last.as_ref().filter(|said| said.contains(expected)) {
            return said.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited for {expected:?}, got {last:?}\n{}", plane.log());
}

fn fleet_of(image: &str, script: &str, more: &str) -> String {
    let script = serde_json::to_string(script).expect("text");
    format!(
        "image = \"{image}\"\ncommand = [\"sh\", \"-c\", {script}]\nscaling = {{ min = 1, max = 1 }}\n{more}"
    )
}

#[tokio::test]
async fn a_task_runs_in_a_container_that_is_as_locked_up_as_it_was_declared() {
    let Some(mut engine) = engine("locked") else { return };
    let image = engine.worker_image();
    let script = "touch /x 2>/dev/null && w=1; touch /tmp/y && t=1; \
        echo \"{\\\"root\\\":\\\"$w\\\",\\\"tmp\\\":\\\"$t\\\",\\\"who\\\":\\\"$(id -u)\\\",\\\"key\\\":\\\"$KEY\\\",\
        \\\"env\\\":\\\"$NAME\\\",\\\"token\\\":\\\"$LONGSHORE_WORKER_TOKEN\\\"}\"";
    let keys =
        fleet_of(&image, script, "env = { NAME = \"n\" }\nsecrets = { KEY = { env = \"DOCKER_TEST_KEY\" } }");
    let plane = Plane::start_with(&engine.settings(&keys), &[("DOCKER_TEST_KEY", "s3cret")]).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    let said = json!({ "root": "", "tmp": "1", "who": "65532", "key": "s3cret", "env": "n", "token": "" });
    let result = plane.result(id).await;
    let result: serde_json::Value = serde_json::from_str(result.as_str().expect("text")).expect("JSON");
    assert_eq!(result, said);
    let worker = &plane.crew(1).await[0];
    let [container] = engine.containers().try_into().expect("one container");
    let inspect = |template: &str| engine.inspect(&container, template);
    assert_eq!(inspect("{{.Name}}"), format!("/{}", worker.id));
    assert_eq!(inspect("{{index .Config.Labels \"longshore.fleet\"}}"), engine.fleet);
    let limits = inspect(
        "{{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}} {{.HostConfig.CpuShares}} {{.HostConfig.CpuQuota}} {{.HostConfig.PidsLimit}}",
    );
    assert_eq!(limits, format!("{} {} 10 200000 512", 256 << 20, 32 << 20));
    let locks = inspect(
        "{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.RestartPolicy.Name}}",
    );
    assert_eq!(locks, "true [ALL] [no-new-privileges] no");
    // Longer than the drain of 120 s and what we wait for it ourselves.
    assert_eq!(inspect("{{.Config.StopTimeout}} {{.HostConfig.LogConfig.Type}}"), "140 json-file");
    assert!(!plane.log().contains("s3cret"), "{}", plane.log());
}

#[tokio::test]
async fn a_killed_container_costs_a_task_no_more_than_a_moment() {
    let Some(mut engine) = engine("killed") else { return };
    let image = engine.worker_image();
    let script = "echo '{\"longshore\":\"progress\",\"data\":1}'; [ \"$LONGSHORE_ATTEMPT\" = 1 ] && sleep 600; echo done";
    let plane =
        engine.plane(&fleet_of(&image, script, "").replace("min = 1, max = 1", "min = 2, max = 2")).await;
    plane.crew(2).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let holder = plane.holder(id).await;
    let killed = Instant::now();
    engine.docker(&["kill", &holder.id]);
    let task = plane.reaches(id, State::Succeeded).await;
    let took = killed.elapsed();
    assert_eq!(task.attempts[0].outcome.as_deref(), Some("interrupted"), "{task:#?}");
    println!("a task of a killed container was done elsewhere after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(5), "{took:?}");
    // It is replaced, and what is left of it is removed.
    plane
        .workers_when("two others", |all| all.len() == 2 && all.iter().all(|worker| worker.id != holder.id))
        .await;
    engine
        .eventually(&plane, "two containers", || Some(()).filter(|()| engine.containers().len() == 2))
        .await;
}

#[tokio::test]
async fn a_container_that_somebody_removed_is_replaced() {
    let Some(mut engine) = engine("removed") else { return };
    let image = engine.worker_image();
    let plane = engine.plane(&fleet_of(&image, "echo done", "")).await;
    let first = plane.crew(1).await[0].id.clone();
    engine.docker(&["rm", "-f", &first]);
    plane.workers_when("another one", |all| all.iter().any(|worker| worker.id != first)).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.result(id).await;
}

#[tokio::test]
async fn containers_outlive_a_killed_control_plane_and_are_found_again() {
    let Some(mut engine) = engine("found") else { return };
    let image = engine.worker_image();
    let script = "echo '{\"longshore\":\"progress\",\"data\":1}'; while ! [ -e /tmp/go ]; do sleep 0.2; done; echo done";
    let mut plane = engine.plane(&fleet_of(&image, script, "")).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let before = engine.containers();
    plane.kill();
    // Something that the store never heard of, and something of another installation.
    let label = |name: &str, value: &str| format!("{name}={value}");
    let installation = engine.inspect(&before[0], "{{index .Config.Labels \"longshore.installation\"}}");
    let fleet = label("longshore.fleet", &engine.fleet);
    let make = |worker: &str, installation: &str| {
        let (worker, installation) =
            (label("longshore.worker", worker), label("longshore.installation", installation));
        let labels = ["--label", &fleet, "--label", &worker, "--label", &installation];
        engine.docker(&[&["create"][..], &labels, &[&image]].concat())
    };
    let orphan = make("nobody-knows-1", &installation);
    let foreign = make("nobody-knows-2", "other");
    plane.restart().await;
    engine
        .eventually(&plane, "the orphan to be removed", || {
            Some(()).filter(|()| !engine.containers().contains(&orphan))
        })
        .await;
    assert!(engine.containers().contains(&foreign), "what is not ours stays");
    let worker = &plane.crew(1).await[0];
    assert!(
        engine.inspect(&before[0], "{{.Name}} {{.State.Running}}").contains(&format!("{} true", worker.id))
    );
    assert_eq!(plane.task(id).await.attempts.len(), 1, "it runs on");
    // Its end is seen by the new control plane.
    engine.docker(&["kill", &worker.id]);
    plane.workers_when("another one", |all| all.iter().any(|it| it.id != worker.id)).await;
}

#[tokio::test]
async fn a_container_that_ended_while_nobody_looked_gives_its_task_back() {
    let Some(mut engine) = engine("unseen") else { return };
    let image = engine.worker_image();
    let script = "echo '{\"longshore\":\"progress\",\"data\":1}'; [ \"$LONGSHORE_ATTEMPT\" = 1 ] && sleep 600; echo done";
    let mut plane = engine.plane(&fleet_of(&image, script, "")).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let [container] = engine.containers().try_into().expect("one container");
    plane.kill();
    engine.docker(&["kill", &container]);
    let restarted = Instant::now();
    plane.restart().await;
    plane.result(id).await;
    println!(
        "a task of a container that died unseen was done {} ms after the restart",
        restarted.elapsed().as_millis()
    );
    assert!(restarted.elapsed() < Duration::from_secs(15), "before its lease would have expired");
}

#[tokio::test]
async fn an_agent_that_eats_memory_fails_and_its_worker_lives_on() {
    let Some(mut engine) = engine("memory") else { return };
    let image = engine.worker_image();
    let script = "[ \"$(cat)\" ] && awk 'BEGIN { s = \"x\"; while (1) s = s s }'";
    let keys = fleet_of(&image, script, "task = { max_attempts = 1 }");
    let plane = engine.plane(&keys).await;
    let worker = plane.crew(1).await[0].id.clone();
    let id = plane.submit(&engine.fleet, json!({})).await;
    let task = plane.reaches(id, State::Failed).await;
    let failure = task.failure.expect("a failed task says why");
    assert_eq!(failure.code, "out_of_memory", "{}\n{}", failure.message, engine.logs());
    assert_eq!(plane.crew(1).await[0].id, worker, "{}", engine.logs());
}

#[tokio::test]
async fn a_missing_image_is_said_and_mended_by_itself_once_it_is_there() {
    let Some(mut engine) = engine("missing") else { return };
    let image = format!("longshore-test/{}-worker:1", engine.fleet);
    let plane = engine.plane(&fleet_of(&image, "echo done", "")).await;
    trouble(&plane, &engine, &format!("image `{image}`")).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    assert_eq!(engine.worker_image(), image);
    plane.result(id).await;
    assert!(plane.workers().await.iter().all(|worker| worker.id.ends_with("-1")), "none was planned in vain");
}

#[tokio::test]
async fn an_image_that_cannot_be_a_worker_is_refused_with_what_to_do() {
    let Some(mut engine) = engine("unfit") else { return };
    let plain = engine.plain_image(&["ENTRYPOINT [\"/bin/sh\"]"]);
    let plane = engine.plane(&fleet_of(&plain, "echo done", "")).await;
    trouble(&plane, &engine, "does not start longshore").await;
    trouble(&plane, &engine, "supervisor = \"inject\"").await;
    // The binary under test is linked dynamically, as a rule; what is injected must not be.
    let mut plane = plane;
    plane.stop().await;
    plane.declare(
        &engine
            .settings(&fleet_of(&plain, "echo done", "supervisor = \"inject\""))
            .replace("[docker]\n", "[docker]\ninject = \"/bin/ls\"\n"),
    );
    plane.restart().await;
    trouble(&plane, &engine, "`/bin/ls` cannot be put into containers: it needs shared libraries").await;
}

#[tokio::test]
async fn without_an_engine_nothing_starts_and_it_is_said_why() {
    let Some(engine) = engine("nobody") else { return };
    let keys = fleet_of("longshore-test/none:1", "echo done", "");
    let file = "[docker]\nhost = \"unix:///nowhere/docker.sock\"\n";
    let start = engine.settings(&keys).find("[fleet").expect("a fleet");
    let plane = Plane::start(&format!("{file}{}", &engine.settings(&keys)[start..])).await;
    let said = trouble(&plane, &engine, "no Docker engine answers at unix:///nowhere/docker.sock").await;
    assert!(said.contains("[docker] host"), "{said}");
}

#[tokio::test]
async fn a_full_host_holds_a_fleet_and_says_so() {
    let Some(mut engine) = engine("full") else { return };
    let image = engine.worker_image();
    let keys = fleet_of(&image, "echo done", "").replace("min = 1, max = 1", "min = 2, max = 2");
    let keys = format!("{keys}\n[docker]\nhost = \"HOST\"\nmemory = \"1Ki\"\n");
    let settings = engine.settings(&keys);
    let host = settings.lines().find(|line| line.starts_with("host")).expect("a host").to_owned();
    let body = settings.replace(&format!("[docker]\n{host}\n"), "").replace("host = \"HOST\"", &host);
    let plane = Plane::start(&body).await;
    let said = trouble(&plane, &engine, "held: the Docker host is out of memory").await;
    assert!(said.contains("a worker asks for 32Mi"), "{said}");
    assert_eq!(engine.containers().len(), 0);
}

#[tokio::test]
async fn a_closed_network_leads_to_longshore_alone() {
    let Some(mut engine) = engine("closed") else { return };
    let image = engine.worker_image();
    let plane = engine.plane(&fleet_of(&image, "echo done", "egress = \"closed\"")).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.result(id).await;
    let container = &engine.containers()[0];
    let network = engine.inspect(container, "{{.HostConfig.NetworkMode}}");
    assert_eq!(engine.docker(&["network", "inspect", "--format", "{{.Internal}}", &network]), "true");
}

#[tokio::test]
async fn a_network_of_a_fleet_that_is_no_more_goes_once_nothing_else_is_in_it() {
    let Some(mut engine) = engine("leaves") else { return };
    let image = engine.worker_image();
    let mut plane = engine.plane(&fleet_of(&image, "echo done", "")).await;
    plane.crew(1).await;
    let network = engine.inspect(&engine.containers()[0], "{{.HostConfig.NetworkMode}}");
    let label = format!("longshore.fleet={}", engine.fleet);
    // Somebody looks around in it.
    let guest = engine.docker(&[
        "run",
        "-d",
        "--label",
        &label,
        "--network",
        &network,
        "--entrypoint",
        "sleep",
        &image,
        "600",
    ]);
    plane.kill();
    plane.declare(&engine.section());
    plane.restart().await;
    is_logged(&plane, "network of a fleet that is no more stays while it is in use").await;
    engine.docker(&["rm", "-f", &guest]);
    let gone = || engine.try_docker(&["network", "inspect", &network]).is_err().then_some(());
    engine.eventually(&plane, "the network to go", gone).await;
}

#[tokio::test]
async fn a_worker_that_hangs_is_replaced() {
    let Some(mut engine) = engine("hangs") else { return };
    let image = engine.worker_image();
    let probe = "probe = { interval = \"300ms\", timeout = \"300ms\", failures = 3 }";
    let plane = engine.plane(&fleet_of(&image, "echo done", probe)).await;
    let first = plane.crew(1).await[0].id.clone();
    engine.docker(&["pause", &first]);
    plane.workers_when("another one", |all| all.len() == 1 && all[0].id != first).await;
}

#[tokio::test]
async fn longshore_is_put_into_an_image_that_knows_nothing_of_it() {
    let Some(mut engine) = engine("inject") else { return };
    let Some(binary) = static_binary() else { return };
    let image = engine.plain_image(&["CMD [\"sh\", \"-c\", \"echo unmodified\"]"]);
    let keys = format!("image = \"{image}\"\nsupervisor = \"inject\"\nscaling = {{ min = 1, max = 1 }}\n");
    let settings =
        engine.settings(&keys).replace("[docker]\n", &format!("[docker]\ninject = \"{binary}\"\n"));
    let plane = Plane::start(&settings).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    assert_eq!(plane.result(id).await, json!("unmodified"));
    let container = &engine.containers()[0];
    assert_eq!(
        engine.inspect(container, "{{range .Mounts}}{{.Destination}} {{.RW}}{{end}}"),
        "/opt/longshore false"
    );
}

#[tokio::test]
async fn a_volume_with_longshore_is_filled_again_once_it_was_pruned_and_goes_with_its_version() {
    let Some(mut engine) = engine("pruned") else { return };
    let Some(binary) = static_binary() else { return };
    let image = engine.plain_image(&["CMD [\"sh\", \"-c\", \"sleep 2; echo unmodified\"]"]);
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Something else at its end makes it another version, which no other test uses.
    let version = |name: &str| {
        let path = dir.path().join(name);
        let mut bytes = std::fs::read(&binary).expect("it is there");
        bytes.extend_from_slice(format!("{name} {}", engine.fleet).as_bytes());
        std::fs::write(&path, bytes).expect("the folder is writable");
        let keys = format!(
            "image = \"{image}\"\nsupervisor = \"inject\"\nscaling = {{ min = 0, max = 1, scale_down_after = \"1s\" }}\n"
        );
        let file = format!("[docker]\ninject = \"{}\"\n", path.display());
        engine.settings(&keys).replace("[docker]\n", &file)
    };
    let mut plane = Plane::start(&version("one")).await;
    let runs = async |plane: &Plane| {
        let id = plane.submit(&engine.fleet, json!({})).await;
        let container = engine.eventually(plane, "a container", || engine.containers().pop()).await;
        let of = |template: &str| engine.inspect(&container, template);
        let volume = of("{{range .Mounts}}{{.Name}}{{end}}");
        let installation = of("{{index .Config.Labels \"longshore.installation\"}}");
        assert_eq!(plane.result(id).await, json!("unmodified"));
        let none = || engine.containers().is_empty().then_some(());
        engine.eventually(plane, "no container", none).await;
        (volume, installation)
    };
    let (volume, installation) = runs(&plane).await;
    engine.docker(&["volume", "rm", &volume]);
    assert_eq!(runs(&plane).await.0, volume);
    assert_eq!(plane.client.fleet(&engine.fleet).await.expect("declared").trouble, None);
    plane.kill();
    // What a killed one left behind.
    let left = format!("longshore-fill-{installation}-dead");
    let label = format!("longshore.installation={installation}");
    engine.docker(&["create", "--name", &left, "--label", &label, &image]);
    plane.declare(&version("two"));
    plane.restart().await;
    let (next, _) = runs(&plane).await;
    assert_ne!(next, volume);
    for (kind, name) in [("volume", &volume), ("container", &left)] {
        let gone = || engine.try_docker(&[kind, "inspect", name]).is_err().then_some(());
        engine.eventually(&plane, name, gone).await;
    }
    plane.kill();
    engine.docker(&["volume", "rm", &next]);
}
