"""What end-to-end scripts share: a folder with a control plane and a simulated provider in it, and questions to both.

Starts and stops only what it started itself. It judges nothing: the scripts do.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
LONGSHORE = os.environ.get("LONGSHORE_TEST_BIN") or str(ROOT / "target/debug/longshore")
PYTHON = os.environ.get("LONGSHORE_PYTHON") or str(ROOT / ".venv/bin/python")
ENDED = ("succeeded", "failed", "cancelled")
LISTENERS = '[server]\napi = "127.0.0.1:0"\nlink = "127.0.0.1:0"\nprobes = "127.0.0.1:0"\n'


_open = set()


class Broken(Exception):
    """What a script expected did not come."""


class Api:
    """Questions to a control plane, for whoever has a `call`."""

    def submit(self, fleet, inputs):
        """Submits a task for each input; returns their ids."""
        lines = "\n".join(json.dumps({"fleet": fleet, "input": one}) for one in inputs)
        return self.call("POST", "/v1/tasks:batch", lines.encode(), "application/x-ndjson")["ids"]

    def task(self, id):
        return self.call("GET", f"/v1/tasks/{id}")

    def journal(self, id):
        return self.call("GET", f"/v1/tasks/{id}/journal")

    def events(self, id):
        return self.call("GET", f"/v1/tasks/{id}/events")["items"]

    def ended(self, id):
        """The task, if it has ended."""
        task = self.task(id)
        return task if task["state"] in ENDED else None


class Stage(Api):
    """A folder; `with` removes it at the end, or says where it is kept if the script failed."""

    def __init__(self, name, patience_s=90):
        self.name = name
        self.patience_s = patience_s
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"longshore-{name}-"))
        self._processes = []
        self._plane = None
        self._starts = 0

    def __enter__(self):
        _open.add(self)
        return self

    def __exit__(self, kind, error, trace):
        self.end_all()
        _open.discard(self)
        if error is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"  {self.name}: logs are kept in {self.folder}", flush=True)

    def start(self, command, name, **options):
        """Starts a process whose output goes to NAME.log; it is ended with the stage."""
        with (self.folder / f"{name}.log").open("w") as log:
            options = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
            process = subprocess.Popen(command, **options)
        self._processes.append(process)
        return process

    # The control plane

    def configure(self, text):
        """Writes longshore.toml: listeners on free ports, then `text`."""
        (self.folder / "longshore.toml").write_text(f"{LISTENERS}\n{text}")

    def serve(self):
        """Starts the control plane, or starts it again; its workers are those from before."""
        self._starts += 1
        name = f"serve-{self._starts}"
        clean = {key: value for key, value in os.environ.items() if not key.startswith("LONGSHORE")}
        self._plane = self.start([LONGSHORE, "serve"], name, env=clean)
        self._addresses = self.wait_for("the control plane", lambda: self._up(name))

    def _up(self, name):
        if self._plane.poll() is not None:
            raise Broken(f"serve ended: {self.log(name)[-2000:]}")
        for line in self.log(name).splitlines():
            if "control plane is up" in line:
                fields = json.loads(line)
                return fields.get("fields", fields)

    def stop_plane(self, meanwhile=lambda: None):
        """SIGTERM in the middle of a call; `meanwhile` is called when it finishes its calls. Returns once it has ended."""
        name = f"serve-{self._starts}"
        self._plane.send_signal(signal.SIGTERM)
        self.wait_for("the gateway to finish its calls", lambda: "gateway finishes its calls" in self.log(name))
        meanwhile()
        self._plane.wait(self.patience_s)

    def kill_plane(self):
        """SIGKILL."""
        self._plane.kill()
        self._plane.wait()

    def call(self, method, path, body=None, kind="application/json"):
        """Asks the API; returns what the answer holds."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return fetch(f"http://{self._addresses['api']}{path}", method, body, kind)

    def metrics(self):
        """The control plane's metrics, as text."""
        with urllib.request.urlopen(f"http://{self._addresses['probes']}/metrics", timeout=20) as answer:
            return answer.read().decode()

    def kill_worker_of(self, ids):
        """SIGKILL to a worker that has one of these tasks; returns it, or nothing where none has."""
        for item in self.call("GET", "/v1/workers")["items"]:
            worker = self.call("GET", f"/v1/workers/{item['id']}")
            if set(worker.get("tasks") or ()) & set(ids):
                os.kill(worker["pid"], signal.SIGKILL)
                return worker
        return None

    # The simulated provider

    def simulate(self, *arguments):
        """Starts the simulated provider; returns its base URLs, `openai` and `anthropic`."""
        self.start([LONGSHORE, "llm-sim", "--json", *arguments], "llm-sim")
        self.simulator = self.wait_for("llm-sim", lambda: first_json(self.log("llm-sim")))
        return self.simulator

    def sim(self, method, what, body=None):
        """Asks the simulator's /sim/WHAT."""
        data = None if body is None else json.dumps(body).encode()
        return fetch(f"http://{self.simulator['addr']}/sim/{what}", method, data)

    # Small helpers

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def wait_for(self, what, ask, every_s=0.05):
        """Asks until the answer is something, and returns it. Errors: `Broken`."""
        end = time.monotonic() + self.patience_s
        while True:
            answer = ask()
            if answer:
                return answer
            if time.monotonic() > end:
                raise Broken(f"waited too long for {what}")
            time.sleep(every_s)

    def end_all(self):
        """Ends every process of this stage, its workers and their agents among them."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait()
        # Workers outlive `serve`; each carries an id of this stage.
        ids = {path.stem for path in (self.folder / ".longshore/logs").glob("*.log")}
        end = time.monotonic() + 10
        while (left := list(carriers(ids))) and time.monotonic() < end:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)


def prepare(*paths):
    """Ends the script where one of these is no program; from here on SIGTERM ends what the stages started, too."""
    for path in paths:
        if not os.access(path, os.X_OK):
            raise SystemExit(f"{path} is missing: run `./dev setup` and `cargo build` first")
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number, _):
    for stage in list(_open):
        stage.end_all()
    # At once: other threads would go on and start anew what was ended.
    os._exit(128 + number)


def fetch(url, method="GET", body=None, kind="application/json"):
    request = urllib.request.Request(url, data=body, method=method, headers={"content-type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Broken(f"{method} {url}: {error.code} {error.read().decode()[:500]}") from error


def first_json(text):
    line, end, _ = text.partition("\n")
    return json.loads(line) if end and line.startswith("{") else None


def carriers(ids):
    """The processes that carry a worker's id in their arguments or their environment."""
    wanted = {name.encode() for name in ids} | {f"LONGSHORE_WORKER_ID={name}".encode() for name in ids}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0") + (path / "environ").read_bytes().split(b"\0")
            state = (path / "stat").read_text().rsplit(") ", 1)[1][0]
        except OSError:
            continue
        if state not in "ZX" and wanted & set(words) and int(path.name) != os.getpid():
            yield int(path.name)


def table(head, rows):
    """Prints rows under a head, each column as wide as its widest cell."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
