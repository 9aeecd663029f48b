//! The relay, with agents that run the Python code that is their task's input.

use std::time::Duration;

use longshore_api::link::{ProviderSeen, Registered};
use longshore_api::llm::{self, Breaker, Frame};
use longshore_core::fleet::Protocol;
use longshore_core::id::Held;
use serde_json::{Value, json};

use super::control_plane::{ControlPlane, Instead, TOKEN, registered};
use super::gateway::{Asked, Part, Scripted, broken, data, end, gate, head};
use super::scene::{Scene, eventually, get, words};
use super::worker::Config;

/// What an agent's code may use.
const WORDS: &str = r#"
import http.client, json, os, socket, sys, threading, time, urllib.parse
url = urllib.parse.urlparse(os.environ["LONGSHORE_URL"])
folder = sys.argv[1]
def connect():
    return http.client.HTTPConnection(url.hostname, url.port, timeout=30)
def send(path, key, body="{}", method="POST", headers={}):
    connection = connect()
    own = {"authorization": "Bearer " + key} if key else {}
    connection.request(method, path, body, {**own, **headers})
    return connection.getresponse()
def ask(path, key, *rest, **named):
    answer = send(path, key, *rest, **named)
    return [answer.status, answer.read().decode()]
def wait_for(name):
    while not os.path.exists(os.path.join(folder, name)): time.sleep(0.01)
def write(name, text):
    open(os.path.join(folder, name), "w").write(text + "\n")
CHAT = "/llm/openai/v1/chat/completions"
MESSAGES = "/llm/claude/v1/messages"
"#;

const EXEC: &str = r#"
task = json.load(sys.stdin)["task"]
key = os.environ["LONGSHORE_TASK_TOKEN"]
def say(kind, data): print(json.dumps({"longshore": kind, "data": data}), flush=True)
def result(data): say("result", data)
exec(task["input"])
"#;

const HTTP: &str = r#"
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self): self.answer(404, b"")
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = []
        names = {**globals(), "task": body["task"], "key": body["token"], "env": body["env"], "result": said.append}
        exec(body["task"]["input"], names)
        self.answer(200, json.dumps(said[0]).encode())
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
write("pid", str(os.getpid()))
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

fn with_providers(protocol: Protocol, concurrency: u32) -> Registered {
    let seen = |(name, kind): (&str, &str)| ProviderSeen { name: name.into(), kind: kind.into() };
    let providers = [("openai", "openai"), ("claude", "anthropic")].map(seen).into();
    Registered { providers, kill_grace_ms: 2000, ..registered(protocol, concurrency) }
}

async fn scene_with(protocol: Protocol, concurrency: u32, change: impl FnOnce(&mut Config)) -> Scene {
    let plane = ControlPlane::start(with_providers(protocol, concurrency)).await;
    let agent = if protocol == Protocol::Exec { EXEC } else { HTTP };
    let script = format!("{WORDS}{agent}");
    let command = |folder: &str| ["python3", "-u", "-c", &script, folder].map(str::to_owned).to_vec();
    Scene::with(plane, command, change)
}

async fn exec() -> Scene {
    scene_with(Protocol::Exec, 1, |_| {}).await
}

async fn http() -> Scene {
    scene_with(Protocol::Http, 8, |_| {}).await
}

fn plan(scene: &Scene, answers: impl IntoIterator<Item = Scripted>) {
    scene.plane.record().gateway.plan(answers);
}

fn frames(parts: impl IntoIterator<Item = Part>) -> Scripted {
    Scripted::Frames(parts.into_iter().collect())
}

fn submit(scene: &Scene, code: &str) -> Held {
    scene.submit(&json!(code).to_string())
}

async fn run(scene: &Scene, code: &str) -> String {
    words(&scene.plane.ending(submit(scene, code)).await)
}

/// The result of a task that succeeds.
async fn result(scene: &Scene, code: &str) -> Value {
    let outcome = run(scene, code).await;
    let text = outcome.strip_prefix("succeeded ").unwrap_or_else(|| panic!("{outcome}"));
    serde_json::from_str(text).expect("JSON")
}

fn asked(scene: &Scene) -> Vec<Asked> {
    scene.plane.record().gateway.asked.clone()
}

