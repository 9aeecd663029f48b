//! What matters here of pods, Deployments and autoscalers.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{AGENT, COMMIT, DECLARATION, DELETION_COST, FLEET, Mark};

use super::rest::Rest;
use super::shown::Shown;
use crate::End;

/// A pod of a fleet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Its worker's id.
    pub name: String,
    pub uid: String,
    pub fleet: String,
    /// What it is made from.
    pub mark: Mark,
    /// It was asked to end, or has ended for good.
    pub leaves: bool,
    /// What removing it costs beside others, where that was written.
    pub deletion_cost: Option<i32>,
    pub ready: bool,
    /// Why its agent does not run, where that is not about to pass: no room, no image, no Secret.
    pub stuck: Option<String>,
    /// How its agent's container ended last; it may run again.
    pub ended: Option<Ended>,
    /// Its agent's container runs, as the kubelet has told last.
    pub runs: bool,
    /// It has ended for good: its node or an eviction ended it, since its containers are started again.
    pub over: bool,
}

/// The end of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Tells ends apart.
    pub container: String,
    pub end: End,
    /// Seconds since 1970 by the node's clock.
    pub at: i64,
    /// What it said last, if it writes that where Kubernetes looks for it.
    pub said: Option<String>,
}

/// A fleet's Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeploymentSeen {
    pub name: String,
    pub fleet: String,
    /// What its pods are made from.
    pub mark: Mark,
    pub commit: Option<String>,
    /// Pods that it is to have.
    pub replicas: u32,
    /// Pods that it has, as it has told last: those too that it is about to replace.
    pub there: u32,
    pub uid: String,
    /// Of this sight, for writes that are to fail where it is out of date.
    pub version: String,
    /// Grows with each change of what it is to be.
    pub generation: i64,
    pub paused: bool,
    /// Why pods could not be made: a quota, an admission webhook.
    pub failure: Option<String>,
    /// What says that it is kept by a tool that takes it from Git.
    pub tracked_by: Option<String>,
    /// How often what its pods are made from has changed; none: that is not known yet, or it stands still.
    pub revision: Option<u64>,
    /// Some of its pods are not made from what it says now.
    pub replaces: bool,
    /// What else its pods are made from; none: it has no agent.
    pub(super) rest: Option<Rest>,
    pub(super) shown: Shown,
}

/// A HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Autoscaler {
    pub name: String,
    /// The Deployment that it scales.
    pub deployment: String,
    /// KEDA has made it, and would make it again.
    pub by_keda: bool,
    /// The fewest pods that it leaves; only with 0 does it act on a Deployment that has none.
    pub least: u32,
}

/// Marks of tools that keep objects as Git has them.
const TRACKING: [(&str, &str); 5] = [
    ("argocd.argoproj.io/tracking-id", "Argo CD"),
    ("argocd.argoproj.io/instance", "Argo CD"),
    ("kustomize.toolkit.fluxcd.io/name", "Flux"),
    ("helm.toolkit.fluxcd.io/name", "Flux"),
    ("fluxcd.io/sync-checksum", "Flux"),
];

/// The same by what they write as: Argo CD 2.x tracks by a label that any Helm chart sets.
const MANAGERS: [(&str, &str); 4] = [
    ("argocd-controller", "Argo CD"),
    ("argocd-application-controller", "Argo CD"),
    ("kustomize-controller", "Flux"),
    ("helm-controller", "Flux"),
];

/// On a Deployment, written by Kubernetes: grows with each change of what pods are made from.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// KEDA's label on the autoscalers that it makes.
const SCALED_OBJECT: &str = "scaledobject.keda.sh/name";

/// Reasons of waiting containers that pass by themselves.
const PASSING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

