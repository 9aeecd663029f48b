//! The worker link when it is disturbed: lost answers, restarts, refusals, pauses.

use std::time::Duration;

use longshore_api::link::{self, Outcome};
use longshore_core::fleet::Protocol;
use nix::sys::signal::Signal;

use super::control_plane::{ControlPlane, Instead, registered};
use super::scene::{Scene, eventually, words};
use super::worker::lives;

fn problem(status: u16, code: &'static str) -> Instead {
    Instead::Problem(status, code, code.into())
}

fn shell(script: &str) -> impl FnOnce(&str) -> Vec<String> {
    move |folder: &str| ["sh", "-c", script, "agent", folder].map(str::to_owned).to_vec()
}

const WAITS: &str = r#"echo $$ > "$1/pid"; echo '{"longshore":"progress","data":1}'
    while [ ! -e "$1/go" ]; do sleep 0.02; done; echo done"#;

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_repeated_under_the_same_number() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    plane.instead(link::CLAIM, [Instead::Lost, problem(503, "away")]);
    let held = plane.submit(super::scene::task("null"));
    let scene = Scene::with(plane, shell("echo done"), |_| {});
    assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "done""#);
    let next = scene.submit("null");
    assert_eq!(words(&scene.plane.ending(next).await), r#"succeeded "done""#);
    let numbers: Vec<u64> = scene.plane.record().claims.iter().map(|claim| claim.seq).collect();
    assert_eq!(numbers[..3], [1, 1, 2], "{numbers:?}");
}

#[tokio::test]
async fn a_number_that_is_out_of_order_is_replaced_by_the_newest() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let detail = "claim 1 is out of order: the newest is 41".to_owned();
    plane.instead(link::CLAIM, [Instead::Problem(409, "claim_out_of_order", detail)]);
    let scene = Scene::with(plane, shell("echo done"), |_| {});
    scene.run("null").await;
    assert_eq!(scene.plane.record().claims[0].seq, 42);
}

#[tokio::test]
async fn a_worker_that_is_unknown_registers_again_with_the_same_nonce() {
    let scene = Scene::shell(WAITS).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    // Several times: who has registered a moment ago asks again before believing it.
    scene.plane.instead(link::HEARTBEAT, (0..8).map(|_| problem(404, "unknown_worker")));
    scene.plane.poke();
    eventually("another registration", || (scene.plane.record().registers.len() >= 2).then_some(())).await;
    {
        let record = scene.plane.record();
        assert_eq!(record.registers[0].nonce, record.registers[1].nonce);
    }
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    assert_eq!(words(&scene.plane.ending(held).await), r#"succeeded "done""#);
}

#[tokio::test]
async fn a_worker_that_was_started_anew_elsewhere_stops_its_agents_and_ends() {
    let mut scene = Scene::shell(WAITS).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    let pid = scene.number("pid").await;
    scene.plane.instead(link::HEARTBEAT, [problem(409, "stale_nonce")]);
    scene.plane.poke();
    assert_eq!(scene.worker.code().await, 1);
    assert!(!lives(pid));
    assert!(
        scene.worker.log().contains("another process was started as this worker"),
        "{}",
        scene.worker.log()
    );
    assert!(scene.plane.record().endings.is_empty());
}

/// What a worker says and returns that is refused when it registers.
async fn check_refused(answer: Instead, code: i32, says: &str) {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    plane.instead(link::REGISTER, [answer]);
    let mut scene = Scene::with(plane, shell("true"), |_| {});
    assert_eq!(scene.worker.code().await, code);
    assert!(scene.worker.log().contains(says), "{}", scene.worker.log());
}

#[tokio::test]
async fn what_waiting_cannot_mend_ends_the_worker_at_its_start() {
    check_refused(
        problem(401, "bad_worker_token"),
        5,
        "does not accept this worker's token for fleet `test`",
    )
    .await;
    check_refused(problem(404, "unknown_fleet"), 1, "knows no fleet `test`").await;
    check_refused(problem(426, "link_version"), 1, "versions that do not go together").await;
}

#[tokio::test]
async fn a_control_plane_that_is_away_is_waited_for() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    plane.instead(link::REGISTER, [problem(503, "starting"), problem(503, "starting")]);
    let scene = Scene::with(plane, shell("echo done"), |_| {});
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
}

/// A Service that leads elsewhere until the control plane is behind it, and keeps what is connected where it led.
#[tokio::test]
async fn a_connection_to_somebody_else_is_not_kept_to_when_a_new_one_leads_to_the_control_plane() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    plane.mislead(true);
    let scene = Scene::with(plane, shell("echo done"), |_| {});
    eventually("two requests", || (scene.plane.record().asked_elsewhere >= 2).then_some(())).await;
    scene.plane.mislead(false);
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
    assert!(scene.worker.log().contains("not a control plane's: status 404"), "{}", scene.worker.log());
}

#[tokio::test]
async fn connections_that_do_not_lead_to_the_control_plane_any_more_are_left_for_new_ones() {
    let scene = Scene::shell("echo done").await;
    scene.run("null").await;
    scene.plane.mislead_all();
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
    let told = scene.plane.record().heartbeats.len();
    eventually("a heartbeat", || (scene.plane.record().heartbeats.len() > told + 1).then_some(())).await;
    assert_eq!(scene.plane.record().registers.len(), 1, "its leases are in the store");
}

