//! What is not there any more of what keeps a pod harmless, by an overlay that is: allowed, since there may be a reason, and told.

use longshore_core::kubernetes::CONTROL_PLANE;
use serde_json::Value;

use super::Problem;

/// What is weaker in these objects than longshore renders it.
pub(super) fn found(objects: &[Value]) -> Vec<Problem> {
    objects.iter().flat_map(weaker).collect()
}

fn weaker(object: &Value) -> Vec<Problem> {
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    let place = format!("{kind} {name}");
    let told: Vec<String> = match kind {
        "Deployment" | "DaemonSet" => of_pod(&object["spec"]["template"]["spec"], name == CONTROL_PLANE),
        "NetworkPolicy" => of_network(&object["spec"]),
        "ServiceAccount" if object["automountServiceAccountToken"] == true && name != CONTROL_PLANE => {
            vec!["its token is in every pod that has the account".into()]
        }
        _ => Vec::new(),
    };
    told.into_iter().map(|problem| Problem::new(place.clone(), format!("by an overlay, {problem}"))).collect()
}

/// `plane`: it is the control plane's, whose token has to be there.
fn of_pod(pod: &Value, plane: bool) -> Vec<String> {
    let mut told = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if pod[key] == true {
            told.push(format!("`{key}`: its pods share that with others"));
        }
    }
    if !plane {
        if pod["automountServiceAccountToken"] != false {
            told.push(
                "the token of a service account is in its pods: whoever is in there has its rights".into(),
            );
        }
        if pod["serviceAccountName"] == CONTROL_PLANE {
            told.push("its pods have the control plane's own service account".into());
        }
    }
    let host_paths = list(&pod["volumes"]).filter(|volume| volume.get("hostPath").is_some());
    told.extend(
        host_paths.map(|volume| format!("volume `{}` is a folder of the node", text(&volume["name"]))),
    );
    let containers = ["initContainers", "containers"].map(|key| list(&pod[key]));
    for container in containers.into_iter().flatten() {
        let of = |key: &str| [&container["securityContext"][key], &pod["securityContext"][key]];
        let first =
            |key: &str| of(key).into_iter().find(|value| !value.is_null()).cloned().unwrap_or_default();
        let own = &container["securityContext"];
        let checks = [
            (own["privileged"] == true, "is privileged: it is as good as root of the node"),
            (own["allowPrivilegeEscalation"] != false, "may gain rights (`allowPrivilegeEscalation`)"),
            (own["readOnlyRootFilesystem"] != true, "may write to its root (`readOnlyRootFilesystem`)"),
            (!list(&own["capabilities"]["drop"]).any(|one| one == "ALL"), "keeps capabilities"),
            (list(&own["capabilities"]["add"]).next().is_some(), "has capabilities added"),
            (list(&container["ports"]).any(|port| port.get("hostPort").is_some()), "has a port of its node"),
            (first("runAsUser") == 0 || first("runAsNonRoot") != true, "may run as root (`runAsNonRoot`)"),
            (!is_confined(&first("seccompProfile")), "may make any system call (`seccompProfile`)"),
        ];
        let name = text(&container["name"]);
        told.extend(
            checks.iter().filter(|(is, _)| *is).map(|(_, what)| format!("container `{name}` {what}")),
        );
    }
    told
}

fn is_confined(seccomp: &Value) -> bool {
    ["RuntimeDefault", "Localhost"].contains(&text(&seccomp["type"]))
}

fn of_network(policy: &Value) -> Vec<String> {
    let types: Vec<&str> = list(&policy["policyTypes"]).map(text).collect();
    let everybody =
        |rules: &str| list(&policy[rules]).any(|rule| rule.as_object().is_some_and(|rule| rule.is_empty()));
    let mut told = Vec::new();
    if !types.contains(&"Ingress") || everybody("ingress") {
        told.push("everybody may connect to its pods".to_owned());
    }
    // Of a fleet with `egress = "open"` it says nothing of them.
    if policy.get("egress").is_some() && (!types.contains(&"Egress") || everybody("egress")) {
        told.push("its pods may connect to everybody".to_owned());
    }
    told
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
