"""A cluster for the script here, and the whole system in a namespace of it, from `longshore render kubernetes`.

The cluster is the one of LONGSHORE_TEST_KUBECONFIG, whose nodes run pods on the Docker engine that `docker` reaches; or a local one that
the program LONGSHORE_TEST_CLUSTER brings `up` and `down` (outside of CI `../shared/k8s/cluster` beside the checkout, if it is there). For that one an engine is
started where none runs.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "docker")]
import older  # noqa: E402
import servers  # noqa: E402
from stage import ENDED, LONGSHORE, Api, Broken  # noqa: E402

# Where pods of a local cluster reach this machine.
HOST = os.environ.get("LONGSHORE_TEST_CLUSTER_HOST", "172.17.0.1")
SOCKET = "/var/run/docker.sock"
HOW = "set LONGSHORE_TEST_KUBECONFIG to a cluster's kubeconfig, or LONGSHORE_TEST_CLUSTER to a program that brings one up"


def program():
    beside = ROOT.parent / "shared/k8s/cluster"
    given = os.environ.get("LONGSHORE_TEST_CLUSTER")
    # One that has to be built first takes longer than CI has for a script.
    if not given and not os.environ.get("CI"):
        given = str(beside)
    return given if given and os.access(given, os.X_OK) else None


def lacking():
    """What is not there that the script needs, in words; empty: nothing."""
    if not os.environ.get("LONGSHORE_TEST_KUBECONFIG") and not program():
        return f"without a cluster: {HOW}"
    if not os.environ.get("LONGSHORE_TEST_STATIC"):
        return "without LONGSHORE_TEST_STATIC, which `./dev e2e` sets"
    missing = [name for name in ("kubectl", "docker") if not shutil.which(name)]
    missing += [] if os.path.exists("/bin/busybox") else ["busybox-static"]
    missing += [servers.available()] if servers.available() else []
    if not missing and os.geteuid() != 0:
        return "without root, which a local cluster needs"
    return f"without {', '.join(missing)}" if missing else ""


def run(*words, text=None, status=0, **options):
    """Runs a program; returns what it printed. Errors: `Broken`, if it ended with another status than this one."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, **options)
    if status is not None and done.returncode != status:
        raise Broken(f"{' '.join(map(str, words))}: {done.stdout[-300:]}{done.stderr[-800:]}")
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


class Cluster:
    """A cluster that is up; what was started for it ends with it."""

    def __init__(self):
        self.engine, self.started, self.pids = None, False, {}
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="longshore-cluster-"))
        os.environ["DOCKER_HOST"] = f"unix://{SOCKET}"
        os.environ["DOCKER_BUILDKIT"] = "0"

    def up(self):
        given = os.environ.get("LONGSHORE_TEST_KUBECONFIG")
        if given:
            os.environ["KUBECONFIG"] = given
            return
        self.start_engine()
        words = run(program(), "env").split("KUBECONFIG=")
        there = pathlib.Path(words[1].strip())
        self.started = not there.exists()
        with (self.folder / "up.log").open("w") as log:
            if subprocess.run([program(), "up"], stdout=log, stderr=log).returncode:
                raise Broken(f"the cluster did not come up: {(self.folder / 'up.log').read_text()[-1500:]}")
        os.environ["KUBECONFIG"] = str(there)
        self.run = there.parent

    def start_engine(self):
        if subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
            return
        folder, log = self.folder / "engine", (self.folder / "engine.log").open("w")
        command = ["dockerd", "--host", f"unix://{SOCKET}", "--data-root", folder / "data", "--exec-root", folder / "exec"]
        # The registry of the script speaks plain HTTP.
        command += ["--pidfile", folder / "pid", "--bip", f"{HOST}/16", "--insecure-registry", f"{HOST}/32"]
        self.engine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 60
        while subprocess.run(["docker", "info"], capture_output=True).returncode:
            if self.engine.poll() is not None or time.monotonic() > end:
                raise Broken(f"no Docker engine: {(self.folder / 'engine.log').read_text()[-1500:]}")
            time.sleep(0.2)

    def restart_api_server(self, away_s):
        """Kills the API server and starts it again after so many seconds. False: it is not ours to kill."""
        pidfile = getattr(self, "run", pathlib.Path("/nonexistent")) / "apiserver.pid"
        if not pidfile.exists():
            return False
        pid = int(pidfile.read_text())
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
        os.kill(pid, signal.SIGKILL)
        time.sleep(away_s)
        with (self.run / "apiserver.log").open("a") as log:
            again = subprocess.Popen(words, cwd=self.run, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        pidfile.write_text(str(again.pid))
        return True

    def down(self):
        if self.started:
            subprocess.run([program(), "down"], capture_output=True)
        if self.engine:
            self.engine.terminate()
            self.engine.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)


