//! The pods and Deployments of all fleets as the API server tells of them, kept up to date.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::{self, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use longshore_core::kubernetes::FLEET;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::cluster::Cluster;
use super::seen::{DeploymentSeen, PodSeen};

/// Watches until it is dropped. After a break it lists all again, so nothing is missed for long.
pub struct Watch {
    pods: Store<Pod>,
    deployments: Store<Deployment>,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    news: Notify,
    /// By what is watched: since when it cannot be.
    broken: Mutex<HashMap<&'static str, Broken>>,
}

struct Broken {
    since: Instant,
    /// When it failed last; it is tried again for as long as it does.
    last: Instant,
    why: String,
}

impl Watch {
    pub fn start(cluster: &Cluster) -> Watch {
        let config = watcher::Config::default().labels(FLEET).timeout(ANEW_S);
        let shared = Arc::new(Shared::default());
        let (pods, pods_writer) = reflector::store();
        let (deployments, deployments_writer) = reflector::store();
        let mut tasks = JoinSet::new();
        let seen = watch(cluster.pods(), config.clone()).backoff(Again::default());
        tasks.spawn(follow("pods", reflector::reflector(pods_writer, seen), Arc::clone(&shared)));
        let seen = watch(cluster.deployments(), config).backoff(Again::default());
        tasks.spawn(follow(
            "Deployments",
            reflector::reflector(deployments_writer, seen),
            Arc::clone(&shared),
        ));
        Watch { pods, deployments, shared, _tasks: tasks }
    }

    /// Waits until all that there was at the start is known.
    pub async fn ready(&self) {
        // They only fail once their writers are gone, which live as long as this.
        _ = self.pods.wait_until_ready().await;
        _ = self.deployments.wait_until_ready().await;
    }

    pub fn pods(&self, fleet: &str) -> Vec<PodSeen> {
        let all = self.pods.state();
        let mut seen: Vec<_> =
            all.iter().filter_map(|pod| PodSeen::of(pod)).filter(|it| it.fleet == fleet).collect();
        seen.sort_by(|a, b| a.name.cmp(&b.name));
        seen
    }

    pub fn deployment(&self, fleet: &str) -> Option<DeploymentSeen> {
        let all = self.deployments.state();
        all.iter().filter_map(|it| DeploymentSeen::of(it)).find(|it| it.fleet == fleet)
    }

    /// Resolves when something has changed since it was last awaited.
    pub async fn news(&self) {
        self.shared.news.notified().await;
    }

    /// For how long what is told here may have been out of date, and why.
    pub fn broken(&self) -> Option<(Duration, String)> {
        let broken = self.shared.broken.lock().expect("no holder panics");
        let longest = broken.values().min_by_key(|it| it.since);
        longest.map(|it| (it.since.elapsed(), it.why.clone()))
    }

    /// The API server has answered something else: a watch that nothing happens in does not show that it goes on.
    pub fn answered(&self) {
        let mut broken = self.shared.broken.lock().expect("no holder panics");
        broken.retain(|what, it| {
            let over = it.last.elapsed() > RETRIED;
            if over {
                info!(what, "watched again");
            }
            !over
        });
    }
}

/// A watch that broke is tried again within this.
const RETRIED: Duration = Duration::from_secs(20);

/// How long a broken watch waits until it is tried again: longer each time, and never for long. The library's own half a minute
/// would leave a fleet alone for more than a minute after an API server was away for seconds.
#[derive(Default)]
struct Again(u32);

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(500) * 2u32.pow(self.0.min(4));
        self.0 += 1;
        Some(wait.min(LONGEST_WAIT))
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Seconds after which a watch that nothing happens in is begun anew: its connection may be dead without a word.
const ANEW_S: u32 = 60;

async fn follow<K>(
    what: &'static str,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    shared: Arc<Shared>,
) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let mut broken = shared.broken.lock().expect("no holder panics");
        match event {
            Ok(_) => {
                if broken.remove(what).is_some() {
                    info!(what, "watched again");
                }
                shared.news.notify_one();
            }
            Err(error) => {
                let (why, now) = (why(&error), Instant::now());
                let it = broken.entry(what).or_insert_with(|| Broken {
                    since: now,
                    last: now,
                    why: String::new(),
                });
                it.last = now;
                if it.why != why {
                    warn!(what, why, "cannot be watched for now; it is tried again");
                    it.why = why;
                }
            }
        }
    }
}

/// The innermost cause says it best.
fn why(error: &watcher::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    let mut text = cause.to_string();
    while let Some(inner) = cause.source() {
        cause = inner;
        text = cause.to_string();
    }
    text
}
