"""Faults that are planted one by one: a check that does not find its own would find nobody's."""

import copy
from dataclasses import dataclass, replace

import yaml

import links
import pods
import shapes
from cases import label, read

PLANE, WORKER, PREPULL = "Deployment/longshore", "Deployment/chat", "DaemonSet/longshore-prepull-chat"
POD = "spec.template.spec"
FIRST = f"{POD}.containers.0"
GONE = object()


@dataclass
class Fault:
    check: object
    where: str
    path: str
    value: object
    # Part of what must be said of it.
    said: str


def faults(of_schema, of_keda):
    """In what is rendered from rich.toml."""
    yield from (Fault(of_schema, *it) for it in SCHEMA)
    yield from (Fault(of_keda, *it) for it in KEDA)
    for check, table in (
        (pods.restricted, RESTRICTED), (pods.once, ONCE), (shapes.names, NAMES), (shapes.ranges, RANGES),
        (links.selectors, SELECTORS), (links.references, REFERENCES),
    ):
        yield from (Fault(check, *it) for it in table)


SCHEMA = [
    (WORKER, f"{POD}.enableServiceLink", False, "enableServiceLink"),
    (WORKER, "spec.minReadySeconds", "soon", "soon"),
    (WORKER, "spec.selector", GONE, "selector"),
    ("PodDisruptionBudget/chat", "spec.unhealthyPodEvictionPolicies", "AlwaysAllow", "unhealthyPodEvictionPolicies"),
    ("PodDisruptionBudget/chat", "apiVersion", "policy/v1beta1", "knows no"),
    ("HorizontalPodAutoscaler/chat", "apiVersion", "autoscaling/v2beta2", "knows no"),
    ("HorizontalPodAutoscaler/chat", "spec.maxReplicas", GONE, "maxReplicas"),
    ("NetworkPolicy/chat", "spec.egress.0.to.0.ipBlocks", {"cidr": "10.0.0.0/8"}, "ipBlocks"),
]

TRIGGER = "spec.triggers.0"
KEDA = [
    ("ScaledObject/crawl", "spec.fallback", {"replicas": 0}, "spec:"),
    ("ScaledObject/crawl", "spec.maxReplicaCount", "9", "maxReplicaCount"),
    ("ScaledObject/crawl", "spec.minReplicaCount", 10, "minReplicaCount 10"),
    ("ScaledObject/crawl", f"{TRIGGER}.metadata.targetValue", 1, "targetValue"),
    ("ScaledObject/crawl", f"{TRIGGER}.metadata.valueLocation", "wanted", "valueLocation"),
    ("ScaledObject/crawl", f"{TRIGGER}.metadata.authMode", GONE, "metadata"),
    ("ScaledObject/crawl", f"{TRIGGER}.metadata.url", "http://longshore.agents.svc:7117/v1/fleets/chat/scale", "url"),
    ("ScaledObject/crawl", f"{TRIGGER}.authenticationRef", GONE, "triggers.0"),
    ("ScaledObject/crawl", "spec.advanced.horizontalPodAutoscalerConfig.behavior.scaleSideways", {}, "scaleSideways"),
    ("TriggerAuthentication/crawl", "spec.secretTargetRef.0.parameter", "apiKey", "parameter"),
    ("TriggerAuthentication/crawl", "status", {}, "unknown"),
]

SECURITY = f"{FIRST}.securityContext"
RESTRICTED = [
    (WORKER, f"{POD}.hostNetwork", True, "hostNetwork"),
    (PLANE, f"{POD}.hostPID", True, "hostPID"),
    (PREPULL, f"{POD}.hostIPC", True, "hostIPC"),
    (WORKER, f"{POD}.volumes.+", {"name": "host", "hostPath": {"path": "/"}}, "hostPath"),
    (WORKER, f"{POD}.volumes.+", {"name": "share", "nfs": {"server": "x", "path": "/"}}, "nfs"),
    (WORKER, f"{POD}.securityContext.sysctls", [{"name": "kernel.shm_rmid_forced", "value": "0"}], "sysctls"),
    (WORKER, f"{POD}.securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions"),
    (WORKER, f"{POD}.securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile"),
    (WORKER, f"{POD}.securityContext.runAsNonRoot", GONE, "runAsNonRoot"),
    (WORKER, f"{POD}.securityContext.runAsUser", 0, "runAsUser"),
    (WORKER, f"{POD}.securityContext.seccompProfile", GONE, "seccompProfile"),
    (WORKER, f"{POD}.initContainers.0.securityContext.allowPrivilegeEscalation", True, "supervisor: allowPrivilege"),
    (WORKER, "spec.template.metadata.annotations", {"container.apparmor.security.beta.kubernetes.io/agent": "unconfined"}, "AppArmor"),
    (WORKER, SECURITY, GONE, "capabilities are not dropped"),
    (WORKER, f"{SECURITY}.privileged", True, "privileged"),
    (WORKER, f"{SECURITY}.allowPrivilegeEscalation", GONE, "allowPrivilegeEscalation"),
    (WORKER, f"{SECURITY}.capabilities.drop", ["NET_RAW"], "capabilities are not dropped"),
    (WORKER, f"{SECURITY}.capabilities.add", ["SYS_ADMIN"], "capabilities are added"),
    (WORKER, f"{SECURITY}.runAsNonRoot", False, "runAsNonRoot"),
    (WORKER, f"{SECURITY}.runAsUser", 0, "runAsUser"),
    (WORKER, f"{SECURITY}.seccompProfile", {"type": "Unconfined"}, "seccompProfile"),
    (WORKER, f"{SECURITY}.procMount", "Unmasked", "procMount"),
    (WORKER, f"{SECURITY}.windowsOptions", {"hostProcess": True}, "hostProcess"),
    (WORKER, f"{FIRST}.ports.0.hostPort", 7119, "hostPort"),
    (WORKER, f"{FIRST}.livenessProbe.httpGet.host", "169.254.169.254", "another host"),
]