impl PodSeen {
    /// `None`: it has no name or no fleet.
    pub fn of(pod: &Pod) -> Option<PodSeen> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let agent = spec.and_then(|spec| spec.containers.iter().find(|it| it.name == AGENT));
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let over = matches!(phase, "Failed" | "Succeeded");
        let statuses = || status.into_iter().flat_map(|status| status.container_statuses.iter().flatten());
        let of_agent = statuses().find(|it| it.name == AGENT);
        let condition = |kind: &str| {
            let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().find(|it| it.type_ == kind).cloned()
        };
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|all| all.get(key)).cloned();
        let unscheduled = condition("PodScheduled").filter(|it| it.status == "False");
        let inits = status.into_iter().flat_map(|status| status.init_container_statuses.iter().flatten());
        let stuck = unscheduled
            .map(|it| format!("no node takes it: {}", it.message.or(it.reason).unwrap_or_default()))
            .or_else(|| statuses().chain(inits).find_map(stuck));
        Some(PodSeen {
            name: meta.name.clone()?,
            uid: meta.uid.clone().unwrap_or_default(),
            fleet: meta.labels.as_ref()?.get(FLEET)?.clone(),
            mark: Mark {
                declaration: annotation(DECLARATION),
                image: agent.and_then(|agent| agent.image.clone()),
            },
            deletion_cost: annotation(DELETION_COST).and_then(|cost| cost.parse().ok()),
            leaves: over || meta.deletion_timestamp.is_some(),
            ready: condition("Ready").is_some_and(|it| it.status == "True"),
            stuck: stuck.filter(|_| !over),
            ended: if over { Some(taken(pod, of_agent)) } else { of_agent.and_then(last_end) },
            runs: of_agent.and_then(|it| it.state.as_ref()).is_some_and(|it| it.running.is_some()),
            over,
        })
    }
}

/// Why a container waits, if it will for long.
fn stuck(of: &ContainerStatus) -> Option<String> {
    let waiting = of.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().filter(|reason| !PASSING.contains(reason))?;
    Some(match waiting.message.as_deref() {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    })
}

fn last_end(of: &ContainerStatus) -> Option<Ended> {
    end_in(of.state.as_ref()).or_else(|| end_in(of.last_state.as_ref()))
}

fn end_in(state: Option<&ContainerState>) -> Option<Ended> {
    let it = state?.terminated.clone()?;
    let end = match (it.reason.as_deref(), it.signal, it.exit_code) {
        (Some("OOMKilled"), ..) => End::OutOfMemory,
        (_, Some(signal), _) if signal > 0 => End::Signaled(signal),
        // The kernel's word, as shells and container runtimes pass it on.
        (_, _, code @ 129..=192) => End::Signaled(code - 128),
        (_, _, code) => End::Exited(code),
    };
    Some(Ended {
        container: it.container_id.unwrap_or_default(),
        end,
        at: it.finished_at.map_or(0, |at| at.0.as_second()),
        said: it.message.filter(|said| !said.trim().is_empty()),
    })
}

/// The end of a pod that has ended for good. Why is the node's to say: it was out of memory or disk, or went. What its container
/// was started again after before is no part of it.
fn taken(pod: &Pod, agent: Option<&ContainerStatus>) -> Ended {
    let status = pod.status.as_ref();
    let why = status.and_then(|status| status.message.clone().or_else(|| status.reason.clone()));
    let unseen = || Ended { container: String::new(), end: End::Gone, at: 0, said: None };
    let seen = agent.and_then(|agent| end_in(agent.state.as_ref())).unwrap_or_else(unseen);
    Ended { said: why.or(seen.said), ..seen }
}

