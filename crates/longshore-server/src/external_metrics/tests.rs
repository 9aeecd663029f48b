//! Real handshakes and a stand-in for the API server: what it would tell us, and how it passes callers on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use http::StatusCode;
use longshore_core::fleet::{Fleet, Platform, ScaledBy, Scaling};
use longshore_core::scale::{self, Crew, Each, Load};
use longshore_core::settings;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::tests::scene::{self, Scene};
use crate::wanted;

const NAMESPACE: &str = "agents";
const METRICS: &str = "/apis/external.metrics.k8s.io/v1beta1/namespaces/agents";

/// An authority of front proxies.
pub struct Signer {
    pub issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Signer {
    pub fn new() -> Signer {
        let key = KeyPair::generate().expect("made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "front-proxy-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        Signer { issuer: Issuer::new(params, key), pem }
    }

    /// A key and a certificate of this name.
    fn identity(&self, name: &str) -> reqwest::Identity {
        let key = KeyPair::generate().expect("made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.signed_by(&key, &self.issuer).expect("signed").pem();
        reqwest::Identity::from_pem(format!("{}{pem}", key.serialize_pem()).as_bytes()).expect("a pair")
    }
}

/// What the API server knows, and what it was asked.
#[derive(Clone)]
struct Known(Arc<Mutex<Facts>>);

struct Facts {
    authorities: String,
    service: Value,
    reviews: Vec<Value>,
    broken: bool,
    /// What somebody else puts in the APIService's place, just before the next change of it.
    overtakes: Option<Value>,
    refused: usize,
}

impl Known {
    fn with<T>(&self, ask: impl FnOnce(&mut Facts) -> T) -> T {
        ask(&mut self.0.lock().expect("no holder panics"))
    }
}

async fn config_map(State(known): State<Known>) -> Json<Value> {
    let authorities = known.with(|facts| facts.authorities.clone());
    Json(json!({ "metadata": { "name": "extension-apiserver-authentication" }, "data": {
        "requestheader-client-ca-file": authorities,
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
    } }))
}

async fn review(State(known): State<Known>, Json(mut review): Json<Value>) -> impl IntoResponse {
    if known.with(|facts| facts.broken) {
        return (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "message": "etcd is away" })));
    }
    let allowed = review["spec"]["user"] == "autoscaler";
    known.with(|facts| facts.reviews.push(review["spec"].clone()));
    review["status"] = json!({ "allowed": allowed, "reason": "no rule allows it" });
    (StatusCode::CREATED, Json(review))
}

