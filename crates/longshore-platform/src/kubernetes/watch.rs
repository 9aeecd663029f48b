//! The pods and Deployments of all fleets as the API server tells of them, kept up to date.
//!
//! All is listed, and followed from there by a watch. While no watch stands, what is told here is said to be out of date.
//! Every request has an end: a connection may be dead without a word, and whoever waits for it would take the world of then
//! for the world of now.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt};
use longshore_core::errors::chain;
use longshore_core::kubernetes::FLEET;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, SetOnce};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::cluster::Cluster;
use super::error::ClusterError;
use super::seen::{DeploymentSeen, PodSeen};

#[cfg(test)]
mod tests;

/// Watches until it is dropped.
pub struct Watch {
    pods: Arc<View<PodSeen>>,
    deployments: Arc<View<DeploymentSeen>>,
    news: Arc<Notify>,
    _tasks: JoinSet<()>,
}

/// How long is waited for what.
#[derive(Clone, Copy)]
struct Limits {
    /// A page of a list, or the beginning of a watch, may take so long.
    answer: Duration,
    /// After so many seconds the API server ends a watch, and it is begun anew.
    anew_s: u32,
    /// By so much it may be late with that; then it is silent.
    late: Duration,
    /// What failed is tried again after this, and each time later,
    soon: Duration,
    /// but never later than this.
    latest: Duration,
}

const LIMITS: Limits = Limits {
    answer: Duration::from_secs(10),
    anew_s: 20,
    late: Duration::from_secs(5),
    soon: Duration::from_millis(500),
    latest: Duration::from_secs(5),
};

/// Objects in one answer to a list.
const PAGE: u32 = 500;

/// So often a watch is tried from where it broke; then all is listed again.
const RESUMES: u32 = 3;

/// A watch that ends sooner, and told nothing, is not begun anew at once.
const SHORT: Duration = Duration::from_secs(1);

impl Watch {
    pub fn start(cluster: &Cluster) -> Watch {
        Watch::within(cluster, LIMITS)
    }

    fn within(cluster: &Cluster, limits: Limits) -> Watch {
        let (pods, deployments) = (Arc::new(View::default()), Arc::new(View::default()));
        let news = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let what = |kind: &str| format!("{kind} in namespace `{}`", cluster.namespace());
        let of_pods = Follower {
            api: cluster.pods(),
            what: what("pods"),
            read: PodSeen::of,
            view: Arc::clone(&pods),
            news: Arc::clone(&news),
            limits,
        };
        let of_deployments = Follower {
            api: cluster.deployments(),
            what: what("Deployments"),
            read: DeploymentSeen::of,
            view: Arc::clone(&deployments),
            news: Arc::clone(&news),
            limits,
        };
        tasks.spawn(of_pods.run());
        tasks.spawn(of_deployments.run());
        Watch { pods, deployments, news, _tasks: tasks }
    }

    /// Waits until all that there was at the start is known, and what changes from then on.
    pub async fn ready(&self) {
        self.pods.listed.wait().await;
        self.deployments.listed.wait().await;
    }

    /// In order of name.
    pub fn pods(&self, fleet: &str) -> Vec<PodSeen> {
        self.pods.with(|state| state.seen.values().filter(|it| it.fleet == fleet).cloned().collect())
    }

    pub fn deployment(&self, fleet: &str) -> Option<DeploymentSeen> {
        self.deployments.with(|state| state.seen.values().find(|it| it.fleet == fleet).cloned())
    }

    /// Resolves when something has changed since it was last awaited.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// For how long what is told here may have been out of date, and why.
    pub fn broken(&self) -> Option<(Duration, String)> {
        let broken = [self.pods.broken(), self.deployments.broken()];
        let longest = broken.into_iter().flatten().min_by_key(|it| it.since);
        longest.map(|it| (it.since.elapsed(), it.why))
    }
}

/// Objects of one kind, as far as they are known.
struct View<T> {
    state: Mutex<State<T>>,
    /// There has been a whole list, and a watch from there.
    listed: SetOnce<()>,
}

struct State<T> {
    /// By name.
    seen: BTreeMap<String, T>,
    broken: Option<Broken>,
    /// The trouble before a watch that has told nothing yet: if it breaks at once, it was none.
    stood: Option<(Instant, Broken)>,
}

#[derive(Clone)]
struct Broken {
    since: Instant,
    why: String,
}

impl<T> Default for View<T> {
    fn default() -> View<T> {
        // Nothing is known until a watch stands.
        let broken = Some(Broken { since: Instant::now(), why: "it has not been listed yet".into() });
        View {
            state: Mutex::new(State { seen: BTreeMap::new(), broken, stood: None }),
            listed: SetOnce::new(),
        }
    }
}

impl<T> View<T> {
    fn with<A>(&self, ask: impl FnOnce(&mut State<T>) -> A) -> A {
        ask(&mut self.state.lock().expect("no holder panics"))
    }

    fn broken(&self) -> Option<Broken> {
        self.with(|state| state.broken.clone())
    }
}

impl<T> State<T> {
    /// A watch has begun, so it is up to date. Returns whether it was not before.
    fn stands(&mut self) -> bool {
        self.stood = self.broken.take().map(|broken| (Instant::now(), broken));
        self.stood.is_some()
    }