fn write(scene: &Scene, name: &str) {
    std::fs::write(scene.folder.path().join(name), "").expect("written");
}

/// Waits until the worker's metrics hold this line.
async fn metric(scene: &Scene, line: &str) {
    let (name, value) = line.split_once(' ').expect("a name and a value");
    let value: f64 = value.parse().expect("a number");
    metric_when(scene, name, |found| found == value).await;
}

async fn metric_when(scene: &Scene, name: &str, wanted: impl Fn(f64) -> bool) {
    let addr = scene.plane.probe_addr().await;
    eventually(name, || {
        let (_, text) = get(addr, "/metrics")?;
        let found =
            text.lines().filter_map(|line| line.rsplit_once(' ')).find(|(found, _)| *found == name)?;
        found.1.parse().is_ok_and(&wanted).then_some(())
    })
    .await;
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream")];

#[tokio::test]
async fn a_call_goes_to_the_gateway_as_it_is_with_the_workers_token_and_the_tasks() {
    let scene = exec().await;
    let parts = [
        head(
            201,
            &[("content-type", "application/json"), ("content-length", "4"), ("x-request-id", "r")],
            false,
        ),
        data("[1"),
        Part::Frame(Frame::KeepAlive),
        data(","),
        data("]"),
        end(),
    ];
    plan(&scene, [frames(parts)]);
    let code = r#"
answer = send(CHAT + "?a=b%20c", key, '{"stream" : false}', "PATCH",
    {"x-mine": "1", "cookie": "c", "accept-encoding": "gzip", "content-type": "application/json"})
result([answer.status, answer.getheader("x-request-id"), answer.getheader("content-length"),
    answer.getheader("transfer-encoding"), answer.read().decode()])"#;
    assert_eq!(result(&scene, code).await, json!([201, "r", "4", null, "[1,]"]));
    let asked = &asked(&scene)[0];
    assert_eq!((&*asked.method, &*asked.path), ("PATCH", "/llm/openai/v1/chat/completions?a=b%20c"));
    assert_eq!(asked.body, r#"{"stream" : false}"#);
    let held = scene.plane.record().endings[0].0;
    for (name, expected) in [
        ("authorization", Some(format!("Bearer {TOKEN}"))),
        (llm::TASK_TOKEN, Some(format!("lst1.{}", held.fence))),
        ("x-mine", Some("1".into())),
        ("content-type", Some("application/json".into())),
        ("cookie", None),
        ("accept-encoding", None),
        (llm::UNDELIVERED, None),
    ] {
        assert_eq!(asked.header(name), expected.as_deref(), "{name}");
    }
    uuid::Uuid::parse_str(asked.call()).expect("an id");
    metric(&scene, r#"longshore_worker_llm_calls_total{outcome="answered"} 1"#).await;
}

#[tokio::test]
async fn a_stream_arrives_as_it_comes() {
    let scene = exec().await;
    let rest = gate();
    let parts =
        [head(200, EVENTS, false), data("data: 1\n\n"), Part::Gate(rest.clone()), data("data: 2\n\n"), end()];
    plan(&scene, [frames(parts)]);
    let code = r#"
answer = send(CHAT, key)
say("progress", answer.readline().decode())
result([answer.getheader("content-type"), answer.read().decode()])"#;
    let held = submit(&scene, code);
    // The rest is sent only after the agent has seen the beginning.
    assert_eq!(scene.plane.said(held).await.data.text(), r#""data: 1\n""#);
    rest.add_permits(1);
    let outcome = words(&scene.plane.ending(held).await);
    assert_eq!(outcome, r#"succeeded ["text/event-stream", "\ndata: 2\n\n"]"#);
}

#[tokio::test]
async fn answers_without_a_body_end_and_the_connection_goes_on() {
    let scene = exec().await;
    let empty = || frames([head(204, &[], false), end()]);
    let none = || frames([head(200, &[("content-length", "0")], false), end()]);
    plan(&scene, [empty(), none()]);
    let code = r#"
connection, seen = connect(), []
for method in ["POST", "POST", "HEAD", "POST"]:
    connection.request(method, CHAT, headers={"x-api-key": key})
    answer = connection.getresponse()
    seen.append([answer.status, answer.read().decode()])
result(seen)"#;
    assert_eq!(result(&scene, code).await, json!([[204, ""], [200, ""], [405, ""], [200, "{\"ok\":1}"]]));
    let answered = r#"longshore_worker_llm_calls_total{outcome="answered"} 3"#;
    metric(&scene, answered).await;
}

/// Runs a call that succeeds in the end; the id is the same in all asks.
async fn check_retried(scene: &Scene, answers: Vec<Scripted>) {
    let asks = answers.len() + 1;
    plan(scene, answers);
    let before = asked(scene).len();
    assert_eq!(result(scene, "result(ask(CHAT, key))").await, json!([200, "{\"ok\":1}"]));
    let calls: Vec<String> = asked(scene)[before..].iter().map(|asked| asked.call().to_owned()).collect();
    assert_eq!(calls.len(), asks);
    assert!(calls.iter().all(|call| *call == calls[0]), "{calls:?}");
}

#[tokio::test]
async fn a_call_is_repeated_under_its_id_until_the_gateway_answers() {
    let scene = scene_with(Protocol::Exec, 1, |config| config.silence_ms = 2_000).await;
    check_retried(&scene, vec![Scripted::Problem(503, "starting"), Scripted::Problem(504, "slow")]).await;
    check_retried(&scene, vec![Scripted::Problem(401, "bad_worker_token")]).await;
    check_retried(&scene, vec![frames([Part::Cut]), frames([Part::Frame(Frame::KeepAlive), Part::Cut])])
        .await;
    check_retried(&scene, vec![frames([]), frames([Part::Silence])]).await;
    // The agent has the head, but nothing of the body.
    check_retried(&scene, vec![frames([head(200, JSON, false), Part::Cut])]).await;
    metric(&scene, "longshore_worker_llm_retries_total 8").await;
}

#[tokio::test]
async fn a_restart_of_the_control_plane_is_ridden_out() {
    let scene = exec().await;
    plan(&scene, [frames([Part::Silence])]);
    let held = submit(&scene, "result(ask(CHAT, key))");
    eventually("a call", || (!asked(&scene).is_empty()).then_some(())).await;
    scene.plane.stop();
    metric_when(&scene, "longshore_worker_llm_retries_total", |tried| tried >= 3.0).await;
    scene.plane.start_again().await;
    let outcome = words(&scene.plane.ending(held).await);
    assert_eq!(outcome, r#"succeeded [200, "{\"ok\":1}"]"#);
    let asked = asked(&scene);
    assert_eq!((asked.len(), asked[0].call()), (2, asked[1].call()));
}

#[tokio::test]
async fn a_stored_answer_continues_one_that_was_cut() {
    let scene = exec().await;
    for headers in [EVENTS, &[("content-length", "11")]] {
        plan(
            &scene,
            [
                frames([head(200, headers, false), data("hello "), Part::Cut]),
                Scripted::Problem(503, "starting"),
                frames([head(200, headers, true), data("hel"), Part::Cut]),
                frames([head(200, headers, true), data("hel"), data("lo wo"), data("rld"), Part::Cut]),
                frames([head(200, headers, true), data("hello world"), end()]),
            ],
        );
        assert_eq!(result(&scene, "result(ask(CHAT, key))").await, json!([200, "hello world"]));
    }
    let asked = asked(&scene);
    assert_eq!(asked.len(), 10);
    assert!(asked[..5].iter().all(|ask| ask.call() == asked[0].call()));
}

/// What becomes of an attempt whose agent gives up when its answer is broken off, and of one that does not mind.
async fn check_broken(scene: &Scene, answers: Vec<Scripted>, fails: &str) {
    plan(scene, answers.clone());
    assert_eq!(run(scene, "ask(CHAT, key)").await.split(':').next(), Some(fails));
    plan(scene, answers);
    let stubborn = r#"
try: result(ask(CHAT, key))
except (http.client.HTTPException, ConnectionError) as error: result("broken")"#;
    assert_eq!(result(scene, stubborn).await, "broken");
}

const INTERRUPTED: &str = "interrupted CallBroken";

#[tokio::test]
async fn no_half_of_an_answer_is_continued_with_another() {
    let scene = exec().await;
    let cut = || frames([head(200, EVENTS, false), data("hello "), Part::Cut]);
    let other = frames([head(200, EVENTS, true), data("HELLO world"), end()]);
    check_broken(&scene, vec![cut(), other], INTERRUPTED).await;
    let live = frames([head(200, EVENTS, false), data("hello world"), end()]);
    check_broken(&scene, vec![cut(), live], INTERRUPTED).await;
    let short = frames([head(200, EVENTS, true), data("hell"), end()]);
    check_broken(&scene, vec![cut(), short], INTERRUPTED).await;
    check_broken(&scene, vec![cut(), Scripted::Problem(409, "diverged")], INTERRUPTED).await;
    let other_length = frames([head(200, &[("content-length", "3")], false), data("hello"), end()]);
    check_broken(&scene, vec![other_length], INTERRUPTED).await;
}

#[tokio::test]
async fn who_broke_an_answer_decides_what_a_failure_after_it_is() {
    let scene = exec().await;
    let answer = |by| vec![frames([head(200, EVENTS, false), data("hello "), broken(by)])];
    check_broken(&scene, answer(Breaker::Longshore), INTERRUPTED).await;
    check_broken(&scene, answer(Breaker::Provider), "failed exit_status").await;
    let before = |by| vec![frames([broken(by)])];
    check_broken(&scene, before(Breaker::Longshore), INTERRUPTED).await;
    check_broken(&scene, before(Breaker::Provider), "failed exit_status").await;
    metric(&scene, r#"longshore_worker_llm_breaks_total{by="longshore"} 4"#).await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_providers_words() {
    let scene = exec().await;
    plan(&scene, (0..2).map(|_| Scripted::Problem(403, "over_budget")));
    let code = r#"
seen = []
for path in [CHAT, MESSAGES]:
    answer = send(path, key)
    seen.append([answer.status, answer.getheader("x-should-retry"), json.load(answer)])
result(seen)"#;
    let seen = result(&scene, code).await;
    let message = "it is over_budget";
    assert_eq!(seen[0][2]["error"]["message"], message);
    assert_eq!(
        seen[1][2],
        json!({"type": "error", "error":
        {"type": "permission_error", "message": message, "code": "over_budget"}})
    );
    for answer in [&seen[0], &seen[1]] {
        assert_eq!((&answer[0], &answer[1]), (&json!(403), &json!("false")));
    }
    // A token that is not accepted for long is nothing that the agent could mend.
    plan(&scene, (0..20).map(|_| Scripted::Problem(401, "bad_worker_token")));
    assert_eq!(result(&scene, "result(ask(CHAT, key)[0])").await, 502);
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_not_sent() {
    let scene = exec().await;
    let code = r#"
body = b"x" * ((64 << 20) + 1)
status, text = ask(MESSAGES, key, body)
result([status, json.loads(text)["error"]["type"], ask(CHAT, key, body[:-1])[0]])"#;
    assert_eq!(result(&scene, code).await, json!([413, "request_too_large", 200]));
    let asked = asked(&scene);
    assert_eq!((asked.len(), asked[0].body.len()), (1, 64 << 20));
}

#[tokio::test]
async fn where_one_task_runs_at_a_time_any_key_is_its() {
    let scene = exec().await;
    let code = r#"result([ask(CHAT, k)[0] for k in ["", "sk-own", "lst1.unknown", key]])"#;
    assert_eq!(result(&scene, code).await, json!([200, 200, 401, 200]));
    assert_eq!(asked(&scene).len(), 3);
}

#[tokio::test]
async fn where_several_may_run_a_call_has_to_say_its_task() {
    let scene = http().await;
    let code = r#"
seen = [ask(CHAT, k) for k in ["", os.environ["OPENAI_API_KEY"]]]
seen.append(ask(MESSAGES, "", headers={"x-api-key": "sk-own"}))
seen = [[status, json.loads(text)["error"]["code"]] for status, text in seen]
baggage = {"baggage": "a=b,longshore.task=" + task["id"]}
result(seen + [ask(CHAT, env["OPENAI_API_KEY"])[0], ask(CHAT, "", headers=baggage)[0]])"#;
    let required = json!([401, "task_token_required"]);
    assert_eq!(result(&scene, code).await, json!([required, required, required, 200, 200]));
    let held = scene.plane.record().endings[0].0;
    let tokens: Vec<_> =
        asked(&scene).iter().map(|ask| ask.header(llm::TASK_TOKEN).map(str::to_owned)).collect();
    assert_eq!(tokens, vec![Some(format!("lst1.{}", held.fence)); 2]);
}

#[tokio::test]
async fn a_token_is_good_while_its_attempt_runs() {
    let scene = http().await;
    let waits = submit(&scene, "write('waits', key)\nwait_for('go')\nresult(1)");
    eventually("the first task", || Some(()).filter(|()| scene.folder.path().join("waits").exists())).await;
    let code = r#"
other = open(os.path.join(folder, "waits")).read().strip()
result(ask(CHAT, other)[0])"#;
    assert_eq!(result(&scene, code).await, 200);
    assert_eq!(asked(&scene)[0].header(llm::TASK_TOKEN), Some(&*format!("lst1.{}", waits.fence)));
    write(&scene, "go");
    scene.plane.ending(waits).await;
    let code = r#"
other = open(os.path.join(folder, "waits")).read().strip()
result([json.loads(ask(CHAT, k)[1])["error"]["code"] for k in [other, "lst1.unknown"]])"#;
    assert_eq!(result(&scene, code).await, json!(["task_token_revoked", "unknown_task_token"]));
    assert_eq!(asked(&scene).len(), 1);
}

#[tokio::test]
async fn a_cancelled_tasks_calls_are_ended_and_an_agent_that_goes_on_is_restarted() {
    let scene = http().await;
    let first = scene.number("pid").await;
    plan(&scene, [frames([Part::Silence])]);
    let code = r#"
seen = []
while len(seen) < 3 or time.monotonic() - began < 30:
    seen.append(ask(CHAT, key)[0])
    if len(seen) == 1: began = time.monotonic(); write("revoked", str(seen[0]))
    time.sleep(0.02)"#;
    let held = submit(&scene, code);
    eventually("a call", || (!asked(&scene).is_empty()).then_some(())).await;
    let beside = submit(&scene, "write('beside', '1')\nwait_for('never')");
    scene.number("beside").await;
    scene.plane.cancel(held);
    assert_eq!(words(&scene.plane.ending(held).await), "interrupted Cancelled");
    assert_eq!(scene.number("revoked").await, 401);
    assert_eq!(words(&scene.plane.ending(beside).await), "interrupted HandedOver");
    eventually("another agent", || {
        let text = std::fs::read_to_string(scene.folder.path().join("pid")).ok()?;
        text.trim().parse().ok().filter(|pid: &i32| *pid != first)
    })
    .await;
    assert_eq!(result(&scene, "result(ask(CHAT, key)[0])").await, 200);
    assert!(scene.worker.log().contains("agent still works on a task that was stopped"));
    assert_eq!(asked(&scene).len(), 2);
}

#[tokio::test]
async fn answers_that_did_not_arrive_whole_are_told_once() {
    let scene = exec().await;
    let lost = frames([head(200, EVENTS, false), data("data: 1\n\n"), Part::Silence]);
    plan(&scene, [lost, Scripted::Problem(503, "starting")]);
    let code = r#"
answer = send(CHAT, key)
answer.readline()
answer.close()
wait_for("go")
result([ask(CHAT, key)[0], ask(CHAT, key)[0]])"#;
    let held = submit(&scene, code);
    metric(&scene, r#"longshore_worker_llm_calls_total{outcome="abandoned"} 1"#).await;
    write(&scene, "go");
    assert_eq!(words(&scene.plane.ending(held).await), "succeeded [200, 200]");
    let asked = asked(&scene);
    let told: Vec<_> = asked.iter().map(|ask| ask.header(llm::UNDELIVERED)).collect();
    let first = Some(asked[0].call());
    // The 503 did not take it down.
    assert_eq!(told, [None, first, first, None]);
}

/// The gateway waits until the agent has seen signs of life; returns what the agent got besides.
async fn check_kept(body: &str, parts: Vec<Part>) -> String {
    let scene = scene_with(Protocol::Exec, 1, |config| config.keep_alive_after_ms = 200).await;
    let opens = gate();
    let gated = [Part::Gate(opens.clone())].into_iter().chain(parts);
    plan(&scene, [frames(gated)]);
    let code = format!(
        r#"
answer = send(MESSAGES, key, {body:?})
first = answer.read(1)
say("progress", 1)
rest = answer.read().decode()
kept = (first.decode() + rest).replace(": keep-alive\n\n", "").lstrip(" ")
result([answer.status, answer.getheader("content-type"), first.decode(), kept])"#
    );
    let held = submit(&scene, &code);
    scene.plane.said(held).await;
    opens.add_permits(1);
    words(&scene.plane.ending(held).await)
}

#[tokio::test]
async fn an_agent_that_would_give_up_gets_signs_of_life() {
    let stream = r#"{"stream":true}"#;
    let parts = || vec![head(200, EVENTS, false), data("data: 1\n\n"), end()];
    assert_eq!(
        check_kept(stream, parts()).await,
        r#"succeeded [200, "text/event-stream", ":", "data: 1\n\n"]"#
    );
    let parts = vec![head(200, &[("content-length", "2")], false), data("{}"), end()];
    assert_eq!(check_kept("{}", parts).await, r#"succeeded [200, "application/json", " ", "{}"]"#);
}

#[tokio::test]
async fn an_error_after_a_sign_of_life_is_an_event_or_a_break() {
    let error = || vec![head(529, JSON, false), data(r#"{"type":"error","error":{"a":1}}"#), end()];
    assert_eq!(
        check_kept(r#"{"stream":true}"#, error()).await,
        r#"succeeded [200, "text/event-stream", ":", "event: error\ndata: {\"error\":{\"a\":1},\"type\":\"error\"}\n\n"]"#
    );
    assert!(check_kept("{}", error()).await.starts_with("failed exit_status"));
    assert_eq!(check_kept("{}", vec![broken(Breaker::Longshore)]).await, INTERRUPTED);
}

#[tokio::test]
async fn an_exec_agents_environment_leads_to_the_relay() {
    let scene = exec().await;
    let env = result(&scene, "result(dict(os.environ))").await;
    let url = env["LONGSHORE_URL"].as_str().expect("the relay");
    let token = &env["LONGSHORE_TASK_TOKEN"];
    assert_eq!(env["OPENAI_BASE_URL"], format!("{url}/llm/openai/v1"));
    assert_eq!(env["OPENAI_API_BASE"], format!("{url}/llm/openai/v1"));
    assert_eq!(env["ANTHROPIC_BASE_URL"], format!("{url}/llm/claude"));
    assert_eq!(env["CLAUDE_BASE_URL"], format!("{url}/llm/claude"));
    for key in ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "CLAUDE_API_KEY"] {
        assert_eq!(&env[key], token, "{key}");
    }
}

#[tokio::test]
async fn an_http_agents_environment_holds_no_tasks_token() {
    let scene = http().await;
    let seen = result(&scene, "result([dict(os.environ), env, key])").await;
    let (process, own) = (&seen[0], &seen[1]);
    assert_eq!(process["OPENAI_BASE_URL"], own["OPENAI_BASE_URL"]);
    assert_eq!(process["LONGSHORE_URL"], own["LONGSHORE_URL"]);
    assert_eq!(own["ANTHROPIC_API_KEY"], seen[2]);
    assert!(process["ANTHROPIC_API_KEY"].as_str().is_some_and(|key| key.starts_with("lsr1.")), "{process}");
    assert!(!process.to_string().contains("lst1."), "{process}");
}

#[tokio::test]
async fn events_and_messages_go_with_the_attempt() {
    let scene = exec().await;
    let code = r#"
def post(path, body): return ask("/agent/v1/" + path, key, json.dumps(body))[0]
large = {"data": "x" * (5 << 20)}
seen = [post("events", {"kind": "progress", "data": [1]}), post("events", {"kind": "message", "data": 2}),
    post("conversation/messages", {"data": 3}), post("conversation/messages", large),
    post("conversation/messages", {"data": "x" * (17 << 20)}),
    post("events", {"kind": "shout"}), ask("/agent/v1/events", "lst1.unknown")[0]]
result(seen)"#;
    assert_eq!(result(&scene, code).await, json!([204, 204, 204, 413, 413, 400, 401]));
    let record = scene.plane.record();
    let said: Vec<_> =
        record.events.iter().map(|(_, event)| format!("{:?} {}", event.kind, event.data.text())).collect();
    assert_eq!(said, ["Progress [1]", "Message 2", "Message 3"]);
}

#[tokio::test]
async fn what_the_control_plane_keeps_is_asked_of_it() {
    let scene = exec().await;
    scene.plane.instead(
        "/agent/v1/steps/fetch",
        [
            Instead::Problem(503, "starting", "not yet".into()),
            Instead::Problem(409, "step_running", "elsewhere".into()),
        ],
    );
    let code = r#"
seen = [ask("/agent/v1/steps/fetch", key, '{"a":1}', "POST"), ask("/agent/v1/steps/fetch", key, '{"b":2}', "PUT"),
    ask("/agent/v1/conversation?after=3&limit=2", key, "", "GET"), ask("/agent/v1/steps", key, "", "GET")]
result([[status, json.loads(text)] for status, text in seen])"#;
    let seen = result(&scene, code).await;
    assert_eq!((&seen[0][0], &seen[0][1]["code"]), (&json!(409), &json!("step_running")));
    assert_eq!(
        seen[1],
        json!([200, {"method": "PUT", "path": "/agent/v1/steps/fetch", "body": "{\"b\":2}"}])
    );
    assert_eq!(seen[2][1]["path"], "/agent/v1/conversation?after=3&limit=2");
    assert_eq!(seen[3][1]["path"], "/agent/v1/steps");
    let held = scene.plane.record().endings[0].0;
    for asked in asked(&scene) {
        assert_eq!(asked.header(llm::TASK_TOKEN), Some(&*format!("lst1.{}", held.fence)));
    }
}

#[tokio::test]
async fn no_path_leads_to_what_only_the_worker_may_ask() {
    let scene = exec().await;
    let code = r#"
paths = ["/worker/v1/claim", "/llm/openai/../../worker/v1/claim", "/llm/openai/%2e%2e/%2e%2e/worker/v1/claim",
    "/agent/v1/steps/..", "/agent/v1/nothing", "/"]
result([ask(path, key)[0] for path in paths] + [json.loads(ask("/", key)[1])["detail"]])"#;
    let seen = result(&scene, code).await;
    assert_eq!(
        seen.as_array().map(|seen| &seen[..6]),
        Some(&[404, 400, 400, 404, 404, 404].map(|n| json!(n))[..])
    );
    assert!(seen[6].as_str().is_some_and(|detail| detail.contains("/agent/v1/steps/{name}")), "{seen}");
    let paths: Vec<String> = asked(&scene).into_iter().map(|asked| asked.path).collect();
    assert!(paths.iter().all(|path| !path.contains("worker")), "{paths:?}");
    tokio::time::timeout(Duration::from_secs(10), scene.plane.probe_addr()).await.expect("it lives");
}

#[tokio::test]
async fn many_calls_at_once_share_connections_with_those_before_them() {
    const THREADS: usize = 40;
    let scene = exec().await;
    let code = format!(
        r#"
seen = []
def work():
    connection = connect()
    for _ in range(10):
        connection.request("POST", CHAT, "{{}}", {{"x-api-key": key}})
        answer = connection.getresponse()
        seen.append([answer.status, answer.read().decode()])
threads = [threading.Thread(target=work) for _ in range({THREADS})]
for thread in threads: thread.start()
for thread in threads: thread.join()
result([len(seen), all(answer == [200, '{{"ok":1}}'] for answer in seen)])"#
    );
    assert_eq!(result(&scene, &code).await, json!([THREADS * 10, true]));
    let calls: std::collections::BTreeSet<String> =
        asked(&scene).iter().map(|ask| ask.call().to_owned()).collect();
    assert_eq!(calls.len(), THREADS * 10);
    // Some more than threads: the worker's own, and a call that comes before a connection is free again.
    let connections = scene.plane.record().connections();
    assert!(connections < THREADS * 2, "{connections}");
}
