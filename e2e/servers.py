"""A Postgres and a Redis for one end-to-end script: they can be killed, stopped and started again with the same data.

Binds free ports of loopback, or of another address of this machine. Postgres refuses to run as root: then it runs as the user `postgres`, as Debian's package has it.
"""

import os
import pathlib
import pwd
import shutil
import random
import signal
import socket
import subprocess
import time


def free_port(host="127.0.0.1"):
    """Below the range of outgoing connections, one of which could take it while its server is down."""
    low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe:
            try:
                probe.bind((host, random.randrange(10240, low) if low > 12000 else 0))
            except OSError:
                continue
            return probe.getsockname()[1]


def listens(port, host="127.0.0.1"):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


class Server:
    """A process on a port, with a folder; its id is the only way it is ended."""

    def __init__(self, folder, host="127.0.0.1"):
        self.folder, self.host = pathlib.Path(folder), host
        self.folder.mkdir(parents=True)
        self.port = free_port(host)
        self.process = None

    def start(self):
        with (self.folder / "log").open("a") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | self.options()
            self.process = subprocess.Popen(self.command(), **options)
        end = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{type(self).__name__} did not start: {(self.folder / 'log').read_text()[-1500:]}")
            time.sleep(0.05)

    def options(self):
        return {}

    def kill(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)


class Redis(Server):
    @property
    def url(self):
        return f"redis://{self.host}:{self.port}"

    def command(self):
        return ["redis-server", "--port", str(self.port), "--bind", self.host, "--protected-mode", "no", "--save", "", "--dir", str(self.folder)]

    def answers(self):
        return listens(self.port, self.host)


class Postgres(Server):
    """SIGQUIT ends it at once and without tidying up, as a crash does; its data is recovered at the next start."""

    def __init__(self, folder, host="127.0.0.1"):
        super().__init__(folder, host)
        self.programs = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: int(it.parent.name))
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        self.data = self.folder / "data"
        subprocess.run(
            [self.programs / "initdb", "-D", self.data, "-U", "longshore", "-A", "trust"],
            check=True, stdout=subprocess.DEVNULL, cwd="/", **self.as_user(),
        )
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {host}/16 trust\n")

    def as_user(self):
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}

    @property
    def url(self):
        return f"postgres://longshore@{self.host}:{self.port}/postgres"

    def command(self):
        settings = {
            "port": self.port, "listen_addresses": self.host, "unix_socket_directories": "", "max_connections": 200,
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [self.programs / "postgres", "-D", self.data, *words]

    def options(self):
        return self.as_user() | {"cwd": "/"}

    def answers(self):
        ready = [self.programs / "pg_isready", "-q", "-h", self.host, "-p", str(self.port), "-U", "longshore"]
        return subprocess.run(ready, cwd="/").returncode == 0

    def query(self, sql):
        command = ["psql", "-h", self.host, "-p", str(self.port), "-U", "longshore", "-d", "postgres", "-qAtc", sql]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout.strip()


def available():
    """What is missing here, in words; empty: nothing."""
    missing = [] if shutil.which("redis-server") else ["redis-server"]
    if not list(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        missing.append("postgresql")
    return " and ".join(missing)
