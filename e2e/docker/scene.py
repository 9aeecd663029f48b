"""An engine, images made from nothing but busybox and longshore, and a fleet of ten on them; what both scripts here share."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from stage import LONGSHORE, Broken, Stage, prepare  # noqa: E402

DOCKER = os.environ.get("LONGSHORE_TEST_DOCKER")
BUSYBOX = "/bin/busybox"
TOOLS = ("sh", "sleep", "sed", "wget", "awk", "cat", "env")
RUN = f"{os.getpid()}"
FLEET = f"rolls-{RUN}"
WORKERS = 10


def lacking():
    """What is not there that these scripts need."""
    missing = [name for name in ("docker",) if not shutil.which(name)]
    missing += [] if os.path.exists(BUSYBOX) else ["busybox-static"]
    return missing + ([] if DOCKER else ["LONGSHORE_TEST_DOCKER"])


def begin():
    """Returns whether the script can run; says so if it cannot, and ends it where nothing may be skipped."""
    missing = lacking()
    if missing:
        print(f"SKIPPED: without {', '.join(missing)}")
        if os.environ.get("LONGSHORE_TEST_REQUIRE") == "all":
            raise SystemExit(f"without {', '.join(missing)} this cannot run")
        return False
    prepare(LONGSHORE)
    os.environ["DOCKER_HOST"] = DOCKER
    os.environ["DOCKER_BUILDKIT"] = "0"
    return True


def docker(*words, given=None, status=0):
    """Runs `docker`; returns what it printed. Errors: `Broken`, if it ended with another status than this one."""
    done = subprocess.run(["docker", *words], input=given, capture_output=True)
    if status is not None and done.returncode != status:
        raise Broken(f"docker {' '.join(words)}: {done.stderr.decode()[-800:]}")
    return done.stdout.decode().strip()


class Images:
    """Images by short names; removed at the end."""

    def __init__(self):
        self.names = {}
        root = pathlib.Path(tempfile.mkdtemp(prefix="longshore-image-"))
        try:
            fill(root)
            tar = subprocess.run(["tar", "-c", "-C", str(root), "."], capture_output=True, check=True).stdout
        finally:
            shutil.rmtree(root)
        changes = ['ENTRYPOINT ["/longshore","worker","--"]', 'CMD ["sh","/agent.sh"]', "USER 65532:65532"]
        words = [word for change in changes for word in ("--change", change)]
        docker("import", *words, "-", self.name("base"), given=tar)

    def name(self, short):
        self.names[short] = f"longshore-e2e/{short}-{RUN}:1"
        return self.names[short]

    def make(self, short, lines):
        name = self.name(short)
        docker("build", "-q", "-t", name, "-", given=f"FROM {self.names['base']}\n{lines}\n".encode())
        return name

    def remove(self):
        for name in reversed(list(self.names.values())):
            docker("rmi", "-f", name, status=None)


def fill(root):
    for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
        (root / folder).mkdir()
    (root / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    shutil.copy(HERE / "agent.sh", root / "agent.sh")
    subprocess.run(["strip", "-o", str(root / "longshore"), LONGSHORE], check=True)
    linked = subprocess.run(["ldd", LONGSHORE], capture_output=True, text=True).stdout
    for word in linked.split():
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, target)


def declare(stage, image, more, workers=(WORKERS, WORKERS), concurrency=1, platform="docker"):
    """Writes the stage's longshore.toml: a provider, and one fleet."""
    (stage.folder / "key").write_text("a-key-that-no-agent-sees")
    place = f'platform = "docker"\nimage = "{image}"\n' if platform == "docker" else 'platform = "external"\n'
    place += 'command = ["sh", "/agent.sh"]\n' if platform == "external" else ""
    resources = 'resources = { cpu = 0.01, memory = "16Mi", memory_limit = "128Mi" }\n' if platform == "docker" else ""
    stage.configure(
        f'[docker]\nhost = "{DOCKER}"\n'
        f'[provider.openai]\nbase_url = "{stage.simulator["openai"]}"\napi_key = {{ file = "{stage.folder}/key" }}\n'
        f"[fleet.{FLEET}]\n{place}{resources}concurrency = {concurrency}\n"
        f"scaling = {{ min = {workers[0]}, max = {workers[1]}, scale_down_after = \"3s\" }}\n{more}\n"
    )


def longshore(stage, *words, status=0):
    """Runs the command against the stage's control plane; returns what it printed."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("LONGSHORE")}
    clean["LONGSHORE_SERVER"] = "http://" + stage._addresses["api"]
    done = subprocess.run([LONGSHORE, *words], capture_output=True, text=True, env=clean, cwd=stage.folder)
    if done.returncode != status:
        raise Broken(f"longshore {' '.join(words)}: status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def crew(stage):
    """The fleet's workers that have not ended, by state."""
    counts = {}
    for worker in stage.call("GET", f"/v1/workers?fleet={FLEET}")["items"]:
        counts[worker["state"]] = counts.get(worker["state"], 0) + 1
    return counts


def ready(stage, number):
    return stage.wait_for(f"{number} ready workers", lambda: crew(stage).get("ready", 0) == number)


def containers():
    return docker("ps", "-aq", "--no-trunc", "--filter", f"label=longshore.fleet={FLEET}").split()


def remove_all():
    """Containers and networks of this run."""
    for id in containers():
        docker("rm", "-f", "-v", id, status=None)
    for id in docker("network", "ls", "-q", "--filter", f"label=longshore.fleet={FLEET}", status=None).split():
        docker("network", "rm", id, status=None)


def finished(stage, ids):
    """Waits for the tasks; returns them. Errors: `Broken`, if one did not succeed."""
    tasks = []
    for id in ids:
        task = stage.wait_for(f"task {id}", lambda: stage.ended(id), every_s=0.1)
        if task["state"] != "succeeded":
            raise Broken(f"task {id}: {json.dumps(task)[:1500]}")
        tasks.append(task)
    return tasks


def seconds(since):
    return round(time.monotonic() - since, 1)
