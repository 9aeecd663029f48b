//! Drains: by signal, by order, with patience and without.

use std::time::{Duration, Instant};

use longshore_api::link;
use longshore_core::fleet::{DrainMode, Protocol};
use longshore_core::id::Held;
use nix::sys::signal::Signal;

use super::control_plane::{ControlPlane, Instead, registered};
use super::scene::{Scene, eventually, get, task, words};
use super::worker::lives;

/// Says that it runs, and goes on until `go` is there.
const WAITS: &str = r#"echo $$ > "$1/pid"; echo '{"longshore":"progress","data":1}'
    while [ ! -e "$1/go" ]; do sleep 0.02; done; echo done"#;

async fn busy(script: &str, drain_timeout_ms: u64, kill_grace_ms: u64) -> (Scene, Held) {
    let mut with = registered(Protocol::Exec, 1);
    (with.drain_timeout_ms, with.kill_grace_ms) = (drain_timeout_ms, kill_grace_ms);
    let scene = Scene::shell_with(with, script).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    (scene, held)
}

#[tokio::test]
async fn an_idle_worker_drains_at_once_and_says_goodbye() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut scene = Scene::shell("true").await;
        scene.run("null").await;
        let began = Instant::now();
        scene.worker.signal(signal);
        assert_eq!(scene.worker.code().await, 0);
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        assert_eq!(scene.plane.record().deregistered, 1);
        let left = std::fs::read_dir(scene.folder.path().join("run")).expect("there").count();
        assert_eq!(left, 0, "temporary folders are left");
    }
}

#[tokio::test]
async fn a_draining_worker_is_not_ready_claims_nothing_and_finishes_its_task() {
    let (mut scene, held) = busy(WAITS, 60_000, 1000).await;
    let addr = scene.plane.probe_addr().await;
    scene.worker.signal(Signal::SIGTERM);
    let body =
        eventually("unreadiness", || get(addr, "/readyz").filter(|(status, _)| *status == 503)).await.1;
    assert!(body.contains("takes no more tasks"), "{body}");
    let next = scene.submit("null");
    eventually("the news", || {
        let record = scene.plane.record();
        record
            .heartbeats
            .iter()
            .any(|heartbeat| heartbeat.condition.state.as_str() == "draining")
            .then_some(())
    })
    .await;
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "done""#);
    assert_eq!(scene.worker.code().await, 0);
    let record = scene.plane.record();
    assert!(!record.heartbeats.iter().any(|heartbeat| heartbeat.held.contains(&next)));
}

#[tokio::test]
async fn what_does_not_end_in_time_is_handed_over_within_the_time_out() {
    // Ignores SIGTERM, so it takes the whole grace as well.
    let script = format!("trap '' TERM; {WAITS}");
    let (mut scene, held) = busy(&script, 14_000, 1000).await;
    let pid = scene.number("pid").await;
    let began = Instant::now();
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(14), "{took:?}");
    assert_eq!(scene.plane.record().released, [held]);
    assert!(!lives(pid));
}

#[tokio::test]
async fn a_drain_shorter_than_the_grace_still_ends_in_time() {
    let script = format!("trap '' TERM; {WAITS}");
    let (mut scene, held) = busy(&script, 3000, 30_000).await;
    let began = Instant::now();
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(scene.plane.record().released, [held]);
}

#[tokio::test]
async fn a_second_signal_hands_over_at_once() {
    let (mut scene, held) = busy(WAITS, 60_000, 1000).await;
    let addr = scene.plane.probe_addr().await;
    scene.worker.signal(Signal::SIGTERM);
    eventually("unreadiness", || get(addr, "/readyz").filter(|(status, _)| *status == 503)).await;
    assert!(scene.plane.record().released.is_empty());
    let began = Instant::now();
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(scene.plane.record().released, [held]);
}

#[tokio::test]
async fn an_order_to_hand_over_does_not_wait() {
    let (mut scene, held) = busy(WAITS, 60_000, 1000).await;
    scene.plane.order_drain(DrainMode::Handover, 60_000);
    assert_eq!(scene.worker.code().await, 0);
    assert_eq!(scene.plane.record().released, [held]);
}

