"""Objects among each other: selectors find pods, references lead to what is rendered or what the documentation asks for."""

import re

from cases import label
from pods import containers

# What a cluster has by itself.
READER = ("kube-system", "Role", "extension-apiserver-authentication-reader")
AUTOSCALER = ("kube-system", "horizontal-pod-autoscaler")


def matches(selector, labels):
    """Whether a label selector finds labels. Errors: `KeyError`, for an operator that there is not."""
    holds = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(holds[it["operator"]](it["key"], it.get("values", [])) for it in selector.get("matchExpressions", []))


def found_by(world, selector):
    return [(made_by, it) for made_by, it in world.pods() if matches(selector, it["metadata"]["labels"])]


def selectors(world):
    """Selectors that find no pods of ours, or others than they should."""
    for made_by, template in world.pods():
        found = [label(other) for other, _ in found_by(world, made_by["spec"]["selector"])]
        if found != [label(made_by)]:
            yield f"{label(made_by)}: its selector finds {found}"
        for spread in template["spec"].get("topologySpreadConstraints", []):
            if not matches(spread["labelSelector"], template["metadata"]["labels"]):
                yield f"{label(made_by)}: is not spread, its own labels are others"
    for service in world.of("Service"):
        yield from one_workload(world, service, {"matchLabels": service["spec"]["selector"]})
    for budget in world.of("PodDisruptionBudget"):
        yield from one_workload(world, budget, budget["spec"]["selector"])
    for policy in world.of("NetworkPolicy"):
        yield from one_workload(world, policy, policy["spec"]["podSelector"])
        rules = policy["spec"].get("egress", []) + policy["spec"].get("ingress", [])
        for peer in (peer for rule in rules for peer in rule.get("to", []) + rule.get("from", [])):
            if "podSelector" in peer and "namespaceSelector" not in peer and not found_by(world, peer["podSelector"]):
                yield f"{label(policy)}: no pods are {peer['podSelector']}"
    # Each pod has one budget: with two it could not be evicted at all.
    for made_by, template in world.pods():
        budgets = [it for it in world.of("PodDisruptionBudget") if matches(it["spec"]["selector"], template["metadata"]["labels"])]
        if len(budgets) != (made_by["kind"] == "Deployment"):
            yield f"{label(made_by)}: {len(budgets)} PodDisruptionBudgets"
    yield from targets(world)


def one_workload(world, found, selector):
    made_by = [label(it) for it, _ in found_by(world, selector)]
    if len(made_by) != 1:
        yield f"{label(found)}: its selector finds {made_by}"


def targets(world):
    """Autoscalers: each scales a Deployment that says no number itself, and that no other one scales."""
    scaled = []
    for scaler in world.of("HorizontalPodAutoscaler", "ScaledObject"):
        name = scaler["spec"]["scaleTargetRef"]["name"]
        target = world.find("Deployment", name)
        if scaler["spec"]["scaleTargetRef"].get("kind", "Deployment") != "Deployment" or not target:
            yield f"{label(scaler)}: scales {name}, which is not there"
        elif "replicas" in target["spec"] or name in scaled:
            yield f"{label(scaler)}: {name} has its number from somebody else"
        scaled.append(name)
        for metric in scaler["spec"].get("metrics", []):
            asked = metric["external"]["metric"]["selector"]["matchLabels"]
            if asked != {"fleet": name}:
                yield f"{label(scaler)}: asks for {asked}"
    declared = {name: (fleet.get("scaling") or {}).get("by", "direct") for name, fleet in world.declared["fleet"].items()}
    wanted = sorted(name for name in world.fleets() if declared[name] != "direct")
    if sorted(scaled) != wanted:
        yield f"autoscalers: there are {sorted(scaled)}, declared are {wanted}"


