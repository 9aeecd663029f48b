//! A cluster as we reach it, and what is changed in it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use longshore_core::kubernetes::MANAGER;
use serde_json::json;

use super::change::Template;
use super::error::ClusterError;
use super::seen::{Autoscaler, DeploymentSeen};

/// Where nothing else says so.
const NAMESPACE: &str = "longshore";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a pod would cost if it were removed, for the controller that removes some; from Kubernetes 1.22 on.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const DELETION_COST_SINCE: u32 = 22;

/// One namespace of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    minor: u32,
}

/// Ours: as the settings say, or as what we are connected by does.
pub(super) fn namespace_of(config: &Config, given: Option<&str>) -> String {
    let theirs = match config.default_namespace.as_str() {
        // What a kubeconfig says that says nothing.
        "default" => NAMESPACE,
        other => other,
    };
    given.unwrap_or(theirs).to_owned()
}

/// Whether something had to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Created,
    Changed,
    Same,
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

    /// Has a Deployment make its pods from this template. Returns its generation with it.
    pub async fn set_template(&self, deployment: &str, template: &Template) -> Result<i64, ClusterError> {
        // Whoever wrote these fields before: they are longshore's now.
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(template.apply(deployment));
        let deployments = self.deployments();
        let asked = deployments.patch(deployment, &params, &patch);
        let done = self.within("change Deployment", deployment, asked).await?;
        Ok(done.metadata.generation.unwrap_or_default())
    }

    /// Lets a Deployment's own rollout stand still, or go on. Returns its generation with it.
    pub async fn pause(&self, deployment: &str, paused: bool) -> Result<i64, ClusterError> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({ "spec": { "paused": paused } }));
        let deployments = self.deployments();
        let asked = deployments.patch(deployment, &params, &patch);
        let done = self.within("pause Deployment", deployment, asked).await?;
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

    /// Keeps a Secret as it is to be.
    pub async fn keep_secret(
        &self,
        name: &str,
        labels: &[(&str, &str)],
        data: &[(&str, &str)],
    ) -> Result<Written, ClusterError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let data: BTreeMap<String, ByteString> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        let there = self.within("read Secret", name, secrets.get_opt(name)).await?;
        if there.as_ref().is_some_and(|there| there.data.as_ref() == Some(&data)) {
            return Ok(Written::Same);
        }
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let version = there.as_ref().and_then(|there| there.metadata.resource_version.clone());
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some(labels),
                resource_version: version,
                ..Default::default()
            },
            data: Some(data),
            ..Default::default()
        };
        let params = PostParams { field_manager: Some(MANAGER.into()), ..Default::default() };
        match there {
            Some(_) => {
                self.within("write Secret", name, secrets.replace(name, &params, &secret)).await?;
                Ok(Written::Changed)
            }
            None => {
                self.within("write Secret", name, secrets.create(&params, &secret)).await?;
                Ok(Written::Created)
            }
        }
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