#[tokio::test]
async fn each_reason_for_which_no_control_plane_answers_is_said_once() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let away = || problem(503, "away");
    plane.instead(link::REGISTER, [away(), problem(503, "starting"), away()]);
    let scene = Scene::with(plane, shell("echo done"), |_| {});
    scene.run("null").await;
    let warned = scene.log().into_iter().filter(|line| line["level"] == "WARN");
    let reasons: Vec<_> = warned.map(|line| line["error"].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(reasons, ["away", "starting"]);
}

#[tokio::test]
async fn of_several_addresses_one_that_answers_is_found() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let url = plane.url();
    let scene = Scene::with(plane, shell("echo done"), |config| {
        // Nobody listens on port 1.
        config.links = vec!["http://127.0.0.1:1".into(), url];
    });
    assert_eq!(words(&scene.run("null").await), r#"succeeded "done""#);
}

#[tokio::test]
async fn a_result_is_kept_until_it_is_acknowledged() {
    let scene = Scene::shell("echo done").await;
    scene.plane.instead(link::COMPLETE, [problem(503, "away"), Instead::Lost, problem(503, "away")]);
    let held = scene.submit("null");
    eventually("its repetition", || (scene.plane.record().endings.len() == 2).then_some(())).await;
    let record = scene.plane.record();
    assert!(record.endings.iter().all(|(ended, _)| *ended == held));
    let listed = |heartbeat: &&link::Heartbeat| heartbeat.held.contains(&held);
    assert!(record.heartbeats.iter().any(|heartbeat| listed(&heartbeat)));
}

#[tokio::test]
async fn a_result_that_the_control_plane_will_not_have_fails_the_attempt() {
    let scene = Scene::shell("echo done").await;
    scene.plane.instead(link::COMPLETE, [problem(413, "too_large")]);
    let outcome = scene.run("null").await;
    assert!(
        matches!(&outcome, Outcome::Failed(failure) if failure.code == "result_refused"),
        "{}",
        words(&outcome)
    );
}

#[tokio::test]
async fn a_worker_that_slept_takes_refusals_calmly() {
    let mut scene = Scene::shell(WAITS).await;
    let held = scene.submit("null");
    scene.plane.said(held).await;
    scene.worker.signal(Signal::SIGSTOP);
    // Meanwhile its lease ran out and the task went elsewhere.
    scene.plane.record().refuse_endings = true;
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    scene.worker.signal(Signal::SIGCONT);
    eventually("the refusal", || scene.worker.log().contains("ending refused").then_some(())).await;
    scene.plane.record().refuse_endings = false;
    let next = scene.submit("null");
    assert_eq!(words(&scene.plane.ending(next).await), r#"succeeded "done""#);
    scene.worker.signal(Signal::SIGTERM);
    assert_eq!(scene.worker.code().await, 0);
    assert!(!scene.plane.record().endings.iter().any(|(ended, _)| *ended == held));
}

#[tokio::test]
async fn a_worker_that_is_cut_off_stops_its_agents_and_ends() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let mut scene = Scene::with(plane, shell(WAITS), |config| config.cut_off_ms = 1500);
    let held = scene.submit("null");
    scene.plane.said(held).await;
    let pid = scene.number("pid").await;
    for path in [link::HEARTBEAT, link::CLAIM, link::COMPLETE] {
        scene.plane.instead(path, (0..1000).map(|_| problem(503, "away")));
    }
    scene.plane.poke();
    assert_eq!(scene.worker.code().await, 1);
    assert!(!lives(pid));
    assert!(scene.worker.log().contains("no answer from the control plane"), "{}", scene.worker.log());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound");
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let mut scene = Scene::with(plane, shell("true"), |config| config.probe_addr = addr);
    assert_eq!(scene.worker.code().await, 1);
    let log = scene.worker.log();
    assert!(
        log.contains(&format!("could not listen for probes on {addr}: another program listens there")),
        "{log}"
    );
}

#[tokio::test]
async fn an_address_that_is_none_is_refused() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 1)).await;
    let mut scene = Scene::with(plane, shell("true"), |config| config.links = vec!["localhost:7118".into()]);
    assert_eq!(scene.worker.code().await, 1);
    assert!(scene.worker.exit().await.code() == Some(1));
    assert!(scene.worker.log().contains("could not set up the link"), "{}", scene.worker.log());
}

#[tokio::test]
async fn a_heartbeat_is_sent_at_once_when_there_is_news_and_held_otherwise() {
    let scene = Scene::shell("true").await;
    scene.run("null").await;
    let held = Duration::from_millis(4000).as_millis() as u64;
    eventually("a held heartbeat", || {
        scene.plane.record().heartbeats.last().filter(|heartbeat| heartbeat.wait_ms == held).map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_runs_dry_says_so_although_a_claim_is_out() {
    let plane = ControlPlane::start(registered(Protocol::Exec, 2)).await;
    let scene = Scene::with(plane, shell(WAITS), |_| {});
    let held = scene.submit("null");
    scene.plane.said(held).await;
    let newest = || scene.plane.record().claims.last().map(|claim| (claim.seq, claim.in_flight));
    eventually("a claim beside the task", || (newest() == Some((2, 1))).then_some(())).await;
    std::fs::write(scene.folder.path().join("go"), "").expect("written");
    // The fake holds a claim as long as it is asked to: what must run alone would wait for just as long.
    eventually("the same claim, of an idle worker", || (newest() == Some((2, 0))).then_some(())).await;
    let next = scene.submit("null");
    assert_eq!(words(&scene.plane.ending(next).await), r#"succeeded "done""#);
}
