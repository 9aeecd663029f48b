//! Who may speak to whom.

use longshore_core::container::{Destination, Egress};
use longshore_core::fleet::{Fleet, Platform, ScaledBy};
use longshore_core::kubernetes::{CONTROL_PLANE, FLEET, METRICS_PORT};
use longshore_core::settings::FleetsFrom;
use serde_json::{Value, json};

use super::Scene;
use super::meta::{Of, meta};

/// Where a DNS cache on the node listens, by the convention of its authors: no pod, so no selector finds it.
const NODE_DNS: &str = "169.254.20.10/32";

/// Nobody calls a worker but whoever asks its probes; whom it may call is the fleet's `egress`.
pub(super) fn of_fleet(scene: &Scene<'_>, fleet: &Fleet) -> Value {
    let of = Of::Fleet(fleet);
    let egress = match fleet.container.as_ref().map(|container| &container.egress) {
        None | Some(Egress::Open) => None,
        Some(Egress::Closed) => Some(closed()),
        Some(Egress::Only(to)) => Some(closed().into_iter().chain(to.iter().map(destination)).collect()),
    };
    let mut spec = json!({
        "podSelector": { "matchLabels": of.selector() },
        "policyTypes": ["Ingress"],
        "ingress": [{ "ports": [tcp(7119)] }],
    });
    if let Some(egress) = egress {
        spec["policyTypes"] = json!(["Ingress", "Egress"]);
        spec["egress"] = egress.into();
    }
    policy(meta(scene, of, fleet.name.as_str()), spec)
}

/// longshore and the names of the cluster.
fn closed() -> Vec<Value> {
    let plane = json!({ "podSelector": { "matchLabels": Of::Plane.selector() } });
    vec![
        json!({ "to": [plane], "ports": [tcp(7118)] }),
        json!({
            "to": [{ "namespaceSelector": {} }, { "ipBlock": { "cidr": NODE_DNS } }],
            "ports": [{ "protocol": "UDP", "port": 53 }, tcp(53)],
        }),
    ]
}

fn destination(to: &Destination) -> Value {
    let mut rule = json!({ "to": [{ "ipBlock": { "cidr": to.cidr() } }] });
    if let Some(port) = to.port {
        rule["ports"] = json!([tcp(port)]);
    }
    rule
}

/// Its API is for the cluster and asks for keys; the worker link is for workers and other control planes alone.
pub(super) fn of_plane(scene: &Scene<'_>) -> Value {
    let anywhere = json!({ "namespaceSelector": {} });
    let mut workers = vec![
        json!({ "podSelector": { "matchLabels": Of::Plane.selector() } }),
        json!({ "podSelector": { "matchExpressions": [{ "key": FLEET, "operator": "Exists" }] } }),
    ];
    // Somebody else starts workers, wherever that is.
    let settings = scene.settings;
    let strangers = settings.fleets.iter().any(|fleet| fleet.platform == Platform::External);
    if strangers || settings.server.fleets == FleetsFrom::Api {
        workers = vec![anywhere.clone()];
    }
    // The kubelet, the API server and what collects metrics may be no pods.
    let mut open = vec![tcp(7119)];
    open.extend(scene.has(ScaledBy::Hpa).then(|| tcp(METRICS_PORT)));
    let spec = json!({
        "podSelector": { "matchLabels": Of::Plane.selector() },
        "policyTypes": ["Ingress"],
        "ingress": [
            { "from": [anywhere], "ports": [tcp(7117)] },
            { "from": workers, "ports": [tcp(7118)] },
            { "ports": open },
        ],
    });
    policy(meta(scene, Of::Plane, CONTROL_PLANE), spec)
}

fn tcp(port: u16) -> Value {
    json!({ "protocol": "TCP", "port": port })
}

fn policy(meta: Value, spec: Value) -> Value {
    json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec })
}
