//! Another image comes in, on a real engine: one container at a time, and back where it does not do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_core::task::State;
use serde_json::json;

use super::scene::{Engine, engine};
use crate::plane::Plane;
use crate::rollouts::{apply, check, releases, told, uninterrupted};

/// Says which image it runs in; with `slow` as its input it takes until it is told to end.
const SCRIPT: &str = "case $(cat) in *slow*) [ \"$LONGSHORE_ATTEMPT\" = 1 ] && { trap '' TERM; \
    while :; do sleep 1; done; };; esac; echo \"$V\"";

fn fleet(engine: &Engine, image: &str, more: &str) -> String {
    let script = serde_json::to_string(SCRIPT).expect("text");
    engine.settings(&format!(
        "image = \"{image}\"\ncommand = [\"sh\", \"-c\", {script}]\nscaling = {{ min = 3, max = 3 }}\n{more}"
    ))
}

/// A control plane whose fleets come by the API, with three workers of the first image.
async fn plane(engine: &Engine, image: &str, more: &str) -> Plane {
    let plane = Plane::start_with(&engine.section(), &[("LONGSHORE__SERVER__FLEETS", "api")]).await;
    apply(&plane, &fleet(engine, image, more));
    plane.crew(3).await;
    plane
}

/// Waits until the fleet has three containers and all are of this image.
async fn all_are_of(engine: &Engine, plane: &Plane, image: &str) {
    engine
        .eventually(plane, image, || {
            let there = engine.containers();
            let images: BTreeSet<String> = there
                .iter()
                .map(|id| {
                    engine.try_docker(&["inspect", "--format", "{{.Config.Image}}", id]).unwrap_or_default()
                })
                .collect();
            (there.len() == 3 && images == BTreeSet::from([image.to_owned()])).then_some(())
        })
        .await;
}

#[tokio::test]
async fn another_image_comes_in_while_tasks_go_on_and_goes_back_when_it_is_undone() {
    let Some(mut engine) = engine("deploys") else { return };
    let worker = engine.worker_image();
    let one = engine.derived("one", &worker, "ENV V=1");
    let two = engine.derived("two", &worker, "ENV V=2\nLABEL org.opencontainers.image.revision=0a1b2c3");
    let mut plane = plane(&engine, &one, "rollout = { hold = \"200ms\" }").await;
    let name = engine.fleet.clone();
    let none = check(&plane, &["rollout", "undo", &name], 1);
    assert!(none.err.contains("has run no release before this one"), "{none:?}");
    let wrong = check(&plane, &["deploy", &name, "https://x/y"], 1);
    assert!(wrong.err.contains("is an address"), "{wrong:?}");
    check(&plane, &["deploy", &name, &two, "--detach"], 0);
    let busy = check(&plane, &["deploy", &name, "longshore-test/other:1"], 1);
    assert!(busy.err.contains("is under way") && busy.err.contains("--supersede"), "{busy:?}");
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(plane.submit(&name, json!(n)).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waited = check(&plane, &["rollout", "wait", &name, "--json"], 0);
    assert_eq!(told(&waited)["phase"], json!("done"));
    uninterrupted(&plane, &ids).await;
    all_are_of(&engine, &plane, &two).await;
    let container = &engine.containers()[0];
    let labels =
        "{{index .Config.Labels \"longshore.release\"}} {{index .Config.Labels \"longshore.commit\"}}";
    assert_eq!(engine.inspect(container, labels), "2 0a1b2c3");
    let runs = check(&plane, &["deploy", &name, &two], 0);
    assert!(runs.out.contains("runs"), "{runs:?}");
    // A new start reads the same declaration and does not take it back.
    plane.kill();
    plane.restart().await;
    plane.crew(3).await;
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 3)]));
    check(&plane, &["rollout", "undo", &name], 0);
    all_are_of(&engine, &plane, &one).await;
    let id = plane.submit(&name, json!(1)).await;
    assert_eq!(plane.result(id).await, json!("1"));
}

#[tokio::test]
async fn images_that_do_not_do_go_back_and_say_why() {
    let Some(mut engine) = engine("worse") else { return };
    let worker = engine.worker_image();
    let crashes =
        engine.derived("crashes", &worker, "ENTRYPOINT [\"/longshore\", \"worker\", \"--bogus\", \"--\"]");
    let foreign = engine.plain_image(&["ENTRYPOINT [\"/bin/sh\"]"]);
    let plane = plane(&engine, &worker, "rollout = { hold = \"200ms\", ready = \"10s\" }").await;
    let name = engine.fleet.clone();
    let before: BTreeSet<String> = engine.containers().into_iter().collect();
    let goes_back = |image: &str, says: &str| {
        let ran = check(&plane, &["deploy", &name, image], 3);
        assert!(format!("{}{}", ran.out, ran.err).contains(says), "{ran:?}");
    };
    goes_back(
        "longshore-test/nobody-built-it:1",
        "no worker of the new release could be started within 10s: image `longshore-test/nobody-built-it:1`",
    );
    goes_back(&foreign, "does not start longshore");
    goes_back(&crashes, "ended by itself");
    let after: BTreeSet<String> = engine.containers().into_iter().collect();
    assert_eq!(before, after, "the old ones were never touched, and nothing is left over");
    assert_eq!(plane.client.fleet(&name).await.expect("declared").trouble, None);
}

