//! What only a rendering writes of a fleet's pods and of how they are replaced, as it is to be seen in the Deployment: a release does not change it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use longshore_core::container::Supervisor;
use longshore_core::fleet::{Fleet, SecretSource};
use longshore_core::kubernetes::AGENT;
use longshore_core::rollout::Policy;

use super::render::rolled;

/// Of the container that puts longshore beside an agent.
const SUPERVISOR: &str = "supervisor";

/// As far as a fleet declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    working_dir: String,
    injected: bool,
    startup_failures: i32,
    liveness: Asked,
    readiness: Asked,
    /// Variables of the agent, and the keys of the Secret that they come from.
    secrets: BTreeMap<String, String>,
    rollout: Rollout,
}

/// How Kubernetes replaces pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rollout {
    /// Pods more, and pods fewer; a text is a share of them.
    steps: Option<(IntOrString, IntOrString)>,
    hold_s: i32,
    deadline_s: i32,
}

/// How a probe asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    every_s: i32,
    patience_s: i32,
    failures: i32,
}

impl Rest {
    pub(super) fn of(deployment: &DeploymentSpec) -> Option<Rest> {
        let pod = deployment.template.spec.as_ref()?;
        let agent = pod.containers.iter().find(|it| it.name == AGENT)?;
        Some(Rest {
            working_dir: agent.working_dir.clone().unwrap_or_default(),
            injected: pod.init_containers.iter().flatten().any(|it| it.name == SUPERVISOR),
            startup_failures: agent.startup_probe.as_ref().and_then(|it| it.failure_threshold).unwrap_or(0),
            liveness: Asked::of(agent.liveness_probe.as_ref()),
            readiness: Asked::of(agent.readiness_probe.as_ref()),
            secrets: secrets(agent),
            rollout: Rollout::of(deployment),
        })
    }

    /// The keys of the fleet that say something else.
    pub(super) fn differs(&self, fleet: &Fleet) -> Vec<&'static str> {
        let probe = &fleet.probe;
        let asked = Asked {
            every_s: seconds(probe.interval_ms),
            patience_s: seconds(probe.timeout_ms),
            failures: whole(probe.failures.into()),
        };
        let injected = fleet.container.as_ref().is_some_and(|it| it.supervisor == Supervisor::Inject);
        let has = |(name, source): (&String, &SecretSource)| match source {
            SecretSource::Env(key) => self.secrets.get(name) == Some(key),
            // None can be rendered.
            SecretSource::File(_) => true,
        };
        let same = [
            ("working_dir", self.working_dir == fleet.working_dir),
            ("supervisor", self.injected == injected),
            // What a worker that starts is asked every other second.
            ("probe", self.startup_failures == whole(probe.startup_ms.div_ceil(2000))),
            ("probe", self.liveness == asked && self.readiness == asked),
            ("secrets", fleet.secrets.iter().all(has)),
            ("secrets", self.secrets.keys().all(|name| fleet.secrets.contains_key(name))),
            ("rollout", self.rollout.is(&fleet.rollout)),
        ];
        let mut keys: Vec<_> = same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect();
        keys.dedup();
        keys
    }
}

impl Rollout {
    fn of(deployment: &DeploymentSpec) -> Rollout {
        let strategy = deployment.strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
        Rollout {
            steps: strategy.and_then(|it| Some((it.max_surge.clone()?, it.max_unavailable.clone()?))),
            hold_s: deployment.min_ready_seconds.unwrap_or(0),
            deadline_s: deployment.progress_deadline_seconds.unwrap_or(0),
        }
    }

    fn is(&self, policy: &Policy) -> bool {
        let (surge, unavailable, hold_s, deadline_s) = rolled(policy);
        let whole = |number: u32| IntOrString::Int(i32::try_from(number).unwrap_or(i32::MAX));
        let steps = Some((whole(surge), whole(unavailable)));
        let seconds = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        self.steps == steps && (self.hold_s, self.deadline_s) == (seconds(hold_s), seconds(deadline_s))
    }
}

impl Asked {
    fn of(probe: Option<&Probe>) -> Asked {
        let number = |of: fn(&Probe) -> Option<i32>| probe.and_then(of).unwrap_or(0);
        Asked {
            every_s: number(|it| it.period_seconds),
            patience_s: number(|it| it.timeout_seconds),
            failures: number(|it| it.failure_threshold),
        }
    }
}

fn secrets(agent: &Container) -> BTreeMap<String, String> {
    // Those of longshore itself are no secrets of the fleet.
    let variables = agent.env.iter().flatten().filter(|it| !it.name.starts_with("LONGSHORE_"));
    let key = |from: &EnvVarSource| Some(from.secret_key_ref.as_ref()?.key.clone());
    variables.filter_map(|it| Some((it.name.clone(), it.value_from.as_ref().and_then(key)?))).collect()
}

fn seconds(ms: u64) -> i32 {
    whole(ms.div_ceil(1000))
}

/// At least one, as the API server wants it.
fn whole(number: u64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX).max(1)
}
