//! What a fleet's owner declares about it, with the defaults in one place.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cap::Caps;
use crate::container::{Container, Image};
use crate::id::FleetName;
use crate::rate::Rate;
use crate::retention;
use crate::retry::Backoff;
use crate::rollout;
use crate::task::{OnBusy, OnInterrupt};
use crate::useful::LlmUse;

/// How tasks reach the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One process per task; the task on standard input.
    #[default]
    Exec,
    /// One long-lived process that answers `POST /run`.
    Http,
}

/// Where a fleet's workers run. The other platforms of the design come with their adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Platform {
    /// Child processes of this machine, kept by longshore itself.
    #[default]
    Process,
    /// Containers of one Docker host.
    Docker,
    /// Replicas of a service that docker-compose started.
    Compose,
    /// Pods of a Deployment of the fleet's name.
    Kubernetes,
    /// Workers that somebody else starts and stops; longshore only serves them.
    External,
}

impl Platform {
    pub fn as_str(self) -> &'static str {
        match self {
            Platform::Process => "process",
            Platform::Docker => "docker",
            Platform::Compose => "compose",
            Platform::Kubernetes => "kubernetes",
            Platform::External => "external",
        }
    }

    /// Whether workers of a fleet here are looked after once it is declared to run there: replaced by a rollout, or never ours
    /// to look after. Of any other pair, those that are left would be nobody's.
    pub fn hands_over_to(self, there: Platform) -> bool {
        let rolls = |platform| matches!(platform, Platform::Process | Platform::Docker);
        self == there || self == Platform::External || rolls(self) && rolls(there)
    }

    /// Whether its workers are containers that longshore says all about.
    pub fn has_containers(self) -> bool {
        matches!(self, Platform::Docker | Platform::Kubernetes)
    }
}

/// Who changes the number of a fleet's workers. Only one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaledBy {
    /// longshore itself.
    #[default]
    Direct,
    /// A HorizontalPodAutoscaler that asks longshore for its metrics.
    Hpa,
    /// KEDA, which makes one.
    Keda,
}

impl ScaledBy {
    pub const ALL: [ScaledBy; 3] = [ScaledBy::Direct, ScaledBy::Hpa, ScaledBy::Keda];

    pub fn as_str(self) -> &'static str {
        match self {
            ScaledBy::Direct => "direct",
            ScaledBy::Hpa => "hpa",
            ScaledBy::Keda => "keda",
        }
    }
}

/// How a draining worker treats the tasks that it has in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrainMode {
    #[default]
    Wait,
    Handover,
}

/// Everything declared about one fleet, defaults filled in. All times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    pub name: FleetName,
    pub command: Vec<String>,
    /// The folder that the command runs in; absolute. In a container empty means the image's own.
    pub working_dir: String,
    pub protocol: Protocol,
    /// Tasks in flight per worker.
    pub concurrency: u32,
    pub platform: Platform,
    /// Only with a platform that has containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Only with platform `compose`: the service whose replicas its workers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Only with platform `kubernetes`: a file that `longshore render` merges into its manifests; absolute when the settings'
    /// folder is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<String>,
    /// For the agent. Never holds secrets: those are looked up when a worker starts.
    pub env: BTreeMap<String, String>,
    pub secrets: BTreeMap<String, SecretSource>,
    /// Names of the providers that its agents' LLM calls may go to; none: its calls do not go through the gateway.
    #[serde(default)]
    pub providers: Vec<String>,
    pub task: TaskDefaults,
    /// Tasks that may run at once over all its workers; none: as many as there are slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
    /// How many tasks may start in a time; none: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(default)]
    pub tenants: TenantCaps,
    pub scaling: Scaling,
    /// What a task uses of its provider; with it the provider's limit bounds the workers, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub llm_use: Option<LlmUse>,
    pub drain: Drain,
    pub probe: Probe,
    /// What is forgotten of its tasks after their end, and when.
    #[serde(default)]
    pub retention: retention::Policy,
    /// How its workers are replaced by those of another release.
    #[serde(default)]
    pub rollout: rollout::Policy,
    /// Path of an http agent's health check; empty: none.
    pub health_path: String,
    /// From SIGTERM to SIGKILL when an agent is told to stop.
    pub kill_grace_ms: u64,
}

/// Where a secret's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    Env(String),
    File(String),
}

