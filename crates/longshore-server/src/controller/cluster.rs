//! The cluster that pods run in, as the leader sees it: connected while there is a fleet for it, watched, asked who else
//! scales, and given the Secrets that workers join with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use longshore_api::tls::Trust;
use longshore_core::errors::chain;
use longshore_core::fleet::Platform;
use longshore_core::id::FleetName;
use longshore_core::kubernetes::{
    JOIN_CA, JOIN_CA_PEM, JOIN_TOKEN, METRICS_API_SERVICE, METRICS_GROUP, METRICS_VERSION, join_secret,
};
use longshore_platform::kubernetes::{Autoscaler, Cluster, ClusterError, Watch};
use longshore_store::{FleetRecord, StoreError, WorkerFilter};
use tracing::{info, warn};

use super::sleep_or_stop;
use crate::app::App;
use crate::external_metrics::is_asked_for;

/// What names of platforms on a cluster begin with; the namespace follows.
pub const PLACE: &str = "kubernetes@";

/// How often it is looked whether a cluster is needed, and tried again to reach it.
const SOON: Duration = Duration::from_secs(1);

/// How often autoscalers are listed.
const ASK: Duration = Duration::from_secs(5);

/// How often the Secrets are looked at again, and whether the cluster is left with an API that nobody serves.
const SECRETS: Duration = Duration::from_secs(60);

/// Where it is written down that fleets were scaled by the API that is served for autoscalers, until it is there no more.
const METRICS_USED: &str = "external_metrics_used";

/// How long the first lists may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Pods(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// As the settings say.
    namespace: Option<String>,
    sight: Mutex<Option<Arc<Sight>>>,
    /// Why there is none.
    trouble: Mutex<Option<String>>,
}

/// A cluster that answers.
pub struct Sight {
    pub cluster: Cluster,
    pub watch: Watch,
    /// As they were listed last; why they could not be.
    autoscalers: Mutex<Result<Vec<Autoscaler>, String>>,
    /// Why a fleet's workers cannot join.
    unjoined: Mutex<HashMap<FleetName, String>>,
    /// The cluster's external metrics API answers nobody, and no fleet has a use for it.
    unserved: AtomicBool,
}

impl Pods {
    pub fn new(namespace: Option<String>) -> Pods {
        Pods(Arc::new(Inner { namespace, ..Inner::default() }))
    }

    /// Errors: why no cluster can be seen, for people.
    pub fn sight(&self) -> Result<Arc<Sight>, String> {
        let sight = self.0.sight.lock().expect("no holder panics").clone();
        sight.ok_or_else(|| {
            let why = self.0.trouble.lock().expect("no holder panics").clone();
            why.unwrap_or_else(|| "the cluster has not been looked through yet".into())
        })
    }

    fn show(&self, sight: Option<Arc<Sight>>, trouble: Option<String>) {
        *self.0.sight.lock().expect("no holder panics") = sight;
        *self.0.trouble.lock().expect("no holder panics") = trouble;
    }
}

impl Sight {
    #[cfg(test)]
    pub fn of(cluster: Cluster, watch: Watch) -> Sight {
        Sight {
            cluster,
            watch,
            autoscalers: Mutex::new(Ok(Vec::new())),
            unjoined: Mutex::default(),
            unserved: AtomicBool::new(false),
        }
    }

    /// What workers in this cluster are recorded with.
    pub fn place(&self) -> String {
        format!("{PLACE}{}", self.cluster.namespace())
    }

    /// The autoscalers of a Deployment; there should be one at most.
    ///
    /// Errors: why that is not known.
    pub fn autoscalers_of(&self, deployment: &str) -> Result<Vec<Autoscaler>, String> {
        let known = self.autoscalers.lock().expect("no holder panics");
        let all = known.as_ref().map_err(Clone::clone)?;
        Ok(all.iter().filter(|it| it.deployment == deployment).cloned().collect())
    }

    /// What is left of fleets that a HorizontalPodAutoscaler scaled, and harms the cluster.
    pub fn left_over(&self) -> Option<String> {
        self.unserved.load(Ordering::Relaxed).then(|| {
            format!(
                "nobody answers the cluster's external metrics, so it deletes no namespace, and no fleet has `scaling.by` \"hpa\" any \
                 more: where longshore left that API, `kubectl delete apiservice {METRICS_API_SERVICE}`"
            )
        })
    }

    pub fn unjoined(&self, fleet: &FleetName) -> Option<String> {
        self.unjoined.lock().expect("no holder panics").get(fleet).cloned()
    }
}

