#!/usr/bin/env python3
"""Rewrites manifests of `longshore render kubernetes` for a cluster that is older than their API versions.

autoscaling/v2 came in 1.23 (before: v2beta2), policy/v1 in 1.21 (before: v1beta1, which goes without unhealthyPodEvictionPolicy);
KEDA's objects need its definitions in the cluster. Reads YAML as longshore prints it, from standard input, and asks `kubectl` which
versions the cluster has; needs Python's standard library only.

    longshore render kubernetes | e2e/kubernetes/older.py | kubectl apply -f -
"""

import re
import subprocess
import sys

OLDER = {"autoscaling/v2": "autoscaling/v2beta2", "policy/v1": "policy/v1beta1"}


def versions(kubectl=("kubectl",)):
    """The API versions that the cluster serves."""
    run = subprocess.run([*kubectl, "api-versions"], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def older(text, served):
    """The same manifests in the versions that are served, without those of which none is."""
    documents = re.split(r"^---\n", text, flags=re.MULTILINE)
    return "---\n".join(new for new in (document(old, served) for old in documents) if new)


def document(text, served):
    version = re.search(r"^apiVersion: (\S+)$", text, flags=re.MULTILINE)
    if not version or version[1] in served:
        return text
    to = OLDER.get(version[1])
    if to not in served:
        print(f"older: left out, {version[1]} is not served", file=sys.stderr)
        return None
    text = text.replace(version[0], f"apiVersion: {to}", 1)
    if to == "policy/v1beta1":
        text = re.sub(r"^ +unhealthyPodEvictionPolicy: .*\n", "", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    sys.stdout.write(older(sys.stdin.read(), versions()))
