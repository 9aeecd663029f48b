//! The gateway itself: what its parts share, how a call enters, and how it ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::provider::{Kind, Provider};
use longshore_store::{CallKey, Store, StoreError};
use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use crate::fault::Fault;
use crate::incoming::{Caller, Incoming, Prepared};
use crate::metrics::Metrics;
use crate::permits::Permits;
use crate::respond::{self, Frames};
use crate::upstream::{self, Upstream, UpstreamError};

/// Cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

/// What the gateway's parts share; nothing of it is for others.
pub struct Inner {
    pub(crate) store: Store,
    /// This start of this replica: the owner of the intents that it writes.
    pub(crate) owner: Uuid,
    replica: String,
    pub(crate) permits: Permits,
    pub(crate) metrics: Metrics,
    upstreams: HashMap<String, Arc<Upstream>>,
    /// Calls under way at providers.
    open: watch::Sender<usize>,
    stopping: watch::Sender<bool>,
    /// Nobody waits for calls to finish any more.
    hurried: watch::Sender<bool>,
    /// Calls that this process is at.
    active: Mutex<HashSet<CallKey>>,
}

pub struct Options {
    pub store: Store,
    /// Each with its key, if it has one.
    pub providers: Vec<(Provider, Option<String>)>,
    /// The same over restarts.
    pub replica: String,
    pub metrics: Metrics,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("the store failed while the gateway started")]
    Store(#[from] StoreError),
}

/// A body that takes longer to read than others should wait for.
const LARGE: usize = 256 << 10;

impl std::ops::Deref for Gateway {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Gateway {
    /// Takes the place of this replica's earlier start: intents of that one have lost their owner.
    pub async fn start(options: Options) -> Result<Gateway, StartError> {
        let mut upstreams = HashMap::new();
        for (provider, key) in options.providers {
            let name = provider.name.to_string();
            upstreams.insert(name, Arc::new(Upstream::new(provider, key.as_deref())?));
        }
        let owner = Uuid::new_v4();
        options.store.gateway_starts(options.replica.clone(), owner).await?;
        let shared = options.store.permits(&owner.to_string()).await?;
        Ok(Gateway(Arc::new(Inner {
            replica: options.replica,
            store: options.store,
            owner,
            permits: Permits::new(shared),
            metrics: options.metrics,
            upstreams,
            open: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            hurried: watch::Sender::new(false),
            active: Mutex::default(),
        })))
    }

    /// Shows itself, so that its calls are not taken over; false: a newer start has taken its name.
    pub async fn show(&self) -> Result<bool, StoreError> {
        self.store.gateway_seen(self.replica.clone(), self.owner).await
    }

    /// How many gateways share the providers' limits, this one among them.
    pub fn set_gateways(&self, gateways: u32) {
        self.permits.set_gateways(gateways);
    }

    /// False once it finishes: a call that comes now has to wait for the next start.
    pub fn takes_calls(&self) -> bool {
        !*self.stopping.borrow()
    }

    pub fn kind_of(&self, provider: &str) -> Option<Kind> {
        self.upstreams.get(provider).map(|upstream| upstream.declared.kind)
    }

    /// Takes a call of an agent; what happens to it comes as frames. A call that is sent is finished and journaled, even
    /// if nobody reads the frames any more.
    pub async fn call(&self, caller: Caller, incoming: Incoming) -> Frames {
        let Some(upstream) = self.upstreams.get(&incoming.provider) else {
            let message =
                format!("no provider `{}` is declared; declared are: {}", incoming.provider, self.names());
            let fault = Fault { status: 404, code: "unknown_provider", message };
            return respond::refusal(Kind::OpenAi, &fault);
        };
        if !upstream::is_plain(&incoming.path) {
            let message =
                format!("longshore: the path `{}` leads elsewhere; write it without `..`", incoming.path);
            let fault = Fault { status: 400, code: "bad_path", message };
            return respond::refusal(upstream.declared.kind, &fault);
        }
        let (upstream, owner) = (Arc::clone(upstream), self.owner);
        let prepared = if incoming.body.len() < LARGE {
            Prepared::new(caller, incoming, upstream, owner)
        } else {
            let prepare = move || Prepared::new(caller, incoming, upstream, owner);
            tokio::task::spawn_blocking(prepare).await.expect("reading a body does not panic")
        };
        respond::frames(self.clone(), Arc::new(prepared))
    }

    /// Answers a call that may not be made, in its provider's form.
    pub fn refuse(&self, provider: &str, status: u16, code: &'static str, message: String) -> Frames {
        let kind = self.upstreams.get(provider).map_or(Kind::OpenAi, |upstream| upstream.declared.kind);
        respond::refusal(kind, &Fault { status, code, message })
    }

    fn names(&self) -> String {
        let mut names: Vec<&str> = self.upstreams.keys().map(String::as_str).collect();
        names.sort_unstable();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    /// Takes no new calls, and waits until those under way are finished and journaled, or until the time is up; returns
    /// how many are not.
    pub async fn finish(&self, patience: Duration) -> usize {
        self.stopping.send_replace(true);
        let mut open = self.open.subscribe();
        let left = *open.borrow();
        if left > 0 {
            info!(calls = left, "gateway finishes its calls");
        }
        let mut hurried = self.hurried.subscribe();
        tokio::select! {
            _ = tokio::time::timeout(patience, open.wait_for(|open| *open == 0)) => {}
            _ = hurried.wait_for(|hurried| *hurried) => {}
        }
        *self.open.borrow()
    }

    /// Ends the wait of [`Gateway::finish`]: what is under way is cut off.
    pub fn hurry(&self) {
        self.hurried.send_replace(true);
    }

    /// Which providers cannot be reached, and why; asks each for a connection, never for an answer of a model.
    pub async fn unreachable(&self, patience: Duration) -> BTreeMap<String, String> {
        let asks = self.upstreams.iter().map(|(name, upstream)| async move {
            upstream.reach(patience).await.err().map(|why| (name.clone(), why))
        });
        futures_util::future::join_all(asks).await.into_iter().flatten().collect()
    }

    pub(crate) fn opened(&self, key: Option<CallKey>) -> Opened {
        self.open.send_modify(|open| *open += 1);
        self.metrics.open(1);
        self.active().extend(key);
        Opened { gateway: self.clone(), key }
    }

    /// Takes an intent back that is this process's by its name but that nothing here is at: giving it up failed, as
    /// on a full disk. Else whoever joined it would wait until the next start.
    pub(crate) async fn take_back_if_orphaned(&self, key: CallKey) {
        if !self.active().contains(&key) {
            let _ = self.store.fail_call(key, self.owner, 1).await;
        }
    }

    fn active(&self) -> MutexGuard<'_, HashSet<CallKey>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way; until it is dropped the gateway does not finish.
pub(crate) struct Opened {
    gateway: Gateway,
    key: Option<CallKey>,
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.gateway.active().remove(key);
        }
        self.gateway.open.send_modify(|open| *open -= 1);
        self.gateway.metrics.open(-1);
    }
}
