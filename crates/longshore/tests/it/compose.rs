//! Fleets whose workers are replicas of a service that a real docker-compose started.

mod scene;

use std::time::Duration;

use longshore_core::task::State;
use serde_json::json;

use self::scene::{Project, project};
use crate::plane::{Plane, pause};

const SCALING: &str = "scaling = { min = 2, max = 4, scale_up_above = 1, scale_down_below = 0.5, scale_down_after = \"1s\" }\n\
                       drain = { timeout = \"10s\" }\nkill_grace = \"1s\"";

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
    let image = project.engine.worker_image();
    let plane = project.plane(SCALING).await;
    project.declare(&plane, &image, script);
    project.compose(&["up", "-d"]);
    plane.crew(2).await;
    plane
}

/// Waits until docker-compose lists so many replicas.
async fn listed(project: &Project, plane: &Plane, count: usize) -> Vec<String> {
    let what = format!("{count} replicas of {:?}", project.names());
    project.engine.eventually(plane, &what, || Some(project.listed("agent")).filter(|ids| ids.len() == count)).await
}

#[tokio::test]
async fn the_scaler_adds_and_removes_replicas_that_docker_compose_sees() {
    let Some(mut project) = project("scaled") else { return };
    let plane = up(&mut project, "sleep 1; echo done").await;
    let fleet = project.engine.fleet.clone();
    let _told = Told(plane.dir().to_owned());
    let siblings = project.listed("agent");
    assert_eq!(siblings.len(), 2, "those that docker-compose started are counted: {:?}", project.names());
    // Somebody's own one, which is nobody's business.
    project.compose(&["run", "-d", "--no-deps", "agent", "sh", "-c", "sleep 1; echo done"]);
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
    project.engine.eventually(&plane, "the override file", || project.read(file).contains("scale: 4").then_some(())).await;
    project.compose(&["up", "-d"]);
    assert_eq!(project.listed("agent"), four, "`up` leaves them as they are");
    assert!(project.compose(&["logs", "--no-color", "agent"]).contains("agent_4"), "their logs are seen");
    plane.all_succeed(&tasks).await;
    let two = listed(&project, &plane, 2).await;
    project.engine.eventually(&plane, "the file to follow", || project.read(file).contains("scale: 2").then_some(())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(project.listed("agent"), two, "a drained one is not started again, whatever its restart policy says");
    let names = project.names();
    assert!(names.iter().any(|name| name.contains("_run_")), "one-off containers are left alone: {names:?}");
    project.compose(&["down", "-t", "5"]);
    assert_eq!(project.names(), [""; 0], "nothing is left");
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
    let container = before.iter().find(|container| container.starts_with(&holder.id)).expect("named by its id");
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
    let script = "while ! [ -e /tmp/go ]; do sleep 0.2; done; echo done";
    let mut plane = up(&mut project, script).await;
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
    for container in &four {
        project.engine.docker(&["exec", container, "touch", "/tmp/go"]);
    }
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
    project.write("docker-compose.yml", &file.replace("scale: 2", "scale: 1\n    container_name: only-one-here"));
    let file = project.read("docker-compose.yml");
    project.write("docker-compose.yml", &file.replace("only-one-here", &format!("{}-own", project.name)));
    project.compose(&["up", "-d"]);
    trouble("remove `container_name`").await;
    let args = ["deploy", &fleet, "acme/agent:2", "--server", &plane.addresses.api];
    let refused = crate::run::run(plane.dir(), args);
    assert!(refused.status == 1 && refused.err.contains("docker-compose up -d"), "{refused:?}");
}
