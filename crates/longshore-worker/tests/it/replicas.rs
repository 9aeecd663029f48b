//! Several replicas of the control plane, one of which goes away: the worker goes on at another, and its agent sees nothing.

use longshore_api::link::{self, ProviderSeen, Registered};
use longshore_core::fleet::Protocol;
use longshore_core::id::Held;

use super::control_plane::{ControlPlane, Instead, registered};
use super::gateway::{Asked, Part, Scripted, data, end, head};
use super::scene::{Scene, eventually, task, words};

struct Replicas {
    scene: Scene,
    other: ControlPlane,
}

const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream")];

/// Says that it began, asks an LLM or waits, and says what it got.
const AGENT: &str = r#"
import http.client, json, os, sys, time, urllib.parse
url = urllib.parse.urlparse(os.environ["LONGSHORE_URL"])
def say(kind, data): print(json.dumps({"longshore": kind, "data": data}), flush=True)
what = json.load(sys.stdin)["task"]["input"]
say("progress", "began")
if what == "wait":
    while not os.path.exists(sys.argv[1] + "/go"): time.sleep(0.01)
if what == "ask":
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
    key = os.environ["LONGSHORE_TASK_TOKEN"]
    connection.request("POST", "/llm/openai/v1/chat/completions", "{}", {"authorization": "Bearer " + key})
    answer = connection.getresponse()
    first = answer.read(1).decode()
    say("progress", first)
    what = first + answer.read().decode()
say("result", what)
"#;

fn with_a_provider() -> Registered {
    let providers = vec![ProviderSeen { name: "openai".into(), kind: "openai".into() }];
    Registered { providers, ..registered(Protocol::Exec, 1) }
}

impl Replicas {
    /// A worker that knows both replicas, or only the first.
    async fn start(both: bool) -> Replicas {
        let plane = ControlPlane::start(with_a_provider()).await;
        let other = plane.replica();
        let links = if both { vec![plane.url(), other.url()] } else { vec![plane.url()] };
        let command = |folder: &str| ["python3", "-u", "-c", AGENT, folder].map(str::to_owned).to_vec();
        let scene = Scene::with(plane, command, |config| config.links = links);
        Replicas { scene, other }
    }

    /// Waits until the worker has asked for this, for the `times`-th time; returns the replica that it asked then.
    async fn asked(&self, path: &str, times: usize) -> &ControlPlane {
        let addr = eventually(path, || {
            let record = self.scene.plane.record();
            record.asked.iter().filter(|(_, asked)| asked == path).nth(times - 1).map(|(addr, _)| *addr)
        });
        let addr = addr.await;
        if self.other.addr == addr { &self.other } else { &self.scene.plane }
    }

    /// Both polls are out: all that an idle worker does.
    async fn idle(&self) -> &ControlPlane {
        eventually("a held heartbeat and a held claim", || {
            let record = self.scene.plane.record();
            let held = record.heartbeats.last().is_some_and(|heartbeat| heartbeat.wait_ms > 0);
            (held && !record.claims.is_empty()).then_some(())
        })
        .await;
        self.asked(link::CLAIM, 1).await
    }

    fn submit(&self, what: &str) -> Held {
        self.scene.plane.submit(task(&format!("{what:?}")))
    }

    async fn ending(&self, held: Held) -> String {
        words(&self.scene.plane.ending(held).await)
    }

    fn go(&self) {
        std::fs::write(self.scene.folder.path().join("go"), "").expect("written");
    }

    fn calls(&self) -> Vec<Asked> {
        self.scene.plane.record().gateway.asked.clone()
    }

    /// Nothing that happened was worth a warning.
    fn check_quiet(&self) {
        let loud = |line: &serde_json::Value| line["level"] == "WARN" || line["level"] == "ERROR";
        let loud: Vec<_> = self.scene.log().into_iter().filter(loud).collect();
        assert!(loud.is_empty(), "{loud:#?}");
    }

    /// The worker asks `now` and nobody else, and is the same to it.
    async fn check_went_on_at(&self, now: &ControlPlane) {
        {
            let record = self.scene.plane.record();
            assert_eq!(record.asked.last().map(|(addr, _)| *addr), Some(now.addr));
            assert_eq!(record.registers.len(), 1, "its leases are in the store");
        }
        let said = || self.scene.worker.log().contains("control plane answers at another address");
        eventually("word of it", || said().then_some(())).await;
    }

    /// Heartbeats are told of these replicas; returns when the worker has heard it.
    async fn tell(&self, links: Vec<String>) {
        let seen = {
            let mut record = self.scene.plane.record();
            record.links = links;
            record.heartbeats.len()
        };
        // The first of the next two may be sent before, the second is sent after an answer that says so was read.
        for more in 1..=2 {
            self.scene.plane.poke();
            let sent = || self.scene.plane.record().heartbeats.len() >= seen + more;
            eventually("a heartbeat", || sent().then_some(())).await;
        }
    }

    /// Heartbeats are told that these, and only these, take LLM calls.
    async fn tell_of_gateways(&self, gateways: Option<Vec<String>>) {
        self.scene.plane.record().gateways = gateways;
        self.tell(Vec::new()).await;
    }

