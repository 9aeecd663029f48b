//! The provider's key stays on longshore's side of the agent, and longshore's tokens stay on the agent's side of the provider.

use std::path::Path;

use longshore_core::task::State;
use longshore_simulate::What;
use serde_json::json;

use super::fake::{Scripts, answer, chat_answer};
use super::scene::{Ask, PROVIDER_KEY, Scene, fault};

/// Every file below a folder.
fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
}

#[tokio::test]
async fn no_secret_crosses_the_gateway_in_either_direction() {
    let cases = ["chat", "azure", "gemini", "both", "list", "refused", "claude"];
    let said = |case| {
        let status = if case == "refused" { 401 } else { 200 };
        let claude =
            br#"{"type":"message","role":"assistant","content":[],"stop_reason":"end_turn"}"#.to_vec();
        let body = if case == "claude" { claude } else { chat_answer() };
        (case, vec![vec![answer(status, "application/json", &[("set-cookie", "a=b")], &body)]])
    };
    let scripts: Scripts = cases.into_iter().map(said).collect();
    let broken = fault("dropped", What::DropMidStream { after_chunks: 2 });
    let scene = Scene::start(vec![broken], scripts).await;
    let chat = |case| Ask::chat("fake", case);
    let asks = [
        chat("chat"),
        // `TOKEN` becomes the task's token.
        chat("azure").header("authorization", "").header("api-key", "TOKEN"),
        chat("gemini").header("x-goog-api-key", "TOKEN"),
        chat("both")
            .header("baggage", "k=TOKEN")
            .header("longshore-task-token", "TOKEN")
            .header("cookie", "TOKEN"),
        Ask::get("fake", "/models", "list"),
        chat("refused"),
        Ask::messages("fake-claude", "claude"),
        Ask::chat("openai", "dropped").streamed(),
    ];
    let (start, end) = PROVIDER_KEY.split_at(8);
    let all: Vec<&Ask> = asks.iter().collect();
    let id = scene.submit(&all, json!({"shuns": [start, end]})).await;
    // An agent that finds the key anywhere in its environment or in an answer fails.
    scene.plane.reaches(id, State::Succeeded).await;
    let replies = scene.replies(id, 1).await;
    assert!(replies.iter().all(|reply| !reply.headers.contains_key("set-cookie")), "{replies:#?}");

    for case in cases {
        let received = scene.fake.received(case);
        let [request] = received.as_slice() else { panic!("{case}: {received:#?}") };
        let key = if case == "claude" { "x-api-key: " } else { "authorization: Bearer " };
        assert!(request.head.contains(&format!("{key}{PROVIDER_KEY}")), "{case}: {}", request.head);
        let all = format!("{}{}", request.head, String::from_utf8_lossy(&request.body)).to_ascii_lowercase();
        for ours in [
            "lst1.",
            "lsw1.",
            "lsr1.",
            "longshore-task",
            "longshore-call",
            "baggage",
            "cookie",
            "accept-encoding: gzip",
        ] {
            assert!(!all.contains(ours), "{case} was sent {ours}: {all}");
        }
    }

    let api = &scene.plane.addresses.api;
    for path in [
        "tasks",
        "fleets",
        "fleets/a",
        "workers",
        &format!("tasks/{id}"),
        &format!("tasks/{id}/events"),
        &format!("tasks/{id}/journal"),
    ] {
        let answer = reqwest::get(format!("{api}/v1/{path}")).await.expect("an answer");
        assert_eq!(answer.status(), 200, "{path}");
        let text = answer.text().await.expect("text");
        for secret in [PROVIDER_KEY, "lst1.", "lsw1."] {
            assert!(!text.contains(secret), "{path} tells {secret}: {text}");
        }
    }
    let mut written = Vec::new();
    files(scene.plane.dir(), &mut written);
    assert!(written.len() > 3, "logs and the store");
    for (file, bytes) in written {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(PROVIDER_KEY), "{file} holds the provider's key");
        assert!(!text.contains("lst1."), "{file} holds a task's token");
        assert!(!file.ends_with(".log") || !text.contains("lsw1."), "{file} holds a worker's token");
    }
}
