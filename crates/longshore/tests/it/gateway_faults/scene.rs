//! A control plane with one fleet, whose agent makes the calls that its task lists, and two bad providers.

use std::collections::BTreeMap;

use longshore_api::journal::{Call, Journal};
use longshore_api::task::Task;
use longshore_core::id::TaskId;
use longshore_core::task::State;
use longshore_simulate::{Fault, Match, Options, Sim, What};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fake::{CASE, Fake, Scripts};
use crate::plane::{Plane, python};

const AGENT: &str = include_str!("agent.py");

/// The key of every provider; no agent may ever see it.
pub const PROVIDER_KEY: &str = "sk-canary-7d20f1";

pub struct Scene {
    pub plane: Plane,
    pub sim: Sim,
    pub fake: Fake,
}

/// One call of the agent.
#[derive(Clone)]
pub struct Ask(Value);

/// What came back to the agent.
#[derive(Clone, Debug, Deserialize)]
pub struct Reply {
    pub status: Option<u16>,
    pub headers: BTreeMap<String, String>,
    /// The beginning and the end of the body.
    pub text: String,
    pub size: u64,
    pub digest: String,
    pub outcome: String,
    /// Why it is broken, in the words of its client.
    pub why: String,
    pub ms: u64,
}

/// One call, and all that is to be true of it afterwards.
pub struct Case {
    pub ask: Ask,
    pub sees: Sees,
    /// How often the provider was asked.
    pub received: u64,
    pub kept: Kept,
}

