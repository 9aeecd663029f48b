//! Webhooks against a real control plane and a real receiver on a loopback port.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longshore_api::task::Task;
use longshore_api::webhook::Delivery;
use longshore_core::id::TaskId;
use longshore_core::time::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::plane::{PATIENCE, Plane, is_logged, pause, shell};
use crate::room::{Room, Stage, on_both_stores};
use crate::run::{Ran, command, ran};

const KEY: [u8; 32] = [7; 32];
const OLD_KEY: [u8; 24] = [9; 24];

fn secret(key: &[u8]) -> String {
    format!("whsec_{}", STANDARD.encode(key))
}

/// A message as it arrived.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    timestamp: String,
    signatures: Vec<String>,
    kind: String,
    body: Bytes,
}

/// A message's body as a receiver reads it.
#[derive(serde::Deserialize)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    timestamp: Timestamp,
    data: Task,
}

impl Got {
    fn message(&self) -> Message {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// HMAC-SHA256 by its definition, so that a mistake of the library would be seen.
    fn is_signed_with(&self, key: &[u8]) -> bool {
        let mut block = [0; 64];
        block[..key.len()].copy_from_slice(key);
        let padded = |pad: u8| block.map(|byte| byte ^ pad);
        let text = [format!("{}.{}.", self.id, self.timestamp).as_bytes(), &self.body].concat();
        let inner = Sha256::digest([&padded(0x36)[..], &text].concat());
        let outer = Sha256::digest([&padded(0x5c)[..], &inner].concat());
        self.signatures.contains(&format!("v1,{}", STANDARD.encode(outer)))
    }
}

#[derive(Clone, Debug)]
enum Reply {
    Status(u16),
    Redirect(String),
    /// 200, after so many seconds.
    Late(u64),
    /// Never.
    Hold,
}

#[derive(Clone, Default)]
struct Seen {
    got: Arc<Mutex<Vec<Got>>>,
    /// What is answered next; then 200, or what `always` says.
    replies: Arc<Mutex<VecDeque<Reply>>>,
    always: Arc<Mutex<Option<Reply>>>,
}

/// Somebody who is told. Stops with the test's runtime.
struct Receiver {
    port: u16,
    seen: Seen,
}

impl Receiver {
    async fn start() -> Receiver {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let (port, seen) = (listener.local_addr().expect("bound").port(), Seen::default());
        let router = Router::new().fallback(receive).with_state(seen.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Receiver { port, seen }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?token=hunter2", self.port)
    }

    fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.seen.replies.lock().expect("no panic").extend(replies);
    }

    fn always(&self, reply: Reply) {
        *self.seen.always.lock().expect("no panic") = Some(reply);
    }

    fn got(&self) -> Vec<Got> {
        self.seen.got.lock().expect("no panic").clone()
    }

