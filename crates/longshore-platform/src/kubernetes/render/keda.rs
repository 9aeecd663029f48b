//! Scaling by KEDA: it asks the API how many workers are wanted.

use longshore_core::fleet::{Fleet, ScaledBy};
use longshore_core::kubernetes::CONTROL_PLANE;
use longshore_core::settings::Tls;
use serde_json::{Value, json};

use super::meta::{Of, meta};
use super::scale::{behavior, least, most};
use super::{Problem, Scene};

/// In the Secret of the settings: an API key with the verb `read`.
pub(super) const TOKEN: &str = "keda-token";

/// How many workers are wanted, in the answer at `/v1/fleets/{name}/scale`; while nobody knows there is an error in its place.
const DESIRED: &str = "desired";

const EVERY_S: u64 = 10;

pub(super) fn render(scene: &Scene<'_>, fleet: &Fleet) -> [Value; 2] {
    [authentication(scene, fleet), scaled(scene, fleet)]
}

/// KEDA holds certificates against the authorities that its operator has as files; a trigger names none.
pub(super) fn warning(scene: &Scene<'_>, fleet: &Fleet) -> Option<Problem> {
    let problem = "\"keda\": with `[server] tls` it asks by HTTPS, and its operator has to have the control plane's authority in \
                   /custom/ca: the key `ca.pem` of any Secret `longshore-worker-FLEET`";
    let asks = fleet.scaling.by == ScaledBy::Keda && scene.settings.server.tls != Tls::Off;
    asks.then(|| Problem::new(format!("fleet.{}.scaling.by", fleet.name), problem))
}

fn authentication(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    let secret = &scene.settings.kubernetes.secret;
    json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": meta(scene, Of::Fleet(fleet), fleet.name.as_str()),
        "spec": { "secretTargetRef": [{ "parameter": "token", "name": secret, "key": TOKEN }] },
    })
}

/// Without a fallback: where the API does not answer, nothing is changed.
fn scaled(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    let name = fleet.name.as_str();
    let scheme = if scene.settings.server.tls == Tls::Off { "http" } else { "https" };
    let url = format!("{scheme}://{CONTROL_PLANE}.{}.svc:7117/v1/fleets/{name}/scale", scene.namespace);
    json!({
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": meta(scene, Of::Fleet(fleet), name),
        "spec": {
            "scaleTargetRef": { "name": name },
            "pollingInterval": EVERY_S,
            "minReplicaCount": least(fleet),
            "maxReplicaCount": most(fleet),
            "advanced": { "horizontalPodAutoscalerConfig": { "behavior": behavior(fleet) } },
            "triggers": [{
                "type": "metrics-api",
                "metricType": "AverageValue",
                "metadata": { "url": url, "valueLocation": DESIRED, "targetValue": "1", "authMode": "bearer" },
                "authenticationRef": { "name": name },
            }],
        },
    })
}
