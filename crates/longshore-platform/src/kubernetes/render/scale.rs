//! Scaling by a HorizontalPodAutoscaler, and the metrics API that it asks.

use longshore_core::fleet::{Fleet, ScaledBy};
use longshore_core::kubernetes::{METRICS, METRICS_PORT};
use serde_json::{Value, json};

use super::control::service;
use super::meta::{Of, cluster_meta, meta};
use super::{Group, Scene};

/// How many workers longshore wants, with all that it weighs: queue depth, thresholds, waits, providers' limits.
const METRIC: &str = "longshore_desired_workers";

pub(super) const METRICS_API: &str = "v1beta1.external.metrics.k8s.io";

/// The decision is longshore's own and the autoscaler carries it out: wanted workers divided by a target of 1 are
/// wanted workers. A plain queue depth would have one threshold for both directions.
pub(super) fn hpa(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    let name = fleet.name.as_str();
    json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": meta(scene, Of::Fleet(fleet), name),
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
            "minReplicas": least(fleet),
            "maxReplicas": most(fleet),
            "metrics": [{
                "type": "External",
                "external": {
                    "metric": { "name": METRIC, "selector": { "matchLabels": { "fleet": name } } },
                    "target": { "type": "AverageValue", "averageValue": "1" },
                },
            }],
            "behavior": behavior(fleet),
        },
    })
}

/// An autoscaler does not go below 1.
pub(super) fn least(fleet: &Fleet) -> u32 {
    fleet.scaling.min.max(1)
}

pub(super) fn most(fleet: &Fleet) -> u32 {
    fleet.scaling.max.max(1)
}

/// How many at a time, and after how long, is decided by longshore already; here it only must not be held up.
pub(super) fn behavior(fleet: &Fleet) -> Value {
    let any = json!([{ "type": "Pods", "value": most(fleet), "periodSeconds": 15 }]);
    json!({
        "scaleUp": { "stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": any },
        "scaleDown": { "stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": any },
    })
}

/// The external metrics API, if any fleet is scaled by it.
///
/// The certificate that it is held against is written by the control plane, which makes it.
pub(super) fn metrics(scene: &Scene<'_>) -> Group {
    let objects = match scene.has(ScaledBy::Hpa) {
        false => Vec::new(),
        true => vec![
            service(scene, METRICS, &[("https", 443, METRICS_PORT)]),
            json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": cluster_meta(scene, Of::Plane, METRICS_API),
                "spec": {
                    "group": "external.metrics.k8s.io",
                    "version": "v1beta1",
                    "service": { "name": METRICS, "namespace": scene.namespace, "port": 443 },
                    "groupPriorityMinimum": 100,
                    "versionPriority": 100,
                },
            }),
        ],
    };
    Group { name: "metrics".into(), objects }
}
