//! A fleet: its Deployment and what belongs to it.

use longshore_core::fleet::{Fleet, ScaledBy};
use longshore_core::kubernetes::{CONTROL_PLANE, join_secret, service_account};
use longshore_core::rollout::Policy;
use serde_json::{Value, json};

use super::harden::{disruption, seconds};
use super::meta::{Of, meta};
use super::{Group, Problem, Scene, fits, keda, network, overlay, pod, prepull, scale};

/// Replica sets that are kept to go back to.
const HISTORY: u32 = 10;

pub(super) fn render(scene: &Scene<'_>, fleet: &Fleet) -> Result<Group, Vec<Problem>> {
    let of = Of::Fleet(fleet);
    let name = fleet.name.as_str();
    if name == CONTROL_PLANE {
        let problem = "is the name of the control plane's own objects: give the fleet another one";
        return Err(vec![Problem::new(format!("fleet.{name}"), problem)]);
    }
    let deployment = deployment(scene, fleet);
    // Before the template is known: what is wrong with both is told at once.
    let prepulled = match scene.request.prepull {
        true => prepull::render(scene, fleet).map(Some),
        false => Ok(None),
    };
    let unfit = fits::fleet(scene, fleet);
    let (deployment, prepulled) = match (deployment, prepulled) {
        (Ok(deployment), Ok(prepulled)) if unfit.is_empty() => (deployment, prepulled),
        (one, other) => {
            return Err(one.err().into_iter().chain(other.err()).flatten().chain(unfit).collect());
        }
    };
    // Before the Deployment what its pods are not to be without for a moment.
    let mut objects =
        vec![account(scene, fleet), join(scene, fleet), network::of_fleet(scene, fleet), deployment];
    objects.push(disruption(meta(scene, of, name), of.selector()));
    match fleet.scaling.by {
        ScaledBy::Direct => {}
        ScaledBy::Hpa => objects.push(scale::hpa(scene, fleet)),
        ScaledBy::Keda => objects.extend(keda::render(scene, fleet)),
    }
    objects.extend(prepulled);
    overlay::apply_to_fleet(scene, fleet, &mut objects)?;
    prepull::follow(&mut objects);
    Ok(Group { name: format!("fleet-{name}"), objects })
}

/// Workload identity is attached to it by an overlay; its token is in no pod.
fn account(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(scene, Of::Fleet(fleet), &service_account(&fleet.name)),
        "automountServiceAccountToken": false,
    })
}

/// What its workers join with. The control plane fills it, and so needs no right to make Secrets.
fn join(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta(scene, Of::Fleet(fleet), &join_secret(&fleet.name)),
        "type": "Opaque",
    })
}

/// Without `replicas`: applying it again must not change how many there are.
fn deployment(scene: &Scene<'_>, fleet: &Fleet) -> Result<Value, Vec<Problem>> {
    let of = Of::Fleet(fleet);
    let (surge, unavailable, ready_s, deadline_s) = rolled(&fleet.rollout);
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(scene, of, fleet.name.as_str()),
        "spec": {
            "selector": { "matchLabels": of.selector() },
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable },
            },
            "minReadySeconds": ready_s,
            "progressDeadlineSeconds": deadline_s,
            "revisionHistoryLimit": HISTORY,
            "template": pod::template(scene, fleet)?,
        },
    }))
}

/// How Kubernetes is to replace pods: how many more, how many fewer, and after how many seconds of readiness one counts and a
/// rollout is too late.
pub(in crate::kubernetes) fn rolled(policy: &Policy) -> (u32, u32, u64, u64) {
    let (surge, unavailable) = match policy.surge {
        0 => (0, policy.batch),
        surge => (surge, 0),
    };
    let ready_s = seconds(policy.hold_ms);
    (surge, unavailable, ready_s, seconds(policy.deadline_ms).max(ready_s + 1))
}
