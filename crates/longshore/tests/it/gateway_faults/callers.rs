//! Who may call: tokens of others, of the past and of nobody, at the worker link and at the relay.

use std::time::Instant;

use longshore_api::llm::{CALL, Decoder, Frame, TASK_TOKEN};
use longshore_core::id::TaskId;
use longshore_core::task::State;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::fake::{CASE, Scripts, answer, chat_answer};
use super::scene::{ALL, Scene, fleet};
use crate::plane::{PATIENCE, python, signal};

/// Answers to whoever asks by one of these names.
fn good() -> Scripts {
    let script = || vec![vec![answer(200, "application/json", &[], &chat_answer())]];
    ["good", "bad"].into_iter().map(|case| (case, script())).collect()
}

/// What the agent of a task has to call with.
struct Agent {
    token: String,
    /// `http://127.0.0.1:…` of its relay.
    relay: String,
    until: std::path::PathBuf,
    id: TaskId,
}

impl Agent {
    /// Its task runs until [`Agent::end`].
    async fn start(scene: &Scene, name: &str) -> Agent {
        let until = scene.plane.dir().join(name);
        let id = scene.submit(&[], json!({"tells": true, "waits": until})).await;
        Agent::told(scene, id, until, 1).await
    }

    async fn told(scene: &Scene, id: TaskId, until: std::path::PathBuf, attempt: usize) -> Agent {
        // Each attempt tells its environment, then what it got.
        let env = scene.plane.progress(id, 2 * attempt).await[2 * attempt - 2].clone();
        let text = |name: &str| env[name].as_str().expect("it has it").to_owned();
        assert_eq!(text("OPENAI_API_KEY"), text("LONGSHORE_TASK_TOKEN"), "the task's token is its key");
        Agent { token: text("LONGSHORE_TASK_TOKEN"), relay: text("LONGSHORE_URL"), until, id }
    }

    async fn end(&self, scene: &Scene) {
        std::fs::write(&self.until, "").expect("the folder is writable");
        scene.plane.reaches(self.id, State::Succeeded).await;
    }
}

/// One call at the worker link, as a relay makes it.
struct Direct<'a> {
    worker: Option<&'a str>,
    task: Option<&'a str>,
    call: Option<String>,
    case: &'a str,
    body: &'a str,
}

const BODY: &str = r#"{"model":"m","messages":[]}"#;