/// What a fleet allows each tenant that it runs tasks of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCaps {
    /// Tasks of one tenant that may run at once in this fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_running: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDefaults {
    /// Per attempt.
    pub timeout_ms: u64,
    /// From submission, or from `run_at`, to the task's end, whatever it does meanwhile; none: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout_ms: Option<u64>,
    pub max_attempts: u32,
    pub on_interrupt: OnInterrupt,
    /// When another task of its conversation is not finished.
    #[serde(default)]
    pub on_busy: OnBusy,
    pub backoff: Backoff,
    /// The most that a result, and what is captured of an agent's output for it, may hold.
    pub result_limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    #[serde(default)]
    pub by: ScaledBy,
    pub min: u32,
    pub max: u32,
    /// Pending tasks per worker above which workers are added.
    pub scale_up_above: f64,
    /// Pending tasks per worker below which workers are removed.
    pub scale_down_below: f64,
    /// Adds as well when no slot is free and the oldest runnable task has waited this long.
    pub scale_up_wait_ms: u64,
    /// How long the fleet must have wanted fewer workers before any is removed.
    pub scale_down_after_ms: u64,
    /// The most workers added by one decision: the larger of this and as many as there are.
    pub step: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    pub timeout_ms: u64,
    pub mode: DrainMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub failures: u32,
    /// How long an http agent may take until it first answers.
    pub startup_ms: u64,
}

impl Fleet {
    /// A fleet of which only the name and the command are declared.
    pub fn new(name: FleetName, command: Vec<String>, working_dir: String) -> Fleet {
        Fleet {
            name,
            command,
            working_dir,
            protocol: Protocol::Exec,
            concurrency: 1,
            platform: Platform::Process,
            container: None,
            service: None,
            overlay: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            providers: Vec::new(),
            task: TaskDefaults::default(),
            max_running: None,
            rate: None,
            tenants: TenantCaps::default(),
            scaling: Scaling::default(),
            llm_use: None,
            drain: Drain::default(),
            probe: Probe::default(),
            retention: retention::Policy::default(),
            rollout: rollout::Policy::default(),
            health_path: "/healthz".into(),
            kill_grace_ms: 10_000,
        }
    }
}

impl Fleet {
    /// What a worker is told when it starts; all else is blank. Where this differs, it is another release.
    pub fn told_at_start(&self) -> Fleet {
        let mut fleet = self.clone();
        (fleet.scaling, fleet.llm_use, fleet.overlay) = Default::default();
        fleet.retention = Default::default();
        fleet.rollout = Default::default();
        (fleet.max_running, fleet.rate, fleet.tenants) = Default::default();
        fleet.task = TaskDefaults { result_limit: fleet.task.result_limit, ..Default::default() };
        fleet
    }

    /// Whether workers of the one are workers of the other. An image is known by its name, and by what the name stood for where
    /// both say so.
    pub fn same_workers(&self, other: &Fleet) -> bool {
        let (mut one, mut other) = (self.told_at_start(), other.told_at_start());
        if let (Some(one), Some(other)) = (&mut one.container, &mut other.container)
            && (one.image_id.is_none() || other.image_id.is_none())
        {
            (one.image_id, other.image_id) = (None, None);
        }
        one == other
    }

    /// A release as its workers are to run it: what they are told when they start is the release's, all else is what is
    /// declared now.
    pub fn running(&self, release: &Fleet) -> Fleet {
        let mut fleet = release.clone();
        (fleet.scaling, fleet.retention, fleet.rollout) = (self.scaling, self.retention, self.rollout);
        (fleet.llm_use, fleet.overlay) = (self.llm_use.clone(), self.overlay.clone());
        (fleet.max_running, fleet.rate, fleet.tenants) = (self.max_running, self.rate, self.tenants);
        fleet.task = TaskDefaults { result_limit: release.task.result_limit, ..self.task.clone() };
        fleet
    }

    /// The image that its workers are started from; none: they are started by a command.
    pub fn image(&self) -> Option<String> {
        self.container.as_ref().map(|container| container.image.to_string())
    }

    /// The same with another image.
    ///
    /// Errors: in words, why its workers are not started from this one.
    pub fn with_image(&self, image: &str) -> Result<Fleet, String> {
        let mut fleet = self.clone();
        match (self.platform, &mut fleet.container) {
            (Platform::External, _) => return Err("somebody else starts its workers".into()),
            (Platform::Compose, _) => {
                return Err(
                    "its image is the compose file's: change it there, then `docker-compose up -d` replaces its workers".into(),
                );
            }
            (_, Some(container)) => {
                (container.image, container.image_id) = (Image::parse(image)?, None);
            }
            (Platform::Process | Platform::Docker | Platform::Kubernetes, None) => {
                return Err("platform `process` runs a command and no image".into());
            }
        }
        Ok(fleet)
    }

    /// What may keep its tasks from being started though workers are free; `paused` is the operator's word.
    pub fn caps(&self, paused: bool) -> Caps {
        let tenant_max_running = self.tenants.max_running;
        Caps { paused, max_running: self.max_running, tenant_max_running, rate: self.rate }
    }

