//! What the control plane may do: no more than the declared fleets need.

use longshore_core::fleet::{Fleet, ScaledBy};
use longshore_core::kubernetes::{CONTROL_PLANE, join_secret};
use longshore_core::rollout::Owner;
use serde_json::{Value, json};

use super::meta::{Of, cluster_meta, meta};
use super::scale::METRICS_API;
use super::{Group, Scene};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn render(scene: &Scene<'_>) -> Group {
    let mut objects = Vec::new();
    if !scene.fleets.is_empty() {
        let meta = || meta(scene, Of::Plane, CONTROL_PLANE);
        objects.push(role("Role", meta(), rules(scene)));
        objects.push(binding("RoleBinding", meta(), ("Role", CONTROL_PLANE), plane(scene)));
    }
    if scene.has(ScaledBy::Hpa) {
        objects.extend(metrics(scene));
    }
    Group { name: "rbac".into(), objects }
}

fn rules(scene: &Scene<'_>) -> Vec<Value> {
    let fleets = &scene.fleets;
    let named = |wanted: fn(&Fleet) -> bool| -> Vec<&str> {
        fleets.iter().filter(|fleet| wanted(fleet)).map(|fleet| fleet.name.as_str()).collect()
    };
    let scaled = named(|fleet| fleet.scaling.by == ScaledBy::Direct);
    let rolled = named(|fleet| fleet.rollout.owner == Owner::Longshore);
    let secrets: Vec<String> = fleets.iter().map(|fleet| join_secret(&fleet.name)).collect();
    let watch = ["list", "watch"];
    // The cost of deleting a pod is an annotation of it.
    let pods: &[&str] = if scaled.is_empty() { &watch } else { &["list", "watch", "patch"] };
    let mut rules = vec![
        rule("", "pods", pods),
        rule("apps", "deployments", &watch),
        only(rule("", "secrets", &["get", "patch"]), &secrets),
        rule("autoscaling", "horizontalpodautoscalers", &["list"]),
    ];
    if !rolled.is_empty() {
        rules.push(only(rule("apps", "deployments", &["patch"]), &rolled));
    }
    if !scaled.is_empty() {
        rules.push(only(rule("apps", "deployments/scale", &["patch"]), &scaled));
    }
    rules
}

/// What an autoscaler may ask for.
const METRICS: [&str; 3] =
    ["longshore_desired_workers", "longshore_pending", "longshore_queue_depth_per_worker"];

/// What serving metrics to autoscalers takes: checking who calls, keeping the certificate in the APIService current, and
/// that the autoscalers' controller may ask.
fn metrics(scene: &Scene<'_>) -> Vec<Value> {
    // Of the whole cluster: another namespace may have its own longshore.
    let name = |end: &str| format!("{CONTROL_PLANE}-{}-{end}", scene.namespace);
    let meta = |end: &str| cluster_meta(scene, Of::Plane, &name(end));
    let system = |kind: &str, name: &str| json!({ "kind": kind, "name": name, "namespace": "kube-system" });
    let mut reader = meta("auth-reader");
    reader["namespace"] = "kube-system".into();
    let registers = name("apiservice");
    let in_namespace = |end: &str| self::meta(scene, Of::Plane, &format!("{CONTROL_PLANE}-{end}"));
    let metrics: Vec<&str> = METRICS.to_vec();
    vec![
        role(
            "ClusterRole",
            meta("access"),
            vec![rule("authorization.k8s.io", "subjectaccessreviews", &["create"])],
        ),
        binding("ClusterRoleBinding", meta("access"), ("ClusterRole", &name("access")), plane(scene)),
        binding("RoleBinding", reader, ("Role", "extension-apiserver-authentication-reader"), plane(scene)),
        role(
            "ClusterRole",
            meta("apiservice"),
            vec![only(rule("apiregistration.k8s.io", "apiservices", &["get", "patch"]), &[METRICS_API])],
        ),
        binding("ClusterRoleBinding", meta("apiservice"), ("ClusterRole", &registers), plane(scene)),
        role(
            "Role",
            in_namespace("metrics-reader"),
            vec![
                json!({ "apiGroups": ["external.metrics.k8s.io"], "resources": metrics, "verbs": ["list"] }),
            ],
        ),
        binding(
            "RoleBinding",
            in_namespace("metrics-reader"),
            ("Role", &format!("{CONTROL_PLANE}-metrics-reader")),
            system("ServiceAccount", "horizontal-pod-autoscaler"),
        ),
    ]
}

fn plane(scene: &Scene<'_>) -> Value {
    json!({ "kind": "ServiceAccount", "name": CONTROL_PLANE, "namespace": scene.namespace })
}

fn rule(group: &str, resource: &str, verbs: &[&str]) -> Value {
    json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs })
}

fn only(mut rule: Value, names: &[impl serde::Serialize]) -> Value {
    rule["resourceNames"] = json!(names);
    rule
}

fn role(kind: &str, meta: Value, rules: Vec<Value>) -> Value {
    json!({ "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": meta, "rules": rules })
}

fn binding(kind: &str, meta: Value, (role_kind, role): (&str, &str), subject: Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": meta,
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role },
        "subjects": [subject],
    })
}
