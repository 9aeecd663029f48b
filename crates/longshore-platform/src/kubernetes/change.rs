//! What is written to a cluster, as the bodies of patches.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{COMMIT, DECLARATION, GRACE_MS, Mark, digest};
use serde_json::{Map, Value, json};

use super::render::pod;

/// What a release changes of a Deployment's pods.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    mark: Mark,
    commit: Option<String>,
    agent: Value,
    /// Seconds that the kubelet waits for the worker: as long as it is told to drain, or it would be killed at it.
    grace_s: u64,
}

impl Template {
    /// `None`: the fleet declares no image.
    pub fn of(fleet: &Fleet, commit: Option<&str>) -> Option<Template> {
        let container = fleet.container.as_ref()?;
        let mark = Mark { declaration: Some(digest(fleet)), image: Some(container.image.to_string()) };
        let agent = pod::released(fleet, container);
        let grace_s = (fleet.drain.timeout_ms + GRACE_MS).div_ceil(1000);
        Some(Template { mark, commit: commit.map(str::to_owned), agent, grace_s })
    }

    pub fn mark(&self) -> Mark {
        self.mark.clone()
    }

    /// For server-side apply: these fields, and no other, are longshore's.
    pub(super) fn apply(&self, name: &str) -> Value {
        let noted = [(DECLARATION, &self.mark.declaration), (COMMIT, &self.commit)];
        let notes: Map<String, Value> = noted
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), json!(text.as_ref()?))))
            .collect();
        let pod = json!({ "terminationGracePeriodSeconds": self.grace_s, "containers": [self.agent] });
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name },
            "spec": { "template": { "metadata": { "annotations": notes }, "spec": pod } },
        })
    }
}
