//! Who connects and says nothing, in numbers beyond what a process may have open, keeps nobody else from being answered.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use longshore_api::files;
use longshore_api::link::{Claim, Register, VERSION, WorkerState};
use longshore_api::link_client::LinkClient;
use longshore_api::tls::Trust;
use longshore_core::id::{FleetName, WorkerId};
use longshore_testkit::Postgres;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use crate::by_hand::ByHand;
use crate::plane::{PATIENCE, Plane, limit_files, shell};

/// What the processes here may have open.
const FILES: (u64, u64) = (128, 300);

/// Connections to each listener.
const FLOOD: usize = 400;

/// How long anybody may wait for an answer meanwhile; with room for a busy machine.
const SOON: Duration = Duration::from_secs(8);

/// How long a request's head may take, as documented.
const HEAD: Duration = Duration::from_secs(10);

/// How long a claim is held, which no other limit may cut short.
const HELD: Duration = Duration::from_secs(30);

/// Opens connections and says less than a request on each.
async fn flood(address: &str, words: &[u8]) -> Vec<TcpStream> {
    let address: SocketAddr = address.rsplit('/').next().expect("a part").parse().expect("an address");
    let mut all = Vec::new();
    for _ in 0..FLOOD {
        let mut stream = timeout(SOON, TcpStream::connect(address)).await.expect("in time").expect("taken");
        // One that had to go already is told so here.
        _ = stream.write_all(words).await;
        all.push(stream);
    }
    all
}

async fn all_are_closed(flood: Vec<TcpStream>) {
    let closed = async {
        for mut stream in flood {
            let mut said = Vec::new();
            _ = stream.read_to_end(&mut said).await;
        }
    };
    timeout(HEAD + SOON, closed).await.expect("what says nothing is closed");
}

async fn answers(url: &str) -> u16 {
    let client = reqwest::Client::builder().timeout(SOON).build().expect("a client");
    client.get(url).send().await.expect("an answer in time").status().as_u16()
}

fn link(plane: &Plane, worker: &str) -> LinkClient {
    let token = std::fs::read_to_string(plane.dir().join(".longshore/tokens/a")).expect("a token");
    let trust: Option<Trust> = plane.addresses.ca.as_ref().map(|ca| ca.parse().expect("as it prints it"));
    LinkClient::new(std::slice::from_ref(&plane.addresses.link), token.trim(), worker, trust.as_ref())
        .expect("a client")
}

fn register(worker: &str) -> Register {
    Register {
        link_version: VERSION,
        worker: WorkerId::new(worker).expect("a name"),
        nonce: Uuid::new_v4(),
        fleet: FleetName::new("a").expect("a name"),
        version: "test".into(),
        pid: None,
        host: None,
        probe_addr: None,
        concurrency: Some(1),
    }
}

async fn check(env: &[(&str, &str)], words: &[u8]) {
    files::raise().expect("this process needs as many itself");
    let plane = Plane::start_limited(&shell("a", "true", "platform = \"external\""), env, FILES).await;
    let (client, me) = (link(&plane, "waits"), register("waits"));
    timeout(SOON, client.register(&me)).await.expect("in time").expect("registered");
    let claim = Claim {
        worker: me.worker.clone(),
        nonce: me.nonce,
        seq: 1,
        max: 1,
        in_flight: 0,
        wait_ms: HELD.as_millis() as u64,
    };
    let held = tokio::spawn(async move {
        let began = Instant::now();
        (client.claim(&claim).await, began.elapsed())
    });
    let mut silent = Vec::new();
    for address in [&plane.addresses.probes, &plane.addresses.api, &plane.addresses.link] {
        silent.extend(flood(address, words).await);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(answers(&format!("{}{path}", plane.addresses.probes)).await, 200, "{path}");
    }
    timeout(SOON, plane.client.about()).await.expect("the API answers in time").expect("it answers");
    let other = link(&plane, "comes");
    timeout(SOON, other.register(&register("comes"))).await.expect("in time").expect("the link answers");
    all_are_closed(silent).await;
    let (claimed, after) = held.await.expect("no panic");
    assert!(claimed.expect("it was held to its end").tasks.is_empty());
    assert!(after >= HELD - Duration::from_secs(1), "{after:?}");
    assert!(!plane.log().contains("cannot be taken"), "there were files for all: {}", plane.log());
}

