//! Workers and control planes of different versions: what was once said on the worker link is understood for twelve months.
//!
//! `versions/*.json` are whole conversations of a worker with a control plane, as they were on the day in their name. Each is
//! said again to the control plane under test, and what was answered then is read as the worker under test reads it. None is
//! ever changed; a new one is made by running `a_recorded_conversation_is_understood` with LONGSHORE_TEST_RECORD=NAME.

mod record;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use longshore_api::fleet::DrainWorker;
use longshore_api::link::{self, HeartbeatAnswer};
use longshore_api::llm::{Decoder, Frame};
use longshore_core::fleet::DrainMode;
use longshore_core::task::State;
use longshore_simulate::{Options, Sim};
use serde_json::{Map, Value, json};

use crate::plane::Plane;

const AGENT: &str = include_str!("replay/agent.py");

/// Values that another control plane chooses anew: what stands here is remembered, and given back where it is said again.
const CHOSEN: [&str; 6] = ["id", "task", "fence", "token", "links", "gateways"];

/// Numbers and texts that are of one day alone.
const PASSING: [&str; 3] = ["at", "checks", "command"];

/// One thing that happened, in the order of their ends.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Step {
    Submit {
        input: Value,
        id: String,
    },
    /// An operator has the worker hand over.
    Drain {
        worker: String,
    },
    Said {
        path: String,
        #[serde(default)]
        headers: BTreeMap<String, String>,
        request: Value,
        status: u16,
        /// Of an LLM call: its frames, in words.
        answer: Value,
    },
}

struct Stage {
    sim: Sim,
    plane: Plane,
    /// Where the agent's program is.
    _home: tempfile::TempDir,
}

async fn stage() -> Stage {
    let sim = longshore_simulate::start(Options::default()).await.expect("a free port");
    let home = tempfile::tempdir().expect("a temporary folder");
    let agent = home.path().join("agent.py");
    fs::write(&agent, AGENT).expect("the folder is writable");
    let toml = format!(
        "[provider.openai]\nbase_url = \"{}\"\napi_key = {{ env = \"VERSIONS_TEST_KEY\" }}\n[fleet.f]\n\
         platform = \"external\"\ncommand = [\"python3\", \"-S\", {agent:?}]\n",
        sim.openai_base_url()
    );
    let plane = Plane::start_with(&toml, &[("VERSIONS_TEST_KEY", "sk-of-the-gateway")]).await;
    Stage { sim, plane, _home: home }
}

fn token(plane: &Plane) -> String {
    let path = plane.dir().join(".longshore/tokens/f");
    fs::read_to_string(path).expect("a token of the fleet").trim().to_owned()
}

async fn drain(plane: &Plane, worker: &str) {
    let how = DrainWorker { mode: Some(DrainMode::Handover), timeout: Some("10s".into()) };
    plane.client.drain_worker(worker, &how).await.expect("it is there");
}

#[tokio::test]
async fn a_recorded_conversation_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/versions");
    if let Ok(name) = std::env::var("LONGSHORE_TEST_RECORD") {
        let steps = record::conversation().await;
        let text = serde_json::to_string_pretty(&steps).expect("plain data");
        fs::write(folder.join(format!("{name}.json")), text + "\n").expect("the folder is writable");
    }
    let mut played = 0;
    for entry in fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("readable").path()) {
        if entry.extension().is_some_and(|end| end == "json") {
            let text = fs::read_to_string(&entry).expect("readable");
            play(&serde_json::from_str::<Vec<Step>>(&text).expect("steps")).await;
            played += 1;
        }
    }
    assert!(played > 0, "none is recorded");
}

async fn play(steps: &[Step]) {
    let Stage { sim, plane, _home } = stage().await;
    let mut player = Player { token: token(&plane), chosen: BTreeMap::new(), plane };
    let mut said = Vec::new();
    for step in steps {
        match step {
            Step::Submit { input, id } => {
                let live = player.plane.submit("f", input.clone()).await;
                player.chosen.insert(id.clone(), json!(live.to_string()));
            }
            Step::Drain { worker } => drain(&player.plane, worker).await,
            Step::Said { path, headers, request, status, answer } => {
                said.push(path.as_str());
                player.say(path, headers, request, (*status, answer)).await;
            }
        }
    }
    for path in [
        link::REGISTER,
        link::CLAIM,
        link::HEARTBEAT,
        link::EVENTS,
        link::COMPLETE,
        link::RELEASE,
        link::DEREGISTER,
    ] {
        assert!(said.contains(&path), "{path} is not in this conversation");
    }
    let tasks = steps.iter().filter_map(|step| match step {
        Step::Submit { id, .. } => player.chosen.get(id)?.as_str()?.parse().ok(),
        _ => None,
    });
    let mut states = Vec::new();
    for id in tasks {
        states.push(player.plane.task(id).await.state);
    }
    assert_eq!(states, [State::Succeeded, State::Queued], "one was done, one was given back");
    assert_eq!(sim.bill().totals.received, 1);
}