pub enum Sees {
    /// The whole answer, with this in it.
    Whole(u16, &'static str),
    /// An error of longshore's own in the provider's form: status, code, and a part of the message.
    Refused(u16, &'static str, &'static str),
    /// The provider's own error, with this in it.
    Error(u16, &'static str),
    /// The provider's own error, one that is kept: the journal's answer to whoever asks again.
    Kept(u16, &'static str),
    /// A broken connection after a head, with this before it.
    Broken(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Answered after so many tries that may have been billed all the same.
    Answered(u32),
    /// No answer, but so many tries that may have been billed.
    GivenUp(u32),
    Nothing,
}

impl Ask {
    fn of(provider: &str, path: &str, case: &str, body: Value) -> Ask {
        Ask(
            json!({"provider": provider, "method": "POST", "path": path, "headers": {CASE: case}, "body": body.to_string()}),
        )
    }

    /// A chat; the model is the name of the case.
    pub fn chat(provider: &str, case: &str) -> Ask {
        let body = json!({"model": case, "messages": [{"role": "user", "content": "hello"}]});
        Ask::of(provider, "/chat/completions", case, body)
    }

    pub fn messages(provider: &str, case: &str) -> Ask {
        let body =
            json!({"model": case, "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]});
        Ask::of(provider, "/v1/messages", case, body).header("anthropic-version", "2023-06-01")
    }

    pub fn responses(provider: &str, case: &str) -> Ask {
        Ask::of(provider, "/responses", case, json!({"model": case, "input": "hello"}))
    }

    pub fn post(provider: &str, path: &str, case: &str) -> Ask {
        Ask::of(provider, path, case, json!({"model": case, "messages": []}))
    }

    pub fn get(provider: &str, path: &str, case: &str) -> Ask {
        let mut ask = Ask::of(provider, path, case, json!(null)).method("GET");
        ask.0["body"] = json!(null);
        ask
    }

    pub fn method(mut self, method: &str) -> Ask {
        self.0["method"] = json!(method);
        self
    }

    pub fn streamed(mut self) -> Ask {
        let mut body: Value = serde_json::from_str(self.body()).expect("JSON");
        body["stream"] = json!(true);
        self.0["body"] = json!(body.to_string());
        self
    }

    /// With exactly this body; `PAD` in it becomes so many bytes.
    pub fn with_body(mut self, body: &str, pad: usize) -> Ask {
        (self.0["body"], self.0["pad"]) = (json!(body), json!(pad));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.0["headers"][name] = json!(value);
        self
    }

    pub fn body(&self) -> &str {
        self.0["body"].as_str().expect("it has a body")
    }

    pub fn name(&self) -> &str {
        self.0["headers"][CASE].as_str().expect("it has a name")
    }

    fn is_anthropic(&self) -> bool {
        self.0["path"].as_str().is_some_and(|path| path.ends_with("/messages"))
    }
}

/// A simulated fault for the case of this name.
pub fn fault(case: &str, what: What) -> Fault {
    Fault::new(Match::Model(case.to_owned()), what)
}

/// A fleet `name` with the agent of these tests.
pub fn fleet(name: &str, more: &str) -> String {
    python(name, AGENT, more)
}

pub const ONE: &str = "concurrency = 8\nscaling = { min = 1, max = 1 }\nkill_grace = \"1s\"\n";
pub const ALL: &str =
    "providers = [\"openai\", \"anthropic\", \"hasty\", \"fake\", \"fake-hasty\", \"fake-claude\"]\n";

impl Scene {
    pub async fn start(faults: Vec<Fault>, scripts: Scripts) -> Scene {
        let task = "task = { max_attempts = 3, backoff = { base = \"10ms\" } }\n";
        Scene::with(faults, scripts, &fleet("a", &format!("{ONE}{ALL}{task}"))).await
    }

    pub async fn with(faults: Vec<Fault>, scripts: Scripts, fleets: &str) -> Scene {
        Scene::with_sim(Options { faults, ..Options::default() }, scripts, fleets).await
    }

    pub async fn with_sim(options: Options, scripts: Scripts, fleets: &str) -> Scene {
        let options = Options { key: Some(PROVIDER_KEY.to_owned()), ..options };
        let sim = longshore_simulate::start(options).await.expect("a free port");
        let fake = Fake::start(scripts).await;
        let (openai, anthropic) = (sim.openai_base_url(), sim.anthropic_base_url());
        let (faked, faked_claude) =
            (format!("http://{}/v1", fake.address), format!("http://{}", fake.address));
        let hasty = "timeout = \"2s\"\nidle_timeout = \"2s\"\n";
        let provider = |name: &str, url: &str, more: &str| {
            format!(
                "[provider.{name}]\nbase_url = \"{url}\"\napi_key = {{ env = \"KEY_OF_PROVIDER\" }}\n{more}"
            )
        };
        let config = [
            provider("openai", &openai, "prices.\"*\" = { input = \"1\", output = \"2\" }\n"),
            provider("anthropic", &anthropic, ""),
            provider("hasty", &openai, hasty),
            provider("fake", &faked, ""),
            provider("fake-hasty", &faked, hasty),
            provider("fake-claude", &faked_claude, "kind = \"anthropic\"\n"),
            provider("unlisted", &faked, ""),
            fleets.to_owned(),
        ];
        let plane = Plane::start_with(&config.concat(), &[("KEY_OF_PROVIDER", PROVIDER_KEY)]).await;
        Scene { plane, sim, fake }
    }

    pub async fn submit(&self, asks: &[&Ask], more: Value) -> TaskId {
        let mut input = more;
        input["asks"] = asks.iter().map(|ask| ask.0.clone()).collect();
        self.plane.submit("a", input).await
    }

    /// The same with a time-out for the attempt.
    pub async fn submit_for(&self, timeout: &str, asks: &[&Ask]) -> TaskId {
        let asks: Vec<Value> = asks.iter().map(|ask| ask.0.clone()).collect();
        let change = |task: &mut longshore_api::task::Submit| task.timeout = Some(timeout.to_owned());
        self.plane.submit_with("a", json!({"asks": asks}), change).await
    }

    /// What the agent of a task got, by its n-th attempt that came so far.
    pub async fn replies(&self, id: TaskId, attempt: usize) -> Vec<Reply> {
        let told = self.plane.progress(id, attempt).await;
        serde_json::from_value(told[attempt - 1].clone()).expect("the agent's report")
    }

    pub async fn journal(&self, id: TaskId) -> Journal {
        let url = format!("{}/v1/tasks/{id}/journal", self.plane.addresses.api);
        let answer = reqwest::get(url).await.expect("an answer");
        answer.json().await.expect("a journal")
    }

    /// How often either provider was asked for this case.
    pub fn received(&self, case: &str) -> u64 {
        let lines = self.sim.bill().requests;
        let simulated: u64 =
            lines.iter().filter(|line| line.model == case).map(|line| line.totals.received).sum();
        simulated + self.fake.received(case).len() as u64
    }

    /// Runs every case as a task of its own, all at once, and checks what is to be true of each.
    pub async fn check(&self, cases: Vec<Case>) {
        let mut ids = Vec::new();
        for case in &cases {
            ids.push(self.submit(&[&case.ask], json!({})).await);
        }
        for (case, id) in cases.iter().zip(ids) {
            self.check_one(case, id).await;
        }
    }

    async fn check_one(&self, case: &Case, id: TaskId) {
        let name = case.ask.name();
        let task = self.plane.reaches(id, State::Succeeded).await;
        let reply = self.replies(id, 1).await.remove(0);
        let journal = self.journal(id).await;
        let all = format!("{name}: {reply:#?}\n{journal:#?}");
        case.sees.check(&reply, case.ask.is_anthropic(), &all);
        assert_eq!(self.received(name), case.received, "calls that the provider got; {all}");
        check_kept(case.kept, &journal, &task, &all);
    }
}

fn check_kept(expected: Kept, journal: &Journal, task: &Task, all: &str) {
    let kept = |call: &Call| match call.state.as_str() {
        "answered" => Kept::Answered(call.maybe_billed),
        "given_up" => Kept::GivenUp(call.maybe_billed),
        other => panic!("a call is {other}; {all}"),
    };
    let found: Vec<Kept> = journal.calls.iter().map(kept).collect();
    let wanted = if expected == Kept::Nothing { Vec::new() } else { vec![expected] };
    assert_eq!(found, wanted, "{all}");
    let (live, billed) = match expected {
        Kept::Answered(billed) => (1, billed),
        Kept::GivenUp(billed) => (0, billed),
        Kept::Nothing => (0, 0),
    };
    assert_eq!((journal.totals.live, journal.totals.maybe_billed), (live, billed.into()), "{all}");
    assert_eq!(task.attempts.len(), 1, "{task:#?}");
}

impl Sees {
    fn check(&self, reply: &Reply, anthropic: bool, all: &str) {
        let (outcome, status, says) = match self {
            Sees::Whole(status, says) | Sees::Error(status, says) | Sees::Kept(status, says) => {
                ("whole", *status, *says)
            }
            Sees::Refused(status, _, says) => ("whole", *status, *says),
            Sees::Broken(says) => ("broken", 200, *says),
        };
        assert_eq!((reply.outcome.as_str(), reply.status), (outcome, Some(status)), "{all}");
        assert_eq!(reply.why.is_empty(), outcome == "whole", "{all}");
        // What a refusal says is looked for in its message, which JSON writes with other quotes.
        let in_message = matches!(self, Sees::Refused(..));
        assert!(in_message || reply.text.contains(says), "expected {says:?} in {all}");
        let told = reply.headers.get("x-should-retry").map(String::as_str);
        let is_error = matches!(self, Sees::Refused(..) | Sees::Error(..));
        assert_eq!(told, is_error.then_some("false"), "{all}");
        if let Sees::Refused(_, code, says) = self {
            check_refusal(reply, anthropic, code, says);
        }
        assert!(!format!("{reply:?}").contains(PROVIDER_KEY), "the provider's key; {all}");
    }
}

/// An error that the provider's own SDK would understand.
pub fn check_refusal(reply: &Reply, anthropic: bool, code: &str, says: &str) {
    assert_eq!(reply.headers.get("content-type").map(String::as_str), Some("application/json"), "{reply:#?}");
    let body: Value = serde_json::from_str(&reply.text).expect("an error is JSON");
    let message = body["error"]["message"].as_str().expect("an error has a message");
    assert!(message.contains(says), "{message}");
    assert!(body["error"]["type"].is_string(), "{body}");
    if anthropic {
        assert_eq!(body["type"], "error", "{body}");
    } else {
        assert_eq!(body["error"]["code"], code, "{body}");
    }
}