/// What this replica has to do in a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Fleets run there.
    Fleets,
    /// None does, and an API may be left there that nobody serves.
    LeftOver,
    None,
}

/// The controller's loop; it acts only while this replica leads and there is something for it to do.
pub async fn run(app: App, pods: Pods) -> &'static str {
    let mut wait = SOON;
    while !sleep_or_stop(&app, wait).await {
        wait = SOON;
        let work = match work(&app).await {
            Ok(Work::None) => continue,
            Ok(work) => work,
            Err(error) => {
                warn!(error = %chain(&error), "fleets could not be read; it is tried again");
                continue;
            }
        };
        match see(&pods).await {
            Ok(sight) => {
                ask(&sight).await;
                pods.show(Some(Arc::clone(&sight)), None);
                app.look_again.notify_one();
                follow(&app, &sight).await;
                pods.show(None, None);
            }
            Err(why) => {
                if pods.0.trouble.lock().expect("no holder panics").as_ref() != Some(&why) {
                    warn!(why, "no cluster can be seen; it is tried again");
                }
                pods.show(None, Some(why));
                // The cluster itself may be gone.
                if work == Work::LeftOver {
                    wait = PATIENCE;
                }
            }
        }
    }
    "cluster"
}

async fn work(app: &App) -> Result<Work, StoreError> {
    if app.epoch().is_none() {
        return Ok(Work::None);
    }
    let fleets = app.store.fleets().await?;
    if fleets.iter().any(|record| record.active && is_for_cluster(record)) {
        return Ok(Work::Fleets);
    }
    let workers = app.store.workers(WorkerFilter::default()).await?;
    if workers.iter().any(|worker| worker.platform.starts_with(PLACE)) {
        return Ok(Work::Fleets);
    }
    Ok(if are_metrics_used(app).await? { Work::LeftOver } else { Work::None })
}

async fn are_metrics_used(app: &App) -> Result<bool, StoreError> {
    Ok(app.store.meta_get(METRICS_USED.into()).await?.is_some_and(|it| it == "true"))
}

/// For whoever leads next, who may have no fleet in the cluster any more.
async fn note_metrics(app: &App, used: bool) -> Result<(), StoreError> {
    match app.epoch() {
        Some(epoch) if are_metrics_used(app).await? != used => {
            app.store.meta_put_leading(METRICS_USED.into(), used.to_string(), epoch).await
        }
        _ => Ok(()),
    }
}

fn is_for_cluster(record: &FleetRecord) -> bool {
    record.declaration.platform == Platform::Kubernetes
}

