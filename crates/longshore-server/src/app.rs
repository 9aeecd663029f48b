//! What every handler and controller shares: the store, the signer, the limits, and the word to stop.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use longshore_api::tls::Trust;
use longshore_core::id::{FleetName, WorkerId};
use longshore_core::provider::{Kind, Provider};
use longshore_core::role::{self, Place, Role, Roles};
use longshore_core::settings::FleetsFrom;
use longshore_core::time::Timestamp;
use longshore_gateway::Gateway;
use longshore_platform::registry::Registries;
use longshore_store::{Epoch, FleetRecord, Replica, Store, StoreError};
use tokio::sync::watch;

use crate::keys::Keys;
use crate::lately::Lately;
use crate::look::Looked;
use crate::metrics::Metrics;
use crate::rooms::Calls;
use crate::token::Signer;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// One task's input.
    pub input: usize,
    /// One batch of tasks.
    pub batch: usize,
    /// Tasks in one batch.
    pub batch_lines: usize,
    /// One body of the worker link.
    pub link_body: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { input: 1 << 20, batch: 64 << 20, batch_lines: 50_000, link_body: 256 << 20 }
    }
}

/// What was read from the store, and when.
pub type ReadAt<T> = (Instant, T);

/// Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    /// What this replica serves.
    pub roles: Roles,
    pub store: Store,
    pub signer: Signer,
    pub limits: Limits,
    pub keys: Keys,
    /// Answer only to `localhost` and to addresses: a name may have been pointed here by somebody else.
    pub check_host: bool,
    pub fleet_source: FleetsFrom,
    /// Searches that may look at many tasks for each that they find run one at a time, so that they never hold all of the store's readers.
    pub slow_lists: tokio::sync::Semaphore,
    pub metrics: Metrics,
    /// Only with the role `gateway`.
    pub gateway: Option<Gateway>,
    /// How many calls of agents may be under way.
    pub calls: Calls,
    /// The declared providers, and whose API each speaks.
    pub provider_kinds: HashMap<String, Kind>,
    /// As they are declared here: what they limit bounds fleets.
    pub providers: Vec<Provider>,
    pub fleets: Lately,
    /// Whether the database answers, for heartbeats and probes: they are many. Empty: it does.
    pub database: Looked<String>,
    /// Providers that cannot be reached, and why, as it was found last.
    pub llm: Mutex<BTreeMap<String, String>>,
    pub started: Instant,
    /// Where workers of this machine reach this replica, such as `http://127.0.0.1:7118`, if they have a reason to.
    pub link_url: Option<String>,
    /// What workers of this machine hold the link's certificate against; `None`: the link is plain.
    pub link_trust: Option<Trust>,
    /// The authority's certificate in PEM, where longshore has one of its own.
    pub link_authority: Option<String>,
    /// The platform of workers that are processes of this machine.
    pub own_platform: String,
    /// Set while this replica leads.
    pub leading: watch::Receiver<Option<Epoch>>,
    /// The control planes that are there, as they were seen last.
    pub replicas: Mutex<Vec<Replica>>,
    /// The folder of the embedded store, of logs and worker tokens.
    pub state_dir: std::path::PathBuf,
    /// True once this process is to stop: it goes on answering for a while, and is not ready.
    pub leaving: watch::Receiver<bool>,
    /// True once this process stops.
    pub stopping: watch::Receiver<bool>,
    /// How long a conversation is kept after its last use; `None`: for ever.
    pub keep_conversations: Option<std::time::Duration>,
    /// Wakes the fleet controller before its next tick.
    pub look_again: tokio::sync::Notify,
    /// Asked what the tags of images for pods stand for.
    pub registries: Registries,
    /// Sends messages of webhooks.
    pub post: crate::webhook::Post,
    /// Why a fleet's workers do not come up.
    pub trouble: Mutex<HashMap<FleetName, String>>,
    /// Why the autoscaler of a fleet gets no numbers.
    pub scaling_trouble: Mutex<HashMap<FleetName, String>>,
    /// What else people should know of a fleet.
    pub notes: Mutex<HashMap<FleetName, Vec<String>>>,
    /// The newest claim poll of each worker, so that an older one that was cut off takes no tasks.
    pub polls: Mutex<HashMap<WorkerId, watch::Sender<()>>>,
    /// Which fleet a worker registered for.
    pub worker_fleets: Mutex<HashMap<WorkerId, FleetName>>,
}

impl std::ops::Deref for App {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl App {
    pub fn new(inner: Inner) -> App {
        App(Arc::new(inner))
    }

    /// A fleet as it was declared a moment ago, here; at another replica within the last second.
    pub async fn fleet_lately(&self, name: &FleetName) -> Result<Option<Arc<FleetRecord>>, StoreError> {
        self.fleets.read(&self.store, name).await
    }

    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Which leader this replica is; `None`: another one leads.
    pub fn epoch(&self) -> Option<Epoch> {
        *self.leading.borrow()
    }

    /// Resolves when this replica begins to lead, or ends to, after it was told so the last time.
    pub async fn leads_or_not(leading: &mut watch::Receiver<Option<Epoch>>) {
        if leading.changed().await.is_err() {
            // Nobody tells any more: the control plane stops.
            std::future::pending::<()>().await;
        }
    }

    /// Whether a replica that serves the worker link has shown itself lately: without one no worker could have renewed
    /// anything.
    pub fn link_seen(&self) -> bool {
        let replicas = self.replicas.lock().expect("no holder panics");
        replicas.iter().any(|it| Roles::named(&it.roles).has(Role::Link) && it.seen_ago_ms < 2000)
    }

    /// Where workers reach the worker link of the replicas that live now, as they were seen last.
    pub fn live_links(&self) -> Vec<String> {
        self.with_places(role::links)
    }

    /// Where LLM calls go if not wherever else workers go.
    pub fn live_gateways(&self) -> Option<Vec<String>> {
        self.with_places(|places| role::gateways(self.roles, places))
    }

    /// What a worker is started with that this replica starts: its own link, or all there are.
    pub fn links_to_start_with(&self) -> Vec<String> {
        match &self.link_url {
            Some(own) if self.roles.has(Role::Link) => vec![own.clone()],
            _ => self.live_links(),
        }
    }

    fn with_places<T>(&self, ask: impl FnOnce(&[Place<'_>]) -> T) -> T {
        let replicas = self.replicas.lock().expect("no holder panics");
        let places = replicas
            .iter()
            .filter_map(|it| Some(Place { roles: Roles::named(&it.roles), address: it.link.as_deref()? }));
        ask(&places.collect::<Vec<_>>())
    }

    /// Resolves when this process stops.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error means that the sender is gone, which is a stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A roll in `[0, 1)` for jitter.
pub fn roll() -> f64 {
    rand::random::<f64>()
}
