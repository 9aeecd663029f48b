//! A control plane in this process, with two fleets `a` and `b` whose workers nobody starts.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use longshore_core::access::{Scope, Verb};
use longshore_core::id::{FleetName, KeyId, TenantName};
use longshore_core::role::Roles;
use longshore_core::settings;
use longshore_store::NewKey;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::now;
use crate::keys::{hash, new_key};
use crate::{Options, Server, StartError};

const FILE: &str = r#"
[server]
api = "127.0.0.1:0"
link = "127.0.0.1:0"
probes = "127.0.0.1:0"
[provider.here]
base_url = "http://127.0.0.1:9/v1"
retries = 0
[fleet.a]
command = ["true"]
platform = "external"
[fleet.b]
command = ["true"]
platform = "external"
"#;

pub struct Scene {
    pub server: Server,
    pub dir: tempfile::TempDir,
    pub http: reqwest::Client,
    pub admin: String,
    claims: std::sync::atomic::AtomicU64,
}

pub fn fleet(name: &str) -> FleetName {
    FleetName::new(name).expect("valid")
}

pub fn scope(verbs: &[Verb], fleets: &[&str], tenant: Option<&str>) -> Scope {
    Scope {
        verbs: verbs.iter().copied().collect(),
        fleets: fleets.iter().map(|name| fleet(name)).collect::<BTreeSet<_>>(),
        tenant: tenant.map(|name| TenantName::new(name).expect("valid")),
    }
}

/// Starts with `more` in `[server]`, in this folder.
pub async fn start(
    dir: &tempfile::TempDir,
    more: &str,
    admin: Option<PathBuf>,
) -> Result<Server, StartError> {
    start_to_stay(dir, more, admin, Duration::ZERO).await
}

/// The same; it stays for so long after the word to stop.
pub async fn start_to_stay(
    dir: &tempfile::TempDir,
    more: &str,
    admin: Option<PathBuf>,
    stay: Duration,
) -> Result<Server, StartError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = FILE.replace("[server]\n", &format!("[server]\n{more}\n"));
    let text = if more.contains("api =") { text.replacen("api = \"127.0.0.1:0\"\n", "", 1) } else { text };
    let base = dir.path().to_str().expect("text");
    let (settings, _) = settings::parse(&text, "longshore.toml", &[], base).expect("a valid file");
    let options = Options {
        settings,
        roles: Roles::ALL,
        program: "/bin/false".into(),
        admin_token_file: admin,
        keep_workers: true,
        stay: Some(stay),
    };
    crate::start(options).await
}

impl Scene {
    /// Asks for keys; `admin` is the first one.
    pub async fn locked() -> Scene {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("admin");
        let server = start(&dir, "", Some(file.clone())).await.expect("it starts");
        let admin = std::fs::read_to_string(file).expect("it was made").trim().to_owned();
        Scene { server, dir, http: reqwest::Client::new(), admin, claims: 0.into() }
    }

    /// One that asks nobody; `admin` is no key.
    pub fn of(server: Server, dir: tempfile::TempDir) -> Scene {
        Scene { server, dir, http: reqwest::Client::new(), admin: String::new(), claims: 0.into() }
    }

    /// Stops it and returns its folder.
    pub async fn stopped(mut self) -> tempfile::TempDir {
        self.server.stop().await;
        self.dir
    }

    pub fn api(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addresses().api.expect("it serves the API"))
    }

    pub fn link(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addresses().link.expect("it serves the link"))
    }

    /// Makes a key behind the API's back, so with any life.
    pub async fn key(&self, scope: Scope, expired: bool, revoked: bool) -> String {
        let (key, id) = (new_key(), KeyId(Uuid::now_v7()));
        let expires_at = expired.then(|| now().before(Duration::from_secs(1)));
        let (name, hint) = ("a key".into(), key[key.len() - 4..].into());
        let store = &self.server.app().store;
        let new = NewKey { id, hash: hash(&key), name, hint, scope, expires_at };
        store.create_key(new, now()).await.expect("stored");
        if revoked {
            store.revoke_key(id, now()).await.expect("stored");
        }
        key
    }

    pub fn worker_token(&self, name: &str) -> String {
        self.server.app().signer.worker_token(&fleet(name))
    }

    /// Status and body of an answer.
    pub async fn ask(
        &self,
        method: &Method,
        url: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.http.request(method.clone(), url).timeout(Duration::from_secs(30));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("text");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn post(&self, path: &str, token: &str, body: Value) -> (u16, Value) {
        self.ask(&Method::POST, &self.api(path), Some(token), Some(body)).await
    }

    pub async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        self.ask(&Method::GET, &self.api(path), Some(token), None).await
    }

    /// Submits a task and returns its id.
    pub async fn task(&self, more: Value) -> String {
        let mut body = json!({ "fleet": "a" });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, task) = self.post("/v1/tasks", &self.admin, body).await;
        assert_eq!(status, 201, "{task}");
        task["id"].as_str().expect("an id").to_owned()
    }

    pub async fn say(&self, path: &str, token: &str, body: Value) -> (u16, Value) {
        self.ask(&Method::POST, &self.link(path), Some(token), Some(body)).await
    }

    pub fn hello(&self, worker: &str, fleet: &str) -> Value {
        json!({ "link_version": 1, "worker": worker, "nonce": Uuid::nil(), "fleet": fleet, "version": "0" })
    }

    /// A worker of fleet `a` claims a task of a conversation; returns the task's token.
    pub async fn attempt(&self) -> String {
        let token = self.worker_token("a");
        let (status, answer) = self.say("/worker/v1/register", &token, self.hello("w-hands", "a")).await;
        assert_eq!(status, 200, "{answer}");
        let task = self.task(json!({ "conversation": Uuid::new_v4().to_string(), "priority": 1000 })).await;
        let seq = 1 + self.claims.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let claim = json!({ "worker": "w-hands", "nonce": Uuid::nil(), "seq": seq, "max": 1, "in_flight": 0, "wait_ms": 0 });
        let (status, claimed) = self.say("/worker/v1/claim", &token, claim).await;
        let held = &claimed["tasks"][0];
        assert_eq!((status, held["id"].as_str()), (200, Some(task.as_str())), "{claimed}");
        held["token"].as_str().expect("a token").to_owned()
    }
}

/// Waits until this replica leads.
pub async fn leads(app: &crate::app::App) -> longshore_store::Epoch {
    let led = async {
        loop {
            match app.epoch() {
                Some(epoch) => return epoch,
                None => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), led).await.expect("it leads")
}