ONCE = [
    (WORKER, f"{FIRST}.env.+", {"name": "LONGSHORE_FLEET", "value": "other"}, "LONGSHORE_FLEET"),
    (WORKER, f"{FIRST}.volumeMounts.+", {"name": "supervisor", "mountPath": "/tmp"}, "/tmp"),
    (WORKER, f"{FIRST}.ports.+", {"containerPort": 7119}, "7119"),
    (WORKER, f"{FIRST}.ports.+", {"name": "probes", "containerPort": 1}, "probes"),
    (WORKER, f"{POD}.containers.+", {"name": "supervisor", "image": "x"}, "supervisor"),
    (WORKER, f"{POD}.volumes.+", {"name": "tmp", "emptyDir": {}}, "tmp"),
    (WORKER, f"{POD}.imagePullSecrets.+", {"name": "mirror"}, "mirror"),
    ("Service/longshore", "spec.ports.+", {"name": "more", "port": 7117}, "7117"),
    ("Deployment/plain", "metadata.name", "chat", "Deployment/chat"),
]

NAMES = [
    (WORKER, "metadata.name", "Chat", "no name"),
    (WORKER, "metadata.name", "c" * 254, "no name"),
    ("Service/longshore", "metadata.name", "long.shore", "no name"),
    (WORKER, "metadata.labels.app~kubernetes~io/version", "1+2", "1+2"),
    (WORKER, "spec.template.metadata.labels.longshore~dev/fleet", "x" * 64, "x" * 64),
    (WORKER, f"{FIRST}.ports.0.name", "probes-of-a-worker", "probes-of-a-worker"),
    (WORKER, f"{POD}.volumes.0.name", "t.m.p", "t.m.p"),
]

RANGE = "spec.egress.2.to.0.ipBlock.cidr"
RANGES = [
    ("NetworkPolicy/crawl", RANGE, text, text)
    for text in ("::ffff:10.0.0.0/104", "10.0.0.5/8", "010.0.0.0/8", "FD00::/8", "fd00:0::/8", "10.0.0.0", "10.0.0.0/33")
]

LABELS = {"app.kubernetes.io/name": "longshore", "longshore.dev/fleet": "nobody"}
SELECTORS = [
    (WORKER, "spec.selector.matchLabels", LABELS, "its selector finds []"),
    (WORKER, "spec.selector.matchLabels", {"app.kubernetes.io/name": "longshore"}, "Deployment/plain"),
    (WORKER, f"{POD}.topologySpreadConstraints.0.labelSelector.matchLabels", LABELS, "is not spread"),
    ("Service/longshore", "spec.selector", LABELS, "Service/longshore: its selector finds []"),
    ("PodDisruptionBudget/chat", "spec.selector.matchLabels", LABELS, "PodDisruptionBudget/chat: its selector finds []"),
    ("PodDisruptionBudget/plain", "spec.selector.matchLabels.longshore~dev/fleet", "chat", "Deployment/chat: 2 PodDisruption"),
    ("NetworkPolicy/chat", "spec.podSelector.matchLabels", LABELS, "NetworkPolicy/chat: its selector finds []"),
    ("NetworkPolicy/chat", "spec.egress.0.to.0.podSelector.matchLabels", LABELS, "no pods are"),
    ("HorizontalPodAutoscaler/chat", "spec.scaleTargetRef.name", "nobody", "scales nobody"),
    ("HorizontalPodAutoscaler/chat", "spec.scaleTargetRef.name", "longshore", "from somebody else"),
    ("HorizontalPodAutoscaler/chat", "spec.metrics.0.external.metric.selector.matchLabels", {"fleet": "plain"}, "asks for"),
    ("ScaledObject/crawl", "spec.scaleTargetRef.name", "nobody", "scales nobody"),
    ("ScaledObject/crawl", "spec.scaleTargetRef.name", "plain", "declared are"),
    ("ScaledObject/crawl", "spec.scaleTargetRef.name", "chat", "from somebody else"),
]