impl<'a> Direct<'a> {
    fn new(worker: &'a str, task: &'a str, case: &'a str) -> Direct<'a> {
        let call = Some(Uuid::new_v4().to_string());
        Direct { worker: Some(worker), task: Some(task), call, case, body: BODY }
    }

    /// Status and body: of the answer in frames, or of the refusal without them.
    async fn send(&self, scene: &Scene) -> (u16, String) {
        let url = format!("{}/llm/fake/v1/chat/completions", scene.plane.addresses.link);
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request = client.post(url).header(CASE, self.case).body(self.body.to_owned());
        if let Some(worker) = self.worker {
            request = request.bearer_auth(worker);
        }
        if let Some(task) = self.task {
            request = request.header(TASK_TOKEN, task);
        }
        if let Some(call) = &self.call {
            request = request.header(CALL, call);
        }
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.expect("a body");
        if status != 200 { (status, String::from_utf8_lossy(&bytes).into_owned()) } else { unframed(bytes) }
    }
}

fn unframed(bytes: bytes::Bytes) -> (u16, String) {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let (mut status, mut text) = (0, String::new());
    while let Some(frame) = decoder.next_frame().expect("frames") {
        match frame {
            Frame::Head(head) => {
                status = head.status;
                let replayed = head.headers.iter().any(|(name, _)| name == "longshore-replayed");
                text += if replayed { "[replayed]" } else { "" };
            }
            Frame::Data(data) => text += &String::from_utf8_lossy(&data),
            Frame::Broken(broken) => panic!("broken: {broken:?}"),
            Frame::KeepAlive | Frame::End => {}
        }
    }
    (status, text)
}

fn check(seen: &(u16, String), status: u16, says: &str) {
    assert!(seen.0 == status && seen.1.contains(says), "expected {status} and {says}, got {seen:?}");
}

fn worker_token(scene: &Scene, fleet: &str) -> String {
    let path = scene.plane.dir().join(".longshore/tokens").join(fleet);
    std::fs::read_to_string(path).expect("there is a token for each fleet").trim().to_owned()
}

const TWO: &str = "concurrency = 1\nscaling = { min = 2, max = 2 }\nkill_grace = \"1s\"\n";

async fn two_workers() -> Scene {
    let other = fleet("other", &format!("platform = \"external\"\n{ALL}"));
    let scene = Scene::with(Vec::new(), good(), &(fleet("a", &format!("{TWO}{ALL}")) + &other)).await;
    scene.plane.crew(2).await;
    scene
}

#[tokio::test]
async fn the_link_serves_only_the_right_worker_with_the_right_task() {
    let scene = two_workers().await;
    let agent = Agent::start(&scene, "until").await;
    let (worker, other) = (worker_token(&scene, "a"), worker_token(&scene, "other"));
    let task = agent.token.as_str();
    let call = |task| Direct::new(&worker, task, "bad");
    let forged =
        format!("{}{}", &task[..task.len() - 4], if task.ends_with("AAAA") { "BBBB" } else { "AAAA" });
    let stranger = "lst1.00000000000000000000000000000000.1.AAAA";

    check(&Direct { worker: None, ..call(task) }.send(&scene).await, 401, "bad_worker_token");
    check(&Direct { worker: Some("lsw1.a.AAAA"), ..call(task) }.send(&scene).await, 401, "bad_worker_token");
    check(&Direct { worker: Some(task), ..call(task) }.send(&scene).await, 401, "bad_worker_token");
    check(&Direct { worker: Some(&other), ..call(task) }.send(&scene).await, 401, "wrong_task_token");
    for wrong in [Some(forged.as_str()), Some(stranger), Some(worker.as_str()), Some(""), None] {
        check(&Direct { task: wrong, ..call(task) }.send(&scene).await, 401, "unknown_task_token");
    }
    check(&Direct { call: None, ..call(task) }.send(&scene).await, 400, "call_id_missing");
    check(&Direct { call: Some("7".into()), ..call(task) }.send(&scene).await, 400, "call_id_missing");
    assert_eq!(scene.received("bad"), 0, "nothing reached the provider");

    let good = Direct::new(&worker, task, "good");
    check(&good.send(&scene).await, 200, "chat.completion");
    // Its relay repeats it: the same call, and the same answer.
    check(&good.send(&scene).await, 200, "[replayed]");
    let reused = Direct { body: r#"{"model":"m","messages":["other"]}"#, ..good };
    check(&reused.send(&scene).await, 400, "call_reused");
    assert_eq!(scene.received("good"), 1);
    agent.end(&scene).await;
    check(&Direct::new(&worker, task, "bad").send(&scene).await, 401, "task_token_revoked");
    assert_eq!((scene.received("good"), scene.received("bad")), (1, 0));
}

#[tokio::test]
async fn a_fence_that_is_no_longer_valid_buys_nothing() {
    let scene = two_workers().await;
    let first = Agent::start(&scene, "until").await;
    let worker = worker_token(&scene, "a");
    check(&Direct::new(&worker, &first.token, "good").send(&scene).await, 200, "chat.completion");
    let holder = scene.plane.holder(first.id).await;
    signal(holder.pid.expect("it told its pid"), Signal::SIGKILL);
    let second = Agent::told(&scene, first.id, first.until.clone(), 2).await;
    assert_ne!((&first.token, &first.relay), (&second.token, &second.relay));
    check(&Direct::new(&worker, &first.token, "bad").send(&scene).await, 401, "task_token_revoked");
    let (status, text) = at_relay(&second.relay, Some(&first.token), "bad").await;
    assert_eq!((status, code(&text).as_str()), (401, "unknown_task_token"), "{text}");
    assert_eq!(scene.received("bad"), 0, "nothing reached the provider");
    // The new fence is given what the old one bought.
    check(&Direct::new(&worker, &second.token, "good").send(&scene).await, 200, "[replayed]");
    assert_eq!(scene.received("good"), 1);
    second.end(&scene).await;
}

/// A call as an agent makes it.
async fn at_relay(relay: &str, token: Option<&str>, case: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("{relay}/llm/fake/v1/chat/completions");
    let mut request = client.post(url).header(CASE, case).body(BODY);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.expect("an answer");
    let status = answer.status();
    if !status.is_success() {
        assert_eq!(answer.headers()["x-should-retry"], "false", "an SDK would only repeat it");
    }
    (status.as_u16(), answer.text().await.expect("text"))
}

fn code(text: &str) -> String {
    let body: Value = serde_json::from_str(text).expect("an error is JSON");
    assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 20), "{body}");
    body["error"]["code"].as_str().expect("it has a code").to_owned()
}

