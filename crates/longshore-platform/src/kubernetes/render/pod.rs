//! The pod of a worker.

use longshore_core::container::{Container, Resources, Supervisor};
use longshore_core::fleet::{Fleet, Probe};
use longshore_core::kubernetes::{
    AFTER_DRAIN, AGENT, DECLARATION, GRACE_MS, JOIN_CA, JOIN_TOKEN, LINK, POD_IP, digest, join_secret,
    service_account,
};
use longshore_core::settings::Tls;
use longshore_core::units::show_size;
use serde_json::{Value, json};

use super::harden::{TMP, container_security, folder, pod_security, pull_secrets, seconds, spread};
use super::meta::Of;
use super::{Problem, Scene, env};

/// Where an injected longshore is, and the folder that it comes in.
pub(super) const INJECTED: &str = "/opt/longshore/longshore";
pub(super) const INJECTED_DIR: &str = "/opt/longshore";
pub(super) const SUPERVISOR: &str = "supervisor";

/// Of a worker's probes.
const PROBES: u16 = 7119;

/// How often a starting worker is asked whether it is there.
const STARTUP_S: u64 = 2;

/// The pod template of a fleet.
pub(super) fn template(scene: &Scene<'_>, fleet: &Fleet) -> Result<Value, Vec<Problem>> {
    let Some(container) = &fleet.container else {
        return Err(vec![Problem::new(
            format!("fleet.{}.image", fleet.name),
            "missing: it is what its pods run",
        )]);
    };
    let of = Of::Fleet(fleet);
    let injected = container.supervisor == Supervisor::Inject;
    let agent = agent(scene, fleet, container);
    let init = if injected { supervisor(scene, resources(&container.resources)) } else { Ok(Value::Null) };
    let (agent, init) = both(agent, init)?;
    let mut volumes = vec![folder(TMP)];
    let mut spec = json!({
        "serviceAccountName": service_account(&fleet.name),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": seconds(fleet.drain.timeout_ms + GRACE_MS),
        "securityContext": pod_security(),
        "topologySpreadConstraints": spread(of.selector()),
        "containers": [agent],
    });
    if injected {
        volumes.push(folder(SUPERVISOR));
        spec["initContainers"] = json!([init]);
    }
    spec["volumes"] = volumes.into();
    let pull = pull_secrets(&scene.settings.kubernetes.image_pull_secrets);
    if !pull.is_empty() {
        spec["imagePullSecrets"] = pull.into();
    }
    let annotations = json!({ DECLARATION: digest(fleet) });
    Ok(json!({ "metadata": { "labels": of.pod_labels(), "annotations": annotations }, "spec": spec }))
}

fn both<A, B>(one: Result<A, Vec<Problem>>, other: Result<B, Vec<Problem>>) -> Result<(A, B), Vec<Problem>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).flatten().collect()),
    }
}

/// What a release alone says of its agent's container, as a rollout writes it.
pub(in crate::kubernetes) fn released(fleet: &Fleet, container: &Container) -> Value {
    let env = fleet.env.iter().map(|(name, text)| env::value(name, text));
    let mut agent = json!({
        "name": AGENT,
        "image": container.image.to_string(),
        "env": env.collect::<Vec<_>>(),
        "resources": resources(&container.resources),
    });
    if !fleet.command.is_empty() {
        agent["args"] = fleet.command.iter().map(|word| env::literal(word)).collect();
    }
    agent
}