    /// Has the agent make a call; returns who was asked for it.
    async fn call(&self) -> Vec<std::net::SocketAddr> {
        self.scene.plane.record().asked.clear();
        let answer = Scripted::Frames(vec![head(200, EVENTS, false), data("hello"), end()]);
        self.scene.plane.record().gateway.plan([answer]);
        let held = self.submit("ask");
        assert_eq!(self.ending(held).await, r#"succeeded "hello""#);
        let record = self.scene.plane.record();
        let calls = record.asked.iter().filter(|(_, path)| path.starts_with("/llm/"));
        calls.map(|(addr, _)| *addr).collect()
    }

    fn beside(&self, one: &ControlPlane) -> &ControlPlane {
        if one.addr == self.other.addr { &self.scene.plane } else { &self.other }
    }
}

#[tokio::test]
async fn polls_that_break_off_go_on_at_another_replica() {
    let replicas = Replicas::start(true).await;
    let first = replicas.idle().await;
    let heartbeats = replicas.scene.plane.record().heartbeats.len();
    first.stop();
    let held = replicas.submit("done");
    assert_eq!(replicas.ending(held).await, r#"succeeded "done""#);
    let second = replicas.beside(first);
    replicas.check_went_on_at(second).await;
    {
        let record = replicas.scene.plane.record();
        assert!(record.claims[..2].iter().all(|claim| claim.seq == 1), "the same claim, once more");
        let (before, after) = (&record.heartbeats[0], &record.heartbeats[heartbeats]);
        assert_eq!((before.nonce, &before.worker), (after.nonce, &after.worker));
    }
    replicas.check_quiet();
    // It stays where it is, though the first is there again.
    first.start_again().await;
    let held = replicas.submit("done");
    replicas.ending(held).await;
    replicas.check_went_on_at(second).await;
}

#[tokio::test]
async fn a_heartbeat_that_breaks_off_renews_what_is_held_at_another_replica() {
    let replicas = Replicas::start(true).await;
    let held = replicas.submit("wait");
    replicas.scene.plane.said(held).await;
    let first = replicas.asked(link::CLAIM, 1).await;
    eventually("a held heartbeat that lists it", || {
        let record = replicas.scene.plane.record();
        record.heartbeats.last().filter(|it| it.wait_ms > 0 && it.held.contains(&held)).map(drop)
    })
    .await;
    let before = replicas.scene.plane.record().heartbeats.len();
    first.stop();
    eventually("one at the other", || {
        let record = replicas.scene.plane.record();
        record.heartbeats.get(before).filter(|it| it.held.contains(&held)).map(drop)
    })
    .await;
    replicas.go();
    assert_eq!(replicas.ending(held).await, r#"succeeded "wait""#);
    replicas.check_went_on_at(replicas.beside(first)).await;
    replicas.check_quiet();
}

#[tokio::test]
async fn an_ending_whose_answer_breaks_off_is_reported_to_another_replica() {
    let replicas = Replicas::start(true).await;
    replicas.scene.plane.instead(link::COMPLETE, [Instead::Hang]);
    let held = replicas.submit("done");
    let first = replicas.asked(link::COMPLETE, 1).await;
    // Written, but not acknowledged.
    assert_eq!(replicas.ending(held).await, r#"succeeded "done""#);
    first.stop();
    let second = replicas.asked(link::COMPLETE, 2).await;
    assert_ne!(first.addr, second.addr);
    let next = replicas.submit("next");
    assert_eq!(replicas.ending(next).await, r#"succeeded "next""#);
    let record = replicas.scene.plane.record();
    let reports: Vec<Held> = record.endings.iter().map(|(held, _)| *held).collect();
    assert_eq!(reports, [held, held, next]);
    drop(record);
    replicas.check_quiet();
}

/// An answer is under way when its replica is killed; returns what became of the attempt.
async fn check_stream(begun: Vec<Part>, seen: bool, again: Vec<Part>) -> String {
    let replicas = Replicas::start(true).await;
    let scripts = [begun, again].map(Scripted::Frames);
    replicas.scene.plane.record().gateway.plan(scripts);
    let held = replicas.submit("ask");
    let first = replicas.asked("/llm/openai/v1/chat/completions", 1).await;
    // What it says first is that it began.
    let events = if seen { 2 } else { 1 };
    eventually("its events", || (replicas.scene.plane.record().events.len() == events).then_some(())).await;
    first.stop();
    let outcome = replicas.ending(held).await;
    let calls = replicas.calls();
    assert_eq!((calls.len(), calls[0].call()), (2, calls[1].call()));
    replicas.check_went_on_at(replicas.beside(first)).await;
    outcome
}

#[tokio::test]
async fn a_call_whose_replica_dies_before_its_answer_is_joined_at_another() {
    let answer = || vec![head(200, EVENTS, false), data("hello"), end()];
    assert_eq!(check_stream(vec![Part::Silence], false, answer()).await, r#"succeeded "hello""#);
    // The head is there, and no byte of the body: nothing that could be half of another answer.
    let begun = vec![head(200, EVENTS, false), Part::Silence];
    assert_eq!(check_stream(begun, false, answer()).await, r#"succeeded "hello""#);
}

#[tokio::test]
async fn a_stream_whose_replica_dies_goes_on_from_the_stored_answer_and_from_no_other() {
    let begun = || vec![head(200, EVENTS, false), data("h"), Part::Silence];
    let again = |stored| vec![head(200, EVENTS, stored), data("hello"), end()];
    assert_eq!(check_stream(begun(), true, again(true)).await, r#"succeeded "hello""#);
    assert_eq!(check_stream(begun(), true, again(false)).await, "interrupted CallBroken");
}

#[tokio::test]
async fn a_replica_that_stops_is_left_without_a_word() {
    let replicas = Replicas::start(true).await;
    let stopping = || Instead::Problem(503, "stopping", "this control plane is stopping".into());
    replicas.scene.plane.instead(link::CLAIM, [stopping()]);
    replicas.scene.plane.instead(link::COMPLETE, [stopping()]);
    let held = replicas.submit("done");
    assert_eq!(replicas.ending(held).await, r#"succeeded "done""#);
    assert_ne!(replicas.asked(link::CLAIM, 1).await.addr, replicas.asked(link::CLAIM, 2).await.addr);
    assert_ne!(replicas.asked(link::COMPLETE, 1).await.addr, replicas.asked(link::COMPLETE, 2).await.addr);
    replicas.check_quiet();
}

#[tokio::test]
async fn a_worker_learns_of_replicas_that_it_was_not_told_of_at_its_start() {
    let replicas = Replicas::start(false).await;
    let first = replicas.idle().await;
    replicas.tell(vec![replicas.other.url()]).await;
    let held = replicas.submit("done");
    replicas.ending(held).await;
    let last = replicas.scene.plane.record().asked.last().map(|(addr, _)| *addr);
    assert_eq!(last, Some(first.addr), "it stays with the one that works");
    first.stop();
    let held = replicas.submit("done");
    assert_eq!(replicas.ending(held).await, r#"succeeded "done""#);
    replicas.check_went_on_at(&replicas.other).await;
    replicas.check_quiet();
    // At what is in the list now nobody listens: what was given is the way back.
    replicas.tell(vec!["http://127.0.0.1:1".into()]).await;
    first.start_again().await;
    replicas.other.stop();
    let held = replicas.submit("again");
    assert_eq!(replicas.ending(held).await, r#"succeeded "again""#);
    replicas.check_went_on_at(first).await;
    replicas.check_quiet();
}

#[tokio::test]
async fn calls_go_to_gateways_where_these_run_apart_and_all_else_to_links() {
    let replicas = Replicas::start(false).await;
    let (link, gateway) = (replicas.scene.plane.addr, replicas.other.addr);
    assert_eq!(replicas.call().await, [link], "nothing was said of gateways");
    replicas.tell_of_gateways(Some(vec![replicas.other.url()])).await;
    assert_eq!(replicas.call().await, [gateway]);
    {
        let record = replicas.scene.plane.record();
        let others =
            record.asked.iter().filter(|(addr, path)| *addr == gateway && !path.starts_with("/llm/"));
        assert_eq!(others.count(), 0, "{:?}", record.asked);
    }
    // None lives: where they were is where they may come back.
    replicas.tell_of_gateways(Some(Vec::new())).await;
    assert_eq!(replicas.call().await, [gateway]);
    replicas.tell_of_gateways(None).await;
    assert_eq!(replicas.call().await, [link]);
    replicas.check_quiet();
}

#[tokio::test]
async fn a_replica_that_does_not_serve_what_it_is_asked_for_is_left_for_the_next() {
    let replicas = Replicas::start(true).await;
    let elsewhere = || Instead::Problem(421, "role_not_here", "this replica does not have that role".into());
    let path = "/llm/openai/v1/chat/completions";
    replicas.scene.plane.instead(path, [elsewhere()]);
    replicas.scene.plane.instead(link::COMPLETE, [elsewhere()]);
    let asked = replicas.call().await;
    assert!(asked.len() == 2 && asked[0] != asked[1], "{asked:?}");
    assert_ne!(replicas.asked(link::COMPLETE, 1).await.addr, replicas.asked(link::COMPLETE, 2).await.addr);
    replicas.check_quiet();
}

/// What an agent is told meanwhile is its own business; that all of its calls go astray is not.
#[tokio::test]
async fn calls_over_a_connection_that_leads_elsewhere_are_followed_by_calls_over_a_new_one() {
    let replicas = Replicas::start(false).await;
    replicas.call().await;
    replicas.scene.plane.mislead_all();
    let answer = || Scripted::Frames(vec![head(200, EVENTS, false), data("hello"), end()]);
    replicas.scene.plane.record().gateway.plan([answer()]);
    let mut said = Vec::new();
    for _ in 0..3 {
        let held = replicas.submit("ask");
        said.push(replicas.ending(held).await);
    }
    assert_eq!(said.last().map(String::as_str), Some(r#"succeeded "hello""#), "{said:?}");
}
