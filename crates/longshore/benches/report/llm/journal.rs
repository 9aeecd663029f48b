//! What a task's journal takes while its conversation grows, and how fast another attempt goes through it.

use std::path::Path;
use std::time::Instant;

use longshore_api::journal::Journal;
use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::{Value, json};

use super::chart::{self, Line};
use super::load::{answered, client, words};
use super::stage::{Agent, Door, Pace, Stage};
use crate::plane::signal;
use crate::{Row, row};

const CALLS: usize = 100;

/// Words of a new message: about 600 bytes.
const MESSAGE: usize = 85;

/// Attempts that go through the journal again.
const REPLAYS: u32 = 2;

/// One call of the conversation, and what was stored after it.
struct Asked {
    request: String,
    stored: u64,
    /// What the requests and answers up to here are together.
    whole: u64,
}

pub async fn growth_and_replay() -> Vec<Row> {
    let stage = Stage::set(Pace { first_ms: 1, token_ms: 0.0 }, 1).await;
    let agent = stage.agents(1).await.remove(0);
    let asked = converse(&stage, &agent).await;
    let mut took = Vec::new();
    for attempt in 2..2 + REPLAYS {
        signal(stage.worker_pid().await, Signal::SIGKILL);
        let agent = stage.attempt(agent.task, attempt).await;
        took.push(replay(&agent.door, &asked).await);
    }
    draw(&asked);
    let (first_half, all) = (&asked[CALLS / 2 - 1], &asked[CALLS - 1]);
    let per_call = |bytes: u64, calls: usize| bytes / calls as u64;
    let growth = format!(
        "{} bytes, calls 51 to 100 {} bytes; each request whole: {} bytes",
        per_call(all.stored, CALLS),
        per_call(all.stored - first_half.stored, CALLS / 2),
        per_call(all.whole, CALLS)
    );
    let took: Vec<String> = took.iter().map(|ms| format!("{ms:.0} ms")).collect();
    vec![
        row(
            "journal per call of a conversation of 100 calls, 600 bytes of new message each",
            growth,
            "linear",
        ),
        row(
            "replay of those 100 calls in sequence, by the second attempt, by the third",
            took.join(", "),
            "100 ms",
        ),
    ]
}

/// Each call carries the whole history so far, as agents' calls do.
async fn converse(stage: &Stage, agent: &Agent) -> Vec<Asked> {
    let (client, mut history, mut asked, mut whole) = (client(), Vec::new(), Vec::new(), 0);
    for n in 0..CALLS {
        history.push(json!({"role": "user", "content": words(n as u64, MESSAGE)}));
        let request = json!({"model": "bench", "messages": history}).to_string();
        let (answer, length) = ask(&client, &agent.door, &request).await;
        whole += (request.len() + length) as u64;
        history.push(answer["choices"][0]["message"].clone());
        asked.push(Asked { request, stored: stored(stage, agent).await, whole });
    }
    asked
}

/// What the control plane says that the task's journal takes.
async fn stored(stage: &Stage, agent: &Agent) -> u64 {
    let url = format!("{}/v1/tasks/{}/journal", stage.plane.addresses.api, agent.task);
    let journal = reqwest::get(url).await.expect("the control plane answers");
    let journal: Journal = journal.json().await.expect("with the task's journal");
    journal.stored_bytes
}

async fn ask(client: &Client, door: &Door, request: &str) -> (Value, usize) {
    let url = format!("{}/chat/completions", door.base);
    let asked = client.post(url).bearer_auth(&door.key).header("content-type", "application/json");
    let answer = answered(asked.body(request.to_owned())).await.bytes().await.expect("whole");
    (serde_json::from_slice(&answer).expect("in JSON"), answer.len())
}

/// Milliseconds for all of them.
async fn replay(door: &Door, asked: &[Asked]) -> f64 {
    let client = client();
    let begun = Instant::now();
    for one in asked {
        ask(&client, door, &one.request).await;
    }
    begun.elapsed().as_secs_f64() * 1e3
}

fn draw(asked: &[Asked]) {
    let journal = Line { name: "journal", points: asked.iter().map(|one| one.stored).collect() };
    let whole = Line {
        name: "every request and answer stored whole",
        points: asked.iter().map(|one| one.whole).collect(),
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/journal-growth.svg");
    let drawn = chart::drawn("bytes stored after each call of a growing conversation", &[journal, whole]);
    std::fs::write(file, drawn).expect("docs can be written");
}
