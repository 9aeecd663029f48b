//! What is in a worker's way on the host: said, waited for, and none the worse once it is gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore_core::task::State;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;

use super::scene::engine;
use super::{fleet_of, trouble};
use crate::plane::Plane;

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
    let dir = tempfile::tempdir().expect("a temporary folder");
    let socket = dir.path().join("engine.sock");
    let door = Door::open(&socket, engine.socket());
    let keys = fleet_of(
        &image,
        "echo '{\"longshore\":\"progress\",\"data\":1}'; while ! [ -e /tmp/go ]; do sleep 0.1; done; echo done",
        "",
    );
    let settings = engine
        .settings(&keys)
        .replace(&engine.section(), &format!("[docker]\nhost = \"unix://{}\"\n", socket.display()));
    let plane = Plane::start(&settings).await;
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

/// A socket that leads to the engine's, until it is shut.
struct Door {
    open: Arc<AtomicBool>,
    shut: Arc<Notify>,
}

impl Door {
    fn open(at: &Path, engine: PathBuf) -> Door {
        let listener = UnixListener::bind(at).expect("a free path");
        let (open, shut) = (Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let door = Door { open: open.clone(), shut: shut.clone() };
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (engine, open, shut) = (engine.clone(), open.clone(), shut.clone());
                tokio::spawn(async move {
                    let closed = shut.notified();
                    if !open.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(mut server) = UnixStream::connect(engine).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        () = closed => {}
                    }
                });
            }
        });
        door
    }

    fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.shut.notify_waiters();
    }

    fn reopen(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}
