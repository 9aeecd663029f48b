//! A large fleet that waits for work: what a task costs must not depend on how many workers are idle.

use std::collections::HashSet;

use longshore_api::link::{self, Claim, Claimed, Register};
use longshore_api::link_client::LinkClient;
use longshore_core::id::{FleetName, WorkerId};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::plane::{Plane, pause, shell};

const IDLE: u64 = 200;

/// What one task may cost beside its own look: those of the waiters that look uncalled every second or two, and of whoever
/// is called for a task that another one got meanwhile.
const SPARE: f64 = 8.0;

/// Registers a worker and holds one claim for it.
async fn poll(client: LinkClient, n: u64) -> Claimed {
    let (worker, nonce) = (WorkerId::new(format!("idle-{n}")).expect("a name"), Uuid::new_v4());
    let register = Register {
        link_version: link::VERSION,
        worker: worker.clone(),
        nonce,
        fleet: FleetName::new("a").expect("a name"),
        version: "test".into(),
        pid: None,
        host: None,
        probe_addr: None,
        concurrency: Some(1),
    };
    client.register(&register).await.expect("registered");
    let claim = Claim { worker, nonce, seq: 1, max: 1, in_flight: 0, wait_ms: 50_000 };
    client.claim(&claim).await.expect("claimed")
}

async fn looks(plane: &Plane) -> f64 {
    plane.metric("longshore_claim_looks_total").await
}

#[tokio::test]
async fn a_task_wakes_one_idle_worker_and_not_all_of_them() {
    let plane = Plane::start(&shell("a", "true", "platform = \"external\"")).await;
    let token = std::fs::read_to_string(plane.dir().join(".longshore/tokens/a")).expect("a token");
    let client = LinkClient::new(std::slice::from_ref(&plane.addresses.link), token.trim(), "idle", None)
        .expect("a client");
    let mut polls: JoinSet<Claimed> = (0..IDLE).map(|n| poll(client.clone(), n)).collect();
    while looks(&plane).await < IDLE as f64 {
        pause().await;
    }
    let before = looks(&plane).await;
    let id = plane.submit("a", json!(1)).await;
    let claimed = polls.join_next().await.expect("a poll").expect("no panic");
    assert_eq!(claimed.tasks.iter().map(|task| task.id).collect::<Vec<_>>(), [id]);
    let cost = looks(&plane).await - before;
    assert!(cost <= 1.0 + SPARE, "{cost} looks for one task");

    let before = looks(&plane).await;
    let ids = plane.submit_many("a", (0..20).map(|n| json!(n))).await;
    let mut taken = HashSet::new();
    while taken.len() < ids.len() {
        let claimed = polls.join_next().await.expect("a poll").expect("no panic");
        taken.extend(claimed.tasks.into_iter().map(|task| task.id));
    }
    assert_eq!(taken, ids.into_iter().collect());
    let cost = looks(&plane).await - before;
    assert!(cost <= 20.0 + SPARE, "{cost} looks for 20 tasks");
}
