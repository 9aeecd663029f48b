//! Limits are enforced, and told in each provider's headers.

use longshore_simulate::{Limits, Options};
use serde_json::json;

use crate::client::{CHAT, Client, MESSAGES, asked};

async fn limited(requests: Option<u64>, tokens: Option<u64>) -> Client {
    Client::with(Options { limits: Limits { requests, tokens }, ..Options::default() }).await
}

#[tokio::test]
async fn the_second_request_of_a_minute_waits_and_is_told_how_long() {
    let client = limited(Some(1), None).await;
    let first = client.plain("POST", CHAT).json(&asked(CHAT, "a")).send().await.expect("an answer");
    let headers = first.headers();
    assert_eq!(headers["x-ratelimit-limit-requests"], "1");
    assert_eq!(headers["x-ratelimit-remaining-requests"], "0");
    assert!(headers["x-ratelimit-reset-requests"].to_str().expect("text").ends_with('s'));
    let second = client.plain("POST", CHAT).json(&asked(CHAT, "b")).send().await.expect("an answer");
    let second = crate::client::read(second).await;
    assert_eq!(second.status, 429);
    let wait: u64 = second.header("retry-after-ms").parse().expect("milliseconds");
    assert!((50_000..=60_000).contains(&wait), "{wait}");
    assert_eq!(second.header("retry-after"), wait.div_ceil(1000).to_string());
    assert_eq!(second.json()["error"]["code"], "rate_limit_exceeded");
    assert!(second.text.contains("Limit 1, Used 1, Requested 1"), "{second:?}");
    let mut other = asked(CHAT, "a");
    other["model"] = json!("other");
    assert_eq!(client.post(CHAT, &other).await.status, 200, "each model has its own");
    let totals = client.sim.bill().totals;
    assert_eq!((totals.answered, totals.refused), (2, 1));
}

#[tokio::test]
async fn anthropic_tells_its_limits_with_times() {
    let client = limited(Some(1), Some(1_000_000)).await;
    let first = client.post(MESSAGES, &asked(MESSAGES, "a")).await;
    assert_eq!(first.header("anthropic-ratelimit-requests-remaining"), "0");
    assert_eq!(first.header("anthropic-ratelimit-input-tokens-limit"), "1000000");
    assert!(first.header("anthropic-ratelimit-tokens-reset").ends_with('Z'));
    let second = client.post(MESSAGES, &asked(MESSAGES, "b")).await;
    assert_eq!((second.status, second.json()["error"]["type"].as_str()), (429, Some("rate_limit_error")));
    assert!(!second.header("retry-after").is_empty());
}

#[tokio::test]
async fn what_never_fits_is_told_so_and_not_to_be_retried() {
    let client = limited(None, Some(10)).await;
    let answer =
        client.plain("POST", CHAT).json(&asked(CHAT, &"long ".repeat(50))).send().await.expect("an answer");
    let answer = crate::client::read(answer).await;
    assert_eq!(answer.status, 429);
    assert!(answer.json()["error"]["message"].as_str().expect("text").starts_with("Request too large for m"));
    assert!(answer.headers.get("retry-after").is_none());
}
