//! A DaemonSet that has every node hold a fleet's image before a worker needs it.
//!
//! The kubelet removes images that no container uses when its disk fills up, so pulling once is not enough: a container
//! of the image has to stay. An image may hold nothing but its agent; so what runs in it is longshore, put there as
//! `supervisor = "inject"` does, waiting for its end.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::service_account;
use serde_json::{Value, json};

use super::harden::{container_security, pod_security, pull_secrets, tiny};
use super::meta::{Of, meta};
use super::pod::{INJECTED, supervisor, supervisor_volume};
use super::{Problem, Scene};

pub(super) const KIND: &str = "DaemonSet";

pub(super) fn render(scene: &Scene<'_>, fleet: &Fleet) -> Result<Value, Vec<Problem>> {
    let of = Of::Prepull(fleet);
    let (volume, mount) = supervisor_volume();
    let mut spec = json!({
        "serviceAccountName": service_account(&fleet.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 1,
        "securityContext": pod_security(),
        "initContainers": [supervisor(scene, tiny())?],
        "containers": [{
            "name": "image",
            "image": fleet.image(),
            "command": [INJECTED, "pause"],
            "resources": tiny(),
            "securityContext": container_security(),
            "volumeMounts": [mount],
        }],
        "volumes": [volume],
    });
    let pull = pull_secrets(&scene.settings.kubernetes.image_pull_secrets);
    if !pull.is_empty() {
        spec["imagePullSecrets"] = pull.into();
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": KIND,
        "metadata": meta(scene, of, &format!("longshore-prepull-{}", fleet.name)),
        "spec": {
            "selector": { "matchLabels": of.selector() },
            // Nothing is lost with it: all nodes at once.
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": { "metadata": { "labels": of.pod_labels() }, "spec": spec },
        },
    }))
}

/// What says where pods of the fleet run holds for its image, too.
const WHERE: [&str; 3] = ["nodeSelector", "tolerations", "runtimeClassName"];

/// And with what they pull it: beside what an overlay says of it itself.
const PULL: &str = "imagePullSecrets";

/// Puts it where the fleet's workers go, once overlays are in; what an overlay said of it itself stays.
pub(super) fn follow(objects: &mut [Value]) {
    let Some(workers) = objects.iter().find(|object| object["kind"] == "Deployment") else { return };
    let workers = workers["spec"]["template"]["spec"].clone();
    let Some(prepull) = objects.iter_mut().find(|object| object["kind"] == KIND) else { return };
    let pod = &mut prepull["spec"]["template"]["spec"];
    for key in WHERE.into_iter().filter(|key| workers.get(key).is_some()) {
        if pod.get(key).is_none() {
            pod[key] = workers[key].clone();
        }
    }
    let pull = workers.get(PULL).and_then(Value::as_array).into_iter().flatten();
    for secret in pull {
        match pod.get_mut(PULL).and_then(Value::as_array_mut) {
            Some(there) if there.iter().any(|it| it["name"] == secret["name"]) => {}
            Some(there) => there.push(secret.clone()),
            None => pod[PULL] = json!([secret]),
        }
    }
    if let (Some(nodes), None) = (workers.pointer("/affinity/nodeAffinity"), pod.get("affinity")) {
        pod["affinity"] = json!({ "nodeAffinity": nodes });
    }
}
