//! What every pod of ours has: no rights that it does not need, no files that it could change.

use serde_json::{Value, json};

/// No user of any image: files that belong to one cannot be changed by an agent.
const USER: u32 = 65532;

/// Where programs write.
pub(super) const TMP: &str = "tmp";

/// Of a folder that is there for one pod: what does not fit has the pod evicted, not its neighbours.
const FOLDER: &str = "1Gi";

/// A folder that ends with its pod.
pub(super) fn folder(name: &str) -> Value {
    json!({ "name": name, "emptyDir": { "sizeLimit": FOLDER } })
}

pub(super) fn pod_security() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

pub(super) fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

pub(super) fn spread(selector: Value) -> Value {
    json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": selector },
    }])
}

/// Names as Kubernetes refers to Secrets that images are pulled with.
pub(super) fn pull_secrets(names: &[String]) -> Vec<Value> {
    names.iter().map(|name| json!({ "name": name })).collect()
}

/// For containers that do next to nothing.
pub(super) fn tiny() -> Value {
    let both = json!({ "cpu": "20m", "memory": "32Mi" });
    json!({ "requests": both, "limits": both })
}

/// At least one evictable at a time, or no node could be drained; and pods that are not ready do not count, or a
/// provider's outage would hold up every drain of a node.
pub(super) fn disruption(meta: Value, selector: Value) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": meta,
        "spec": {
            "maxUnavailable": 1,
            "selector": { "matchLabels": selector },
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    })
}

/// Milliseconds as whole seconds, never fewer.
pub(super) fn seconds(ms: u64) -> u64 {
    ms.div_ceil(1000)
}