def references(world):
    """References that lead nowhere."""
    known = Secrets(world)
    for made_by, template in world.pods():
        for problem in of_pod(world, known, template["spec"]):
            yield f"{label(made_by)}: {problem}"
    for binding in world.of("RoleBinding", "ClusterRoleBinding"):
        yield from (f"{label(binding)}: {problem}" for problem in of_binding(world, binding))
    for role in world.of("Role", "ClusterRole"):
        yield from (f"{label(role)}: {problem}" for problem in of_role(world, role))
    for service in world.of("Service"):
        ports = [port for _, it in found_by(world, {"matchLabels": service["spec"]["selector"]}) for port in ports_of(it["spec"])]
        lost = [port["targetPort"] for port in service["spec"]["ports"] if port["targetPort"] not in ports]
        yield from (f"{label(service)}: no container has port {port}" for port in lost)
    for policy in world.of("NetworkPolicy"):
        ports = [port for _, it in found_by(world, policy["spec"]["podSelector"]) for port in ports_of(it["spec"])]
        rules = [rule for rule in policy["spec"].get("ingress", []) if "ports" in rule]
        lost = [port["port"] for rule in rules for port in rule["ports"] if port["port"] not in ports]
        yield from (f"{label(policy)}: no container has port {port}" for port in lost)
    for registered in world.of("APIService"):
        service = registered["spec"]["service"]
        if not reached(world, service["name"], service["namespace"], service["port"]):
            yield f"{label(registered)}: there is no {service}"
    for authentication in world.of("TriggerAuthentication"):
        for secret in authentication["spec"]["secretTargetRef"]:
            if not known.has(secret["name"], secret["key"]):
                yield f"{label(authentication)}: Secret {secret['name']} has no {secret['key']}"
    for scaled in world.of("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if not world.find("TriggerAuthentication", trigger["authenticationRef"]["name"]):
                yield f"{label(scaled)}: there is no TriggerAuthentication {trigger['authenticationRef']['name']}"
            yield from (f"{label(scaled)}: {problem}" for problem in of_text(world, trigger["metadata"]["url"]))


class Secrets:
    """Those that the documentation asks the user for, and those that the control plane writes, each with its keys."""

    def __init__(self, world):
        main = world.kubernetes.get("secret", "longshore")
        store = world.kubernetes.get("store_secret", main)
        keys = set(environment(world.declared)) | {"admin-token", "keda-token"}
        of_store = {"DATABASE_URL", "REDIS_URL"}
        self.keys = {main: keys - of_store if store != main else keys}
        self.keys[store] = self.keys.get(store, set()) | of_store
        self.pulls = set(world.kubernetes.get("image_pull_secrets", []))
        self.keys |= {name: {".dockerconfigjson"} for name in self.pulls}
        self.keys |= {f"longshore-worker-{fleet}": {"token", "ca"} for fleet in world.fleets()}

    def has(self, name, key):
        return key in self.keys.get(name, ())


def environment(declared):
    """Every NAME of an `{ env = "NAME" }`."""
    if isinstance(declared, list):
        for item in declared:
            yield from environment(item)
    elif isinstance(declared, dict):
        if set(declared) == {"env"} and isinstance(declared["env"], str):
            yield declared["env"]
        for item in declared.values():
            yield from environment(item)


def of_pod(world, known, pod):
    if not world.find("ServiceAccount", pod.get("serviceAccountName")):
        yield f"there is no ServiceAccount {pod.get('serviceAccountName')}"
    for secret in pod.get("imagePullSecrets", []):
        if secret["name"] not in known.pulls:
            yield f"imagePullSecrets: {secret['name']} is nobody's"
    for volume in pod.get("volumes", []):
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        for source in sources:
            yield from of_source(world, known, source)
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']}: there is no volume {mount['name']}"
        for variable in container.get("env", []):
            yield from of_variable(world, known, variable)
        if container.get("envFrom"):
            yield f"{container['name']}: envFrom, which nobody has looked at"
        ports = ports_of({"containers": [container]})
        for key in ("livenessProbe", "readinessProbe", "startupProbe"):
            asked = ((container.get(key) or {}).get("httpGet") or {}).get("port")
            if asked is not None and asked not in ports:
                yield f"{container['name']}: {key} asks port {asked}"


def of_source(world, known, source):
    """Of a volume, or of one part of it."""
    secret, config = source.get("secret"), source.get("configMap")
    if secret:
        name = secret.get("secretName") or secret.get("name")
        for item in secret.get("items", [{"key": None}]):
            if not known.has(name, item["key"]):
                yield f"Secret {name} has no {item['key']}"
    if config:
        for item in config.get("items", [{"key": None}]):
            yield from of_config(world, config["name"], item["key"])


def of_config(world, name, key):
    config = world.find("ConfigMap", name)
    if not config or key is not None and key not in config["data"]:
        yield f"there is no ConfigMap {name} with {key or 'anything'}"


def of_variable(world, known, variable):
    source = variable.get("valueFrom") or {}
    secret, config = source.get("secretKeyRef"), source.get("configMapKeyRef")
    if secret and not known.has(secret["name"], secret["key"]):
        yield f"{variable['name']}: Secret {secret['name']} has no {secret['key']}"
    if config:
        yield from of_config(world, config["name"], config["key"])
    yield from of_text(world, variable.get("value") or "")


def of_text(world, text):
    """Of an address of a Service that is in a text."""
    for name, space, port in re.findall(r"https?://([a-z0-9-]+)\.([a-z0-9-]+)\.svc:(\d+)", text):
        if not reached(world, name, space, int(port)):
            yield f"there is no Service {name}.{space} with port {port}"


def reached(world, name, space, port):
    service = world.find("Service", name)
    return service and space == world.namespace and any(it["port"] == port for it in service["spec"]["ports"])


def ports_of(pod):
    """Names and numbers."""
    ports = [port for container in pod["containers"] for port in container.get("ports", [])]
    return {port["containerPort"] for port in ports} | {port["name"] for port in ports if "name" in port}


def of_binding(world, binding):
    role, space = binding["roleRef"], binding["metadata"].get("namespace")
    if (space, role["kind"], role["name"]) != READER:
        if space not in (None, world.namespace) or not world.find(role["kind"], role["name"]):
            yield f"there is no {role['kind']} {role['name']}"
    for subject in binding["subjects"]:
        who = (subject["namespace"], subject["name"])
        if who != AUTOSCALER and (who[0] != world.namespace or not world.find("ServiceAccount", who[1])):
            yield f"there is no ServiceAccount {who}"


def of_role(world, role):
    """Rights by name are rights to what there is."""
    secrets = {f"longshore-worker-{fleet}" for fleet in world.fleets()}
    there = {
        "deployments": lambda name: name in world.fleets() and world.find("Deployment", name),
        "deployments/scale": lambda name: name in world.fleets() and world.find("Deployment", name),
        "secrets": lambda name: name in secrets,
        "apiservices": lambda name: world.find("APIService", name),
    }
    for rule in role["rules"]:
        for name in rule.get("resourceNames", []):
            for resource in rule["resources"]:
                if resource not in there or not there[resource](name):
                    yield f"there is no {name} among {resource}"