struct Player {
    plane: Plane,
    token: String,
    /// By what was chosen on that day.
    chosen: BTreeMap<String, Value>,
}

impl Player {
    async fn say(
        &mut self,
        path: &str,
        headers: &BTreeMap<String, String>,
        request: &Value,
        (status, then): (u16, &Value),
    ) {
        let mut request = self.today(request);
        if let Some(wait) = request.get_mut("wait_ms") {
            *wait = json!(0);
        }
        let url = format!("{}{path}", self.plane.addresses.link);
        let mut post = reqwest::Client::new().post(url).bearer_auth(&self.token);
        for (name, value) in headers {
            let value = self.today(&json!(value));
            post = post.header(name, value.as_str().expect("text stays text"));
        }
        let body = serde_json::to_vec(&request).expect("plain data");
        let answer =
            post.header("content-type", "application/json").body(body).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), status, "{path} {request}");
        let body = answer.bytes().await.expect("a body");
        let now = match path.starts_with("/llm/") {
            true => in_words(body),
            false => serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        self.holds(path, path, then, &now);
        read(path, then);
        read(path, &now);
    }

    /// What was said then, with what was chosen today.
    fn today(&self, value: &Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(
                fields.iter().map(|(name, value)| (name.clone(), self.field(name, value))).collect(),
            ),
            Value::Array(items) => items.iter().map(|item| self.today(item)).collect(),
            Value::String(text) => self.chosen.get(text).cloned().unwrap_or_else(|| value.clone()),
            other => other.clone(),
        }
    }

    fn field(&self, name: &str, value: &Value) -> Value {
        let known =
            (CHOSEN.contains(&name) && value.is_number()).then(|| self.chosen.get(&value.to_string()));
        known.flatten().cloned().unwrap_or_else(|| self.today(value))
    }

    /// All that was answered then is answered now, and means the same; more may be there.
    fn holds(&mut self, at: &str, name: &str, then: &Value, now: &Value) {
        match (then, now) {
            _ if PASSING.contains(&name) || then.is_null() => {}
            (Value::Object(then), Value::Object(now)) => {
                for (name, then) in then {
                    let at = format!("{at}.{name}");
                    let now =
                        now.get(name).unwrap_or_else(|| panic!("{at} is not answered any more: {now:?}"));
                    self.holds(&at, name, then, now);
                }
            }
            (Value::Array(then), Value::Array(now)) if !CHOSEN.contains(&name) => {
                assert_eq!(then.len(), now.len(), "{at}: {then:?} {now:?}");
                for (then, now) in then.iter().zip(now) {
                    self.holds(at, name, then, now);
                }
            }
            _ if CHOSEN.contains(&name) => {
                let key = then.as_str().map_or_else(|| then.to_string(), str::to_owned);
                self.chosen.insert(key, now.clone());
            }
            (Value::Number(_), Value::Number(_)) if is_default(name) => {}
            (then, now) => assert_eq!(then, now, "{at}"),
        }
    }
}

/// What a fleet that declares nothing gets may change.
fn is_default(name: &str) -> bool {
    name.ends_with("_ms") || ["result_limit", "probe_failures", "concurrency"].contains(&name)
}

/// As the worker under test does.
fn read(path: &str, answer: &Value) {
    fn of<T: serde::de::DeserializeOwned>(answer: &Value) {
        let read = serde_json::from_value::<T>(answer.clone());
        read.map(drop).unwrap_or_else(|error| panic!("{answer}: {error}"));
    }
    match path {
        link::REGISTER => of::<link::Registered>(answer),
        link::CLAIM => of::<link::Claimed>(answer),
        link::HEARTBEAT => of::<HeartbeatAnswer>(answer),
        link::EVENTS => of::<link::EventsAnswer>(answer),
        link::COMPLETE | link::RELEASE => of::<link::Ended>(answer),
        link::DEREGISTER => {}
        llm => assert!(llm.starts_with("/llm/"), "{llm} is not known any more"),
    }
}

/// The frames of an LLM call's answer, without those that carry nothing.
fn in_words(body: bytes::Bytes) -> Value {
    let (mut decoder, mut words, mut data) = (Decoder::default(), Map::new(), Vec::new());
    decoder.push(body);
    while let Some(frame) = decoder.next_frame().expect("frames") {
        match frame {
            Frame::Head(head) => drop(words.insert("status".into(), json!(head.status))),
            Frame::Data(bytes) => data.extend_from_slice(&bytes),
            Frame::End => drop(words.insert("whole".into(), json!(true))),
            Frame::Broken(broken) => drop(words.insert("broken".into(), json!(broken.why))),
            Frame::KeepAlive => {}
        }
    }
    let answer: Value = serde_json::from_slice(&data).expect("an answer of the simulated provider");
    words.insert("says".into(), answer["choices"][0]["message"]["content"].clone());
    Value::Object(words)
}