async fn see(pods: &Pods) -> Result<Arc<Sight>, String> {
    // Whoever runs tests may have a kubeconfig of a cluster that is none for tests.
    if cfg!(test) {
        return Err("tests inside the control plane see no cluster".into());
    }
    let seen = async {
        let cluster = Cluster::connect(pods.0.namespace.as_deref()).await.map_err(|error| chain(&error))?;
        let watch = Watch::start(&cluster);
        let ready = tokio::time::timeout(PATIENCE / 2, watch.ready()).await;
        if ready.is_err() {
            let why = watch.broken().map(|(_, why)| why);
            return Err(why.unwrap_or_else(|| {
                format!("pods and Deployments of namespace `{}` are not listed in time", cluster.namespace())
            }));
        }
        info!(namespace = cluster.namespace(), "cluster is watched");
        let autoscalers = Mutex::new(Err("they have not been listed yet".into()));
        Ok(Arc::new(Sight {
            cluster,
            watch,
            autoscalers,
            unjoined: Mutex::default(),
            unserved: AtomicBool::new(false),
        }))
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    seen.unwrap_or_else(|_| Err("the API server does not answer in time".into()))
}

/// Keeps what is seen up to date, until this replica does not lead any more.
async fn follow(app: &App, sight: &Sight) {
    let mut secrets_at: Option<Instant> = None;
    let mut fleets = 0;
    while !app.is_stopping() && app.epoch().is_some() {
        ask(sight).await;
        if let Ok(records) = app.store.fleets().await {
            let due = secrets_at.is_none_or(|at| at.elapsed() >= SECRETS) || records.len() != fleets;
            let unjoined = !sight.unjoined.lock().expect("no holder panics").is_empty();
            if due || unjoined {
                keep_secrets(app, sight, &records).await;
                if let Err(error) = look_for_left_over(app, sight, &records).await {
                    warn!(error = %chain(&error), "whether external metrics are served could not be written down; it is tried again");
                }
                (secrets_at, fleets) = (Some(Instant::now()), records.len());
            }
        }
        let turn = async {
            loop {
                sight.watch.news().await;
                app.look_again.notify_one();
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(ASK, turn) => {}
            () = app.stopped() => return,
        }
    }
}

async fn ask(sight: &Sight) {
    let listed = tokio::time::timeout(ASK, sight.cluster.autoscalers()).await;
    let known = match listed {
        Ok(listed) => listed.map_err(|error| chain(&error)),
        Err(_) => Err("the API server does not answer in time".into()),
    };
    *sight.autoscalers.lock().expect("no holder panics") = known;
}

/// Who turns from a HorizontalPodAutoscaler to something else applies what is rendered then, and the APIService stays.
async fn look_for_left_over(app: &App, sight: &Sight, fleets: &[FleetRecord]) -> Result<(), StoreError> {
    let used = fleets.iter().any(|record| record.active && is_asked_for(&record.declaration));
    let answers = match used {
        true => Ok(None),
        false => sight.cluster.answers(METRICS_GROUP, METRICS_VERSION).await,
    };
    // Where it is not known what was known stays.
    if let Ok(answers) = answers {
        let unserved = answers == Some(false);
        if unserved && !sight.unserved.load(Ordering::Relaxed) {
            warn!(
                name = METRICS_API_SERVICE,
                "nobody answers this API, and no fleet is scaled by it any more"
            );
        }
        sight.unserved.store(unserved, Ordering::Relaxed);
        if let Some(used) = is_worth_a_look(used, answers) {
            note_metrics(app, used).await?;
        }
    }
    Ok(())
}

/// Whether the API is to be looked for by whoever leads next; `None`: as before. `answers`: whether somebody does in that
/// cluster; none: it has no such API.
fn is_worth_a_look(used: bool, answers: Option<bool>) -> Option<bool> {
    match answers {
        _ if used => Some(true),
        None => Some(false),
        // Whoever answers may be a replica of ours that is about to go.
        Some(_) => None,
    }
}

/// What the workers of each fleet join with.
async fn keep_secrets(app: &App, sight: &Sight, fleets: &[FleetRecord]) {
    let trust = match &app.link_trust {
        None => Ok(String::new()),
        Some(Trust::File(path)) => Err(format!(
            "pods cannot read the certificate `{}` that they would hold the worker link against: set `[server] tls = \"auto\"`",
            path.display()
        )),
        Some(trust) => Ok(trust.to_string()),
    };
    for record in fleets.iter().filter(|record| record.active && is_for_cluster(record)) {
        let token = app.signer.worker_token(&record.name);
        let kept = match &trust {
            Ok(ca) => {
                let pem = app.link_authority.as_deref().map(|pem| (JOIN_CA_PEM, pem));
                let data: Vec<(&str, &str)> =
                    [(JOIN_TOKEN, token.as_str()), (JOIN_CA, ca.as_str())].into_iter().chain(pem).collect();
                let kept = sight.cluster.fill_secret(&join_secret(&record.name), &data).await;
                kept.map_err(|error: ClusterError| chain(&error))
            }
            Err(why) => Err(why.clone()),
        };
        let mut unjoined = sight.unjoined.lock().expect("no holder panics");
        match kept {
            Ok(changed) => {
                if changed {
                    info!(fleet = %record.name, secret = join_secret(&record.name), "Secret for workers to join with was filled");
                }
                unjoined.remove(&record.name);
            }
            Err(why) => {
                if unjoined.get(&record.name) != Some(&why) {
                    warn!(fleet = %record.name, why, "workers cannot join for now");
                }
                unjoined.insert(record.name.clone(), why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::scene;

    #[tokio::test]
    async fn what_was_served_to_autoscalers_is_looked_for_though_no_fleet_is_in_the_cluster() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut server = scene::start(&dir, "", None).await.expect("it starts");
        let app = server.app();
        scene::leads(app).await;
        let note = async |used, answers, expected: Work| {
            if let Some(used) = is_worth_a_look(used, answers) {
                note_metrics(app, used).await.expect("stored");
            }
            assert!(work(app).await.expect("read") == expected, "{used} {answers:?}");
        };
        note(false, None, Work::None).await;
        note(true, Some(true), Work::LeftOver).await;
        note(false, Some(true), Work::LeftOver).await;
        note(false, Some(false), Work::LeftOver).await;
        note(false, None, Work::None).await;
        server.stop().await;
    }
}