    /// Refuses a declaration that no worker could follow: for those that did not come through `settings`, which says
    /// more.
    ///
    /// Errors: the first rule that it breaks, in words.
    pub fn check(&self) -> Result<(), String> {
        let scaling = &self.scaling;
        let rules = [
            (
                self.platform != Platform::Process
                    || self.command.first().is_some_and(|program| !program.is_empty()),
                "command: needs at least a program",
            ),
            ((1..=10_000).contains(&self.concurrency), "concurrency: expected 1 to 10000"),
            (scaling.min <= scaling.max, "scaling.min: must not be above scaling.max"),
            (scaling.max <= 10_000, "scaling.max: at most 10000"),
            (
                scaling.scale_down_below < scaling.scale_up_above,
                "scaling.scale_down_below: must lie below scale_up_above",
            ),
            (
                scaling.scale_down_below >= 0.0 && scaling.scale_up_above.is_finite(),
                "scaling: thresholds must be numbers of at least 0",
            ),
            (self.task.max_attempts >= 1, "task.max_attempts: at least 1"),
            (self.task.timeout_ms >= 1, "task.timeout: must be longer than nothing"),
            (self.task.total_timeout_ms != Some(0), "task.total_timeout: must be longer than nothing"),
            (self.max_running != Some(0), "max_running: at least 1; to stop a fleet, pause it"),
            (self.tenants.max_running != Some(0), "tenants.max_running: at least 1"),
            (self.rate.is_none_or(Rate::is_valid), "rate: expected 1 to 1000000 tasks per 1ms to 31 days"),
            (
                self.probe.interval_ms >= 1 && self.probe.timeout_ms >= 1,
                "probe: times must be longer than nothing",
            ),
            (
                self.working_dir.starts_with('/')
                    || self.platform.has_containers() && self.working_dir.is_empty(),
                "working_dir: must be absolute",
            ),
            (
                (self.platform == Platform::Compose) == self.service.is_some(),
                "service: what a fleet of platform `compose` needs, and no other one has",
            ),
            (self.service.as_deref().is_none_or(is_service), "service: no name that a service can have"),
            (
                self.platform.has_containers() == self.container.is_some(),
                "image: what a fleet of platform `docker` or `kubernetes` needs, and no other one has",
            ),
            (
                self.scaling.by == ScaledBy::Direct || self.platform == Platform::Kubernetes,
                "scaling.by: only fleets of platform `kubernetes` are scaled by others",
            ),
            (
                self.rollout.owner == rollout::Owner::Longshore || self.platform == Platform::Kubernetes,
                "rollout.owner: only fleets of platform `kubernetes` are rolled out by others",
            ),
            (all_differ(&self.providers), "providers: a name is listed twice"),
            (self.rollout.check().is_ok(), "rollout: a rollout could not go by these numbers"),
            (self.retention.check().is_ok(), "retention: nothing can be kept longer than `tasks`"),
        ];
        let broken = rules.iter().find(|(holds, _)| !holds).map(|(_, rule)| (*rule).to_owned());
        let resources = self.container.as_ref().map(|container| container.resources.check());
        match (broken, resources) {
            (Some(rule), _) => Err(rule),
            (None, Some(Err(rule))) => Err(format!("resources.{rule}")),
            _ => Ok(()),
        }
    }
}

/// Whether a service of a compose file can have this name.
pub fn is_service(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=128).contains(&name.len()) && name.chars().all(good)
}

fn all_differ(names: &[String]) -> bool {
    let different: BTreeSet<&String> = names.iter().collect();
    different.len() == names.len()
}

/// The concurrency of a fleet that declares none.
pub fn default_concurrency(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Exec => 1,
        Protocol::Http => 8,
    }
}

impl Default for TaskDefaults {
    fn default() -> Self {
        TaskDefaults {
            timeout_ms: 15 * 60_000,
            total_timeout_ms: None,
            max_attempts: 3,
            on_interrupt: OnInterrupt::Resume,
            on_busy: OnBusy::Enqueue,
            backoff: Backoff::default(),
            result_limit: 1 << 20,
        }
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Scaling {
            by: ScaledBy::Direct,
            min: 2,
            max: 20,
            scale_up_above: 8.0,
            scale_down_below: 2.0,
            scale_up_wait_ms: 10_000,
            scale_down_after_ms: 60_000,
            step: 4,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Drain { timeout_ms: 120_000, mode: DrainMode::Wait }
    }
}

impl Default for Probe {
    fn default() -> Self {
        Probe { interval_ms: 10_000, timeout_ms: 3_000, failures: 3, startup_ms: 120_000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_left_to_nobody_where_no_rollout_replaces_them() {
        use Platform::{Compose, Docker, External, Kubernetes, Process};
        let all = [Process, Docker, Compose, Kubernetes, External];
        for from in all {
            let to: Vec<_> = all.into_iter().filter(|to| from.hands_over_to(*to)).collect();
            let expected = match from {
                Process | Docker => vec![Process, Docker],
                Compose | Kubernetes => vec![from],
                // They were started by somebody, who stops them as well.
                External => all.to_vec(),
            };
            assert_eq!(to, expected, "{from:?}");
        }
    }
}
