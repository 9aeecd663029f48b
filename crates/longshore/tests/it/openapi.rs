//! The OpenAPI document and what is really served agree.

use serde_json::Value;

use crate::plane::Plane;

#[tokio::test]
async fn every_documented_operation_is_served_and_every_answer_is_json() {
    let plane = Plane::start("[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n").await;
    let http = reqwest::Client::new();
    let document = http.get(format!("{}/openapi.json", plane.addresses.api)).send().await.expect("served");
    let document: Value = document.json().await.expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let paths = document["paths"].as_object().expect("paths");
    for expected in [
        "/v1/tasks",
        "/v1/tasks:batch",
        "/v1/tasks:cancel",
        "/v1/batches/{id}/events",
        "/v1/tenants/{id}/data",
        "/v1/tasks/{id}/events",
        "/v1/fleets/{name}/scale",
        "/v1/workers",
        "/v1/schedules/{name}/run",
        "/v1/webhooks/{name}/deliveries",
    ] {
        assert!(paths.contains_key(expected), "{expected} is not documented");
    }
    for (path, operations) in paths {
        let concrete = path.replace("{id}", "none").replace("{name}", "none");
        for method in operations.as_object().expect("operations").keys().filter(|key| is_method(key)) {
            let request = http.request(
                method.to_uppercase().parse().expect("a method"),
                format!("{}{concrete}", plane.addresses.api),
            );
            let response = request.send().await.expect("an answer");
            let status = response.status();
            let body: Value = response.json().await.unwrap_or_default();
            let code = body["code"].as_str().unwrap_or_default();
            assert!(
                !matches!(code, "unknown_route" | "wrong_method"),
                "{method} {path} is documented but not served"
            );
            assert!(status.is_success() || !code.is_empty(), "{method} {path}: {status} without a code");
            assert!(!status.is_server_error(), "{method} {path}: {status}");
        }
    }
    let missing: Vec<_> = undefined_references(&document);
    assert!(missing.is_empty(), "schemas that are referred to but not there: {missing:?}");
}

fn is_method(key: &str) -> bool {
    matches!(key, "get" | "post" | "put" | "delete" | "patch")
}

fn undefined_references(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(document, &mut found);
    found.retain(|reference| document.pointer(reference.trim_start_matches('#')).is_none());
    found
}

fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn probes_and_metrics_have_their_own_port() {
    let plane = Plane::start("[fleet.a]\ncommand = [\"cat\"]\nplatform = \"external\"\n").await;
    plane.submit("a", serde_json::json!(1)).await;
    let get = async |path: &str| {
        let response = reqwest::get(format!("{}{path}", plane.addresses.probes)).await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("text"))
    };
    for path in ["/livez", "/healthz", "/readyz"] {
        assert_eq!(get(path).await.0, 200, "{path}");
    }
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("longshore_runnable_tasks{fleet=\"a\"} 1"), "{metrics}");
    assert_eq!(
        reqwest::get(format!("{}/metrics", plane.addresses.api)).await.expect("an answer").status(),
        404
    );
}
