//! Whatever is sent to the API gets a clear problem with a code, and nothing is stored.

use longshore_api::problem::{CONTENT_TYPE, Problem};
use serde_json::{Value, json};

use crate::plane::Plane;

const FLEET: &str = "[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n";

struct Answer {
    status: u16,
    problem: Problem,
}

async fn send(plane: &Plane, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let method = method.parse().expect("a method");
    let mut request =
        reqwest::Client::new().request(method, format!("{}{path}", plane.addresses.api)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], CONTENT_TYPE, "status {status}");
    let problem: Problem = response.json().await.expect("a problem");
    assert_eq!(problem.status, status);
    Answer { status, problem }
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn check(plane: &Plane, body: impl Into<Vec<u8>>, status: u16, code: &str, says: &str) {
    let answer = send(plane, "POST", "/v1/tasks", &[JSON], body.into()).await;
    assert_eq!((answer.status, &*answer.problem.code), (status, code), "{}", answer.problem.detail);
    assert!(answer.problem.detail.contains(says), "{}", answer.problem.detail);
}

#[tokio::test]
async fn bodies_that_are_no_task_are_refused_and_nothing_is_stored() {
    let plane = Plane::start(FLEET).await;
    let deep =
        |levels: usize| format!(r#"{{"fleet":"a","input":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    check(&plane, "{\"fleet\":", 400, "malformed_json", "line 1").await;
    check(&plane, "", 422, "invalid_value", "fleet").await;
    check(&plane, b"{\"fleet\":\"a\",\"input\":\"\xff\"}".to_vec(), 400, "not_utf8", "byte 22").await;
    check(&plane, deep(100), 400, "too_deep", "64").await;
    check(&plane, deep(500_000), 400, "too_deep", "64").await;
    check(&plane, r#"{"fleet":"nope"}"#, 404, "unknown_fleet", "nope").await;
    check(&plane, r#"{"fleet":"A B"}"#, 422, "invalid_value", "a-z").await;
    check(&plane, r#"{"fleet":7}"#, 422, "invalid_value", "7").await;
    check(&plane, r#"{"fleet":"a","inptu":1}"#, 422, "invalid_value", "inptu").await;
    check(&plane, r#"{"fleet":"a","priority":99999999999999999999}"#, 422, "invalid_value", "priority").await;
    check(&plane, r#"{"fleet":"a","priority":-1001}"#, 422, "invalid_value", "-1000").await;
    check(&plane, r#"{"fleet":"a","max_attempts":-1}"#, 422, "invalid_value", "-1").await;
    check(&plane, r#"{"fleet":"a","max_attempts":0}"#, 422, "invalid_value", "1 to 100").await;
    check(&plane, r#"{"fleet":"a","timeout":"1e9"}"#, 422, "invalid_value", "timeout").await;
    check(&plane, r#"{"fleet":"a","timeout":"-5s"}"#, 422, "invalid_value", "timeout").await;
    check(&plane, r#"{"fleet":"a","run_at":"tomorrow"}"#, 422, "invalid_value", "RFC 3339").await;
    check(&plane, r#"{"fleet":"a","conversation":""}"#, 422, "invalid_value", "conversation").await;
    check(&plane, r#"[1,2]"#, 422, "invalid_value", "").await;
    let large = format!(r#"{{"fleet":"a","input":"{}"}}"#, "x".repeat(1 << 20));
    check(&plane, large, 413, "input_too_large", "1048576").await;
    check(&plane, vec![b' '; 3 << 20], 413, "input_too_large", "").await;
    let none = plane.client.tasks(&Default::default()).await.expect("a list").items;
    assert!(none.is_empty(), "{none:?}");
}

#[tokio::test]
async fn headers_paths_and_methods_are_checked_too() {
    let plane = Plane::start(FLEET).await;
    let task = || br#"{"fleet":"a"}"#.to_vec();
    /// Method, path, headers, body; status and code that follow.
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Vec<u8>, u16, &'a str);
    let cases: [Case; 11] = [
        ("POST", "/v1/tasks", &[("content-type", "text/plain")], task(), 415, "unsupported_content_type"),
        ("POST", "/v1/tasks", &[JSON, ("idempotency-key", "")], task(), 400, "invalid_idempotency_key"),
        ("POST", "/v1/tasks", &[JSON, ("origin", "https://elsewhere.example")], task(), 403, "cross_origin"),
        ("POST", "/v1/tasks", &[JSON, ("host", "evil.example:7117")], task(), 403, "foreign_host"),
        ("GET", "/v1/tasks/not-an-id", &[], vec![], 400, "invalid_task_id"),
        ("GET", "/v1/tasks/00000000-0000-7000-8000-000000000000", &[], vec![], 404, "unknown_task"),
        ("GET", "/v1/tasks?limit=-1", &[], vec![], 422, "invalid_value"),
        ("GET", "/v1/tasks?limit=99999999999999999999", &[], vec![], 400, "invalid_query"),
        ("GET", "/v1/tasks?state=done", &[], vec![], 422, "invalid_value"),
        ("GET", "/v2/tasks", &[], vec![], 404, "unknown_route"),
        ("DELETE", "/v1/tasks", &[], vec![], 405, "wrong_method"),
    ];
    for (method, path, headers, body, status, code) in cases {
        let answer = send(&plane, method, path, headers, body).await;
        assert_eq!((answer.status, &*answer.problem.code), (status, code), "{method} {path}");
    }
}

#[tokio::test]
async fn a_cursor_works_on_its_own_list_only() {
    let plane = Plane::start(FLEET).await;
    plane.submit_many("a", (0..5).map(|n| json!(n))).await;
    let query = |fleet: Option<&str>, cursor: Option<String>| longshore_api::client::TaskQuery {
        fleet: fleet.map(Into::into),
        limit: Some(2),
        cursor,
        ..Default::default()
    };
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let page = plane.client.tasks(&query(None, cursor)).await.expect("a page");
        seen.extend(page.items.into_iter().map(|task| task.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let mut sorted = seen.clone();
    sorted.sort_by(|a, b| b.cmp(a));
    sorted.dedup();
    assert_eq!((seen.len(), &seen), (5, &sorted), "every task once, newest first");
    let first = plane.client.tasks(&query(None, None)).await.expect("a page");
    let refused = plane.client.tasks(&query(Some("a"), first.next_cursor)).await.expect_err("another list");
    assert_eq!(refused.problem().map(|problem| &*problem.code), Some("cursor_of_another_list"));
}

#[tokio::test]
async fn a_batch_is_taken_whole_or_not_at_all_and_names_its_bad_lines() {
    let plane = Plane::start(FLEET).await;
    let body = "{\"fleet\":\"a\"}\n\n{\"fleet\":\"nope\"}\n{\"fleet\":\n";
    let answer = send(&plane, "POST", "/v1/tasks:batch", &[], body.into()).await;
    assert_eq!((answer.status, &*answer.problem.code), (422, "invalid_batch"));
    let places: Vec<_> = answer.problem.errors.iter().map(|error| error.at.as_str()).collect();
    assert_eq!(places, ["line 3", "line 4"]);
    assert!(plane.client.tasks(&Default::default()).await.expect("a list").items.is_empty());
    let answer = send(&plane, "POST", "/v1/tasks:batch", &[], b"\n\n".to_vec()).await;
    assert_eq!(&*answer.problem.code, "empty_batch");
}

#[tokio::test]
async fn an_idempotency_key_repeats_its_own_request_and_refuses_another() {
    let plane = Plane::start(FLEET).await;
    let task = |input: i32| {
        let fleet = longshore_core::id::FleetName::new("a").expect("valid");
        longshore_api::task::Submit::new(fleet, longshore_core::json::Json::of(&input))
    };
    let first = plane.client.submit(&task(1), Some("key")).await.expect("accepted");
    let again = plane.client.submit(&task(1), Some("key")).await.expect("accepted again");
    assert_eq!(first.id, again.id);
    let other = plane.client.submit(&task(2), Some("key")).await.expect_err("another request");
    assert_eq!(other.problem().map(|problem| &*problem.code), Some("idempotency_key_reused"));
    assert_eq!(plane.client.tasks(&Default::default()).await.expect("a list").items.len(), 1);
}

#[tokio::test]
async fn forged_stale_and_foreign_worker_tokens_are_refused() {
    let fleets = format!("{FLEET}[fleet.b]\ncommand = [\"cat\"]\nplatform = \"external\"\n");
    let plane = Plane::start(&fleets).await;
    let token = |fleet: &str| {
        std::fs::read_to_string(plane.dir().join(".longshore/tokens").join(fleet))
            .expect("written at the start")
    };
    let hello = json!({"link_version": 1, "worker": "w", "nonce": uuid::Uuid::new_v4(), "fleet": "a", "version": "0"});
    let register = async |token: String, hello: &Value| {
        let request = reqwest::Client::new().post(format!("{}/worker/v1/register", plane.addresses.link));
        request.bearer_auth(token).json(hello).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(register(token("a"), &hello).await, 200);
    for bad in [String::new(), "lsw1.a.AAAA".into(), token("b"), token("b").replace("lsw1.b", "lsw1.a")] {
        assert_eq!(register(bad, &hello).await, 401);
    }
    let mut newer = hello.clone();
    newer["link_version"] = json!(2);
    assert_eq!(register(token("a"), &newer).await, 426);
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_is_harmed() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port();
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!(
        "[server]\napi = \"127.0.0.1:{port}\"\nlink = \"127.0.0.1:0\"\nprobes = \"127.0.0.1:0\"\n{FLEET}"
    );
    std::fs::write(dir.path().join("longshore.toml"), text).expect("writable");
    let output =
        std::process::Command::new(crate::plane::binary()).arg("serve").current_dir(dir.path()).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&port.to_string()) && said.contains("hint:"), "{said}");
}

#[tokio::test]
async fn a_store_that_another_process_holds_is_left_alone() {
    let plane = Plane::start(FLEET).await;
    let output =
        std::process::Command::new(crate::plane::binary()).arg("serve").current_dir(plane.dir()).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&plane.pid().to_string()), "names the holder: {said}");
    plane.submit("a", json!(1)).await;
}