    async fn got_at_least(&self, count: usize, plane: &Plane) -> Vec<Got> {
        let end = Instant::now() + PATIENCE;
        loop {
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            assert!(Instant::now() < end, "{} of {count} messages\n{}", got.len(), plane.log());
            pause().await;
        }
    }
}

async fn receive(State(seen): State<Seen>, headers: HeaderMap, body: Bytes) -> Response {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let signatures = header("webhook-signature").split(' ').map(str::to_owned).collect();
    let got = Got {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signatures,
        kind: header("content-type"),
        body,
    };
    seen.got.lock().expect("no panic").push(got);
    let next = seen.replies.lock().expect("no panic").pop_front();
    let reply = next.or_else(|| seen.always.lock().expect("no panic").clone());
    match reply.unwrap_or(Reply::Status(200)) {
        Reply::Status(code) => {
            (axum::http::StatusCode::from_u16(code).expect("valid"), "because").into_response()
        }
        Reply::Redirect(to) => {
            (axum::http::StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()
        }
        Reply::Late(seconds) => {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            axum::http::StatusCode::OK.into_response()
        }
        Reply::Hold => std::future::pending().await,
    }
}

const FLEET: &str = "[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n";

fn webhook(name: &str, url: &str, more: &str) -> String {
    format!("[webhook.{name}]\nurl = \"{url}\"\nsecret = {{ env = \"HOOK_SECRET\" }}\n{more}\n")
}

fn local(name: &str, receiver: &Receiver) -> String {
    webhook(name, &receiver.url(), "allow_private = true")
}

async fn start(stage: &Stage, config: &str) -> Plane {
    let (new, old) = (secret(&KEY), secret(&OLD_KEY));
    Plane::start_with(&format!("{}{config}", stage.toml()), &[("HOOK_SECRET", &new), ("OLD_SECRET", &old)])
        .await
}

/// Submits a task and cancels it while it is queued.
async fn ended(plane: &Plane) -> TaskId {
    let id = plane.submit("a", json!({ "secret": "input" })).await;
    plane.client.cancel(id, None).await.expect("it is queued");
    id
}

/// The delivery about this task, once it is as wanted.
async fn delivery(plane: &Plane, name: &str, task: TaskId, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
    let end = Instant::now() + PATIENCE;
    loop {
        let page = plane.client.deliveries(name, None, None, 500).await.expect("a list");
        let found = page.items.into_iter().find(|it| it.task == task).expect("it is owed");
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < end, "{found:#?}\n{}", plane.log());
        pause().await;
    }
}

fn check(plane: &Plane, args: &[&str], status: i32) -> Ran {
    let mut command = command(plane.dir());
    command.env("LONGSHORE_SERVER", &plane.addresses.api).args(args);
    let ran = ran(command.output().expect("the binary runs"));
    assert_eq!(ran.status, status, "{args:?}: {ran:?}");
    assert!(!ran.out.contains("hunter2") && !ran.out.contains("whsec"), "{ran:?}");
    ran
}

on_both_stores! {
    the_end_of_a_task_is_told_signed_and_without_its_input,
    a_refused_message_is_sent_again_with_the_same_id,
    a_receiver_that_hangs_keeps_no_other_waiting,
    a_message_whose_outcome_was_not_noted_comes_again_after_a_crash,
    gone_switches_a_webhook_off_until_somebody_switches_it_on,
    people_list_try_and_repeat_messages,
}

async fn the_end_of_a_task_is_told_signed_and_without_its_input(stage: &Stage) {
    let receiver = Receiver::start().await;
    let agent = r#"echo '{"longshore":"result","data":{"n":1e400}}'"#;
    let both = local("both", &receiver)
        .replace("{ env = \"HOOK_SECRET\" }", "[{ env = \"HOOK_SECRET\" }, { env = \"OLD_SECRET\" }]");
    let fleet = shell("quick", agent, "scaling = { min = 1, max = 1 }");
    let plane = start(stage, &format!("{FLEET}{fleet}{both}")).await;
    let done = plane.submit("quick", json!({ "secret": "input" })).await;
    let [got] = &receiver.got_at_least(1, &plane).await[..] else { panic!("one message") };
    assert!(got.is_signed_with(&KEY) && got.is_signed_with(&OLD_KEY), "{got:?}");
    assert!(!got.is_signed_with(&[8; 32]));
    assert_eq!((got.id.clone(), got.kind.as_str()), (format!("{done}-both"), "application/json"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let sent: u64 = got.timestamp.parse().expect("seconds");
    assert!(now.as_secs().abs_diff(sent) < 300, "{sent}");
    let (message, task) = (got.message(), plane.task(done).await);
    assert_eq!((message.kind.as_str(), Some(message.timestamp)), ("task.succeeded", task.finished_at));
    assert_eq!((message.data.id, message.data.attempts.len()), (done, 1));
    assert_eq!(message.data.result.expect("a result").text(), r#"{"n":1e400}"#);
    let text = String::from_utf8_lossy(&got.body);
    assert!(!text.contains("input"), "{text}");
    let cancelled = ended(&plane).await;
    let got = receiver.got_at_least(2, &plane).await;
    assert_eq!((got[1].message().kind.as_str(), got[1].message().data.id), ("task.cancelled", cancelled));
    let delivery = delivery(&plane, "both", done, |it| it.state == "delivered").await;
    assert_eq!((delivery.tries, delivery.status), (1, Some(200)));
}

async fn a_refused_message_is_sent_again_with_the_same_id(stage: &Stage) {
    let receiver = Receiver::start().await;
    receiver.reply([Reply::Status(500)]);
    let plane = start(stage, &format!("{FLEET}{}", local("backend", &receiver))).await;
    let task = ended(&plane).await;
    let waiting = delivery(&plane, "backend", task, |it| it.tries == 1).await;
    assert_eq!((waiting.state.as_str(), waiting.status), ("pending", Some(500)));
    assert_eq!(waiting.error.as_deref(), Some("500 Internal Server Error: because"));
    assert!(waiting.next_at > waiting.tried_at);
    let got = receiver.got_at_least(2, &plane).await;
    assert!(got.iter().all(|it| it.id == got[0].id && it.body == got[0].body && it.is_signed_with(&KEY)));
    assert!(got[1].timestamp > got[0].timestamp, "the time is that of the try: {got:?}");
    let done = delivery(&plane, "backend", task, |it| it.state == "delivered").await;
    assert_eq!((done.tries, done.error), (2, None));
    assert_eq!(plane.metric("longshore_webhook_tries_total").await, 2.0);
}

async fn a_receiver_that_hangs_keeps_no_other_waiting(stage: &Stage) {
    let (dead, alive) = (Receiver::start().await, Receiver::start().await);
    dead.always(Reply::Hold);
    let plane = start(stage, &format!("{FLEET}{}{}", local("dead", &dead), local("alive", &alive))).await;
    let mut tasks = Vec::new();
    for _ in 0..30 {
        tasks.push(ended(&plane).await);
    }
    let got = alive.got_at_least(30, &plane).await;
    let mut ids: Vec<String> = got.iter().map(|it| it.id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30, "each task once");
    assert!(dead.got().len() <= 8, "a bounded number on its way: {}", dead.got().len());
    assert_eq!(plane.client.webhook("dead").await.expect("declared").pending, 30);
    assert_eq!(plane.client.webhook("alive").await.expect("declared").failed, 0);
}

async fn a_message_whose_outcome_was_not_noted_comes_again_after_a_crash(stage: &Stage) {
    let receiver = Receiver::start().await;
    receiver.reply([Reply::Hold]);
    let mut plane = start(stage, &format!("{FLEET}{}", local("backend", &receiver))).await;
    let task = ended(&plane).await;
    let first = receiver.got_at_least(1, &plane).await[0].clone();
    plane.kill();
    plane.restart().await;
    let got = receiver.got_at_least(2, &plane).await;
    assert_eq!((&got[1].id, &got[1].body), (&first.id, &first.body));
    assert!(got[1].is_signed_with(&KEY));
    let done = delivery(&plane, "backend", task, |it| it.state == "delivered").await;
    assert_eq!(done.tries, 1, "what was not noted is not counted");
}

#[tokio::test]
async fn private_addresses_are_refused_whatever_they_are_called() {
    let receiver = Receiver::start().await;
    let name = webhook("named", &format!("http://localhost:{}/", receiver.port), "");
    let plane = start(&Stage::Embedded, &format!("{FLEET}{name}")).await;
    let test = plane.client.test_webhook("named").await.expect("an answer");
    let error = test.error.expect("refused");
    assert!(!test.delivered && error.contains("loopback") && error.contains("allow_private"), "{error}");
    let task = ended(&plane).await;
    let refused = delivery(&plane, "named", task, |it| it.tries > 0).await;
    assert!(refused.error.expect("refused").contains("loopback"));
    assert_eq!(receiver.got().len(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (one, two) = (Receiver::start().await, Receiver::start().await);
    one.always(Reply::Redirect(two.url()));
    let plane = start(&Stage::Embedded, &format!("{FLEET}{}", local("backend", &one))).await;
    let test = plane.client.test_webhook("backend").await.expect("an answer");
    assert_eq!((test.delivered, test.status), (false, Some(307)));
    assert_eq!((one.got().len(), two.got().len()), (1, 0));
}

async fn gone_switches_a_webhook_off_until_somebody_switches_it_on(stage: &Stage) {
    let receiver = Receiver::start().await;
    receiver.reply([Reply::Status(410)]);
    let plane = start(stage, &format!("{FLEET}{}", local("backend", &receiver))).await;
    let task = ended(&plane).await;
    delivery(&plane, "backend", task, |it| it.state == "failed").await;
    is_logged(&plane, "webhook disabled").await;
    ended(&plane).await;
    let listed = check(&plane, &["webhooks", "list"], 0).out;
    assert!(listed.contains("off: the receiver answered 410 Gone"), "{listed}");
    assert_eq!(plane.metric("longshore_webhook_disabled").await, 1.0);
    check(&plane, &["webhooks", "enable", "backend"], 0);
    assert!(check(&plane, &["webhooks", "retry", "backend", "--failed"], 0).out.contains(": 1"));
    delivery(&plane, "backend", task, |it| it.state == "delivered").await;
    assert_eq!(receiver.got().len(), 2, "what ended while it was off is not told");
}

async fn people_list_try_and_repeat_messages(stage: &Stage) {
    let receiver = Receiver::start().await;
    let config = format!("{FLEET}{}", local("backend", &receiver));
    let plane =
        start(stage, &config.replace("allow_private", "states = [\"cancelled\"]\nallow_private")).await;
    let listed = check(&plane, &["webhooks", "list"], 0).out;
    assert!(
        listed.contains("backend") && listed.contains("/hook?…") && listed.contains("cancelled"),
        "{listed}"
    );
    check(&plane, &["webhooks", "test", "backend"], 0);
    let got = receiver.got();
    assert!(got[0].is_signed_with(&KEY) && got[0].id.starts_with("test-"), "{got:?}");
    let body: Value = serde_json::from_slice(&got[0].body).expect("JSON");
    assert_eq!((&body["type"], &body["data"]["webhook"]), (&json!("webhook.test"), &json!("backend")));
    let task = ended(&plane).await;
    let id = delivery(&plane, "backend", task, |it| it.state == "delivered").await.id;
    let listed = check(&plane, &["webhooks", "deliveries", "backend", "--state", "delivered"], 0).out;
    assert!(listed.contains(&id) && listed.contains("task.cancelled"), "{listed}");
    assert!(check(&plane, &["webhooks", "deliveries", "backend", "--state", "failed"], 0).out.is_empty());
    check(&plane, &["webhooks", "retry", "backend", &id], 0);
    let got = receiver.got_at_least(3, &plane).await;
    assert_eq!((&got[1].id, &got[2].id), (&id, &id));
    let unknown = format!("{}-backend", uuid::Uuid::now_v7());
    assert!(check(&plane, &["webhooks", "retry", "backend", &unknown], 1).err.contains("has no message"));
    assert!(check(&plane, &["webhooks", "test", "other"], 1).err.contains("there is no webhook `other`"));
    receiver.always(Reply::Status(503));
    assert!(check(&plane, &["webhooks", "test", "backend"], 1).err.contains("503"));
    let printed = check(&plane, &["config"], 0).out + &check(&plane, &["config", "--json"], 0).out;
    assert!(printed.contains("HOOK_SECRET") && !printed.contains("hunter2"), "{printed}");
}

fn serve(dir: &std::path::Path, secret: Option<&str>) -> Ran {
    let mut command = command(dir);
    ran(command
        .arg("serve")
        .envs(secret.map(|secret| ("HOOK_SECRET", secret)))
        .output()
        .expect("the binary runs"))
}

#[test]
fn a_secret_that_is_none_stops_the_start_and_is_not_shown() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let config = format!(
        "[server]\napi = \"127.0.0.1:0\"\nlink = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"\n{FLEET}{}",
        webhook("backend", "https://example.com/", "")
    );
    std::fs::write(dir.path().join("longshore.toml"), config).expect("the folder is writable");
    for (value, why) in [("hunter2", "begins with `whsec_`"), ("whsec_aHVudGVyMg==", "24 to 64 bytes")] {
        let ran = serve(dir.path(), Some(value));
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.err.contains("webhook `backend` cannot sign") && ran.err.contains(why), "{ran:?}");
        assert!(!ran.err.contains(value), "{ran:?}");
    }
    let ran = serve(dir.path(), None);
    assert!(ran.err.contains("no variable `HOOK_SECRET`"), "{ran:?}");
}

/// How often each message arrived.
fn times(receiver: &Receiver, id: TaskId) -> usize {
    receiver.got().iter().filter(|got| got.id == format!("{id}-backend")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_at_any_control_plane_is_sent_once_by_the_one_that_leads() {
    let Some(room) = Room::new() else { return };
    let receiver = Receiver::start().await;
    let home = tempfile::tempdir().expect("a temporary folder");
    let toml = format!("{}{FLEET}{}", room.toml(), local("backend", &receiver));
    std::fs::write(home.path().join("longshore.toml"), toml).expect("writable");
    let secret = secret(&KEY);
    let env = [("HOOK_SECRET", secret.as_str())];
    let mut leader = Plane::part(home.path(), &env).await;
    is_logged(&leader, "this replica leads").await;
    let other = Plane::part(home.path(), &env).await;
    let mut all = Vec::new();
    for at in 0..20 {
        all.push(ended(if at % 2 == 0 { &leader } else { &other }).await);
    }
    receiver.got_at_least(20, &leader).await;
    for id in &all {
        delivery(&leader, "backend", *id, |it| it.state == "delivered").await;
    }
    assert_eq!(other.metric("longshore_webhook_pending").await, 0.0);
    // One is on its way when the leader ends in order, and it is not overtaken by the next one.
    receiver.reply([Reply::Late(2)]);
    let slow = ended(&other).await;
    receiver.got_at_least(21, &leader).await;
    leader.stop().await;
    is_logged(&other, "this replica leads").await;
    for _ in 0..10 {
        all.push(ended(&other).await);
    }
    receiver.got_at_least(31, &other).await;
    all.push(slow);
    for id in &all {
        delivery(&other, "backend", *id, |it| it.state == "delivered").await;
    }
    assert_eq!(all.iter().map(|id| times(&receiver, *id)).collect::<Vec<_>>(), [1; 31]);
}