    /// It is out of date from now on, if it was not already. Returns whether that is for another reason.
    fn doubt(&mut self, why: &str) -> bool {
        let before = self.stood.take().filter(|(at, _)| at.elapsed() < SHORT).map(|(_, before)| before);
        let now = || Broken { since: Instant::now(), why: String::new() };
        let broken = self.broken.get_or_insert_with(|| before.unwrap_or_else(now));
        let other = broken.why != why;
        why.clone_into(&mut broken.why);
        other
    }
}

/// Keeps a view.
struct Follower<K, T> {
    api: Api<K>,
    /// For people.
    what: String,
    read: fn(&K) -> Option<T>,
    view: Arc<View<T>>,
    news: Arc<Notify>,
    limits: Limits,
}

/// Why a watch does not stand any more, or never did.
enum Break {
    /// It ended as soon as it had begun.
    Short,
    /// What has changed since is not known any more: all has to be listed.
    Expired,
    Failed(ClusterError),
}

impl<K, T> Follower<K, T>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    async fn run(self) {
        let mut known: Option<String> = None;
        let mut failures = 0;
        loop {
            let ended = match &mut known {
                Some(version) => self.follow(version, &mut failures).await,
                none => self.list().await.map(|version| *none = Some(version)).map_err(Break::Failed),
            };
            match ended {
                Ok(()) => continue,
                Err(Break::Short) => {}
                Err(Break::Expired) => {
                    known = None;
                    let why = format!("{} have changed too much meanwhile: all are listed again", self.what);
                    self.view.with(|state| state.doubt(&why));
                }
                Err(Break::Failed(error)) => {
                    let why = chain(&error);
                    if self.view.with(|state| state.doubt(&why)) {
                        warn!(why, "what is seen of the cluster is out of date; it is tried again");
                    }
                    known = known.filter(|_| failures < RESUMES);
                }
            }
            failures += 1;
            sleep(self.limits.pause(failures)).await;
        }
    }

    /// Reads all there is. Returns the version that it is of.
    async fn list(&self) -> Result<String, ClusterError> {
        let what = || format!("list {}", self.what);
        let mut params = ListParams::default().labels(FLEET).limit(PAGE);
        let mut seen = BTreeMap::new();
        loop {
            let page = self.answer(what(), self.api.list(&params)).await?;
            seen.extend(page.items.iter().filter_map(|it| Some((it.name_any(), (self.read)(it)?))));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    self.view.with(|state| state.seen = seen);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    /// Watches from this version on, and moves it along, until the watch ends as it should.
    async fn follow(&self, version: &mut String, failures: &mut u32) -> Result<(), Break> {
        let what = || format!("watch {}", self.what);
        let params = WatchParams::default().labels(FLEET).timeout(self.limits.anew_s);
        let begun = self.answer(what(), self.api.watch(&params, version)).await;
        let mut events = pin!(begun.map_err(expired)?);
        let at = Instant::now();
        self.stands();
        let mut told = false;
        let silence = Duration::from_secs(self.limits.anew_s.into()) + self.limits.late;
        loop {
            let Ok(event) = timeout(silence, events.next()).await else {
                return Err(Break::Failed(ClusterError::Silent { what: what() }));
            };
            match event {
                Some(Ok(WatchEvent::Added(it) | WatchEvent::Modified(it))) => {
                    self.change(version, &it, (self.read)(&it));
                }
                Some(Ok(WatchEvent::Deleted(it))) => self.change(version, &it, None),
                Some(Ok(WatchEvent::Bookmark(it))) => *version = it.metadata.resource_version,
                Some(Ok(WatchEvent::Error(status))) => {
                    return Err(expired(ClusterError::of(what(), kube::Error::Api(status))));
                }
                Some(Err(error)) => return Err(expired(ClusterError::of(what(), error))),
                None if told || at.elapsed() >= SHORT => {
                    *failures = 0;
                    return Ok(());
                }
                None => return Err(Break::Short),
            }
            told = true;
            *failures = 0;
        }
    }

    /// A watch has begun: what changes is told from now on.
    fn stands(&self) {
        if self.view.with(State::stands) {
            info!(what = self.what, "watched");
            _ = self.view.listed.set(());
            self.news.notify_one();
        }
    }

    fn change(&self, version: &mut String, it: &K, seen: Option<T>) {
        if let Some(newer) = it.resource_version() {
            *version = newer;
        }
        self.view.with(|state| match seen {
            Some(seen) => drop(state.seen.insert(it.name_any(), seen)),
            None => drop(state.seen.remove(&it.name_any())),
        });
        self.news.notify_one();
    }

    async fn answer<A>(
        &self,
        what: String,
        asked: impl Future<Output = Result<A, kube::Error>>,
    ) -> Result<A, ClusterError> {
        match timeout(self.limits.answer, asked).await {
            Ok(answer) => answer.map_err(|error| ClusterError::of(what, error)),
            Err(_) => Err(ClusterError::Silent { what }),
        }
    }
}

fn expired(error: ClusterError) -> Break {
    if error.is_expired() { Break::Expired } else { Break::Failed(error) }
}

impl Limits {
    /// Longer each time, and never for long: a fleet waits for as long as an API server was away, and this.
    fn pause(&self, failures: u32) -> Duration {
        let doubled = self.soon * 2u32.pow(failures.saturating_sub(1).min(4));
        doubled.min(self.latest)
    }
}