#[tokio::test]
async fn an_order_to_wait_waits_and_one_to_hand_over_after_it_does_not() {
    let (mut scene, held) = busy(WAITS, 60_000, 1000).await;
    let addr = scene.plane.probe_addr().await;
    scene.plane.order_drain(DrainMode::Wait, 60_000);
    eventually("unreadiness", || get(addr, "/readyz").filter(|(status, _)| *status == 503)).await;
    assert!(scene.plane.record().released.is_empty());
    scene.plane.order_drain(DrainMode::Handover, 60_000);
    assert_eq!(scene.worker.code().await, 0);
    assert_eq!(scene.plane.record().released, [held]);
}

#[tokio::test]
async fn what_a_lost_claim_brought_is_handed_over() {
    let mut with = registered(Protocol::Exec, 1);
    with.drain_mode = DrainMode::Handover;
    let plane = ControlPlane::start(with).await;
    plane.instead(link::CLAIM, [Instead::Lost]);
    let held = plane.submit(task("null"));
    let mut scene = Scene::with(plane, |_| vec!["sleep".into(), "300".into()], |_| {});
    eventually("a claim", || (!scene.plane.record().claims.is_empty()).then_some(())).await;
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    let record = scene.plane.record();
    assert_eq!(record.released, [held]);
    assert!(record.claims.iter().all(|claim| claim.seq == 1), "{:?}", record.claims);
}

#[tokio::test]
async fn results_that_cannot_be_delivered_are_said_so() {
    let (mut scene, _) = busy(WAITS, 3000, 500).await;
    scene.plane.instead(link::COMPLETE, (0..1000).map(|_| Instead::Problem(503, "away", "away".into())));
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    let told = || scene.plane.record().asked.iter().any(|(_, path)| path.contains(link::COMPLETE));
    eventually("an ending that is refused", || told().then_some(())).await;
    let began = Instant::now();
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 1);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(scene.worker.log().contains("1 endings could not be delivered"), "{}", scene.worker.log());
}

#[tokio::test]
async fn a_worker_that_stays_is_not_ready_once_it_has_drained_and_ends_by_a_signal() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let command = |_: &str| ["sh", "-c", "true"].map(str::to_owned).to_vec();
    let mut scene = Scene::with(plane, command, |config| config.stays_ms = Some(600_000));
    scene.run("null").await;
    let addr = scene.plane.probe_addr().await;
    scene.plane.order_drain(DrainMode::Wait, 60_000);
    eventually("its goodbye", || (scene.plane.record().deregistered == 1).then_some(())).await;
    assert_eq!(get(addr, "/readyz").map(|(status, _)| status), Some(503));
    assert_eq!(get(addr, "/livez").map(|(status, _)| status), Some(200), "it is not to be replaced");
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
}

#[tokio::test]
async fn a_worker_that_stays_and_that_nobody_removes_ends_to_be_started_again() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let command = |_: &str| ["sh", "-c", "true"].map(str::to_owned).to_vec();
    let mut scene = Scene::with(plane, command, |config| config.stays_ms = Some(1500));
    scene.run("null").await;
    let began = Instant::now();
    scene.plane.order_drain(DrainMode::Wait, 60_000);
    assert_eq!(scene.worker.code().await, 0);
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(scene.plane.record().deregistered, 1);
}

#[tokio::test]
async fn a_worker_that_stays_and_is_signalled_while_it_drains_finishes_first() {
    for hurried in [false, true] {
        let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
        let command = |folder: &str| ["sh", "-c", WAITS, "agent", folder].map(str::to_owned).to_vec();
        let mut scene = Scene::with(plane, command, |config| config.stays_ms = Some(600_000));
        let held = scene.submit("null");
        scene.plane.said(held).await;
        scene.plane.order_drain(DrainMode::Wait, 60_000);
        let addr = scene.plane.probe_addr().await;
        eventually("unreadiness", || get(addr, "/readyz").filter(|(status, _)| *status == 503)).await;
        scene.worker.signal(Signal::SIGTERM);
        let told = "what runs has until the drain's end";
        eventually("its word", || scene.worker.log().contains(told).then_some(())).await;
        match hurried {
            true => {
                scene.worker.signal(Signal::SIGTERM);
                assert_eq!(scene.worker.code().await, 0);
                assert_eq!(scene.plane.record().released, [held]);
            }
            false => {
                std::fs::write(scene.folder.path().join("go"), "").expect("written");
                assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "done""#);
                assert_eq!(scene.worker.code().await, 0);
            }
        }
    }
}
