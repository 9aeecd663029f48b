//! What is in a worker's way on the host: said, waited for, and none the worse once it is gone.

use longshore_core::task::State;
use serde_json::json;

use super::door::Door;
use super::scene::engine;
use super::{fleet_of, trouble};
use crate::plane::{Plane, is_logged};

#[tokio::test]
async fn an_image_of_another_machine_is_refused() {
    let Some(mut engine) = engine("foreign") else { return };
    let image = engine.foreign_image();
    let plane = engine.plane(&fleet_of(&image, "echo done", "")).await;
    let said = trouble(&plane, &engine, "is for linux/").await;
    assert!(said.contains(&image) && said.contains("the Docker host is"), "{said}");
    assert!(plane.workers().await.is_empty() && engine.containers().is_empty(), "none was planned in vain");
}

#[tokio::test]
async fn a_strangers_container_with_a_workers_name_is_left_alone() {
    let Some(mut engine) = engine("namesake") else { return };
    let image = engine.worker_image();
    let plane = engine.plane(&fleet_of(&image, "echo done", "")).await;
    let first = plane.crew(1).await[0].id.clone();
    // The next worker's name, taken before it comes.
    let (stem, number) = first.rsplit_once('-').expect("names end with a number");
    let next = format!("{stem}-{}", number.parse::<u64>().expect("a number") + 1);
    let stranger = engine.docker(&["create", "--name", &next, &image]);
    engine.docker(&["rm", "-f", &first]);
    trouble(&plane, &engine, &format!("a container named `{next}` is there that is not this worker")).await;
    // The one after it has a name of its own.
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.result(id).await;
    assert!(engine.try_docker(&["inspect", &stranger]).is_ok(), "it is not ours to remove");
    engine.docker(&["rm", "-f", &stranger]);
}

#[tokio::test]
async fn an_engine_that_goes_away_midway_costs_running_tasks_nothing() {
    let Some(mut engine) = engine("away") else { return };
    let image = engine.worker_image();
    let door = Door::open(engine.socket());
    let keys = fleet_of(
        &image,
        "echo '{\"longshore\":\"progress\",\"data\":1}'; while ! [ -e /tmp/go ]; do sleep 0.1; done; echo done",
        "",
    );
    let plane = Plane::start(&door.before(&engine, &engine.settings(&keys))).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.progress(id, 1).await;
    let worker = plane.crew(1).await[0].id.clone();
    door.shut();
    let said = trouble(&plane, &engine, "no Docker engine answers at").await;
    assert!(said.contains("[docker] host"), "{said}");
    assert_eq!(plane.task(id).await.state, State::Running);
    // It dies while nobody can see it, and is missed once somebody can.
    engine.docker(&["exec", &worker, "touch", "/tmp/go"]);
    plane.result(id).await;
    assert_eq!(plane.task(id).await.attempts.len(), 1, "it ran on meanwhile");
    engine.docker(&["kill", &worker]);
    door.reopen();
    plane.workers_when("another one", |all| all.len() == 1 && all[0].id != worker).await;
    let after = plane.submit(&engine.fleet, json!({})).await;
    let next = plane.crew(1).await[0].id.clone();
    plane.progress(after, 1).await;
    engine.docker(&["exec", &next, "touch", "/tmp/go"]);
    plane.result(after).await;
    assert_eq!(plane.client.fleet(&engine.fleet).await.expect("declared").trouble, None);
}

#[tokio::test]
async fn a_container_that_cannot_be_removed_holds_up_no_fleet() {
    let Some(mut engine) = engine("stuck") else { return };
    let image = engine.worker_image();
    let door = Door::open(engine.socket());
    let settings = door.before(&engine, &engine.settings(&fleet_of(&image, "echo done", "")));
    let mut plane = Plane::start(&settings).await;
    let first = plane.crew(1).await[0].id.clone();
    let installation = engine.inspect(&first, "{{index .Config.Labels \"longshore.installation\"}}");
    plane.kill();
    let labels = [
        format!("--label=longshore.fleet={}", engine.fleet),
        format!("--label=longshore.installation={installation}"),
        "--label=longshore.worker=nobody-knows-1".into(),
    ];
    let orphan = engine.docker(&["create", &labels[0], &labels[1], &labels[2], &image]);
    door.refuse("DELETE", &orphan);
    plane.restart().await;
    engine.eventually(&plane, "a try to remove it", || (door.refusals() > 0).then_some(())).await;
    // Workers of this leader are started all the same.
    engine.docker(&["kill", &first]);
    plane.workers_when("another one", |all| all.len() == 1 && all[0].id != first).await;
    let id = plane.submit(&engine.fleet, json!({})).await;
    plane.result(id).await;
    let trouble = plane.client.fleet(&engine.fleet).await.expect("declared").trouble.unwrap_or_default();
    assert!(!trouble.contains("nobody-knows-1"), "{trouble}");
    is_logged(&plane, "container of a worker that is no more cannot be removed").await;
    assert!(engine.containers().contains(&orphan), "the engine refuses to remove it");
    door.allow();
    let gone = || Some(()).filter(|()| !engine.containers().contains(&orphan));
    engine.eventually(&plane, "it to be removed after all", gone).await;
}
