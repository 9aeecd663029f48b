//! Embeddings, models, keys, and errors in each provider's words.

use longshore_simulate::Options;
use serde_json::{Value, json};

use crate::client::{CHAT, Client, MESSAGES, RESPONSES, asked, http, read};

const EMBEDDINGS: &str = "/v1/embeddings";

#[tokio::test]
async fn embeddings_follow_the_text_in_both_encodings() {
    let client = Client::new().await;
    let body = |input: Value, format: &str| json!({"model": "text-embedding-3-small", "input": input, "encoding_format": format, "dimensions": 8});
    let floats = client.post(EMBEDDINGS, &body(json!(["a", "b"]), "float")).await.json();
    let alone = client.post(EMBEDDINGS, &body(json!("b"), "float")).await.json();
    assert_eq!(floats["data"][1]["embedding"], alone["data"][0]["embedding"]);
    let numbers = alone["data"][0]["embedding"].as_array().expect("numbers").iter();
    let length: f64 = numbers.map(|part| part.as_f64().expect("a number").powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    let packed = client.post(EMBEDDINGS, &body(json!("b"), "base64")).await.json();
    // Eight floats are 32 bytes, which are 44 characters.
    assert_eq!(packed["data"][0]["embedding"].as_str().map(str::len), Some(44));
    assert_eq!(client.sim.bill().totals.input_tokens, 3);
}

#[tokio::test]
async fn models_are_listed_as_each_provider_does() {
    let client = Client::with(Options { models: vec!["one".into()], ..Options::default() }).await;
    let openai = read(client.plain("GET", "/v1/models").send().await.expect("an answer")).await.json();
    assert_eq!((openai["object"].as_str(), openai["data"][0]["id"].as_str()), (Some("list"), Some("one")));
    let anthropic = client.plain("GET", "/v1/models").header("anthropic-version", "2023-06-01");
    let anthropic = read(anthropic.send().await.expect("an answer")).await.json();
    assert_eq!(
        (anthropic["has_more"].as_bool(), anthropic["data"][0]["type"].as_str()),
        (Some(false), Some("model"))
    );
    let one = read(client.plain("GET", "/v1/models/one").send().await.expect("an answer")).await;
    assert_eq!(one.json()["id"], "one");
    let two = read(client.plain("GET", "/v1/models/two").send().await.expect("an answer")).await;
    assert_eq!((two.status, two.json()["error"]["code"].as_str()), (404, Some("model_not_found")));
}

/// The status and the words of either provider: OpenAI's code, Anthropic's type.
async fn check(client: &Client, path: &str, body: Value, status: u16, word: &str) {
    let answer = client.post(path, &body).await;
    assert_eq!(answer.status, status, "{answer:?}");
    let json = answer.json();
    match path {
        MESSAGES => {
            assert_eq!(
                (json["type"].as_str(), json["error"]["type"].as_str()),
                (Some("error"), Some(word)),
                "{json}"
            );
            assert_eq!(json["request_id"], answer.header("request-id"));
        }
        _ => {
            assert_eq!(json["error"]["code"], word, "{json}");
            assert!(json["error"]["message"].is_string() && json["error"].get("param").is_some(), "{json}");
        }
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_words_of_the_provider() {
    let options = Options { key: Some("k".into()), models: vec!["m".into()], ..Options::default() };
    let client = Client::with(options).await;
    for path in [CHAT, RESPONSES] {
        check(&client, path, json!({"model": "m"}), 400, "missing_required_parameter").await;
    }
    check(&client, MESSAGES, json!({"model": "m"}), 400, "invalid_request_error").await;
    let mut other = asked(CHAT, "hi");
    other["model"] = json!("other");
    check(&client, CHAT, other, 404, "model_not_found").await;
    let mut other = asked(MESSAGES, "hi");
    other["model"] = json!("other");
    check(&client, MESSAGES, other, 404, "not_found_error").await;
    let bill = client.sim.bill();
    assert_eq!((bill.totals.refused, bill.totals.cost.as_str()), (5, "0"));
}

#[tokio::test]
async fn a_wrong_key_or_none_is_a_401() {
    let client = Client::with(Options { key: Some("right".into()), ..Options::default() }).await;
    check(&client, CHAT, asked(CHAT, "hi"), 401, "invalid_api_key").await;
    check(&client, MESSAGES, asked(MESSAGES, "hi"), 401, "authentication_error").await;
    let url = format!("http://{}{CHAT}", client.sim.addr());
    let none = http().post(&url).json(&asked(CHAT, "hi")).send().await.expect("an answer");
    assert_eq!(none.status(), 401);
    let right = http().post(&url).header("x-api-key", "right").json(&asked(CHAT, "hi"));
    assert_eq!(right.send().await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn no_json_no_route_and_no_version_are_refused() {
    let client = Client::new().await;
    let broken = client.plain("POST", CHAT).body("{\"model\":").send().await.expect("an answer");
    assert_eq!(broken.status(), 400);
    assert_eq!(client.plain("POST", "/v1/nothing").send().await.expect("an answer").status(), 404);
    assert_eq!(client.plain("GET", CHAT).send().await.expect("an answer").status(), 405);
    let bare = client.plain("POST", MESSAGES).json(&asked(MESSAGES, "hi")).send().await.expect("an answer");
    let bare = read(bare).await;
    assert_eq!(bare.status, 400);
    assert!(bare.text.contains("anthropic-version"), "{bare:?}");
}
