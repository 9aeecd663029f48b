//! Names and labels.

use longshore_core::fleet::Fleet;
use longshore_core::kubernetes::{CONTROL_PLANE, FLEET};
use serde_json::{Value, json};

use super::Scene;

const NAME: &str = "app.kubernetes.io/name";
const COMPONENT: &str = "app.kubernetes.io/component";
const PART_OF: &str = "app.kubernetes.io/part-of";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
const VERSION: &str = "app.kubernetes.io/version";

/// In the place of [`FLEET`], by which workers are counted.
const PREPULL: &str = "longshore.dev/prepull";

/// Whose part of the cluster an object is.
#[derive(Clone, Copy)]
pub(super) enum Of<'a> {
    Plane,
    Fleet(&'a Fleet),
    /// Of what keeps a fleet's image on the nodes.
    Prepull(&'a Fleet),
}

impl Of<'_> {
    fn component(&self) -> &'static str {
        match self {
            Of::Plane => "control-plane",
            Of::Fleet(_) => "worker",
            Of::Prepull(_) => "prepull",
        }
    }

    /// What its pods are found by. Can never be changed once it is applied.
    pub(super) fn selector(&self) -> Value {
        let mut labels = json!({ NAME: CONTROL_PLANE, COMPONENT: self.component() });
        match self {
            Of::Plane => {}
            Of::Fleet(fleet) => labels[FLEET] = fleet.name.as_str().into(),
            Of::Prepull(fleet) => labels[PREPULL] = fleet.name.as_str().into(),
        }
        labels
    }

    /// Of its pods. Without longshore's version: workers are not replaced because the control plane is.
    pub(super) fn pod_labels(&self) -> Value {
        let mut labels = self.selector();
        labels[PART_OF] = CONTROL_PLANE.into();
        labels[MANAGED_BY] = CONTROL_PLANE.into();
        labels
    }
}

/// The metadata of an object in the namespace.
pub(super) fn meta(scene: &Scene<'_>, of: Of<'_>, name: &str) -> Value {
    let mut meta = cluster_meta(scene, of, name);
    meta["namespace"] = scene.namespace.into();
    meta
}

/// Of one that is in none.
pub(super) fn cluster_meta(scene: &Scene<'_>, of: Of<'_>, name: &str) -> Value {
    let mut labels = of.pod_labels();
    labels[VERSION] = scene.request.version.into();
    json!({ "name": name, "labels": labels })
}
