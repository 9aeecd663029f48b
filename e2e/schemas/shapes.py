"""Each object by itself: Kubernetes' schemas, KEDA's fields, names, ranges of addresses."""

import ipaddress
import json
import re

import kubernetes_validate

from cases import ROOT, label
from pods import containers

KEDA = "keda.sh/v1alpha1"


def releases():
    """The oldest release that the documentation names, and the newest whose schemas there are."""
    said = re.search(r"today's clusters \((\d+\.\d+) or newer", (ROOT / "docs/kubernetes.md").read_text())
    if not said:
        raise SystemExit("docs/kubernetes.md does not say any more from which release on manifests are for: mend this check")
    newest = ".".join(kubernetes_validate.latest_version().split(".")[:2])
    return [said[1], newest]


class Schemas:
    """Objects that are alike but for nothing are looked at once for each release."""

    def __init__(self):
        self.known = {}

    def refused(self, found, release):
        """What the schema refuses of an object, or nothing."""
        key = (release, json.dumps(found, sort_keys=True))
        if key not in self.known:
            self.known[key] = refused(found, release)
        return self.known[key]

    def __call__(self, world, release):
        for found in world.objects:
            if found["apiVersion"] == KEDA:
                continue
            problem = self.refused(found, release)
            if problem:
                yield f"{label(found)}: Kubernetes {release}: {problem}"


def refused(found, release):
    try:
        taken = kubernetes_validate.validate(found, release, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        return f"knows no {found['kind']} of {found['apiVersion']}"
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message[:300]}"
    # It takes the next older one for a release that it does not have.
    return None if taken == release else f"there are no schemas of it, only of {taken}"


# By hand: KEDA's definitions are in no package. Only what we write is known here, and a value is a type, a value or a mapping.
TRIGGER = {
    "type": "metrics-api",
    "metricType": "AverageValue",
    # Strings all of them, whatever they look like.
    "metadata": {"url": str, "valueLocation": "desired", "targetValue": "1", "authMode": "bearer"},
    "authenticationRef": {"name": str},
}
SCALED = {
    "scaleTargetRef": {"name": str},
    "pollingInterval": int,
    "minReplicaCount": int,
    "maxReplicaCount": int,
    "advanced": {"horizontalPodAutoscalerConfig": {"behavior": dict}},
    "triggers": [TRIGGER],
}
AUTHENTICATION = {"secretTargetRef": [{"parameter": "token", "name": str, "key": "keda-token"}]}
OF_KEDA = {"ScaledObject": SCALED, "TriggerAuthentication": AUTHENTICATION}


def keda(world, release):
    """What of KEDA's objects is not as docs/kubernetes-metrics.md says. Their `behavior` is an autoscaler's, so its schema holds it."""
    for found in world.objects:
        if found["apiVersion"] != KEDA:
            continue
        if found["kind"] not in OF_KEDA or set(found) != {"apiVersion", "kind", "metadata", "spec"}:
            yield f"{label(found)}: unknown"
            continue
        spec = found["spec"]
        shape = [f"{label(found)}: {problem}" for problem in differs(spec, OF_KEDA[found["kind"]], "spec")]
        yield from shape
        if shape or found["kind"] != "ScaledObject":
            continue
        if not 1 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]:
            yield f"{label(found)}: minReplicaCount {spec['minReplicaCount']}, maxReplicaCount {spec['maxReplicaCount']}"
        url = f"://longshore.{world.namespace}.svc:7117/v1/fleets/{found['metadata']['name']}/scale"
        if spec["triggers"][0]["metadata"]["url"] not in (f"http{url}", f"https{url}"):
            yield f"{label(found)}: url"
        problem = refused(autoscaler(spec), release)
        if problem:
            yield f"{label(found)}: Kubernetes {release}: {problem}"


def autoscaler(spec):
    """What KEDA makes of it, as far as that is ours."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment"} | spec["scaleTargetRef"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    spec = {"scaleTargetRef": target, "maxReplicas": spec["maxReplicaCount"], "behavior": behavior}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}, "spec": spec}


def differs(value, shape, path):
    if isinstance(shape, dict):
        if not isinstance(value, dict) or set(value) != set(shape):
            yield f"{path}: {value}"
            return
        for key, inner in shape.items():
            yield from differs(value[key], inner, f"{path}.{key}")
    elif isinstance(shape, list):
        if not isinstance(value, list) or len(value) != len(shape):
            yield f"{path}: {value}"
            return
        for at, inner in enumerate(shape):
            yield from differs(value[at], inner, f"{path}.{at}")
    elif type(value) is not shape if isinstance(shape, type) else value != shape or type(value) is not type(shape):
        yield f"{path}: {value!r}"


LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Of which the whole may have 253 letters, and no part has a limit of its own.
SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
PORT = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")


def names(world):
    """Names and labels that the API server would not take; schemas do not know of that."""
    for found in world.objects:
        rule = SERVICE if found["kind"] == "Service" else SUBDOMAIN
        if not rule.fullmatch(found["metadata"]["name"]):
            yield f"{label(found)}: no name"
        marks = dict(found["metadata"].get("labels") or {})
        template = (found.get("spec") or {}).get("template") or {}
        marks |= (template.get("metadata") or {}).get("labels") or {}
        for key, value in marks.items():
            if not isinstance(value, str) or not VALUE.fullmatch(value):
                yield f"{label(found)}: label {key}: {value!r}"
    for made_by, template in world.pods():
        pod = template["spec"]
        mine = [part["name"] for part in containers(pod) + pod.get("volumes", [])]
        yield from (f"{label(made_by)}: no name: {name}" for name in mine if not LABEL.fullmatch(name))
        ports = [port["name"] for container in containers(pod) for port in container.get("ports", []) if "name" in port]
        yield from (f"{label(made_by)}: no name of a port: {name}" for name in ports if not PORT.fullmatch(name))


def ranges(world):
    """Ranges of addresses that are not written in the one way that releases from 1.36 on take."""
    for policy in world.of("NetworkPolicy"):
        rules = policy["spec"].get("egress", []) + policy["spec"].get("ingress", [])
        for peer in (peer for rule in rules for peer in rule.get("to", []) + rule.get("from", [])):
            for text in [peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", [])] if "ipBlock" in peer else []:
                if not canonical(text):
                    yield f"{label(policy)}: {text}"


def canonical(text):
    try:
        network = ipaddress.ip_network(text, strict=True)
    except ValueError:
        return False
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return mapped is None and text == str(network)
