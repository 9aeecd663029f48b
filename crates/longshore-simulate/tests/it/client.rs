//! A plain client, and the events of its streams.

use longshore_simulate::{Options, Sim, start};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

pub const CHAT: &str = "/v1/chat/completions";
pub const RESPONSES: &str = "/v1/responses";
pub const MESSAGES: &str = "/v1/messages";

pub struct Client {
    pub sim: Sim,
    http: reqwest::Client,
}

/// What came back, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Client {
    pub async fn new() -> Client {
        Client::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Client {
        let sim = start(options).await.expect("a free port");
        Client { sim, http: http() }
    }

    pub fn request(&self, path: &str, body: &Value) -> RequestBuilder {
        let url = format!("http://{}{path}", self.sim.addr());
        self.http.post(url).bearer_auth("k").header("anthropic-version", "2023-06-01").json(body)
    }

    /// An OpenAI client sends no Anthropic header.
    pub fn plain(&self, method: &str, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.sim.addr());
        self.http.request(method.parse().expect("a method"), url).bearer_auth("k")
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        read(self.request(path, body).send().await.expect("an answer")).await
    }

    /// The error of a call that must break.
    pub async fn broken(&self, path: &str, body: &Value) -> reqwest::Error {
        let ended = async { self.request(path, body).send().await?.bytes().await }.await;
        ended.expect_err("a broken connection")
    }
}

pub fn http() -> reqwest::Client {
    // The client wants one though nothing here is encrypted; another test of this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().expect("nothing else to go wrong")
}

pub async fn read(response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a whole body") }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
        value.to_str().expect("text")
    }

    /// The JSON of each event; of a named one, the name fits its type.
    pub fn events(&self) -> Vec<Value> {
        assert!(self.header("content-type").starts_with("text/event-stream"), "{self:?}");
        let events = self.text.split("\n\n").filter(|event| !event.is_empty());
        events.filter_map(event).collect()
    }
}

fn event(text: &str) -> Option<Value> {
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).expect("an event with data");
    if data == "[DONE]" {
        return None;
    }
    let data: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {text}"));
    if let Some(name) = text.lines().find_map(|line| line.strip_prefix("event: ")) {
        assert_eq!(data["type"], name);
    }
    Some(data)
}

/// A request in the format of each path.
pub fn asked(path: &str, text: &str) -> Value {
    match path {
        RESPONSES => json!({"model": "m", "input": text}),
        MESSAGES => {
            json!({"model": "m", "max_tokens": 100_000, "messages": [{"role": "user", "content": text}]})
        }
        _ => json!({"model": "m", "messages": [{"role": "user", "content": text}]}),
    }
}

/// The same with a tool, and streamed or not.
pub fn with_tool(path: &str, text: &str, stream: bool) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"]});
    let mut body = asked(path, text);
    body["stream"] = json!(stream);
    body["tools"] = match path {
        RESPONSES => json!([{"type": "function", "name": "weather", "parameters": schema}]),
        MESSAGES => json!([{"name": "weather", "input_schema": schema}]),
        _ => json!([{"type": "function", "function": {"name": "weather", "parameters": schema}}]),
    };
    body
}
