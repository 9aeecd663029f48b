//! Each route times each kind of caller. A route without a row here fails the test, and so does a row without a route.

use std::collections::BTreeSet;

use http::Method;
use longshore_core::access::Verb;
use serde_json::{Value, json};
use uuid::Uuid;

use super::scene::{Scene, scope};
use crate::{link, rules};

/// Who calls, in the order of the tables' columns.
const CALLERS: [&str; 14] = [
    "none",
    "wrong",
    "expired",
    "revoked",
    "read",
    "submit",
    "operate",
    "admin",
    "fleet b",
    "tenant acme",
    "join a",
    "worker a",
    "worker b",
    "task",
];

/// Whatever the API offers, workers and agents get nothing of it; nobody is told who is unknown what is there.
#[rustfmt::skip]
const API: &[(&str, &str, [u16; 14])] = &[
    // none wrong expired revoked   read submit operate admin   fleet-b tenant   join worker-a worker-b task
    ("GET",  "/openapi.json",                  [401, 401, 401, 401,  200, 403, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("GET",  "/v1/about",                      [401, 401, 401, 401,  200, 403, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("POST", "/v1/tasks",                      [401, 401, 401, 401,  403, 201, 403, 201,  403, 201,  403, 401, 401, 401]),
    ("GET",  "/v1/tasks",                      [401, 401, 401, 401,  200, 403, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("POST", "/v1/tasks:batch",                [401, 401, 401, 401,  403, 201, 403, 201,  422, 201,  403, 401, 401, 401]),
    ("POST",  "/v1/tasks:cancel",              [401, 401, 401, 401,  403, 200, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("POST",  "/v1/tasks:retry",               [401, 401, 401, 401,  403, 200, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("GET",  "/v1/tasks/{id}",                 [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("POST", "/v1/tasks/{id}/cancel",          [401, 401, 401, 401,  403, 200, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("POST", "/v1/tasks/{id}/retry",           [401, 401, 401, 401,  403, 409, 403, 409,  404, 404,  403, 401, 401, 401]),
    ("POST", "/v1/tasks/{id}/input",           [401, 401, 401, 401,  403, 409, 403, 409,  404, 404,  403, 401, 401, 401]),
    ("GET",  "/v1/tasks/{id}/journal",         [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("GET",  "/v1/tasks/{id}/events",          [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("GET",   "/v1/batches",                   [401, 401, 401, 401,  200, 403, 403, 200,  200, 200,  403, 401, 401, 401]),
    ("GET",   "/v1/batches/{id}",              [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("POST",  "/v1/batches/{id}/cancel",       [401, 401, 401, 401,  403, 200, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("GET",   "/v1/batches/{id}/events",       [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("DELETE", "/v1/tenants/{id}/data",        [401, 401, 401, 401,  403, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/conversations/{id}",         [401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("GET",  "/v1/conversations/{id}/messages",[401, 401, 401, 401,  200, 403, 403, 200,  404, 404,  403, 401, 401, 401]),
    ("POST", "/v1/conversations/{id}/messages",[401, 401, 401, 401,  403, 201, 403, 201,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/fleets",                     [401, 401, 401, 401,  200, 403, 403, 200,  200, 403,  403, 401, 401, 401]),
    ("POST", "/v1/fleets:apply",               [401, 401, 401, 401,  403, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/fleets/{name}",              [401, 401, 401, 401,  200, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/fleets/{name}/scale",        [401, 401, 401, 401,  200, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/fleets/{name}/scale",        [401, 401, 401, 401,  403, 403, 200, 200,  403, 403,  403, 401, 401, 401]),
    ("POST",  "/v1/fleets/{name}/pause",       [401, 401, 401, 401,  403, 403, 200, 200,  403, 403,  403, 401, 401, 401]),
    ("POST",  "/v1/fleets/{name}/resume",      [401, 401, 401, 401,  403, 403, 200, 200,  403, 403,  403, 401, 401, 401]),
    ("GET",   "/v1/fleets/{name}/tenants",     [401, 401, 401, 401,  200, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/workers",                    [401, 401, 401, 401,  200, 403, 403, 200,  200, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/workers/{id}",               [401, 401, 401, 401,  200, 403, 403, 200,  404, 403,  403, 401, 401, 401]),
    ("POST", "/v1/workers/{id}/drain",         [401, 401, 401, 401,  403, 403, 200, 200,  404, 403,  403, 401, 401, 401]),
    ("GET", "/v1/schedules", [401, 401, 401, 401,  200, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET", "/v1/schedules/{name}", [401, 401, 401, 401,  404, 403, 403, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/schedules/{name}/pause", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/schedules/{name}/resume", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/schedules/{name}/run", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("GET", "/v1/webhooks", [401, 401, 401, 401,  200, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("GET", "/v1/webhooks/{name}", [401, 401, 401, 401,  404, 403, 403, 404,  403, 403,  403, 401, 401, 401]),
    ("GET", "/v1/webhooks/{name}/deliveries", [401, 401, 401, 401,  404, 403, 403, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/webhooks/{name}/retry", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/webhooks/{name}/test", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/webhooks/{name}/enable", [401, 401, 401, 401,  403, 403, 404, 404,  403, 403,  403, 401, 401, 401]),
    ("GET",  "/v1/keys",                       [401, 401, 401, 401,  403, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/keys",                       [401, 401, 401, 401,  403, 403, 403, 201,  403, 403,  403, 401, 401, 401]),
    ("POST", "/v1/keys/{id}/revoke",           [401, 401, 401, 401,  403, 403, 403, 200,  403, 403,  403, 401, 401, 401]),
];

/// No key but one that joins opens the link, the administrator's least of all: it is not for machines that run agents.
#[rustfmt::skip]
const OPENS: [u16; 14] =
    [401, 401, 401, 401,  403, 403, 403, 403,  403, 403,  200, 200, 401, 401];

/// The same, with an answer that says nothing.
#[rustfmt::skip]
const KEEPS: [u16; 14] =
    [401, 401, 401, 401,  403, 403, 403, 403,  403, 403,  204, 204, 401, 401];

/// What is asked of a worker of fleet `a`, or by an agent of one of its tasks.
const LINK: &[(&str, &str, [u16; 14])] = &[
    ("POST", "/worker/v1/register", OPENS),
    ("POST", "/worker/v1/claim", OPENS),
    ("POST", "/worker/v1/heartbeat", OPENS),
    ("POST", "/worker/v1/events", OPENS),
    ("POST", "/worker/v1/complete", OPENS),
    ("POST", "/worker/v1/release", OPENS),
    ("POST", "/worker/v1/deregister", OPENS),
    ("GET", "/agent/v1/conversation", OPENS),
    ("GET", "/agent/v1/steps", OPENS),
    ("POST", "/agent/v1/steps/{name}", OPENS),
    ("PUT", "/agent/v1/steps/{name}", OPENS),
    ("GET", "/agent/v1/children", OPENS),
    ("POST", "/agent/v1/children", OPENS),
    ("GET", "/agent/v1/children/{name}", OPENS),
    ("PUT", "/agent/v1/children/{name}", OPENS),
    ("GET", "/agent/v1/questions", OPENS),
    ("GET", "/agent/v1/questions/{name}", OPENS),
    ("POST", "/agent/v1/questions/{name}", OPENS),
    ("GET", "/agent/v1/cache/{key}", OPENS),
    ("PUT", "/agent/v1/cache/{key}", KEEPS),
    ("DELETE", "/agent/v1/cache/{key}", KEEPS),
    // Refusals of a provider's caller come as frames, in the provider's form, so with 200.
    (
        "GET",
        "/llm/{provider}/{*path}",
        [401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 200, 401],
    ),
    (
        "POST",
        "/llm/{provider}/{*path}",
        [401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 200, 401],
    ),
    (
        "PUT",
        "/llm/{provider}/{*path}",
        [401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 200, 401],
    ),
    (
        "DELETE",
        "/llm/{provider}/{*path}",
        [401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 200, 401],
    ),
    (
        "PATCH",
        "/llm/{provider}/{*path}",
        [401, 401, 401, 401, 403, 403, 403, 403, 403, 403, 200, 200, 200, 401],
    ),
];

const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH];

/// One token per caller.
async fn tokens(scene: &Scene) -> [Option<String>; 14] {
    let all = [Verb::Read, Verb::Submit, Verb::Operate];
    let good = async |verbs: &[Verb], fleets: &[&str], tenant| {
        Some(scene.key(scope(verbs, fleets, tenant), false, false).await)
    };
    let attempt = scene.attempt().await;
    [
        None,
        Some(format!("lsk_{}", "x".repeat(43))),
        Some(scene.key(scope(&[Verb::Admin], &[], None), true, false).await),
        Some(scene.key(scope(&[Verb::Admin], &[], None), false, true).await),
        good(&[Verb::Read], &[], None).await,
        good(&[Verb::Submit], &[], None).await,
        good(&[Verb::Operate], &[], None).await,
        good(&[Verb::Admin], &[], None).await,
        good(&all, &["b"], None).await,
        good(&[Verb::Read, Verb::Submit], &[], Some("acme")).await,
        good(&[Verb::Join], &["a"], None).await,
        Some(scene.worker_token("a")),
        Some(scene.worker_token("b")),
        Some(attempt),
    ]
}

fn listed(table: &[(&str, &str, [u16; 14])]) -> BTreeSet<String> {
    table.iter().map(|(method, path, _)| format!("{method} {path}")).collect()
}

/// What is served among these paths: whatever is not answered with 405.
async fn served(
    scene: &Scene,
    paths: BTreeSet<String>,
    url: impl Fn(&str) -> String,
    token: &str,
) -> BTreeSet<String> {
    let mut served = BTreeSet::new();
    for path in paths {
        let concrete = url(&path.replace(['{', '}', '*'], ""));
        for method in METHODS {
            let (status, answer) = scene.ask(&method, &concrete, Some(token), None).await;
            assert_ne!(answer["code"], "unknown_route", "{method} {path}");
            if status != 405 {
                served.insert(format!("{method} {path}"));
            }
        }
    }
    served
}

#[tokio::test]
async fn every_route_that_is_served_has_a_row_and_every_row_a_route() {
    let scene = Scene::locked().await;
    let document = serde_json::to_value(crate::openapi()).expect("JSON");
    let documented = document["paths"].as_object().expect("paths");
    let mut paths: BTreeSet<String> = documented.keys().cloned().collect();
    paths.insert("/openapi.json".into());
    let api = served(&scene, paths, |path| scene.api(path), &scene.admin).await;
    assert_eq!(api, listed(API));
    let ruled: BTreeSet<String> =
        rules::RULES.iter().map(|rule| format!("{} {}", rule.method, rule.path)).collect();
    assert_eq!(ruled, api);
    let operations = documented.iter().flat_map(|(path, operations)| {
        let methods = operations.as_object().expect("operations").keys();
        methods.map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let unruled: Vec<_> = operations.filter(|operation| !ruled.contains(operation)).collect();
    assert!(unruled.is_empty(), "documented, but never reached without a rule: {unruled:?}");
    let paths = link::routes().into_iter().map(|(path, _)| path.to_owned()).collect();
    let token = scene.worker_token("a");
    assert_eq!(served(&scene, paths, |path| scene.link(path), &token).await, listed(LINK));
}

/// A path with what it names, made anew so that one request cannot spoil the next, and a body that fits.
async fn prepared(scene: &Scene, method: &str, path: &str) -> (String, Option<Value>) {
    let task = || scene.task(json!({ "conversation": "talk" }));
    let worker = || async {
        let hello = scene.hello("w-a", "a");
        assert_eq!(scene.say("/worker/v1/register", &scene.worker_token("a"), hello).await.0, 200);
    };
    let of = |id: &str| path.replace("{id}", id).replace("{name}", "a");
    match (method, path) {
        ("POST", "/v1/tasks") => (path.into(), Some(json!({ "fleet": "a" }))),
        ("POST", "/v1/tasks:batch") => (path.into(), Some(json!({ "fleet": "a" }))),
        ("POST", "/v1/tasks:cancel" | "/v1/tasks:retry") => {
            (path.into(), Some(json!({ "all": true, "dry_run": true })))
        }
        ("DELETE", "/v1/tenants/{id}/data") => (of("nobody"), None),
        (_, path) if path.starts_with("/v1/batches/") => {
            let line = json!({ "fleet": "a" });
            let (status, made) = scene.post("/v1/tasks:batch", &scene.admin, line).await;
            assert_eq!(status, 201, "{made}");
            (of(made["batch"].as_str().expect("an id")), None)
        }
        ("POST", "/v1/tasks/{id}/input") => (of(&task().await), Some(json!({ "answer": "resume" }))),
        ("POST", "/v1/conversations/{id}/messages") => {
            (of("new"), Some(json!({ "fleet": "a", "content": "hello" })))
        }
        ("POST", "/v1/fleets:apply") => (path.into(), Some(json!({ "fleets": [], "dry_run": true }))),
        ("POST", "/v1/fleets/{name}/scale") => (of(""), Some(json!({ "replicas": null }))),
        ("POST", "/v1/keys") => (path.into(), Some(json!({ "name": "made" }))),
        ("POST", "/v1/keys/{id}/revoke") => {
            let (status, made) = scene.post("/v1/keys", &scene.admin, json!({ "name": "to revoke" })).await;
            assert_eq!(status, 201, "{made}");
            (of(made["id"].as_str().expect("an id")), None)
        }
        (_, path) if path.starts_with("/v1/tasks/") => (of(&task().await), None),
        (_, path) if path.starts_with("/v1/conversations/") => {
            task().await;
            (of("talk"), None)
        }
        (_, path) if path.starts_with("/v1/workers/") => {
            worker().await;
            (of("w-a"), None)
        }
        _ => (of(""), None),
    }
}

#[tokio::test]
async fn each_route_answers_each_kind_of_caller_as_the_table_says() {
    let scene = Scene::locked().await;
    let tokens = tokens(&scene).await;
    let mut wrong = Vec::new();
    for (method, path, expected) in API {
        let (concrete, body) = match *path {
            // The conversation of all others, once: its rows do not change it.
            "/v1/conversations/{id}" => prepared(&scene, method, path).await,
            _ => (String::new(), None),
        };
        for ((caller, token), expected) in CALLERS.iter().zip(&tokens).zip(expected) {
            let (concrete, body) = match concrete.is_empty() {
                true => prepared(&scene, method, path).await,
                false => (concrete.clone(), body.clone()),
            };
            let url = scene.api(&concrete);
            let parsed = method.parse().expect("a method");
            let (status, answer) = scene.ask(&parsed, &url, token.as_deref(), body).await;
            judge(&mut wrong, &format!("{method} {path} by {caller}"), *expected, status, &answer, &tokens);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn judge(
    wrong: &mut Vec<String>,
    what: &str,
    expected: u16,
    status: u16,
    answer: &Value,
    tokens: &[Option<String>],
) {
    let text = answer.to_string();
    if status != expected {
        wrong.push(format!("{what}: {status} instead of {expected}: {}", &text[..text.len().min(200)]));
    }
    if status >= 400 && answer["code"].as_str().is_none() {
        wrong.push(format!("{what}: {status} without a code: {text}"));
    }
    if tokens.iter().flatten().any(|token| text.contains(token.as_str())) {
        wrong.push(format!("{what}: the answer shows a token"));
    }
}

fn to_the_link(scene: &Scene, method: &str, path: &str) -> Value {
    let own = json!({ "worker": "w-a", "nonce": Uuid::nil() });
    let more = match path {
        "/worker/v1/register" => return scene.hello("w-a", "a"),
        "/worker/v1/claim" => json!({ "seq": 1, "max": 0, "in_flight": 0, "wait_ms": 0 }),
        "/worker/v1/heartbeat" => json!({ "held": [], "last_claim": 0, "condition": { "state": "ready" } }),
        "/worker/v1/events" => json!({ "attempts": [] }),
        "/worker/v1/complete" => json!({ "endings": [] }),
        "/worker/v1/release" => json!({ "attempts": [], "cause": "worker_ended" }),
        "/agent/v1/steps/{name}" if method == "PUT" => return json!({ "result": 1 }),
        "/agent/v1/children" => return json!([]),
        // It stays behind what the next row claims.
        "/agent/v1/children/{name}" => return json!({ "priority": -1000 }),
        "/agent/v1/questions/{name}" => return json!({ "question": "may it?" }),
        path if path.starts_with("/agent") => return json!({}),
        _ => json!({}),
    };
    let mut body = own;
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// What an agent does before there is something that it can be asked about.
fn before(method: &str, path: &str) -> Option<&'static str> {
    match (method, path) {
        ("PUT", "/agent/v1/steps/{name}") | ("GET", "/agent/v1/questions/{name}") => Some("POST"),
        (_, "/agent/v1/children/{name}") | ("GET" | "DELETE", "/agent/v1/cache/{key}") => Some("PUT"),
        _ => None,
    }
}

#[tokio::test]
async fn the_link_is_for_workers_and_each_fleets_for_its_own() {
    let scene = Scene::locked().await;
    let tokens = tokens(&scene).await;
    let mut wrong = Vec::new();
    for (method, path, expected) in LINK {
        for ((caller, token), expected) in CALLERS.iter().zip(&tokens).zip(expected) {
            let hello =
                scene.say("/worker/v1/register", &scene.worker_token("a"), scene.hello("w-a", "a")).await;
            assert_eq!(hello.0, 200, "{}", hello.1);
            let attempt = scene.attempt().await;
            if let Some(before) = before(method, path) {
                let begun = agent(&scene, before, path, Some(&scene.worker_token("a")), &attempt).await;
                assert!([200, 201, 204].contains(&begun.0), "{}", begun.1);
            }
            let (status, answer) = agent(&scene, method, path, token.as_deref(), &attempt).await;
            judge(&mut wrong, &format!("{method} {path} by {caller}"), *expected, status, &answer, &[]);
            if *caller == "worker b" && status == 200 && !answer.to_string().contains("wrong_task_token") {
                wrong.push(format!("{method} {path} by {caller}: let in: {answer}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A request of the link, with an agent's token beside the worker's.
async fn agent(scene: &Scene, method: &str, path: &str, token: Option<&str>, task: &str) -> (u16, Value) {
    let concrete = path
        .replace("{name}", "step")
        .replace("{key}", "kept")
        .replace("{provider}", "here")
        .replace("{*path}", "v1/models");
    let method: Method = method.parse().expect("a method");
    let mut request = scene.http.request(method.clone(), scene.link(&concrete));
    request =
        request.header("longshore-task-token", task).header("longshore-call", Uuid::new_v4().to_string());
    if method != Method::GET {
        request = request.json(&to_the_link(scene, method.as_str(), path));
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = String::from_utf8_lossy(&response.bytes().await.expect("a body")).into_owned();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}