fn agent(scene: &Scene<'_>, fleet: &Fleet, container: &Container) -> Result<Value, Vec<Problem>> {
    let injected = container.supervisor == Supervisor::Inject;
    let mut problems = Vec::new();
    if injected && fleet.command.is_empty() {
        problems.push(Problem::new(
            format!("fleet.{}.command", fleet.name),
            "missing: with `supervisor = \"inject\"` longshore is started instead of the image's own command, and \
             Kubernetes does not tell what that is",
        ));
    }
    let mut variables = env::of_agent(scene, fleet).unwrap_or_else(|found| {
        problems.extend(found);
        Vec::new()
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    variables.extend(told(scene, fleet));
    let probe = &fleet.probe;
    let mut agent = released(fleet, container);
    let more = json!({
        "env": variables,
        "ports": [{ "name": "probes", "containerPort": PROBES, "protocol": "TCP" }],
        "securityContext": container_security(),
        "startupProbe": ask("/livez", STARTUP_S, probe, probe.startup_ms.div_ceil(STARTUP_S * 1000).max(1)),
        "livenessProbe": ask("/livez", seconds(probe.interval_ms), probe, probe.failures.into()),
        "readinessProbe": ask("/readyz", seconds(probe.interval_ms), probe, probe.failures.into()),
        "volumeMounts": mounts(injected, true),
    });
    agent.as_object_mut().expect("a mapping").extend(more.as_object().expect("a mapping").clone());
    if injected {
        agent["command"] = json!([INJECTED, "worker", "--"]);
    }
    if !fleet.working_dir.is_empty() {
        agent["workingDir"] = fleet.working_dir.as_str().into();
    }
    Ok(agent)
}

/// What a worker has to know of longshore.
fn told(scene: &Scene<'_>, fleet: &Fleet) -> [Value; 8] {
    let scheme = if scene.settings.server.tls == Tls::Off { "http" } else { "https" };
    let link = format!("{scheme}://{LINK}.{}.svc:7118", scene.namespace);
    let join = join_secret(&fleet.name);
    [
        env::value("LONGSHORE_FLEET", fleet.name.as_str()),
        env::value("LONGSHORE_LINK", &link),
        env::field("LONGSHORE_WORKER_ID", "metadata.name"),
        env::secret("LONGSHORE_WORKER_TOKEN", &join, JOIN_TOKEN),
        env::optional_secret("LONGSHORE_LINK_CA", &join, JOIN_CA),
        env::field(POD_IP, "status.podIP"),
        env::value("LONGSHORE_PROBE_ADDR", &format!("0.0.0.0:{PROBES}")),
        env::value(AFTER_DRAIN, "stay"),
    ]
}

fn ask(path: &str, every_s: u64, probe: &Probe, failures: u64) -> Value {
    json!({
        "httpGet": { "path": path, "port": "probes" },
        "periodSeconds": every_s.max(1),
        "timeoutSeconds": seconds(probe.timeout_ms).max(1),
        "failureThreshold": failures.max(1),
    })
}

/// What is promised, and the most. Processes cannot be limited here: that is the node's own setting.
pub(in crate::kubernetes) fn resources(resources: &Resources) -> Value {
    let cpu = |thousandths: u32| match thousandths % 1000 {
        0 => (thousandths / 1000).to_string(),
        _ => format!("{thousandths}m"),
    };
    json!({
        "requests": { "cpu": cpu(resources.cpu), "memory": memory(resources.memory) },
        "limits": { "cpu": cpu(resources.cpu_limit), "memory": memory(resources.memory_limit) },
    })
}

/// In a unit that longshore.toml has as well, where there is one: Kubernetes has none for single bytes.
pub(super) fn memory(bytes: u64) -> String {
    let text = show_size(bytes);
    let Some(bytes) = text.strip_suffix('B') else { return text };
    let of_ten = [("000000000", "G"), ("000000", "M"), ("000", "k")];
    let shorter =
        of_ten.into_iter().find_map(|(zeros, unit)| Some(format!("{}{unit}", bytes.strip_suffix(zeros)?)));
    shorter.unwrap_or_else(|| bytes.to_owned())
}

fn mounts(injected: bool, agent: bool) -> Vec<Value> {
    let tmp = agent.then(|| json!({ "name": TMP, "mountPath": "/tmp" }));
    let supervisor = injected.then(|| {
        let mut mount = json!({ "name": SUPERVISOR, "mountPath": INJECTED_DIR });
        if agent {
            mount["readOnly"] = true.into();
        }
        mount
    });
    tmp.into_iter().chain(supervisor).collect()
}

/// Puts longshore beside an agent whose image does not hold it. With the resources of what it is put beside it changes
/// neither what the pod is promised nor its class of service.
pub(super) fn supervisor(scene: &Scene<'_>, resources: Value) -> Result<Value, Vec<Problem>> {
    let image = own_image(scene).map_err(|problem| vec![problem])?;
    Ok(json!({
        "name": SUPERVISOR,
        "image": image,
        "args": ["install", INJECTED],
        "resources": resources,
        "securityContext": container_security(),
        "volumeMounts": mounts(true, false),
    }))
}

/// The same for a container beside that is no agent.
pub(super) fn supervisor_volume() -> (Value, Value) {
    let mut mount = mounts(true, false).remove(0);
    mount["readOnly"] = true.into();
    (folder(SUPERVISOR), mount)
}

/// The longshore image.
pub(super) fn own_image(scene: &Scene<'_>) -> Result<String, Problem> {
    let missing = "missing: the longshore image, such as \"registry.internal/longshore:0.1.0\", which control planes run and \
                   `supervisor = \"inject\"` puts beside agents; `longshore image own` makes one";
    let image = scene.settings.kubernetes.image.as_ref().map(ToString::to_string);
    image.ok_or_else(|| Problem::new("kubernetes.image", missing))
}