#[tokio::test]
async fn an_agent_that_ignores_sigterm_does_not_hold_up_a_rollout() {
    let Some(mut engine) = engine("deaf") else { return };
    let worker = engine.worker_image();
    let one = engine.derived("one", &worker, "ENV V=1");
    let two = engine.derived("two", &worker, "ENV V=2");
    let more =
        "rollout = { hold = \"0s\" }\nkill_grace = \"1s\"\ndrain = { mode = \"wait\", timeout = \"2s\" }";
    let plane = plane(&engine, &one, more).await;
    let name = engine.fleet.clone();
    let id = plane.submit(&name, json!("slow")).await;
    plane.reaches(id, State::Running).await;
    check(&plane, &["deploy", &name, &two], 0);
    assert_eq!(plane.result(id).await, json!("2"), "it went on where the new image runs");
    let task = plane.task(id).await;
    assert_eq!((task.interrupted, task.failed_attempts), (1, 0), "{task:#?}");
    all_are_of(&engine, &plane, &two).await;
}

#[tokio::test]
async fn a_rollout_of_containers_outlives_the_control_plane() {
    let Some(mut engine) = engine("outlives") else { return };
    let worker = engine.worker_image();
    let one = engine.derived("one", &worker, "ENV V=1");
    let two = engine.derived("two", &worker, "ENV V=2");
    let mut plane = plane(&engine, &one, "rollout = { hold = \"100ms\" }").await;
    let name = engine.fleet.clone();
    check(&plane, &["deploy", &name, &two, "--detach"], 0);
    let mut ids = Vec::new();
    let mut kills: u64 = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(100 + 150 * kills)).await;
        plane.kill();
        kills += 1;
        plane.restart().await;
        ids.push(plane.submit(&name, json!(1)).await);
        let newest = plane.client.rollout(&name, None).await.expect("it is there");
        assert!(newest.number == 1 && newest.phase != "rolled_back", "{newest:#?}\n{}", plane.worker_logs());
        if newest.ended_at.is_some() {
            break;
        }
        assert!(engine.containers().len() <= 5, "three, one beyond, one that drains");
    }
    println!("killed {kills} times");
    all_are_of(&engine, &plane, &two).await;
    plane.all_succeed(&ids).await;
    // Nothing of this installation is there that the store does not know.
    let known: BTreeSet<String> =
        plane.workers().await.into_iter().map(|worker| format!("/{}", worker.id)).collect();
    let there: BTreeSet<String> =
        engine.containers().iter().map(|id| engine.inspect(id, "{{.Name}}")).collect();
    assert_eq!(known, there);
}

#[tokio::test]
async fn a_tag_that_moves_is_followed_by_a_deploy_alone() {
    let Some(mut engine) = engine("moves") else { return };
    let worker = engine.worker_image();
    let image = engine.derived("agent", &worker, "ENV V=1");
    let id_of = |engine: &Engine| engine.docker(&["image", "inspect", "--format", "{{.Id}}", &image]);
    let one = id_of(&engine);
    let plane = plane(&engine, &image, "rollout = { hold = \"100ms\" }").await;
    let name = engine.fleet.clone();
    let result = async || {
        let id = plane.submit(&name, json!(1)).await;
        plane.result(id).await
    };
    let all_from = async |engine: &Engine, expected: &str| {
        engine
            .eventually(&plane, expected, || {
                let made_of = |id: &String| engine.try_docker(&["inspect", "--format", "{{.Image}}", id]);
                let all: Vec<_> = engine.containers().iter().map(made_of).collect();
                (all.len() == 3 && all.iter().all(|it| it.as_deref() == Ok(expected))).then_some(())
            })
            .await;
    };
    let runs = check(&plane, &["deploy", &name, &image], 0);
    assert!(runs.out.contains("runs"), "{runs:?}");
    assert_eq!(engine.derived("agent", &worker, "ENV V=2"), image);
    engine.owns(&one);
    let two = id_of(&engine);
    assert_ne!(one, two);
    // What is replaced meanwhile is of the release that it belongs to.
    let killed = plane.crew(3).await[0].id.clone();
    engine.docker(&["rm", "-f", &killed]);
    plane.workers_when("another one", |all| all.len() == 3 && all.iter().all(|it| it.id != killed)).await;
    plane.crew(3).await;
    all_from(&engine, &one).await;
    assert_eq!(result().await, json!("1"));
    let began = check(&plane, &["deploy", &name, &image, "--json"], 0);
    assert_eq!(told(&began)["phase"], json!("done"), "{began:?}");
    all_from(&engine, &two).await;
    assert_eq!(result().await, json!("2"));
    assert_eq!(releases(&plane).await, BTreeMap::from([(2, 3)]));
    let again = check(&plane, &["deploy", &name, &image], 0);
    assert!(again.out.contains("runs"), "{again:?}");
    let known = plane.client.releases(&name).await.expect("they are known").items;
    let known: Vec<_> = known.into_iter().map(|it| (it.number, it.image_id.unwrap_or_default())).collect();
    assert_eq!(known, [(2, two), (1, one.clone())]);
    check(&plane, &["rollout", "undo", &name], 0);
    all_from(&engine, &one).await;
    assert_eq!(result().await, json!("1"));
}