#[tokio::test]
async fn a_relay_serves_only_its_own_tasks() {
    let scene = two_workers().await;
    let (one, two) = (Agent::start(&scene, "one").await, Agent::start(&scene, "two").await);
    assert_ne!(one.relay, two.relay);
    for (token, expected) in [
        (two.token.as_str(), "unknown_task_token"),
        ("lst1.00000000000000000000000000000000.1.AAAA", "unknown_task_token"),
        ("lst1.", "unknown_task_token"),
    ] {
        let (status, text) = at_relay(&one.relay, Some(token), "bad").await;
        assert_eq!((status, code(&text).as_str()), (401, expected), "{token}");
    }
    assert_eq!(scene.received("bad"), 0, "nothing reached the provider");
    // One task runs there at a time, so there is no doubt whose call it is; five equal ones are five calls.
    for token in [None, Some(one.token.as_str()), Some("sk-of-an-example")] {
        assert_eq!(at_relay(&one.relay, token, "good").await.0, 200);
    }
    assert_eq!(scene.journal(one.id).await.calls.len(), 3);
    assert_eq!(scene.journal(two.id).await.calls.len(), 0);
    one.end(&scene).await;
    let (status, text) = at_relay(&one.relay, Some(&one.token), "bad").await;
    assert_eq!((status, code(&text).as_str()), (401, "task_token_revoked"));
    let (status, text) = at_relay(&one.relay, None, "bad").await;
    assert_eq!((status, code(&text).as_str()), (401, "task_token_required"));
    assert_eq!(scene.received("bad"), 0);
    two.end(&scene).await;
}

/// Calls with the key of its environment, with none, with its task's token, and with its task's name.
const SERVICE: &str = r#"
import http.client, json, os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

def call(headers, case):
    url = urlsplit(os.environ["FAKE_BASE_URL"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": case}]})
    connection.request("POST", url.path + "/chat/completions", body, {"x-case": case, **headers})
    answer = connection.getresponse()
    return [answer.status, answer.headers.get("x-should-retry"), json.loads(answer.read()).get("error")]

class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_GET(self):
        self.answer(b"")
    def do_POST(self):
        told = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.answer(json.dumps({
            "environment": call({"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}, "bad"),
            "nothing": call({}, "bad"),
            "nobody": call({"baggage": "longshore.task=01900000-0000-7000-8000-000000000000"}, "bad"),
            "token": call({"authorization": "Bearer " + told["token"]}, "good"),
            "name": call({"baggage": "a=b,longshore.task=" + told["task"]["id"]}, "good"),
        }).encode())
    def answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Service).serve_forever()
"#;

#[tokio::test]
async fn where_many_tasks_run_a_call_says_which_one_it_is_made_for() {
    let more = format!("protocol = \"http\"\nconcurrency = 8\nscaling = {{ min = 1, max = 1 }}\n{ALL}");
    let scene = Scene::with(Vec::new(), good(), &python("a", SERVICE, &more)).await;
    let ids = [scene.submit(&[], json!({})).await, scene.submit(&[], json!({})).await];
    for id in ids {
        let result = scene.plane.result(id).await;
        for case in ["environment", "nothing", "nobody"] {
            let refused = &result[case];
            assert_eq!((&refused[0], &refused[1]), (&json!(401), &json!("false")), "{result:#}");
            assert_eq!(refused[2]["code"], "task_token_required", "{result:#}");
        }
        for case in ["token", "name"] {
            assert_eq!(result[case][0], json!(200), "{result:#}");
        }
        let journal = scene.journal(id).await;
        assert_eq!((journal.calls.len(), journal.totals.live), (2, 2), "{journal:#?}");
    }
    assert_eq!((scene.received("bad"), scene.received("good")), (0, 4));
}

/// Clients tidy such paths up, so this one is written by hand.
#[tokio::test]
async fn a_path_that_leads_out_of_the_providers_address_is_refused() {
    let scene = two_workers().await;
    let agent = Agent::start(&scene, "until").await;
    let worker = worker_token(&scene, "a");
    for path in ["/v1/../../admin", "/v1/%2e%2E/admin", "/v1/./chat/completions", "/..\\admin"] {
        let address = scene.plane.addresses.link.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
        let call = Uuid::new_v4();
        let request = format!(
            "POST /llm/fake{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {worker}\r\n{TASK_TOKEN}: {}\r\n\
             {CALL}: {call}\r\n{CASE}: bad\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}",
            agent.token
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let (mut answer, begun) = (Vec::new(), Instant::now());
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("in time").expect("an answer");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.contains("bad_path"), "{path}: {answer} after {:?}", begun.elapsed());
    }
    assert_eq!(scene.received("bad"), 0);
    assert!(scene.journal(agent.id).await.calls.is_empty());
    agent.end(&scene).await;
}
