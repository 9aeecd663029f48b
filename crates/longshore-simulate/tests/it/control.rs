//! What a test tells the simulator over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{CHAT, Client, asked, read};

async fn tell(client: &Client, method: &str, path: &str, body: Value) -> (u16, Value) {
    let answer = client.plain(method, path).json(&body).send().await.expect("an answer");
    let answer = read(answer).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn faults_holds_and_the_bill_are_reached_over_http() {
    let client = Client::new().await;
    let faults = json!(["nth=1,status=503", {"on": {"nth": 2}, "what": "overloaded"}]);
    assert_eq!(tell(&client, "POST", "/sim/faults", faults).await.0, 200);
    let statuses = [
        client.post(CHAT, &asked(CHAT, "a")).await.status,
        client.post(CHAT, &asked(CHAT, "a")).await.status,
    ];
    assert_eq!(statuses[0], 503);
    assert!(statuses[1] >= 500, "{statuses:?}");
    assert_eq!(tell(&client, "GET", "/sim/bill", json!(null)).await.1["totals"]["refused"], 2);
    assert_eq!(tell(&client, "GET", "/sim/bill", json!(null)).await.1["requests"][0]["label"], "a");
    assert_eq!(tell(&client, "DELETE", "/sim/bill", json!(null)).await.0, 200);
    assert_eq!(tell(&client, "GET", "/sim/bill", json!(null)).await.1["distinct"], 0);
    assert_eq!(tell(&client, "GET", "/sim/waiting", json!(null)).await.1, json!({"waiting": 0}));
    for (path, body) in [
        ("/sim/faults", json!(["nth=x"])),
        ("/sim/faults", json!({"what": "html"})),
        ("/sim/hold", json!({"hold": true})),
    ] {
        let (status, told) = tell(&client, "POST", path, body).await;
        assert!(status == 400 && told["error"].is_string(), "{path}: {told}");
    }
    assert_eq!(tell(&client, "GET", "/sim/nothing", json!(null)).await.0, 404);
}

#[tokio::test]
async fn a_held_call_is_counted_and_answered_when_it_is_let_go() {
    let client = Client::new().await;
    assert_eq!(tell(&client, "POST", "/sim/hold", json!({"held": true})).await.0, 200);
    let call = tokio::spawn(client.request(CHAT, &asked(CHAT, "a")).send());
    client.sim.until_waiting(1).await;
    let totals = client.sim.bill().totals;
    assert_eq!((totals.received, totals.open()), (1, 1));
    assert!(!call.is_finished());
    assert_eq!(tell(&client, "GET", "/sim/waiting", json!(null)).await.1["waiting"], 1);
    assert_eq!(tell(&client, "POST", "/sim/hold", json!({"held": false})).await.0, 200);
    assert_eq!(call.await.expect("not cancelled").expect("an answer").status(), 200);
    assert_eq!(client.sim.bill().totals.answered, 1);
    assert_eq!(client.sim.waiting(), 0);
}

#[tokio::test]
async fn a_stream_is_held_after_as_many_events_as_asked() {
    let client = Client::new().await;
    client.sim.hold_streams_after(3);
    let mut body = asked(CHAT, "a");
    body["stream"] = json!(true);
    let mut response = client.request(CHAT, &body).send().await.expect("a head");
    client.sim.until_waiting(1).await;
    let mut text = String::new();
    while text.matches("\n\n").count() < 3 {
        let piece = response.chunk().await.expect("a piece").expect("not the end");
        text.push_str(std::str::from_utf8(&piece).expect("text"));
    }
    assert_eq!(text.matches("\n\n").count(), 3);
    client.sim.hold(false);
    let rest = tokio::time::timeout(Duration::from_secs(20), response.text()).await.expect("let go");
    assert!(rest.expect("whole").ends_with("[DONE]\n\n"));
}
