"""What is asked of pods: Pod Security "restricted", and nothing twice.

The rules are those of the Pod Security Standards that kubernetes.io publishes, baseline and restricted together. Where the standard
leaves room that we do not use (NET_BIND_SERVICE, a seccomp profile of the node's), it is not left here.
"""

import collections

from cases import label

# Those that longshore renders; an overlay's are its author's.
OURS = {"longshore", "agent", "supervisor", "image"}

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def restricted(world):
    """What "restricted" would refuse."""
    for made_by, template in world.pods():
        pod = template["spec"]
        for problem in whole(template):
            yield f"{label(made_by)}: {problem}"
        for container in containers(pod):
            name = container["name"]
            if name not in OURS:
                if not world.overlaid:
                    yield f"{label(made_by)}: whose is the container {name}?"
                continue
            for problem in one(container, pod.get("securityContext") or {}):
                yield f"{label(made_by)}, {name}: {problem}"


def whole(template):
    """Of a pod as a whole."""
    pod = template["spec"]
    security = pod.get("securityContext") or {}
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", []):
        for kind in set(volume) - {"name"} - VOLUMES:
            yield f"a volume of kind {kind}"
    if security.get("sysctls"):
        yield "sysctls"
    annotations = (template.get("metadata") or {}).get("annotations") or {}
    if any(key.startswith("container.apparmor.security.beta.kubernetes.io/") for key in annotations):
        yield "an AppArmor profile by annotation"
    yield from confined(security)


def one(container, of_pod):
    """Of a container, in a pod with these settings."""
    security = container.get("securityContext") or {}
    both = of_pod | security
    capabilities = security.get("capabilities") or {}
    if security.get("privileged"):
        yield "privileged"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if capabilities.get("add"):
        yield "capabilities are added"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot"
    if both.get("runAsUser") == 0:
        yield "runAsUser 0"
    if (both.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
        yield "seccompProfile"
    if security.get("procMount", "Default") != "Default":
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    hooks = list((container.get("lifecycle") or {}).values()) + [container.get(key) or {} for key in HANDLERS]
    if any((hook.get(way) or {}).get("host") for hook in hooks for way in ("httpGet", "tcpSocket")):
        yield "a probe or hook of another host"
    yield from confined(security)


def confined(security):
    """Of a pod's settings and of a container's."""
    if security.get("seLinuxOptions"):
        yield "seLinuxOptions"
    if (security.get("appArmorProfile") or {}).get("type", "RuntimeDefault") != "RuntimeDefault":
        yield "appArmorProfile"
    if (security.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"


def once(world):
    """What is there twice, of which the API server would take the last or none."""
    for what, names in listed(world):
        for name, count in collections.Counter(names).items():
            if count > 1:
                yield f"{what}: {name} is there {count} times"


def listed(world):
    yield "objects", [f"{label(found)} of {found['metadata'].get('namespace')}" for found in world.objects]
    for service in world.of("Service"):
        ports = service["spec"]["ports"]
        yield f"{label(service)}: port names", [port["name"] for port in ports]
        yield f"{label(service)}: ports", [(port["port"], port.get("protocol", "TCP")) for port in ports]
    for made_by, template in world.pods():
        pod, who = template["spec"], label(made_by)
        yield f"{who}: containers", [container["name"] for container in containers(pod)]
        yield f"{who}: volumes", [volume["name"] for volume in pod.get("volumes", [])]
        yield f"{who}: imagePullSecrets", [secret["name"] for secret in pod.get("imagePullSecrets", [])]
        spread = pod.get("topologySpreadConstraints", [])
        yield f"{who}: topologySpreadConstraints", [(it["topologyKey"], it["whenUnsatisfiable"]) for it in spread]
        all_ports = [port for container in pod["containers"] for port in container.get("ports", [])]
        yield f"{who}: ports", [(port["containerPort"], port.get("protocol", "TCP")) for port in all_ports]
        yield f"{who}: port names", [port["name"] for port in all_ports if "name" in port]
        for container in containers(pod):
            name = f"{who}, {container['name']}"
            yield f"{name}: env", [variable["name"] for variable in container.get("env", [])]
            yield f"{name}: volumeMounts", [mount["mountPath"] for mount in container.get("volumeMounts", [])]
