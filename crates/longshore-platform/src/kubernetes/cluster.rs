//! A cluster as we reach it, and what is changed in it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, Config};
use longshore_core::kubernetes::{DELETION_COST, MANAGER, Mark};
use serde_json::{Value, json};

use super::change::Template;
use super::error::ClusterError;
use super::seen::{Autoscaler, DeploymentSeen};

/// Where nothing else says so.
const NAMESPACE: &str = "longshore";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a pod would cost if it were removed, for the controller that removes some; from Kubernetes 1.22 on.
const DELETION_COST_SINCE: u32 = 22;

/// One namespace of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    minor: u32,
}

/// A Deployment's template as the API server took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub generation: i64,
    pub mark: Mark,
}

/// Ours: as the settings say, or as what we are connected by does.
pub(super) fn namespace_of(config: &Config, given: Option<&str>) -> String {
    let theirs = match config.default_namespace.as_str() {
        // What a kubeconfig says that says nothing; of a pod it is where that is.
        "default" if !Config::incluster().is_ok_and(|own| own.cluster_url == config.cluster_url) => NAMESPACE,
        other => other,
    };
    given.unwrap_or(theirs).to_owned()
}

impl Cluster {
    /// Connects to the cluster that this process runs in, or that KUBECONFIG names.
    ///
    /// `namespace`: `None`: the one of the service account, or of the kubeconfig's context, or `longshore`.
    /// Errors: no cluster is known here, or it does not answer.
    pub async fn connect(namespace: Option<&str>) -> Result<Cluster, ClusterError> {
        let config = Config::infer().await.map_err(|error| ClusterError::NotConfigured(error.into()))?;
        Cluster::reach(config, namespace).await
    }

    /// One whose API server is at this address: for tests.
    #[cfg(any(test, feature = "testkit"))]
    pub async fn at(address: &str, namespace: &str) -> Result<Cluster, ClusterError> {
        let address = address
            .parse()
            .map_err(|error| ClusterError::NotConfigured(Box::<http::uri::InvalidUri>::new(error)))?;
        Cluster::reach(Config::new(address), Some(namespace)).await
    }

    pub(super) async fn reach(mut config: Config, namespace: Option<&str>) -> Result<Cluster, ClusterError> {
        let namespace = namespace_of(&config, namespace);
        // The library would try again by itself, for minutes where the API server says that it is busy, and say nothing of it.
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| ClusterError::NotConfigured(error.into()))?;
        let version = client.apiserver_version().await;
        let version =
            version.map_err(|error| ClusterError::of("ask the API server for its version", error))?;
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        Ok(Cluster { client, namespace, minor: digits.parse().unwrap_or(0) })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the cluster heeds what removing a pod costs.
    pub fn heeds_deletion_cost(&self) -> bool {
        self.minor >= DELETION_COST_SINCE
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(super) fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Sets the number of a Deployment's pods, through its scale, if it is still as it was seen.
    pub async fn scale(&self, seen: &DeploymentSeen, replicas: u32) -> Result<(), ClusterError> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": seen.version },
            "spec": { "replicas": replicas },
        }));
        let deployments = self.deployments();
        let asked = deployments.patch_scale(&seen.name, &params, &patch);
        self.within("scale Deployment", &seen.name, asked).await.map(drop)
    }

    /// Has a Deployment make its pods from this template, if it is still as it was seen. Returns what it is made from now, which
    /// a webhook may have changed on the way.
    pub async fn set_template(
        &self,
        seen: &DeploymentSeen,
        template: &Template,
    ) -> Result<Written, ClusterError> {
        // Whoever wrote these fields before: they are longshore's now.
        let params = PatchParams::apply(MANAGER).force();
        let mut wanted = template.apply(&seen.name);
        wanted["metadata"]["resourceVersion"] = seen.version.as_str().into();
        let patch = Patch::Apply(wanted);
        let deployments = self.deployments();
        let asked = deployments.patch(&seen.name, &params, &patch);
        let done = self.within("change Deployment", &seen.name, asked).await?;
        let mark = DeploymentSeen::of(&done).map_or_else(|| template.mark(), |done| done.mark);
        Ok(Written { generation: done.metadata.generation.unwrap_or_default(), mark })
    }

    /// Lets a Deployment's own rollout stand still, or go on, if it is still as it was seen. Returns its generation with it.
    pub async fn pause(&self, seen: &DeploymentSeen, paused: bool) -> Result<i64, ClusterError> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": seen.version },
            "spec": { "paused": paused },
        }));
        let deployments = self.deployments();
        let asked = deployments.patch(&seen.name, &params, &patch);
        let done = self.within("pause Deployment", &seen.name, asked).await?;
        Ok(done.metadata.generation.unwrap_or_default())
    }

    /// Says what removing a pod would cost, beside others.
    pub async fn set_deletion_cost(&self, pod: &str, cost: i32) -> Result<(), ClusterError> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        let notes = BTreeMap::from([(DELETION_COST, cost.to_string())]);
        let patch = Patch::Merge(json!({ "metadata": { "annotations": notes } }));
        let pods = self.pods();
        let asked = pods.patch(pod, &params, &patch);
        self.within("annotate pod", pod, asked).await.map(drop)
    }

    /// The autoscalers of Deployments in the namespace.
    pub async fn autoscalers(&self) -> Result<Vec<Autoscaler>, ClusterError> {
        let all: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = all.list(&ListParams::default()).await.map_err(|error| {
            ClusterError::of(
                format!("list HorizontalPodAutoscalers in namespace `{}`", self.namespace),
                error,
            )
        })?;
        Ok(found.items.iter().filter_map(Autoscaler::of).collect())
    }

    /// Whether an API of the cluster answers; `None`: there is none of this group and version.
    pub async fn answers(&self, group: &str, version: &str) -> Result<Option<bool>, ClusterError> {
        let name = format!("{group}/{version}");
        let asked = self.client.list_api_group_resources(&name);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(_)) => Ok(Some(true)),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(kube::Error::Api(status))) if status.code == 503 => Ok(Some(false)),
            Ok(Err(error)) => Err(ClusterError::of(format!("ask for API `{name}`"), error)),
            Err(_) => Err(ClusterError::Silent { what: format!("ask for API `{name}`") }),
        }
    }

    /// Keeps what is in a Secret as it is to be; says whether it had to be changed. What else is said of it stays: it is
    /// rendered, and this only fills it.
    ///
    /// Errors: it is not there, among others.
    pub async fn fill_secret(&self, name: &str, data: &[(&str, &str)]) -> Result<bool, ClusterError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data: BTreeMap<String, ByteString> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        let there = self.within("read Secret", name, secrets.get(name)).await?;
        if there.data.as_ref() == Some(&data) {
            return Ok(false);
        }
        let surplus = there.data.unwrap_or_default().into_keys().filter(|key| !data.contains_key(key));
        let surplus: BTreeMap<String, Value> = surplus.map(|key| (key, Value::Null)).collect();
        let mut wanted = json!(data);
        wanted.as_object_mut().expect("a mapping").extend(surplus);
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": there.metadata.resource_version },
            "data": wanted,
        }));
        self.within("write Secret", name, secrets.patch(name, &params, &patch)).await?;
        Ok(true)
    }

    /// Nobody waits for an API server for ever: others' fleets are looked at in the same turn.
    async fn within<T>(
        &self,
        what: &str,
        name: &str,
        asked: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        let what = format!("{what} `{name}` in namespace `{}`", self.namespace);
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer.map_err(|error| ClusterError::of(what, error)),
            Err(_) => Err(ClusterError::Silent { what }),
        }
    }
}
