//! What only a rendering writes of a fleet's pods, as it is to be seen in the Deployment: a release does not change it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, PodSpec, Probe};
use longshore_core::container::Supervisor;
use longshore_core::fleet::{Fleet, SecretSource};
use longshore_core::kubernetes::AGENT;

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
}

/// How a probe asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    every_s: i32,
    patience_s: i32,
    failures: i32,
}

impl Rest {
    pub(super) fn of(pod: &PodSpec) -> Option<Rest> {
        let agent = pod.containers.iter().find(|it| it.name == AGENT)?;
        Some(Rest {
            working_dir: agent.working_dir.clone().unwrap_or_default(),
            injected: pod.init_containers.iter().flatten().any(|it| it.name == SUPERVISOR),
            startup_failures: agent.startup_probe.as_ref().and_then(|it| it.failure_threshold).unwrap_or(0),
            liveness: Asked::of(agent.liveness_probe.as_ref()),
            readiness: Asked::of(agent.readiness_probe.as_ref()),
            secrets: secrets(agent),
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
        ];
        let mut keys: Vec<_> = same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect();
        keys.dedup();
        keys
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
    let variables = agent.env.iter().flatten();
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
