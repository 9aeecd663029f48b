//! What is on the bill when clients leave, retry and share.

use longshore_simulate::{Latency, Options, Sim, Totals};
use serde_json::json;

use crate::client::{CHAT, Client, asked};

/// Waits until every call has ended.
async fn settled(sim: &Sim) -> Totals {
    for _ in 0..2000 {
        let totals = sim.bill().totals;
        if totals.open() == 0 {
            return totals;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("calls did not end: {:?}", sim.bill());
}

#[tokio::test]
async fn equal_requests_share_a_line_and_each_answer_is_paid() {
    let client = Client::new().await;
    for text in ["a", "b", "a"] {
        client.post(CHAT, &asked(CHAT, text)).await;
    }
    let bill = client.sim.bill();
    let lines: Vec<_> =
        bill.requests.iter().map(|line| (line.label.as_str(), line.totals.answered)).collect();
    assert_eq!(lines, [("a", 2), ("b", 1)]);
    let tokens: u64 = bill.requests.iter().map(|line| line.totals.output_tokens).sum();
    assert_eq!((bill.totals.output_tokens, bill.totals.input_tokens), (tokens, 3));
    assert!(bill.totals.cost.parse::<f64>().expect("a decimal") > 0.0);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_pays_for_what_was_generated() {
    let client = Client::new().await;
    client.sim.hold_streams_after(3);
    let mut body = asked(CHAT, "a");
    body["stream"] = json!(true);
    let response = client.request(CHAT, &body).send().await.expect("a head");
    client.sim.until_waiting(1).await;
    drop(response);
    let totals = settled(&client.sim).await;
    // Three chunks: the role, and two of four tokens.
    assert_eq!((totals.broken, totals.answered, totals.output_tokens), (1, 0, 8));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_of_a_held_call_pays_nothing() {
    let client = Client::new().await;
    client.sim.hold(true);
    let call = tokio::spawn(client.request(CHAT, &asked(CHAT, "a")).send());
    client.sim.until_waiting(1).await;
    call.abort();
    let totals = settled(&client.sim).await;
    assert_eq!((totals.broken, totals.input_tokens, totals.cost.as_str()), (1, 0, "0"));
}

#[tokio::test]
async fn a_client_that_gives_up_on_a_slow_answer_has_begun_to_pay() {
    let latency = Latency { ttft_ms: Some(60_000), ..Latency::default() };
    let client = Client::with(Options { latency, ..Options::default() }).await;
    let request = client.request(CHAT, &asked(CHAT, "a")).timeout(std::time::Duration::from_millis(200));
    assert!(request.send().await.expect_err("too slow").is_timeout());
    let totals = settled(&client.sim).await;
    assert_eq!((totals.broken, totals.input_tokens, totals.output_tokens), (1, 1, 0));
}

#[tokio::test]
async fn a_stopped_simulator_frees_its_address() {
    let client = Client::new().await;
    let addr = client.sim.addr();
    client.sim.hold(true);
    let call = tokio::spawn(client.request(CHAT, &asked(CHAT, "a")).send());
    client.sim.until_waiting(1).await;
    client.sim.stop().await;
    assert!(call.await.expect("not cancelled").is_err());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
