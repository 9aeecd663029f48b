//! What a release writes of a fleet's pods, read back from a Deployment that somebody else has written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use longshore_core::container::Resources;
use longshore_core::fleet::Fleet;
use longshore_core::units::parse_size;

use super::render::{pod, unescaped};

/// What an agent's container runs with, as far as a release says it; its image is told apart already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    args: Vec<String>,
    /// Variables with values.
    env: BTreeMap<String, String>,
    requests: BTreeMap<String, String>,
    limits: BTreeMap<String, String>,
}

impl Shown {
    pub(super) fn of(agent: &Container) -> Shown {
        let variables = agent.env.iter().flatten().filter(|it| it.value_from.is_none());
        let text = |all: &BTreeMap<String, Quantity>| {
            all.iter().map(|(of, it)| (of.clone(), it.0.clone())).collect()
        };
        let amounts = |of: fn(
            &k8s_openapi::api::core::v1::ResourceRequirements,
        ) -> Option<&BTreeMap<String, Quantity>>| {
            agent.resources.as_ref().and_then(of).map(text).unwrap_or_default()
        };
        Shown {
            args: agent.args.iter().flatten().map(|word| unescaped(word)).collect(),
            env: variables
                // The others are ours to tell, and no fleet may declare them.
                .filter(|it| !it.name.starts_with("LONGSHORE_"))
                .map(|it| (it.name.clone(), unescaped(it.value.as_deref().unwrap_or_default())))
                .collect(),
            requests: amounts(|it| it.requests.as_ref()),
            limits: amounts(|it| it.limits.as_ref()),
        }
    }

    /// This fleet with what is seen in the place of what it declares. Where it has an overlay, a variable that it does not
    /// declare may be the overlay's, and is left to it.
    pub(super) fn laid_over(&self, fleet: &Fleet) -> Fleet {
        let mut fleet = fleet.clone();
        let own = |name: &String| fleet.overlay.is_none() || fleet.env.contains_key(name);
        let env = self.env.iter().filter(|(name, _)| own(name));
        let env = env.map(|(name, text)| (name.clone(), text.clone())).collect();
        fleet.env = env;
        fleet.command.clone_from(&self.args);
        if let Some(container) = &mut fleet.container {
            container.resources = self.resources(&container.resources);
        }
        fleet
    }

    /// What cannot be read, or is written in another way, is as it was declared.
    fn resources(&self, declared: &Resources) -> Resources {
        let rendered = pod::resources(declared);
        let other = |kind: &str, of: &str, seen: &BTreeMap<String, String>| {
            let seen = seen.get(of)?;
            (rendered[kind][of].as_str() != Some(seen)).then(|| seen.clone())
        };
        let cpu = |kind: &str, seen, declared| {
            other(kind, "cpu", seen).and_then(|it| cores(&it)).unwrap_or(declared)
        };
        let memory = |kind: &str, seen, declared| {
            other(kind, "memory", seen).and_then(|it| bytes(&it)).unwrap_or(declared)
        };
        Resources {
            cpu: cpu("requests", &self.requests, declared.cpu),
            cpu_limit: cpu("limits", &self.limits, declared.cpu_limit),
            memory: memory("requests", &self.requests, declared.memory),
            memory_limit: memory("limits", &self.limits, declared.memory_limit),
            pids: declared.pids,
        }
    }
}

/// Thousandths.
fn cores(text: &str) -> Option<u32> {
    match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse().ok(),
        None => text
            .parse::<f64>()
            .ok()
            .filter(|it| (0.0..1e6).contains(it))
            .map(|it| (it * 1000.0).round() as u32),
    }
}

fn bytes(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| parse_size(text).ok())
}
