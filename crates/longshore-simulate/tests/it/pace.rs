//! How long answers take, and how long they are.

use std::time::{Duration, Instant};

use longshore_simulate::{Latency, Options, Pace, Trace};
use serde_json::{Value, json};

use crate::client::{CHAT, Client, asked};

async fn paced(latency: Latency, trace: Option<&str>) -> Client {
    let trace = trace.map(|text| Trace::parse(text).expect("a trace"));
    Client::with(Options { latency, trace, ..Options::default() }).await
}

fn tokens(answer: &Value) -> u64 {
    answer["usage"]["completion_tokens"].as_u64().expect("a number")
}

#[tokio::test]
async fn an_answer_comes_when_its_last_token_is_there_and_a_stream_before() {
    let latency = Latency { ttft_ms: Some(30), token_ms: Some(4.0), ..Latency::default() };
    let client = paced(latency, Some("output_tokens\n51\n")).await;
    let begun = Instant::now();
    let answer = client.post(CHAT, &asked(CHAT, "a")).await.json();
    assert!(begun.elapsed() >= Duration::from_millis(30 + 50 * 4), "{:?}", begun.elapsed());
    assert_eq!(tokens(&answer), 51);
    let mut body = asked(CHAT, "a");
    body["stream"] = json!(true);
    let begun = Instant::now();
    let mut response = client.request(CHAT, &body).send().await.expect("a head");
    let (mut pieces, mut first) = (0, None);
    while response.chunk().await.expect("no break").is_some() {
        first.get_or_insert(begun.elapsed());
        pieces += 1;
    }
    // Not how early it came, which a busy machine decides, but that it did not come all at once.
    assert!(first >= Some(Duration::from_millis(30)) && first < Some(begun.elapsed()), "{first:?}");
    assert!(pieces > 1 && begun.elapsed() >= Duration::from_millis(30 + 50 * 4));
}

#[tokio::test]
async fn a_row_of_the_trace_belongs_to_its_request_in_whatever_order() {
    let trace = "output_tokens,api_time_s\n11,0.02\n22,0.02\n33,0.02\n44,0.02\n";
    let told = async |texts: [&'static str; 4]| {
        let client = paced(Latency { pace: Pace::Real, ..Latency::default() }, Some(trace)).await;
        let mut told = Vec::new();
        for text in texts {
            told.push((text, tokens(&client.post(CHAT, &asked(CHAT, text)).await.json())));
        }
        told.sort_unstable();
        told
    };
    let first = told(["a", "b", "c", "d"]).await;
    assert_eq!(first, told(["d", "b", "a", "c"]).await);
    assert!(first.iter().all(|(_, tokens)| [11, 22, 33, 44].contains(tokens)), "{first:?}");
}
