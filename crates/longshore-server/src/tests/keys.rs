//! The life of keys, over the API.

use std::time::{Duration, Instant};

use longshore_core::access::Verb;
use serde_json::json;

use super::scene::{Scene, scope, start};
use crate::StartError;

/// Two seconds, by which every replica knows, and some more for a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_key_is_shown_once_works_and_is_refused_soon_after_it_was_revoked() {
    let scene = Scene::locked().await;
    let wanted = json!({ "name": "webshop", "verbs": ["read", "submit"], "fleets": ["a"] });
    let (status, made) = scene.post("/v1/keys", &scene.admin, wanted).await;
    assert_eq!(status, 201, "{made}");
    let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
    assert!(longshore_core::access::is_key(key));
    assert_eq!(made["hint"], format!("lsk_…{}", &key[key.len() - 4..]));
    let (_, list) = scene.get("/v1/keys", &scene.admin).await;
    assert!(!list.to_string().contains(key) && list["items"][0]["standing"] == "good", "{list}");
    assert_eq!(scene.post("/v1/tasks", key, json!({ "fleet": "a" })).await.0, 201);
    let end = Instant::now() + SOON;
    loop {
        let (_, list) = scene.get("/v1/keys", &scene.admin).await;
        if list["items"][0]["used_at"].is_string() {
            break;
        }
        assert!(Instant::now() < end, "its use is not noted: {list}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (status, revoked) = scene.post(&format!("/v1/keys/{id}/revoke"), &scene.admin, json!({})).await;
    assert_eq!((status, &revoked["standing"]), (200, &json!("revoked")), "{revoked}");
    let (status, refused) = scene.get("/v1/tasks", key).await;
    assert_eq!((status, &refused["code"]), (401, &json!("key_revoked")), "{refused}");
    // Revoked elsewhere: it is found out without a word.
    let other = scene.key(scope(&[Verb::Read], &[], None), false, false).await;
    assert_eq!(scene.get("/v1/about", &other).await.0, 200);
    let hash = crate::keys::hash(&other);
    let store = &scene.server.app().store;
    let record = store.key_by_hash(hash).await.expect("read").expect("there");
    store.revoke_key(record.id, crate::app::now()).await.expect("written");
    let end = Instant::now() + SOON;
    while scene.get("/v1/about", &other).await.0 != 401 {
        assert!(Instant::now() < end, "still let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_key_is_in_the_store_in_plain() {
    let scene = Scene::locked().await;
    let (_, made) = scene.post("/v1/keys", &scene.admin, json!({ "name": "a" })).await;
    let key = made["key"].as_str().expect("a key").to_owned();
    assert_eq!(scene.get("/v1/tasks", &key).await.0, 200);
    let dir = scene.dir.path().join(".longshore");
    for file in std::fs::read_dir(&dir).expect("a folder").flatten().filter(|file| file.path().is_file()) {
        let bytes = std::fs::read(file.path()).expect("readable");
        for secret in [&key, &scene.admin] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{} holds a key", file.path().display());
        }
    }
    assert!(!format!("{:?}", serde_json::from_value::<longshore_api::key::CreatedKey>(made)).contains(&key));
}

#[tokio::test]
async fn keys_that_contradict_themselves_or_name_nothing_are_not_made() {
    let scene = Scene::locked().await;
    for (wanted, status, code) in [
        (json!({ "name": "" }), 422, "invalid_value"),
        (json!({ "name": "a", "verbs": [] }), 422, "invalid_value"),
        (json!({ "name": "a", "verbs": ["admin"], "fleets": ["a"] }), 422, "invalid_value"),
        (json!({ "name": "a", "verbs": ["join"] }), 422, "invalid_value"),
        (json!({ "name": "a", "verbs": ["fly"] }), 422, "invalid_value"),
        (json!({ "name": "a", "expires_at": "2020-01-01T00:00:00Z" }), 422, "invalid_value"),
        (json!({ "name": "a", "fleets": ["c"] }), 404, "unknown_fleet"),
    ] {
        let (seen, answer) = scene.post("/v1/keys", &scene.admin, wanted.clone()).await;
        assert_eq!((seen, &answer["code"]), (status, &json!(code)), "{wanted}: {answer}");
    }
    let (status, answer) =
        scene.post(&format!("/v1/keys/{}/revoke", scene.admin), &scene.admin, json!({})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_key_id")));
    assert!(!answer.to_string().contains(&scene.admin), "a key given in place of its id is not repeated");
}

#[tokio::test]
async fn lists_hold_only_what_a_key_may_see() {
    let scene = Scene::locked().await;
    let (of_a, of_b) = (scene.task(json!({})).await, scene.task(json!({ "fleet": "b" })).await);
    let ids = async |key: &str, query: &str| {
        let (status, page) = scene.get(&format!("/v1/tasks{query}"), key).await;
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().expect("items").iter();
        let ids: Vec<String> = items.map(|task| task["id"].as_str().expect("an id").to_owned()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    let a = scene.key(scope(&[Verb::Read], &["a"], None), false, false).await;
    let both = scene.key(scope(&[Verb::Read], &["a", "b"], None), false, false).await;
    assert_eq!(ids(&a, "").await.0, std::slice::from_ref(&of_a));
    assert_eq!(ids(&both, "").await.0, [of_b.clone(), of_a.clone()]);
    let (first, cursor) = ids(&both, "?limit=1").await;
    assert_eq!(first, [of_b]);
    let cursor = cursor.expect("there is more");
    assert_eq!(ids(&both, &format!("?limit=1&cursor={cursor}")).await, (vec![of_a], None));
    let (status, refused) = scene.get("/v1/tasks?fleet=b", &a).await;
    assert_eq!((status, &refused["code"]), (403, &json!("fleet_not_allowed")));
    let (_, fleets) = scene.get("/v1/fleets", &a).await;
    assert_eq!(fleets["items"].as_array().map(Vec::len), Some(1), "{fleets}");
    let hello = scene.hello("w-b", "b");
    assert_eq!(scene.say("/worker/v1/register", &scene.worker_token("b"), hello).await.0, 200);
    let (_, workers) = scene.get("/v1/workers", &a).await;
    assert_eq!(workers["items"], json!([]));
}

#[tokio::test]
async fn a_conversation_with_a_task_of_another_fleet_is_not_joined() {
    let scene = Scene::locked().await;
    scene.task(json!({ "fleet": "b", "conversation": "mixed" })).await;
    let a = scene.key(scope(&[Verb::Read, Verb::Submit], &["a"], None), false, false).await;
    let task = json!({ "fleet": "a", "conversation": "mixed" });
    let (status, refused) = scene.post("/v1/tasks", &a, task.clone()).await;
    assert_eq!((status, &refused["code"]), (403, &json!("conversation_not_allowed")));
    let (status, _) = scene.post("/v1/tasks:batch", &a, task).await;
    assert_eq!(status, 422);
    assert_eq!(scene.get("/v1/conversations/mixed/messages", &a).await.0, 404);
    let own = json!({ "fleet": "a", "conversation": "own" });
    assert_eq!(scene.post("/v1/tasks", &a, own).await.0, 201);
    assert_eq!(scene.get("/v1/conversations/own", &a).await.0, 200);
}

#[tokio::test]
async fn a_worker_whose_key_is_revoked_gets_nothing_more() {
    let scene = Scene::locked().await;
    let wanted = json!({ "name": "gpu box", "verbs": ["join"], "fleets": ["a"] });
    let (_, made) = scene.post("/v1/keys", &scene.admin, wanted).await;
    let (key, id) = (made["key"].as_str().expect("a key"), made["id"].as_str().expect("an id"));
    assert_eq!(scene.say("/worker/v1/register", key, scene.hello("w-1", "a")).await.0, 200);
    let (status, refused) = scene.say("/worker/v1/register", key, scene.hello("w-2", "b")).await;
    assert_eq!((status, &refused["code"]), (401, &json!("bad_worker_token")));
    let claim = json!({ "worker": "w-1", "nonce": uuid::Uuid::nil(), "seq": 1, "max": 1, "in_flight": 0, "wait_ms": 40_000 });
    let waiting = scene.say("/worker/v1/claim", key, claim);
    let revoking = async {
        assert_eq!(scene.post(&format!("/v1/keys/{id}/revoke"), &scene.admin, json!({})).await.0, 200);
        scene.task(json!({})).await;
    };
    let ((status, refused), ()) = tokio::join!(waiting, revoking);
    assert_eq!((status, &refused["code"]), (401, &json!("key_revoked")), "{refused}");
}

#[tokio::test]
async fn on_loopback_nobody_is_asked_but_who_shows_a_key_is_judged_by_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = start(&dir, "", None).await.expect("the quick start needs no key");
    let scene = Scene::of(server, dir);
    let url = scene.api("/v1/fleets");
    assert_eq!(scene.ask(&http::Method::GET, &url, None, None).await.0, 200);
    let narrow = scene.key(scope(&[Verb::Submit], &[], None), false, false).await;
    assert_eq!(scene.get("/v1/fleets", &narrow).await.0, 403);
    assert_eq!(scene.get("/v1/fleets", "something else").await.0, 401);
}

#[tokio::test]
async fn beyond_loopback_it_starts_only_where_there_is_a_key() {
    let dir = tempfile::tempdir().expect("a folder");
    let everywhere = "api = \"0.0.0.0:0\"";
    let refused = start(&dir, everywhere, None).await.err().expect("nobody could be asked");
    assert!(matches!(refused, StartError::Exposed { .. }), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("LONGSHORE_ADMIN_TOKEN_FILE")));
    // Workers' keys do not count: they open nothing of the API.
    let scene = Scene::of(start(&dir, "", None).await.expect("loopback"), dir);
    scene.key(scope(&[Verb::Join], &["a"], None), false, false).await;
    scene.key(scope(&[Verb::Admin], &[], None), false, true).await;
    let dir = scene.stopped().await;
    assert!(matches!(start(&dir, everywhere, None).await, Err(StartError::Exposed { .. })));
    let scene = Scene::of(start(&dir, "", None).await.expect("loopback"), dir);
    let key = scene.key(scope(&[Verb::Read], &[], None), false, false).await;
    let dir = scene.stopped().await;
    let scene = Scene::of(start(&dir, everywhere, None).await.expect("there is one"), dir);
    let url = scene.api("/v1/about");
    assert_eq!(scene.ask(&http::Method::GET, &url, None, None).await.0, 401);
    assert_eq!(scene.ask(&http::Method::GET, &url, Some(&key), None).await.0, 200);
}

#[tokio::test]
async fn a_tenants_key_submits_lists_and_changes_its_own_tasks_only() {
    let scene = Scene::locked().await;
    let key = scene.key(scope(&[Verb::Read, Verb::Submit], &[], Some("acme")), false, false).await;
    let foreign = scene.task(json!({ "tenant": "other" })).await;
    let (status, own) = scene.post("/v1/tasks", &key, json!({ "fleet": "a" })).await;
    assert_eq!((status, &own["tenant"]), (201, &json!("acme")), "{own}");
    let (status, refused) = scene.post("/v1/tasks", &key, json!({ "fleet": "a", "tenant": "other" })).await;
    assert_eq!((status, &refused["code"]), (403, &json!("tenant_not_allowed")), "{refused}");
    let (_, list) = scene.get("/v1/tasks", &key).await;
    assert_eq!(ids(&list), [own["id"].as_str().expect("an id")], "{list}");
    assert_eq!(scene.get("/v1/tasks?tenant=other", &key).await.0, 403);
    let (status, refused) = scene.post("/v1/tasks:cancel", &key, json!({})).await;
    assert_eq!((status, &refused["code"]), (422, &json!("empty_filter")), "{refused}");
    let (status, done) = scene.post("/v1/tasks:cancel", &key, json!({ "all": true })).await;
    assert_eq!((status, &done["changed"]), (200, &json!(1)), "{done}");
    let (_, untouched) = scene.get(&format!("/v1/tasks/{foreign}"), &scene.admin).await;
    assert_eq!(untouched["state"], "queued", "{untouched}");
    let again = format!("/v1/tasks/{}/retry", own["id"].as_str().expect("an id"));
    let (status, again) = scene.post(&again, &key, json!({})).await;
    assert_eq!((status, &again["tenant"]), (201, &json!("acme")), "{again}");
}

#[tokio::test]
async fn a_key_of_some_fleets_lists_and_changes_what_is_theirs_only() {
    let scene = Scene::locked().await;
    let one = scene.key(scope(&[Verb::Read, Verb::Submit], &["b"], None), false, false).await;
    let both = scene.key(scope(&[Verb::Read], &["a", "b"], None), false, false).await;
    let in_a = scene.task(json!({})).await;
    let in_b = scene.task(json!({ "fleet": "b" })).await;
    let last = scene.task(json!({})).await;
    let (_, list) = scene.get("/v1/tasks", &one).await;
    assert_eq!(ids(&list), [in_b.as_str()], "{list}");
    assert_eq!(scene.get("/v1/tasks?fleet=a", &one).await.0, 403);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = scene.get(&format!("/v1/tasks?limit=1{cursor}"), &both).await;
        assert_eq!(status, 200, "{page}");
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [last, in_b, in_a], "from new to old, each once");
    let (status, done) = scene.post("/v1/tasks:cancel", &one, json!({ "all": true })).await;
    assert_eq!((status, &done["changed"]), (200, &json!(1)), "{done}");
}

#[tokio::test]
async fn a_batch_is_seen_and_filled_by_those_who_may_see_all_of_it() {
    let scene = Scene::locked().await;
    let acme = scene.key(scope(&[Verb::Read, Verb::Submit], &[], Some("acme")), false, false).await;
    let of_b = scene.key(scope(&[Verb::Read, Verb::Submit], &["b"], None), false, false).await;
    let batch = uuid::Uuid::now_v7();
    let (fill, show) = (format!("/v1/tasks:batch?batch={batch}&more=true"), format!("/v1/batches/{batch}"));
    assert_eq!(scene.post(&fill, &acme, json!({ "fleet": "b" })).await.0, 201);
    assert_eq!(scene.post(&fill, &of_b, json!({ "fleet": "b", "tenant": "acme" })).await.0, 201);
    for key in [&acme, &of_b] {
        assert_eq!(scene.get(&show, key).await.0, 200);
        assert_eq!(scene.get("/v1/batches", key).await.1["items"].as_array().map(Vec::len), Some(1));
    }
    assert_eq!(scene.post(&fill, &acme, json!({ "fleet": "a" })).await.0, 201);
    assert_eq!(scene.get(&show, &acme).await.0, 200);
    assert_eq!(scene.get(&show, &of_b).await.0, 404, "it counts tasks of fleet `a` now");
    assert_eq!(scene.post(&fill, &of_b, json!({ "fleet": "b", "tenant": "acme" })).await.0, 404);
    assert_eq!(scene.get("/v1/batches", &of_b).await.1["items"].as_array().map(Vec::len), Some(0));
    let (status, erased) =
        scene.ask(&http::Method::DELETE, &scene.api("/v1/tenants/acme/data"), Some(&scene.admin), None).await;
    assert_eq!((status, &erased["complete"]), (200, &json!(true)), "{erased}");
    assert_eq!(scene.get("/v1/about", &acme).await.0, 401, "a tenant's keys go with it");
}

fn ids(list: &serde_json::Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().map(|item| item["id"].as_str().expect("an id")).collect()
}
