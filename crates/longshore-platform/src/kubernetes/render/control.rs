//! The control plane.

use longshore_core::fleet::ScaledBy;
use longshore_core::kubernetes::{CONFIG, CONTROL_PLANE, LINK, LOGINS, METRICS_PORT, POD_IP, digest_of};
use longshore_core::settings::Tls;
use serde_json::{Value, json};

use super::harden::{TMP, container_security, disruption, folder, pod_security, pull_secrets, spread};
use super::meta::{Of, meta};
use super::pod::own_image;
use super::{Group, Problem, Scene, env, fits, network, overlay};

/// It answers for 10 s more, and finishes LLM calls meanwhile and for up to 120 s, then connections for 5 s, and closes its store.
const GRACE_S: u32 = 150;

/// In the Secret of the settings: the first key.
pub(super) const ADMIN_TOKEN: &str = "admin-token";
const ADMIN_DIR: &str = "/var/run/secrets/longshore";

/// What images are pulled with: to ask registries what a tag stands for.
pub(super) const LOGINS_VOLUME: &str = "registries";
const LOGINS_DIR: &str = "/var/run/secrets/registries";

const CONFIG_DIR: &str = "/etc/longshore";
const STATE_DIR: &str = "/var/lib/longshore";

pub(super) fn render(scene: &Scene<'_>) -> Result<Group, Vec<Problem>> {
    let deployment = deployment(scene)?;
    let mut objects = vec![
        account(scene),
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": meta(scene, Of::Plane, CONTROL_PLANE),
            "data": { "longshore.toml": scene.request.config },
        }),
        // Before what it is for: no pod is without it for a moment.
        network::of_plane(scene),
        deployment,
        service(scene, CONTROL_PLANE, &[("api", 7117, 7117)]),
        service(scene, LINK, &[("link", 7118, 7118)]),
        disruption(meta(scene, Of::Plane, CONTROL_PLANE), Of::Plane.selector()),
    ];
    overlay::apply_to_plane(scene, &mut objects)?;
    Ok(Group { name: "control-plane".into(), objects })
}

fn account(scene: &Scene<'_>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta(scene, Of::Plane, CONTROL_PLANE),
        "automountServiceAccountToken": !scene.fleets.is_empty(),
    })
}

/// A Service before the control plane: name, port and the port of its container.
pub(super) fn service(scene: &Scene<'_>, name: &str, ports: &[(&str, u16, u16)]) -> Value {
    let port = |(name, port, target): &(&str, u16, u16)| json!({ "name": name, "port": port, "targetPort": target, "protocol": "TCP" });
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": meta(scene, Of::Plane, name),
        "spec": {
            "type": "ClusterIP",
            "selector": Of::Plane.selector(),
            "ports": ports.iter().map(port).collect::<Vec<_>>(),
        },
    })
}

/// It is not scaled, so how many there are stands here.
fn deployment(scene: &Scene<'_>) -> Result<Value, Vec<Problem>> {
    let mut problems = Vec::new();
    if scene.request.declared.embedded {
        problems.push(Problem::new(
            "store.dir",
            "the embedded store is one file of one machine, and the control planes of a cluster share theirs: give \
             `[store] database`, or leave `dir` out and put DATABASE_URL, and REDIS_URL if there is one, into the Secret \
             that `[kubernetes] store_secret` or `secret` names",
        ));
    }
    let image = own_image(scene).unwrap_or_else(|problem| {
        problems.push(problem);
        String::new()
    });
    let variables = env::of_plane(scene).unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    });
    problems.extend(exposed(scene));
    problems.extend(fits::plane(scene));
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta(scene, Of::Plane, CONTROL_PLANE),
        "spec": {
            "replicas": scene.settings.kubernetes.replicas,
            "selector": { "matchLabels": Of::Plane.selector() },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "template": {
                "metadata": {
                    "labels": Of::Plane.pod_labels(),
                    // So that a changed file replaces what was started with the old one.
                    "annotations": { CONFIG: digest_of(scene.request.config.as_bytes()) },
                },
                "spec": pod(scene, &image, variables),
            },
        },
    }))
}

/// What is right for a machine of one's own, and not where others' pods are.
fn exposed(scene: &Scene<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if scene.settings.server.allow_insecure {
        problems.push(Problem::new(
            "server.allow_insecure",
            "lets every pod of the cluster do everything: leave it out; `admin-token` in the Secret is the first key",
        ));
    }
    if scene.settings.server.link_url.is_some() {
        problems.push(Problem::new(
            "server.link_url",
            "is one address, and workers reach each control plane of a cluster at its pod's own: leave it out",
        ));
    }
    if matches!(scene.settings.server.tls, Tls::Files { .. }) {
        problems.push(Problem::new(
            "server.tls",
            "a certificate of your own names no pod that workers speak to: set `tls = \"auto\"`, and let an Ingress have yours",
        ));
    }
    problems
}

