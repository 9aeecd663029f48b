"""Configurations, and what is rendered from each."""

import itertools
import pathlib
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from stage import LONGSHORE, ROOT, Broken  # noqa: E402

FIXTURES = ROOT / "crates/longshore-platform/src/kubernetes/render/fixtures"

SCALED = ("direct", "hpa", "keda")
SUPERVISORS = ("inject", "image")
EGRESS = {
    "open": '"open"',
    "closed": '"closed"',
    "listed": '["10.0.0.0/8:5432", "192.0.2.1", "0.0.0.0/0:443", "fd00::/8", "[2001:db8::1]:443", "::/0"]',
}
OWNERS = ("longshore", "external")

PLANE = '[kubernetes]\nimage = "registry.internal/longshore:0.1.0"\n'
LONG = "a" * 39 + "z"

# Beside the renderer's own: by name.
OWN = {
    # Where everything comes from secrets, and Redis has two.
    "shared": f"""
[store]
database = {{ env = "DATABASE_URL" }}
database_password = {{ env = "DATABASE_PASSWORD" }}
redis = {{ env = "REDIS_URL" }}
redis_password = {{ env = "REDIS_PASSWORD" }}
[server]
tls = "auto"
fleets = "api"
[provider.anthropic]
base_url = "https://api.anthropic.com"
api_key = {{ env = "ANTHROPIC_API_KEY" }}
{PLANE}secret = "keys"
store_secret = "store"
image_pull_secrets = ["mirror"]
[fleet.research]
platform = "kubernetes"
image = "registry.internal/research@sha256:{"a" * 64}"
scaling = {{ by = "hpa", min = 0, max = 3 }}
secrets = {{ SEARCH_KEY = {{ env = "SEARCH" }} }}
""",
    # Nobody's pods but the control plane's.
    "external": f"""
{PLANE}replicas = 1
[fleet.elsewhere]
platform = "external"
command = ["x"]
""",
    # The longest names that are taken.
    "long": f"""
{PLANE}namespace = "{"n" * 62}s"
secret = "{"s" * 63}"
[fleet.{LONG}]
platform = "kubernetes"
image = "acme/a:1"
scaling = {{ by = "keda", min = 1, max = 1 }}
[fleet.{LONG[1:]}]
platform = "kubernetes"
image = "acme/a:1"
scaling = {{ by = "hpa", min = 1, max = 1 }}
""",
}


def ways():
    """A fleet of every kind in one file."""
    fleets = []
    for by, supervisor, egress, owner in itertools.product(SCALED, SUPERVISORS, EGRESS, OWNERS):
        fleets.append(
            f'[fleet.{by}-{supervisor}-{egress}-{owner}]\nplatform = "kubernetes"\nimage = "acme/a:1"\ncommand = ["agent"]\n'
            f'supervisor = "{supervisor}"\negress = {EGRESS[egress]}\nscaling = {{ by = "{by}", min = 1, max = 5 }}\n'
            f'rollout = {{ owner = "{owner}" }}\n'
        )
    return PLANE + "".join(fleets)


@dataclass
class World:
    """What one file is rendered to."""

    name: str
    declared: dict
    # Whether somebody's overlay may have put containers of their own beside ours.
    overlaid: bool
    objects: list

    @property
    def kubernetes(self):
        return self.declared["kubernetes"]

    @property
    def namespace(self):
        return self.kubernetes.get("namespace", "longshore")

    def fleets(self, platform="kubernetes"):
        return [name for name, fleet in self.declared["fleet"].items() if fleet["platform"] == platform]

    def of(self, *kinds):
        return [found for found in self.objects if found["kind"] in kinds]

    def find(self, kind, name):
        """The object, or nothing; of our namespace or of the cluster."""
        spaces = (self.namespace, None)
        for found in self.of(kind):
            if found["metadata"]["name"] == name and found["metadata"].get("namespace") in spaces:
                return found
        return None

    def pods(self):
        """What pods are made from, each with the object that makes them."""
        return [(found, found["spec"]["template"]) for found in self.objects if "template" in (found.get("spec") or {})]


def worlds():
    """Every configuration, rendered."""
    for path in sorted(FIXTURES.glob("*.toml")):
        yield render(path.stem, path.read_text(), FIXTURES.glob("*.yaml"))
    for name, text in ({"ways": ways()} | OWN).items():
        yield render(name, text)


def render(name, text, overlays=()):
    with tempfile.TemporaryDirectory(prefix="longshore-schemas-") as folder:
        folder = pathlib.Path(folder)
        for overlay in overlays:
            (folder / overlay.name).write_text(overlay.read_text())
        (folder / "longshore.toml").write_text(text)
        command = [LONGSHORE, "render", "kubernetes", "--prepull", "--config", str(folder / "longshore.toml")]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise Broken(f"{name}: {run.stderr}")
    return World(name, tomllib.loads(text), "overlay = " in text, read(run.stdout))


def read(text):
    """The documents. Errors: `yaml.YAMLError`, for a key that is there twice too, of which a reader would take one."""
    return list(yaml.load_all(text, Loader=Once))


class Once(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"`{key}` is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def label(found):
    """An object, as people name it."""
    return f"{found['kind']}/{found['metadata']['name']}"