#[tokio::test]
async fn who_connects_and_dawdles_keeps_a_control_plane_from_answering_nobody() {
    check(&[], b"GET /livez HTTP/1.1\r\nHost: x\r\n").await;
}

#[tokio::test]
async fn the_same_with_tls_and_handshakes_that_never_end() {
    // The beginning of a record that a client's first word would be in.
    check(&[("LONGSHORE__SERVER__TLS", "auto")], &[22, 3, 1, 2, 0, 1]).await;
}

#[tokio::test]
async fn who_dawdles_at_a_workers_probes_keeps_it_neither_from_its_work_nor_from_being_alive() {
    files::raise().expect("this process needs as many itself");
    let plane = Plane::start(&shell("a", "echo done", "platform = \"external\"")).await;
    let worker = ByHand::ready(&plane, "a", |command| limit_files(command, FILES)).await;
    let probes = worker.reaches(&plane, WorkerState::Ready).await.probe_addr.expect("it told its probes");
    let silent = flood(&probes, b"GET /livez HTTP/1.1\r\nHost: x\r\n").await;
    assert_eq!(answers(&format!("http://{probes}/livez")).await, 200);
    assert_eq!(answers(&format!("http://{probes}/readyz")).await, 200);
    let id = plane.submit("a", json!(1)).await;
    assert_eq!(timeout(PATIENCE, plane.result(id)).await.expect("in time"), json!("done"));
    all_are_closed(silent).await;
}

/// Soft and hard, as the system shows them.
fn limits(pid: u32) -> Vec<String> {
    let all = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let line = all.lines().find_map(|line| line.strip_prefix("Max open files")).expect("Linux");
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn longshore_takes_the_files_that_it_can_get_and_agents_get_what_it_was_given() {
    let fleet = shell("a", "ulimit -Sn", "scaling = { min = 1 }");
    let plane = Plane::start_limited(&fleet, &[], FILES).await;
    assert_eq!(limits(plane.pid()), ["300", "300"]);
    let worker = plane.crew(1).await.remove(0);
    assert_eq!(limits(worker.pid.expect("a process")), ["300", "300"]);
    let id = plane.submit("a", json!(1)).await;
    assert_eq!(plane.result(id).await, json!("128"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_says_nothing_makes_no_control_plane_unready() {
    let Some(server) = Postgres::start() else { return };
    let store = format!("[store]\ndatabase = \"{}\"\nconnections = 4\n", server.url());
    let plane = Plane::start(&format!("{store}{}", shell("a", "true", "platform = \"external\""))).await;
    let url = format!("{}/readyz", plane.addresses.probes);
    // As long as a kubelet waits at most, as it is rendered.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().expect("a client");
    let ready = async || {
        let answer = client.get(&url).send().await.expect("an answer in time");
        let status = answer.status().as_u16();
        (status, answer.json::<serde_json::Value>().await.expect("JSON")["checks"]["database"].clone())
    };
    let begun = Instant::now();
    while ready().await != (200, json!("")) {
        assert!(begun.elapsed() < PATIENCE, "ready, with a database that answers");
    }
    server.pause();
    let silent = Instant::now();
    let mut found = json!("");
    while silent.elapsed() < 2 * SOON {
        let (status, database) = ready().await;
        assert_eq!(status, 200, "{database}");
        found = database;
    }
    assert_ne!(found, json!(""), "it says what is wrong");
    server.resume();
    let again = Instant::now();
    while ready().await.1 != json!("") {
        assert!(again.elapsed() < PATIENCE, "the database is back");
    }
}