fn pod(scene: &Scene<'_>, image: &str, mut variables: Vec<Value>) -> Value {
    variables.extend(told(scene));
    let mut container = json!({
        "name": CONTROL_PLANE,
        "image": image,
        "args": ["serve"],
        "env": variables,
        "ports": ports(scene),
        "resources": {
            "requests": { "cpu": "250m", "memory": "256Mi" },
            "limits": { "cpu": "2", "memory": "1Gi" },
        },
        "securityContext": container_security(),
        // It may have a schema to bring up to date first.
        "startupProbe": ask("/livez", 2, 150),
        "livenessProbe": ask("/livez", 10, 3),
        "readinessProbe": ask("/readyz", 5, 2),
    });
    let mut mounts = vec![
        json!({ "name": "config", "mountPath": CONFIG_DIR, "readOnly": true }),
        json!({ "name": "state", "mountPath": STATE_DIR }),
        json!({ "name": TMP, "mountPath": "/tmp" }),
    ];
    let mut volumes = vec![
        json!({ "name": "config", "configMap": { "name": CONTROL_PLANE } }),
        folder("state"),
        folder(TMP),
    ];
    if wants_admin_token(scene) {
        let items = json!([{ "key": ADMIN_TOKEN, "path": ADMIN_TOKEN }]);
        mounts.push(json!({ "name": ADMIN_TOKEN, "mountPath": ADMIN_DIR, "readOnly": true }));
        volumes.push(json!({
            "name": ADMIN_TOKEN,
            "secret": { "secretName": scene.settings.kubernetes.secret, "items": items },
        }));
    }
    let logins: Vec<Value> = scene.settings.kubernetes.image_pull_secrets.iter().map(login).collect();
    if !logins.is_empty() {
        mounts.push(json!({ "name": LOGINS_VOLUME, "mountPath": LOGINS_DIR, "readOnly": true }));
        volumes.push(json!({ "name": LOGINS_VOLUME, "projected": { "sources": logins } }));
    }
    container["volumeMounts"] = mounts.into();
    let mut pod = json!({
        "serviceAccountName": CONTROL_PLANE,
        "automountServiceAccountToken": !scene.fleets.is_empty(),
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": pod_security(),
        "topologySpreadConstraints": spread(Of::Plane.selector()),
        "containers": [container],
        "volumes": volumes,
    });
    let pull = pull_secrets(&scene.settings.kubernetes.image_pull_secrets);
    if !pull.is_empty() {
        pod["imagePullSecrets"] = pull.into();
    }
    pod
}

/// A Secret that images are pulled with, as a file. The kubelet takes one that is not there for none, and so does this.
fn login(secret: &String) -> Value {
    let items = json!([{ "key": ".dockerconfigjson", "path": format!("{secret}.json") }]);
    json!({ "secret": { "name": secret, "items": items, "optional": true } })
}

/// Where there is another way in, nobody has to make a first key.
fn wants_admin_token(scene: &Scene<'_>) -> bool {
    scene.settings.server.token.is_none() && !scene.settings.server.allow_insecure
}

/// Where the file says what is right for one machine.
fn told(scene: &Scene<'_>) -> Vec<Value> {
    let mut told = vec![
        // From which the address of its worker link follows.
        env::field(POD_IP, "status.podIP"),
        env::value("LONGSHORE_CONFIG", &format!("{CONFIG_DIR}/longshore.toml")),
        env::value("LONGSHORE__SERVER__API", "0.0.0.0:7117"),
        env::value("LONGSHORE__SERVER__LINK", "0.0.0.0:7118"),
        env::value("LONGSHORE__SERVER__PROBES", "0.0.0.0:7119"),
        // Wherever the file says it is.
        env::field("LONGSHORE__KUBERNETES__NAMESPACE", "metadata.namespace"),
        env::value("LONGSHORE__STORE__DIR", STATE_DIR),
    ];
    if !scene.settings.kubernetes.image_pull_secrets.is_empty() {
        told.push(env::value(LOGINS, LOGINS_DIR));
    }
    if scene.has(ScaledBy::Hpa) {
        told.push(env::value("LONGSHORE__KUBERNETES__METRICS", &format!("0.0.0.0:{METRICS_PORT}")));
    }
    if wants_admin_token(scene) {
        told.push(env::value("LONGSHORE_ADMIN_TOKEN_FILE", &format!("{ADMIN_DIR}/{ADMIN_TOKEN}")));
    }
    told
}

fn ports(scene: &Scene<'_>) -> Vec<Value> {
    let metrics = scene.has(ScaledBy::Hpa).then_some(("metrics-api", METRICS_PORT));
    let ports = [("api", 7117), ("link", 7118), ("probes", 7119)].into_iter().chain(metrics);
    ports.map(|(name, port)| json!({ "name": name, "containerPort": port, "protocol": "TCP" })).collect()
}

fn ask(path: &str, every_s: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "probes" },
        "periodSeconds": every_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}
