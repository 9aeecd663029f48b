//! Sends calls, at a rate that does not wait for their answers, and takes down when these come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::stage::Door;

/// When the parts of an answer were there, counted from the call.
#[derive(Clone, Copy)]
pub struct Seen {
    pub first: Duration,
    pub last: Duration,
}

pub fn client() -> Client {
    let client = Client::builder().no_proxy().tcp_nodelay(true).pool_max_idle_per_host(1024);
    client.build().expect("nothing that could fail is asked for")
}

/// A request of about 2 KiB, unlike every other.
pub fn request(number: u64, stream: bool) -> String {
    let (system, question) = (words(1, 250), words(number.wrapping_add(2), 60));
    format!(
        r#"{{"model":"bench","stream":{stream},"messages":[{{"role":"system","content":"{system}"}},{{"role":"user","content":"{number}: {question}"}}]}}"#
    )
}

/// Words that follow from the seed.
pub fn words(seed: u64, count: usize) -> String {
    const WORDS: [&str; 32] = [
        "answer", "report", "river", "market", "because", "table", "window", "system", "between", "seven",
        "note", "light", "paper", "question", "large", "number", "under", "station", "water", "machine",
        "second", "garden", "letter", "person", "reason", "simple", "travel", "weather", "yellow", "bridge",
        "common", "develop",
    ];
    let mut chance = Chance(seed);
    let mut pick = || WORDS[(chance.next() % WORDS.len() as u64) as usize];
    (0..count).map(|_| pick()).collect::<Vec<_>>().join(" ")
}

/// Sends one call and reads its answer to the end.
pub async fn call(client: &Client, door: &Door, body: String) -> Seen {
    let begun = Instant::now();
    let url = format!("{}/chat/completions", door.base);
    let request = client.post(url).bearer_auth(&door.key).header("content-type", "application/json");
    let mut response = answered(request.body(body)).await;
    let mut first = None;
    while response.chunk().await.expect("the answer is whole").is_some() {
        first.get_or_insert_with(|| begun.elapsed());
    }
    let last = begun.elapsed();
    Seen { first: first.unwrap_or(last), last }
}

/// An answer that is no error.
pub async fn answered(request: RequestBuilder) -> Response {
    let response = request.send().await.expect("an answer");
    if response.status().is_success() {
        return response;
    }
    panic!("{}: {:?}", response.status(), response.text().await);
}

/// Calls for a second, arriving by chance at this rate; returns when all are answered. Numbers count on from `from`.
pub async fn second_of_calls(
    client: &Client,
    doors: &Arc<[Door]>,
    rate: u32,
    stream: bool,
    from: &mut u64,
) -> Vec<Seen> {
    let (client, doors, first) = (client.clone(), Arc::clone(doors), *from);
    let arrivals = arrivals(rate, first);
    *from += arrivals.len() as u64;
    let runtime = Handle::current();
    // A thread of its own: the runtime's timers tick in milliseconds, as the provider's do, and ticks would be compared.
    let calls = tokio::task::spawn_blocking(move || {
        let (mut calls, begun) = (JoinSet::new(), Instant::now());
        for (at, number) in arrivals.into_iter().zip(first..) {
            std::thread::sleep(at.saturating_sub(begun.elapsed()));
            let (client, doors) = (client.clone(), Arc::clone(&doors));
            let call = async move {
                let door = &doors[number as usize % doors.len()];
                call(&client, door, request(number, stream)).await
            };
            calls.spawn_on(call, &runtime);
        }
        calls
    });
    calls.await.expect("nothing there panics").join_all().await
}

/// When calls arrive within a second.
fn arrivals(rate: u32, seed: u64) -> Vec<Duration> {
    let (mut chance, mut at) = (Chance(seed), 0.0);
    let next = || {
        at += chance.gap() / f64::from(rate);
        (at < 1.0).then(|| Duration::from_secs_f64(at))
    };
    std::iter::from_fn(next).collect()
}

/// Numbers that look drawn and are the same in every run (SplitMix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Between two arrivals that do not know of each other; 1 on average.
    fn gap(&mut self) -> f64 {
        -(1.0 - (self.next() >> 11) as f64 / (1u64 << 53) as f64).ln()
    }
}