REFERENCES = [
    (PLANE, f"{FIRST}.env.0.valueFrom.secretKeyRef.name", "others", "others has no"),
    (PLANE, f"{FIRST}.env.0.valueFrom.secretKeyRef.key", "NOBODYS", "has no NOBODYS"),
    (PLANE, f"{FIRST}.env.0.valueFrom.secretKeyRef.name", "store", "store has no"),
    (PLANE, f"{FIRST}.env.+", {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "longshore", "key": "y"}}}, "with y"),
    (PLANE, f"{POD}.volumes.0.configMap.name", "nobodys", "ConfigMap nobodys"),
    (PLANE, f"{POD}.volumes.+", {"name": "x", "secret": {"secretName": "nobodys"}}, "Secret nobodys"),
    (PLANE, f"{POD}.volumes.+", {"name": "x", "projected": {"sources": [{"secret": {"name": "nobodys"}}]}}, "Secret nobodys"),
    (WORKER, f"{FIRST}.env.+", {"name": "X", "valueFrom": {"secretKeyRef": {"name": "longshore-worker-x", "key": "token"}}}, "worker-x"),
    (WORKER, f"{FIRST}.env.+", {"name": "X", "value": "http://longshore-links.agents.svc:7118"}, "longshore-links"),
    (WORKER, f"{FIRST}.envFrom", [{"secretRef": {"name": "keys"}}], "envFrom"),
    (WORKER, f"{FIRST}.volumeMounts.0.name", "nobodys", "volume nobodys"),
    (WORKER, f"{FIRST}.readinessProbe.httpGet.port", "ready", "asks port ready"),
    (WORKER, f"{POD}.serviceAccountName", "nobody", "ServiceAccount nobody"),
    (WORKER, f"{POD}.serviceAccountName", GONE, "ServiceAccount None"),
    (PREPULL, f"{POD}.imagePullSecrets.0.name", "keys", "imagePullSecrets: keys"),
    ("Service/longshore", "spec.ports.0.targetPort", 7000, "port 7000"),
    ("NetworkPolicy/chat", "spec.ingress.0.ports.0.port", 7000, "port 7000"),
    ("APIService/v1beta1.external.metrics.k8s.io", "spec.service.port", 444, "there is no"),
    ("RoleBinding/longshore", "roleRef.name", "nobodys", "Role nobodys"),
    ("RoleBinding/longshore", "subjects.0.name", "nobody", "nobody"),
    ("ClusterRoleBinding/longshore-agents-access", "subjects.0.namespace", "others", "others"),
    ("Role/longshore", "rules.2.resourceNames.+", "longshore", "longshore among secrets"),
    ("TriggerAuthentication/crawl", "spec.secretTargetRef.0.name", "others", "others has no"),
    ("ScaledObject/crawl", f"{TRIGGER}.authenticationRef.name", "nobody", "TriggerAuthentication nobody"),
    ("ScaledObject/crawl", f"{TRIGGER}.metadata.url", "http://longshore.others.svc:7117/", "longshore.others"),
]


def missed(world, of_schema, of_keda):
    """How many faults were planted, and those that nobody found."""
    lost, count = [], 0
    for fault in faults(of_schema, of_keda):
        count += 1
        try:
            found = list(fault.check(planted(world, fault)))
        except (LookupError, ValueError) as error:
            lost.append(f"cannot be planted any more, or breaks its check: {fault.where} {fault.path}: {error!r}")
            continue
        if not any(fault.said in problem for problem in found):
            lost.append(f"not found: {fault.where} {fault.path}: {found}")
    # One for each kind that is rendered, whatever kinds there come to be.
    for at, found in enumerate(world.objects):
        if found["apiVersion"] == shapes.KEDA or any(found["kind"] == other["kind"] for other in world.objects[:at]):
            continue
        count += 1
        odd = replace(world, objects=[found | {"unheardOf": 1}])
        if not any("unheardOf" in problem for problem in of_schema(odd)):
            lost.append(f"not found: {label(found)} unheardOf")
    count += 1
    try:
        read("a: 1\nb: {c: 1, c: 2}")
        lost.append("not found: a key that is there twice")
    except yaml.YAMLError:
        pass
    return count, lost


def planted(world, fault):
    objects = copy.deepcopy(world.objects)
    [found] = [found for found in objects if label(found) == fault.where and found["metadata"].get("namespace") != "kube-system"]
    # A dot is also part of a label's name.
    *way, last = (part.replace("~", ".") for part in fault.path.split("."))
    place = found
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    if last == "+":
        place.append(fault.value)
    elif fault.value is GONE:
        del place[last]
    else:
        place[last] = fault.value
    return replace(world, objects=objects)