class Registry:
    """Debian's registry, which lets one user in, where pods' images are pulled from."""

    USER, PASSWORD = "puller", "s3cret-of-e2e"
    # As `htpasswd -nbB` makes it of these.
    HTPASSWD = "puller:$2y$05$pTb6RNNEmDT/B3uqHTMUSulGIB047HyjIjq/iP40IwFdYbvVk/ASy\n"

    def __init__(self, folder):
        folder = folder / "registry"
        folder.mkdir()
        (folder / "htpasswd").write_text(self.HTPASSWD)
        config = {
            "version": 0.1, "storage": {"filesystem": {"rootdirectory": str(folder / "data")}}, "http": {"addr": f"{HOST}:0"},
            "auth": {"htpasswd": {"realm": "e2e", "path": str(folder / "htpasswd")}},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        self.log = folder / "log"
        env = os.environ | {"OTEL_TRACES_EXPORTER": "none"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=log, stderr=log, env=env)
        said = f"listening on {HOST}:"
        wait_for("the registry", lambda: said in self.log.read_text(), 30)
        self.address = f"{HOST}:" + re.match(r"\d+", self.log.read_text().split(said)[1])[0]
        # Where `docker login` keeps it.
        self.logins = folder / "logins"
        run("docker", "--config", str(self.logins), "login", "-u", self.USER, "--password-stdin", self.address, text=self.PASSWORD)

    @staticmethod
    def usable():
        """Whether the engine would speak plain HTTP with it, and it is installed."""
        told = run("docker", "info", "--format", "{{json .RegistryConfig.InsecureRegistryCIDRs}}")
        return shutil.which("docker-registry") and f"{HOST}/32" in told

    def push(self, image, name):
        """Puts an image there under a name such as `agents:1`; it is not on the engine by that name. Returns name and digest."""
        there = f"{self.address}/{name}"
        run("docker", "tag", image, there)
        said = run("docker", "--config", str(self.logins), "push", there)
        run("docker", "rmi", there)
        return there, re.search(r"digest: (sha256:\w+)", said)[1]

    def stop(self):
        self.process.kill()
        self.process.wait()


class Databases:
    """A Postgres, a Redis and a simulated provider that pods reach on this machine."""

    def __init__(self, folder):
        self.postgres, self.redis = servers.Postgres(folder / "postgres", HOST), servers.Redis(folder / "redis", HOST)
        self.postgres.start()
        self.redis.start()
        self.log = folder / "llm-sim.log"
        with self.log.open("w") as log:
            command = [LONGSHORE, "llm-sim", "--json", "--addr", f"{HOST}:0"]
            self.sim = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("the simulated provider", lambda: self.log.read_text().startswith("{"), 30)
        self.simulator = json.loads(self.log.read_text().splitlines()[0])

    def bill(self):
        with urllib.request.urlopen(f"http://{self.simulator['addr']}/sim/bill", timeout=20) as answer:
            return json.load(answer)["totals"]

    def stop(self):
        for process in (self.sim,):
            process.kill()
            process.wait()
        self.redis.kill()
        self.postgres.kill(signal.SIGQUIT)


class System(Api):
    """longshore in a namespace of its own: rendered, applied, asked."""

    def __init__(self, folder, databases, toml, registry):
        self.namespace, self.folder, self.databases = f"longshore-e2e-{os.getpid()}", folder, databases
        self.registry = registry
        self.toml = f'[kubernetes]\nnamespace = "{self.namespace}"\n{toml}'
        self.token = base64.b16encode(os.urandom(24)).decode().lower()

    def kubectl(self, *words, **options):
        return run("kubectl", "-n", self.namespace, *words, **options)

    def seen(self, *words):
        """What the API server says of objects."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def render(self):
        (self.folder / "longshore.toml").write_text(self.toml)
        words, env = ["render", "kubernetes"], dict(os.environ)
        if self.registry:
            words, env["DOCKER_CONFIG"] = words + ["--pin"], str(self.registry.logins)
        return run(LONGSHORE, *words, cwd=self.folder, env=env)

    def install(self):
        run("kubectl", "create", "namespace", self.namespace)
        secrets = {
            "DATABASE_URL": self.databases.postgres.url, "REDIS_URL": self.databases.redis.url,
            "OPENAI_API_KEY": "a-key-that-no-agent-sees", "admin-token": self.token,
        }
        self.kubectl("create", "secret", "generic", "longshore", *(f"--from-literal={key}={value}" for key, value in secrets.items()))
        if self.registry:
            login = f"--from-file=.dockerconfigjson={self.registry.logins / 'config.json'}"
            self.kubectl("create", "secret", "generic", "registry", "--type=kubernetes.io/dockerconfigjson", login)
        self.apply()

    def apply(self):
        self.manifests = older.older(self.render(), older.versions())
        run("kubectl", "apply", "-f", "-", text=self.manifests)

    def remove(self):
        # First what belongs to the whole cluster: an APIService that nobody answers keeps namespaces from going.
        if hasattr(self, "manifests"):
            subprocess.run(["kubectl", "delete", "--wait=false", "--ignore-not-found", "-f", "-"], input=self.manifests.encode(), capture_output=True)
        subprocess.run(["kubectl", "delete", "namespace", self.namespace, "--wait=false"], capture_output=True)
        # Nothing of it is worth a graceful end.
        subprocess.run(
            ["kubectl", "-n", self.namespace, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"], capture_output=True
        )
        end = time.monotonic() + 60
        while subprocess.run(["kubectl", "get", "namespace", self.namespace], capture_output=True).returncode == 0 and time.monotonic() < end:
            time.sleep(0.5)

    # The API

    def address(self):
        return self.seen("service", "longshore")["spec"]["clusterIP"] + ":7117"

    def call(self, method, path, body=None, kind="application/json"):
        """Asks the API, again while no control plane answers; returns what the answer holds."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"content-type": kind, "authorization": f"Bearer {self.token}", "idempotency-key": os.urandom(12).hex()}
        end = time.monotonic() + 60
        while True:
            request = urllib.request.Request(f"http://{self.api}{path}", data=body, method=method, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code < 500 or time.monotonic() > end:
                    raise Broken(f"{method} {path}: {error.code} {error.read().decode()[:500]}") from error
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.2)

    def longshore(self, *words, status=0):
        env = {"PATH": os.environ["PATH"], "LONGSHORE_SERVER": f"http://{self.api}", "LONGSHORE_TOKEN": self.token}
        return run(LONGSHORE, *words, status=status, env=env, cwd=self.folder)

    def fleet(self, fleet):
        return self.call("GET", f"/v1/fleets/{fleet}")

    def crew(self, fleet):
        """The fleet's workers by state."""
        counts = {}
        for worker in self.call("GET", f"/v1/workers?fleet={fleet}")["items"]:
            counts[worker["state"]] = counts.get(worker["state"], 0) + 1
        return counts

    def ready(self, fleet, number, patience_s=180):
        wait_for(f"{number} ready workers of {fleet}", lambda: self.crew(fleet).get("ready", 0) == number, patience_s)

    def finished(self, ids, patience_s=240):
        """Waits for the tasks; returns them. Errors: `Broken`, if one did not succeed."""
        tasks = []
        for id in ids:
            task = wait_for(f"task {id}", lambda: self.ended(id), patience_s)
            if task["state"] != "succeeded":
                raise Broken(f"task {id}: {json.dumps(task)[:1500]}")
            tasks.append(task)
        return tasks

    def pods(self, fleet):
        """The fleet's pods that nobody has asked to end."""
        items = self.seen("pods", "-l", f"longshore.dev/fleet={fleet}")["items"]
        return [pod for pod in items if not pod["metadata"].get("deletionTimestamp")]

    def rollout(self, fleet):
        items = self.call("GET", f"/v1/rollouts?fleet={fleet}")["items"]
        return items[0] if items else None


def wait_for(what, ask, patience_s=120):
    """Asks until the answer is something, and returns it. Errors: `Broken`."""
    end = time.monotonic() + patience_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise Broken(f"waited too long for {what}")
        time.sleep(0.2)
