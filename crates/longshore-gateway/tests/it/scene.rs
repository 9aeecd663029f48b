//! Gateways on a real store beside the simulated provider: the control plane without its routes.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use longshore_api::llm::{Broken, Decoder, Frame, Head};
use longshore_core::fleet::Fleet;
use longshore_core::id::{FleetName, Held, TaskId, TenantName, WorkerId};
use longshore_core::json::Json;
use longshore_core::provider::{Kind, Provider, ProviderName};
use longshore_core::retry::Backoff;
use longshore_core::task::{OnBusy, OnInterrupt};
use longshore_core::time::Timestamp;
use longshore_gateway::{Caller, Frames, Gateway, Incoming, Metrics, Options};
use longshore_simulate::Sim;
use longshore_store::{ClaimRequest, NewTask, OpenOptions, Registration, Store};
use uuid::Uuid;

pub struct Scene {
    pub store: Store,
    pub sim: Sim,
    pub held: Held,
    _dir: tempfile::TempDir,
}

/// What a relay heard.
#[derive(Debug, Default)]
pub struct Heard {
    pub head: Option<Head>,
    pub body: Vec<u8>,
    pub broken: Option<Broken>,
    /// It ended properly.
    pub whole: bool,
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis() as i64)
}

fn fleet() -> FleetName {
    FleetName::new("f").unwrap()
}

impl Scene {
    /// A task that runs, in a store of at most so many pages.
    pub async fn new(sim: longshore_simulate::Options, pages: Option<u32>) -> Scene {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions::new(dir.path());
        let options = match pages {
            Some(pages) => options.max_pages(pages),
            None => options,
        };
        let store = Store::open(&options).unwrap();
        let declared = Fleet::new(fleet(), vec!["true".into()], "/".into());
        store.put_fleets(vec![declared], now()).await.unwrap();
        store.submit(vec![task()], None, now()).await.unwrap();
        let held = claim(&store).await;
        let sim = longshore_simulate::start(sim).await.unwrap();
        Scene { store, sim, held, _dir: dir }
    }

    pub async fn gateway(&self, replica: &str) -> Gateway {
        let name = ProviderName::new("openai").unwrap();
        let provider = Provider::new(name, Kind::OpenAi, self.sim.openai_base_url());
        Gateway::start(Options {
            store: self.store.clone(),
            providers: vec![(provider, None)],
            replica: replica.into(),
            metrics: Metrics::default(),
        })
        .await
        .unwrap()
    }

    /// Another start of a replica takes its place, as after a kill; the old one still runs and does not know.
    pub async fn supersede(&self, replica: &str) {
        self.store.gateway_starts(replica.into(), Uuid::new_v4()).await.unwrap();
    }

    pub async fn ask(&self, gateway: &Gateway, call: Uuid, text: &str, stream: bool) -> Frames {
        let body = serde_json::json!({
            "model": "m", "stream": stream, "max_tokens": 20_000, "messages": [{ "role": "user", "content": text }],
        });
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let caller = Caller { held: self.held, fleet: fleet(), call, undelivered: Vec::new() };
        let incoming = Incoming {
            provider: "openai".into(),
            method: Method::POST,
            path: "/v1/chat/completions".into(),
            headers,
            body: Bytes::from(body.to_string()),
        };
        gateway.call(caller, incoming).await
    }

    /// Fills the store until a command of the size of an answer does not fit.
    pub async fn fill(&self) {
        let big = || {
            // Nothing that deflates: it is to take its room.
            let noise: String = (0..2048).map(|_| Uuid::new_v4().to_string()).collect();
            NewTask { input: Json::string(&noise), ..task() }
        };
        for _ in 0..10_000 {
            if self.store.submit(vec![big()], None, now()).await.is_err() {
                return;
            }
        }
        panic!("the store never got full");
    }
}

fn task() -> NewTask {
    NewTask {
        id: TaskId(Uuid::now_v7()),
        fleet: fleet(),
        input: Json::null(),
        tenant: TenantName::default(),
        conversation: None,
        on_busy: OnBusy::Enqueue,
        publish_input: false,
        priority: 0,
        run_at: None,
        deadline_at: None,
        timeout_ms: 600_000,
        max_attempts: 3,
        on_interrupt: OnInterrupt::Resume,
        backoff: Backoff::default(),
        labels: BTreeMap::new(),
        retry_of: None,
    }
}

async fn claim(store: &Store) -> Held {
    let (worker, nonce) = (WorkerId::new("w").unwrap(), Uuid::new_v4());
    let registration = Registration {
        worker: worker.clone(),
        nonce,
        fleet: fleet(),
        version: "0".into(),
        pid: None,
        host: None,
        probe_addr: None,
        concurrency: 1,
    };
    store.register(registration, now()).await.unwrap();
    let lease = Duration::from_secs(3600);
    let request = ClaimRequest { worker, nonce, seq: 1, max: 1, in_flight: 0, lease };
    store.claim(request, now()).await.unwrap()[0].held()
}

/// Listens to the end.
pub async fn hear(mut frames: Frames) -> Heard {
    let mut heard = Heard::default();
    while let Some(Ok(bytes)) = frames.next().await {
        take(&mut heard, bytes);
    }
    heard
}

/// Listens until something of the body is there.
pub async fn hear_some(frames: &mut Frames) -> Heard {
    let mut heard = Heard::default();
    while heard.body.is_empty() {
        let bytes = frames.next().await.expect("more comes").expect("frames do not fail");
        take(&mut heard, bytes);
    }
    heard
}

fn take(heard: &mut Heard, bytes: Bytes) {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    // The gateway hands out whole frames.
    while let Some(frame) = decoder.next_frame().unwrap() {
        match frame {
            Frame::KeepAlive => {}
            Frame::Head(head) => heard.head = Some(head),
            Frame::Data(data) => heard.body.extend_from_slice(&data),
            Frame::End => heard.whole = true,
            Frame::Broken(broken) => heard.broken = Some(broken),
        }
    }
}