impl DeploymentSeen {
    /// `None`: it has no name or no fleet.
    pub fn of(it: &Deployment) -> Option<DeploymentSeen> {
        let meta = &it.metadata;
        let labels = meta.labels.as_ref()?;
        let spec = it.spec.as_ref();
        let template = spec.map(|spec| &spec.template);
        let noted = template.and_then(|it| it.metadata.as_ref()?.annotations.as_ref());
        let pod = template.and_then(|it| it.spec.as_ref());
        let agent = pod.and_then(|pod| pod.containers.iter().find(|it| it.name == AGENT));
        let status = it.status.as_ref();
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let failed = conditions.into_iter().find(|it| it.type_ == "ReplicaFailure" && it.status == "True");
        let marked = |key: &str| {
            labels.contains_key(key) || meta.annotations.as_ref().is_some_and(|all| all.contains_key(key))
        };
        let tracked = TRACKING.iter().find(|(key, _)| marked(key)).map(|(_, tool)| *tool);
        // Kubernetes counts only what it has looked at, and nothing while it stands still.
        let looked_at = status.and_then(|it| it.observed_generation) >= meta.generation;
        let counts = looked_at && !spec.and_then(|it| it.paused).unwrap_or_default();
        let revision = meta.annotations.as_ref().and_then(|all| all.get(REVISION)?.parse().ok());
        let revision = revision.filter(|_| counts);
        let number = |n: i32| u32::try_from(n).unwrap_or(0);
        // Where nobody has said a number it is one.
        let replicas = spec.and_then(|it| it.replicas).map_or(1, number);
        let there = status.and_then(|it| it.replicas).map_or(0, number);
        let updated = status.and_then(|it| it.updated_replicas).map_or(0, number);
        Some(DeploymentSeen {
            name: meta.name.clone()?,
            fleet: labels.get(FLEET)?.clone(),
            mark: Mark {
                declaration: noted.and_then(|all| all.get(DECLARATION)).cloned(),
                image: agent.and_then(|agent| agent.image.clone()),
            },
            commit: noted.and_then(|all| all.get(COMMIT)).cloned(),
            replicas,
            there,
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            paused: spec.and_then(|spec| spec.paused).unwrap_or_default(),
            failure: failed.map(|it| it.message.clone().or(it.reason.clone()).unwrap_or_default()),
            tracked_by: tracked.or_else(|| managed(meta.managed_fields.iter().flatten())).map(str::to_owned),
            revision,
            replaces: updated < replicas || there > updated,
            rest: spec.and_then(Rest::of),
            shown: agent.map(Shown::of).unwrap_or_default(),
        })
    }

    /// A fleet as its pods are made here: with the image, the command, the variables that have values and the resources that
    /// are seen.
    ///
    /// Errors: why its image is none.
    pub fn as_declared(&self, fleet: &Fleet) -> Result<Fleet, String> {
        let image = self.mark.image.as_deref().unwrap_or_default();
        Ok(self.shown.laid_over(&fleet.with_image(image)?))
    }

    /// The keys of a fleet that its pods are not made from as it declares them, though no release writes those: a rendering
    /// does. What an owner changes on purpose, by an overlay, is not told from what is old.
    pub fn unlike(&self, fleet: &Fleet) -> Vec<&'static str> {
        let rest = self.rest.as_ref().filter(|_| fleet.overlay.is_none());
        rest.map(|rest| rest.differs(fleet)).unwrap_or_default()
    }
}

/// Who of the tools that follow Git has written what pods are made from.
fn managed<'a>(mut fields: impl Iterator<Item = &'a ManagedFieldsEntry>) -> Option<&'static str> {
    fields.find_map(|entry| {
        let (_, tool) = MANAGERS.iter().find(|(name, _)| entry.manager.as_deref() == Some(*name))?;
        let template = entry.fields_v1.as_ref()?.0.get("f:spec")?.get("f:template")?;
        template.as_object().is_some_and(|fields| !fields.is_empty()).then_some(*tool)
    })
}

impl Autoscaler {
    /// `None`: it scales something else than a Deployment.
    pub fn of(it: &HorizontalPodAutoscaler) -> Option<Autoscaler> {
        let spec = it.spec.as_ref()?;
        let target = &spec.scale_target_ref;
        (target.kind == "Deployment").then(|| {
            Some(Autoscaler {
                name: it.metadata.name.clone()?,
                deployment: target.name.clone(),
                by_keda: it.metadata.labels.as_ref().is_some_and(|all| all.contains_key(SCALED_OBJECT)),
                least: spec.min_replicas.map_or(1, |least| u32::try_from(least).unwrap_or(0)),
            })
        })?
    }
}