async fn patch(State(known): State<Known>, Json(change): Json<Value>) -> impl IntoResponse {
    known.with(|facts| {
        if let Some(other) = facts.overtakes.take() {
            facts.service = other;
        }
        let version = &change["metadata"]["resourceVersion"];
        if !version.is_null() && *version != facts.service["metadata"]["resourceVersion"] {
            facts.refused += 1;
            let refusal = json!({ "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409 });
            return (StatusCode::CONFLICT, Json(refusal));
        }
        facts.service["spec"]["caBundle"] = change["spec"]["caBundle"].clone();
        (StatusCode::OK, Json(facts.service.clone()))
    })
}

fn api_service(namespace: &str, name: &str) -> Value {
    json!({
        "metadata": { "name": "v1beta1.external.metrics.k8s.io", "resourceVersion": format!("of-{namespace}") },
        "spec": {
            "service": { "namespace": namespace, "name": name }, "group": "external.metrics.k8s.io",
            "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        },
    })
}

/// A control plane that serves external metrics of the fleets `research` and `kept`.
struct World {
    scene: Scene,
    known: Known,
    signer: Signer,
    metrics: SocketAddr,
    authority: String,
    _tasks: JoinSet<&'static str>,
    api_server: tokio::task::JoinHandle<()>,
}

fn pods(name: &str, by: ScaledBy) -> Fleet {
    let file = format!(
        "[fleet.{name}]\nplatform = \"kubernetes\"\nimage = \"a:1\"\nscaling = {{ by = \"{}\" }}\n",
        by.as_str()
    );
    let (settings, _) = settings::parse(&file, "longshore.toml", &[], "/").expect("a valid file");
    settings.fleets.into_iter().next().expect("one")
}

/// What the leader writes down of a fleet that it can see in a cluster.
async fn decide(app: &App, fleet: &str) {
    let load = Load { runnable: 0, oldest_wait_ms: None, running: 0, fresh: true, standstill: None };
    let crew = Crew { ready: 1, starting: 0, draining: 0 };
    let each = Each { concurrency: 1, startup_ms: 1000 };
    let answer = scale::decide(&load, &crew, &Scaling::default(), each, None, &Default::default(), now());
    let epoch = scene::leads(app).await;
    wanted::Publisher::default()
        .publish(app, &scene::fleet(fleet), &answer, (2, 2), epoch)
        .await
        .expect("stored");
}

impl World {
    async fn new() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let server = scene::start(&dir, "", None).await.expect("it starts");
        let signer = Signer::new();
        let known = Known(Arc::new(Mutex::new(Facts {
            authorities: signer.pem.clone(),
            service: api_service(NAMESPACE, "longshore-metrics"),
            reviews: Vec::new(),
            broken: false,
            overtakes: None,
            refused: 0,
        })));
        let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io";
        let found = async |State(known): State<Known>| Json(known.with(|facts| facts.service.clone()));
        let router = Router::new()
            .route(
                "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
                get(config_map),
            )
            .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review))
            .route(service, get(found).patch(patch))
            .with_state(known.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let api_server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        let server_api = ApiServer::at(url.parse().expect("an address"), NAMESPACE).expect("a client");
        let app = server.app();
        let fleets = vec![
            pods("kept", ScaledBy::Keda),
            pods("plain", ScaledBy::Direct),
            pods("research", ScaledBy::Hpa),
        ];
        assert!(fleets.iter().all(|fleet| fleet.platform == Platform::Kubernetes));
        app.store.put_fleets(fleets, now()).await.expect("stored");
        decide(app, "research").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let metrics = listener.local_addr().expect("bound");
        let mut tasks = JoinSet::new();
        start(app, server_api, listener, Room::new("metrics", 64), &mut tasks).await.expect("it starts");
        let authority = Authority::of(&app.store, now()).await.expect("kept").certificate().to_owned();
        let scene = Scene::of(server, dir);
        World { scene, known, signer, metrics, authority, _tasks: tasks, api_server }
    }

    fn client(&self, identity: Option<reqwest::Identity>) -> reqwest::Client {
        let authority = reqwest::Certificate::from_pem(self.authority.as_bytes()).expect("PEM");
        let client = reqwest::Client::builder()
            .tls_certs_only([authority])
            .resolve("longshore-metrics.agents.svc", self.metrics);
        let client = match identity {
            Some(identity) => client.identity(identity),
            None => client,
        };
        client.build().expect("a client")
    }

    fn proxy(&self) -> reqwest::Client {
        self.client(Some(self.signer.identity("front-proxy-client")))
    }

    fn url(&self, path: &str) -> String {
        format!("https://longshore-metrics.agents.svc:{}{path}", self.metrics.port())
    }

    async fn ask(&self, client: &reqwest::Client, path: &str, user: &str, group: &str) -> (u16, Value) {
        let request =
            client.get(self.url(path)).header("X-Remote-User", user).header("X-Remote-Group", group);
        answer(request).await
    }

    /// Asks the control plane's own API.
    async fn api(&self, path: &str) -> (u16, Value) {
        self.scene.ask(&http::Method::GET, &self.scene.api(path), None, None).await
    }

    /// Asks as an autoscaler until there is an answer of this status.
    async fn until(&self, client: &reqwest::Client, path: &str, status: u16) -> Value {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let (got, body) = self.ask(client, path, "autoscaler", "x").await;
            if got == status {
                return body;
            }
            assert!(Instant::now() < end, "waited for {status}, got {got} {body}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("text");
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A refusal as clients of Kubernetes read it.
fn refusal((status, body): (u16, Value), words: &str, expected: u16) {
    assert_eq!(
        (status, body["kind"].as_str(), body["code"].as_u64()),
        (expected, Some("Status"), Some(expected.into())),
        "{body}"
    );
    assert!(body["message"].as_str().is_some_and(|message| message.contains(words)), "{body}");
}

#[tokio::test]
async fn an_autoscaler_gets_what_the_leader_decided_and_others_get_a_reason() {
    let world = World::new().await;
    let proxy = world.proxy();
    let wanted = format!("{METRICS}/longshore_desired_workers?labelSelector=fleet%3Dresearch");
    let list = world.until(&proxy, &wanted, 200).await;
    let item = &list["items"][0];
    assert_eq!(
        (item["value"].as_str(), item["metricLabels"]["fleet"].as_str()),
        (Some("2"), Some("research")),
        "{list}"
    );
    let pending = world.until(&proxy, &format!("{METRICS}/longshore_pending"), 200).await;
    assert_eq!(
        pending["items"].as_array().map(Vec::len),
        Some(1),
        "only fleets that an autoscaler scales: {pending}"
    );
    let asked = |path: String| {
        let proxy = proxy.clone();
        let world = &world;
        async move { world.ask(&proxy, &path, "autoscaler", "x").await }
    };
    refusal(asked(format!("{METRICS}/nonsense")).await, "longshore_pending", 404);
    refusal(asked(wanted.replace("/agents/", "/other/")).await, "namespace `agents`", 404);
    refusal(asked(wanted.replace("%3D", "!%3D")).await, "label selector", 400);
    refusal(asked(wanted.replace("research", "plain")).await, "scaling.by = \"hpa\"", 404);
    refusal(asked("/openapi/v3".into()).await, "nothing of this name", 404);
    assert_eq!(asked("/openapi/v2".into()).await.1["swagger"], "2.0");
    refusal(answer(proxy.post(world.url(&wanted))).await, "GET", 405);
    let resources = asked("/apis/external.metrics.k8s.io/v1beta1".into()).await;
    assert_eq!((resources.0, resources.1["resources"].as_array().map(Vec::len)), (200, Some(3)));
    for path in ["/apis", "/apis/external.metrics.k8s.io"] {
        assert_eq!(asked(path.into()).await.0, 200, "{path}");
    }
    // What another replica would say as well: all are told by the store.
    world.scene.server.app().store.close().await.expect("closed");
    refusal(asked(wanted).await, "store", 503);
}

#[tokio::test]
async fn the_api_server_is_asked_what_a_caller_may_do_and_not_again_for_a_moment() {
    let world = World::new().await;
    let proxy = world.proxy();
    let path = format!("{METRICS}/longshore_pending");
    world.until(&proxy, &path, 200).await;
    world.until(&proxy, &path, 200).await;
    let reviews = world.known.with(|facts| facts.reviews.clone());
    assert_eq!(reviews.len(), 1, "{reviews:?}");
    let resource = json!({
        "group": "external.metrics.k8s.io", "version": "v1beta1", "verb": "list", "namespace": "agents",
        "resource": "longshore_pending",
    });
    assert_eq!((&reviews[0]["resourceAttributes"], &reviews[0]["groups"]), (&resource, &json!(["x"])));
    refusal(world.ask(&proxy, &path, "mallory", "x").await, "no rule allows it", 403);
    refusal(world.ask(&proxy, &format!("{METRICS}/other"), "mallory", "x").await, "`other`", 403);
    assert_eq!(world.ask(&proxy, &path, "admin", "system:masters").await.0, 200);
    assert_eq!(world.known.with(|facts| facts.reviews.len()), 3, "nobody asks for a master");
    world.known.with(|facts| facts.broken = true);
    refusal(world.ask(&proxy, &path, "somebody", "x").await, "`somebody`", 503);
}

#[tokio::test]
async fn whoever_is_not_the_api_server_is_not_answered() {
    let world = World::new().await;
    let path = "/apis/external.metrics.k8s.io/v1beta1";
    world.until(&world.proxy(), path, 200).await;
    let nobody = world.client(None);
    refusal(world.ask(&nobody, path, "admin", "system:masters").await, "ask through it", 401);
    let kubelet = world.client(Some(world.signer.identity("kubelet")));
    refusal(world.ask(&kubelet, path, "admin", "system:masters").await, "`kubelet`", 401);
    let other = Signer::new();
    let next = world.client(Some(other.identity("front-proxy-client")));
    refusal(world.ask(&next, path, "admin", "system:masters").await, "not the API server's", 401);
    refusal(answer(world.proxy().get(world.url(path))).await, "X-Remote-User", 401);
    refusal(answer(nobody.get(world.url("/secrets"))).await, "ask through it", 401);
    for probe in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(answer(nobody.get(world.url(probe))).await.0, 200, "{probe}");
    }
    // The cluster replaces its authority: what was right is wrong, and the other way round.
    world.known.with(|facts| facts.authorities = other.pem.clone());
    world.until(&next, path, 200).await;
    refusal(world.ask(&world.proxy(), path, "autoscaler", "x").await, "not the API server's", 401);
    // An API server that is away takes nothing from those that are known.
    world.api_server.abort();
    world.until(&next, path, 200).await;
}

#[tokio::test]
async fn the_leader_has_the_api_server_trust_us_and_says_who_is_in_the_way() {
    let world = World::new().await;
    let end = Instant::now() + Duration::from_secs(30);
    let bundle = base64::engine::general_purpose::STANDARD.encode(&world.authority);
    while world.known.with(|facts| facts.service["spec"]["caBundle"] != bundle.as_str()) {
        assert!(Instant::now() < end, "the API server is not told");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.known.with(|facts| facts.service = api_service("keda", "keda-operator-metrics-apiserver"));
    loop {
        let (_, fleet) = world.api("/v1/fleets/research").await;
        // Beside what is wrong with its pods, of which nothing is seen here.
        if fleet["notes"].to_string().contains("keda/keda-operator-metrics-apiserver") {
            break;
        }
        assert!(Instant::now() < end, "nobody is told: {fleet}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, other) = world.api("/v1/fleets/kept").await;
    assert!(!other.to_string().contains("keda-operator"), "of those that are scaled so alone: {other}");
    assert_eq!(
        world.known.with(|facts| facts.service["spec"]["caBundle"].clone()),
        Value::Null,
        "what is not ours stays"
    );
}

#[tokio::test]
async fn an_api_service_that_becomes_somebody_elses_while_it_is_mended_is_left_alone() {
    let world = World::new().await;
    world.known.with(|facts| {
        facts.service = api_service(NAMESPACE, "longshore-metrics");
        facts.overtakes = Some(api_service("keda", "keda-operator-metrics-apiserver"));
    });
    let end = Instant::now() + Duration::from_secs(30);
    let told = async || world.api("/v1/fleets/research").await.1["notes"].to_string();
    while !told().await.contains("keda/keda-operator-metrics-apiserver") {
        assert!(Instant::now() < end, "nobody is told: {}", told().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (service, refused) = world.known.with(|facts| (facts.service.clone(), facts.refused));
    assert_eq!((&service["spec"]["caBundle"], refused), (&Value::Null, 1), "what is not ours stays");
}

/// What KEDA's `metrics-api` trigger does with `valueLocation: desired`: any status but 200, and anything but a number, is an
/// error, upon which it changes nothing.
fn as_keda_reads((status, body): &(u16, Value)) -> Option<f64> {
    Some(body).filter(|_| *status == 200)?.get("desired")?.as_f64()
}

#[tokio::test]
async fn keda_reads_a_number_or_nothing() {
    let world = World::new().await;
    let before = world.api("/v1/fleets/kept/scale").await;
    assert!(
        before.0 == 503 && before.1["code"] == "scale_stale" && as_keda_reads(&before).is_none(),
        "{before:?}"
    );
    decide(world.scene.server.app(), "kept").await;
    let decided = world.api("/v1/fleets/kept/scale").await;
    assert_eq!(as_keda_reads(&decided), Some(2.0), "{decided:?}");
    // The leader fell silent, and nothing is left of it but what it said.
    let store = &world.scene.server.app().store;
    let said = store.meta_get("wanted:kept".into()).await.expect("read").expect("it was written");
    let mut said: wanted::Mark = serde_json::from_str(&said).expect("a mark");
    said.at = said.at.before(Duration::from_secs(60));
    let said = serde_json::to_string(&said).expect("plain data");
    store.meta_put("wanted:kept".into(), said).await.expect("stored");
    let after = world.api("/v1/fleets/kept/scale").await;
    assert!(after.0 == 503 && after.1.to_string().contains("s ago"), "{after:?}");
    let direct = world.api("/v1/fleets/plain/scale").await;
    assert!(direct.0 == 200 && as_keda_reads(&direct).is_none(), "longshore scales it: {direct:?}");
}
