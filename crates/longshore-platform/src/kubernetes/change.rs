//! What is written to a cluster, as the bodies of patches.

use longshore_core::container::{Container, Supervisor};
use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{AGENT, COMMIT, DECLARATION, Mark, digest};
use serde_json::{Map, Value, json};

/// What a release changes of a Deployment's pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    image: String,
    declaration: String,
    commit: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    resources: Value,
}

impl Template {
    /// `None`: the fleet declares no image.
    pub fn of(fleet: &Fleet, commit: Option<&str>) -> Option<Template> {
        let container = fleet.container.as_ref()?;
        Some(Template {
            image: container.image.to_string(),
            declaration: digest(fleet),
            commit: commit.map(str::to_owned),
            args: args(fleet, container),
            env: fleet.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            resources: resources(container),
        })
    }

    pub fn mark(&self) -> Mark {
        Mark { declaration: Some(self.declaration.clone()), image: Some(self.image.clone()) }
    }

    /// For server-side apply: these fields, and no other, are longshore's.
    pub(super) fn apply(&self, name: &str) -> Value {
        let mut notes = Map::from_iter([(DECLARATION.to_owned(), json!(self.declaration))]);
        notes.extend(self.commit.iter().map(|commit| (COMMIT.to_owned(), json!(commit))));
        let mut agent = json!({ "name": AGENT, "image": self.image, "resources": self.resources });
        if !self.args.is_empty() {
            agent["args"] = json!(self.args);
        }
        if !self.env.is_empty() {
            let env = self.env.iter().map(|(name, value)| json!({ "name": name, "value": value }));
            agent["env"] = env.collect();
        }
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name },
            "spec": { "template": { "metadata": { "annotations": notes }, "spec": { "containers": [agent] } } },
        })
    }
}

/// The agent's command, after longshore's own.
pub(crate) fn args(fleet: &Fleet, container: &Container) -> Vec<String> {
    match container.supervisor {
        Supervisor::Image => fleet.command.clone(),
        Supervisor::Inject => {
            let own = ["worker", "--"].map(str::to_owned);
            own.into_iter().chain(fleet.command.iter().cloned()).collect()
        }
    }
}

/// Requests and limits, as Kubernetes writes them.
pub(crate) fn resources(container: &Container) -> Value {
    let it = &container.resources;
    json!({
        "requests": { "cpu": cores(it.cpu), "memory": it.memory.to_string() },
        "limits": { "cpu": cores(it.cpu_limit), "memory": it.memory_limit.to_string() },
    })
}

fn cores(thousandths: u32) -> String {
    match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    }
}
