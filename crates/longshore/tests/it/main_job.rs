//! A task goes in, an agent that knows nothing of longshore runs it, its result comes out.

use longshore_core::json::Json;
use longshore_core::task::State;
use serde_json::json;

use crate::plane::Plane;

fn shell(name: &str, script: &str) -> String {
    format!(
        "[fleet.{name}]\ncommand = [\"sh\", \"-c\", {}]\nscaling = {{ min = 1, max = 2 }}\n",
        serde_json::to_string(script).expect("a string")
    )
}

#[tokio::test]
async fn a_shell_one_liner_is_an_agent() {
    let plane = Plane::start(&shell("hello", "cat >/dev/null; echo hello")).await;
    let id = plane.submit("hello", json!(null)).await;
    assert_eq!(plane.result(id).await, json!("hello"));
    let events = plane.client.events(id, 0).await.expect("it has events").items;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds.first(), Some(&"submitted"));
    assert_eq!(kinds.last(), Some(&"succeeded"));
    assert_eq!(
        events.iter().map(|event| event.seq).collect::<Vec<_>>(),
        (1..=events.len() as u64).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn inputs_arrive_byte_for_byte() {
    let echo =
        "python3 -c 'import sys,re; t=sys.stdin.read(); print(t[t.index(\"\\\"input\\\":\")+8:][:60])'";
    let plane = Plane::start(&shell("echo", echo)).await;
    let input = Json::parse(r#"{"z":1e400,"a":123456789012345678901234567890,"ä":"\u0000"}"#).expect("valid");
    let id = plane.submit_with("echo", json!(null), |task| task.input = input.clone()).await;
    let seen = plane.result(id).await;
    assert!(seen.as_str().expect("text").starts_with(input.text()), "{seen}");
}

#[tokio::test]
async fn a_failing_agent_is_retried_and_then_failed_with_its_last_words() {
    let fleet = shell("bad", "echo 'no such tool: hammer' >&2; exit 3")
        + "task = { max_attempts = 2, backoff = { base = \"10ms\" } }\n";
    let plane = Plane::start(&fleet).await;
    let id = plane.submit("bad", json!({})).await;
    let task = plane.reaches(id, State::Failed).await;
    let failure = task.failure.expect("a failed task says why");
    assert_eq!(failure.code, "exit_status");
    assert!(failure.message.contains("no such tool: hammer") && failure.message.contains('3'), "{failure:?}");
    assert_eq!(task.attempts.len(), 2);
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_trouble_that_the_fleet_tells_and_no_task_is_lost() {
    let plane =
        Plane::start("[fleet.gone]\ncommand = [\"no-such-program-here\"]\nscaling = { min = 1, max = 1 }\n")
            .await;
    let id = plane.submit("gone", json!({})).await;
    let trouble = loop {
        let fleet = plane.client.fleet("gone").await.expect("declared");
        match fleet.trouble {
            Some(trouble) => break trouble,
            None => crate::plane::pause().await,
        }
    };
    assert!(trouble.contains("no-such-program-here"), "{trouble}");
    assert_eq!(plane.task(id).await.state, State::Queued);
}

#[tokio::test]
async fn conversations_run_in_order_and_pass_their_history_on() {
    let agent = r#"
import json, sys
task = json.load(sys.stdin)["task"]
seen = [m["data"]["content"] for m in task["conversation"]["messages"]]
print(json.dumps({"longshore": "message", "data": {"role": "assistant", "content": "re: " + task["input"]}}))
print(json.dumps({"longshore": "result", "data": seen}))
"#;
    let fleet = format!(
        "[fleet.chat]\ncommand = [\"python3\", \"-c\", {}]\nscaling = {{ min = 2, max = 2 }}\n",
        serde_json::to_string(agent).expect("a string")
    );
    let plane = Plane::start(&fleet).await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        let message = longshore_api::conversation::PostMessage::new(
            longshore_core::id::FleetName::new("chat").expect("valid"),
            Json::string(text),
        );
        ids.push(
            plane.client.post_message("c 1".replace(' ', "-").as_str(), &message).await.expect("accepted").id,
        );
    }
    assert_eq!(plane.result(ids[2]).await, json!(["one", "re: one", "two", "re: two"]));
    let messages = plane.client.messages("c-1", 0).await.expect("it exists").items;
    let last = messages.last().expect("six messages").data.text().to_owned();
    assert_eq!(messages.len(), 6);
    assert!(last.contains("re: three"), "{last}");
    let conversation = plane.client.conversation("c-1").await.expect("it exists");
    assert_eq!((conversation.head, conversation.queue.len()), (None, 0));
}

#[tokio::test]
async fn a_running_task_is_cancelled_within_moments_and_a_queued_one_at_once() {
    let plane = Plane::start(
        &(shell("slow", "cat >/dev/null; sleep 300") + "concurrency = 1\n").replace("max = 2", "max = 1"),
    )
    .await;
    let (running, queued) = (plane.submit("slow", json!(1)).await, plane.submit("slow", json!(2)).await);
    plane.reaches(running, State::Running).await;
    let task = plane.client.cancel(queued, Some("not needed".into())).await.expect("cancelled");
    assert_eq!(task.state, State::Cancelled);
    plane.client.cancel(running, None).await.expect("requested");
    plane.reaches(running, State::Cancelled).await;
    let again = plane.client.retry(running, Some("k1")).await.expect("a cancelled task can be retried");
    assert_eq!(again.retry_of, Some(running));
    let same = plane.client.retry(running, Some("k1")).await.expect("a repeated retry is the same");
    assert_eq!(same.id, again.id);
}

#[tokio::test]
async fn events_can_be_followed_and_resumed_from_any_number() {
    let agent = "cat >/dev/null; for i in 1 2 3; do echo \"{\\\"longshore\\\":\\\"progress\\\",\\\"data\\\":$i}\"; done";
    let plane = Plane::start(&shell("steps", agent)).await;
    let id = plane.submit("steps", json!(null)).await;
    let mut stream = plane.client.follow(id, 0).await.expect("a stream");
    let mut all = Vec::new();
    while let Some(event) = stream.next().await.expect("an unbroken stream") {
        all.push((event.seq, event.kind));
    }
    assert_eq!(all.iter().filter(|(_, kind)| kind == "progress").count(), 3);
    assert_eq!(all.last().map(|(_, kind)| kind.as_str()), Some("succeeded"));
    let mut stream = plane.client.follow(id, all[2].0).await.expect("a stream");
    let resumed = stream.next().await.expect("an unbroken stream").expect("more events");
    assert_eq!(resumed.seq, all[3].0);
}
