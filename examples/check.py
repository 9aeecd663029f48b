#!/usr/bin/env python3
"""Runs every example without longshore: feeds it task documents and checks what it says.

    examples/check.py [--only NAME]... [--rust-agent PATH] [--framework-python PATH]

Needs Python 3.11, node, cargo, and a built longshore for its simulated provider (LONGSHORE_TEST_BIN, else
target/debug/longshore). An example whose tools are missing fails; the framework one, which needs packages, is skipped aloud
where they are not installed (`--framework-python` names the Python that has them).
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
LONGSHORE = os.environ.get("LONGSHORE_TEST_BIN") or str(HERE.parent / "target/debug/longshore")
DEADLINE_S = 60.0


class Skip(Exception):
    """An example that cannot run here, and why."""


def main():
    arguments = parse_arguments()
    checks = {
        "shell": check_shell,
        "python-exec": check_python_exec,
        "python-http": check_python_http,
        "python-framework": check_python_framework,
        "python-tools": check_python_tools,
        "node": check_node,
        "rust": check_rust,
    }
    names = arguments.only or list(checks)
    failed = [name for name in names if not passes(name, checks[name], arguments)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Runs every example without longshore.")
    parser.add_argument("--only", action="append", help="check this example alone; may be repeated")
    parser.add_argument("--rust-agent", help="a built rust-agent; without it, cargo builds one")
    parser.add_argument("--framework-python", help="a Python with the packages of python-framework")
    return parser.parse_args()


def passes(name, check, arguments):
    began = time.monotonic()
    try:
        check(Example(name), arguments)
    except Skip as why:
        print(f"skipped {name}: {why}")
        return True
    except Exception as why:
        print(f"FAILED  {name}: {type(why).__name__}: {why}")
        return False
    print(f"ok      {name} ({time.monotonic() - began:.1f} s)")
    return True


# The examples


def check_shell(example, _):
    equal(example.run("hello there").result, "HELLO THERE")


def check_python_exec(example, _):
    done = example.run({"work_ms": 60, "tokens": 300})
    equal(done.events("progress"), [{"step": step, "of": 3} for step in (1, 2, 3)])
    equal(done.result, {"task": "t-1", "attempt": 1, "steps": 3, "tokens": 300})
    equal([line["message"] for line in done.logs], ["starts", "done"])

    failed = example.run({"work_ms": 0, "fail": True})
    equal((failed.status, failed.error["code"], failed.error["retry"]), (1, "asked_to_fail", True))
    for bad in (7, "x", {"work_ms": -1}, {"work_ms": 1e999}, {"tokens": True}, {"tokens": "300"}):
        refused = example.run(bad)
        equal((refused.status, refused.error["code"], refused.error["retry"]), (1, "bad_input", False))
    equal(example.run({"work_ms": 0, "tokens": 10**30}).result["steps"], 20)
    check_sigterm(example)


def check_sigterm(example):
    with example.started() as agent:
        agent.stdin.write(document({"work_ms": 3_600_000}))
        agent.stdin.close()
        agent.stdout.readline()  # it works on the task
        began = time.monotonic()
        agent.send_signal(signal.SIGTERM)
        equal(agent.wait(DEADLINE_S), -signal.SIGTERM)
        holds(time.monotonic() - began < 10, "ends soon after SIGTERM")


def check_python_http(example, _):
    with example.served() as (agent, port):
        events = run_http(port, document("hello"))
        equal([event["longshore"] for event in events], ["progress"] * 3 + ["result"])
        equal(events[-1]["data"], {"task": "t-1", "answer": "You said: hello", "heard_before": 0})
        check_conversation(port)
        check_eight_at_once(port)
        agent.send_signal(signal.SIGTERM)
        equal(agent.wait(DEADLINE_S), 0)


def check_conversation(port):
    history = {"id": "c-1", "messages": [{"seq": 1, "data": {"role": "user", "content": "hi"}}], "truncated": False}
    events = run_http(port, document("again", conversation=history))
    messages = [event["data"]["content"] for event in events if event["longshore"] == "message"]
    equal((messages, events[-1]["data"]["heard_before"]), (["again", "You said: again"], 1))


def check_eight_at_once(port):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = [f"t-{n}" for n in range(8)]
        answers = list(pool.map(lambda id: run_http(port, document("x", id=id))[-1]["data"]["task"], ids))
    equal(answers, ids)
    # One after the other they would need eight times 0.6 s.
    holds(time.monotonic() - began < 4.5, "eight tasks run at once")


def check_python_framework(example, arguments):
    python = arguments.framework_python or str(example.folder / ".venv/bin/python")
    probe = [python, "-c", "import pydantic_ai, openai"]
    named = arguments.framework_python is not None
    # Who names a Python wants the check: there a missing package is a failure.
    if not named and (not os.path.exists(python) or subprocess.run(probe, capture_output=True).returncode != 0):
        raise Skip("pydantic-ai is not installed (see its README, or --framework-python)")
    example.command[0] = python
    with fake_llm("Because rivers carry salt into it.") as (url, asked):
        env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "task-token"}
        equal(example.run("Why is the sea salty?", env).result, "Because rivers carry salt into it.")
    path, authorization, body = asked[0]
    equal((path, authorization), ("/v1/chat/completions", "Bearer task-token"))
    equal((body["model"], body["messages"][-1]["content"]), ("gpt-5-mini", "Why is the sea salty?"))
    failed = example.run("?", {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_API_KEY": "x"})
    holds(failed.status != 0 and failed.reason, "without its LLM it fails and says why")


def check_python_tools(example, _):
    with simulated_llm() as url, fake_steps() as (relay, steps):
        env = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "x", "LONGSHORE_URL": relay, "LONGSHORE_TASK_TOKEN": "task-token"}
        # Enough rounds that both tools are called: which one it is follows from the question.
        first = example.run("An evening in Oslo, tools=6", env)
        booked = first.result["booked"]
        holds(first.result["answer"] and booked, "there is an answer, and something was booked")
        equal([event["booked"] for event in first.events("progress")], booked)
        equal(sorted(steps), sorted({f"book {one['city']} {one['guests']}" for one in booked}))
        # The receipts are drawn by chance: only steps can make a second attempt equal to the first.
        equal(example.run("An evening in Oslo, tools=6", env).result, first.result)
        stuck = example.run("An evening in Oslo, tools=99", env)
        equal((stuck.status, stuck.error["code"]), (1, "too_many_rounds"))


def check_node(example, _):
    done = example.run({"city": "Tromsø"})
    equal(done.result, {"city": "Tromsø", "weather": "rain", "letters": 6})
    equal(len(done.events("progress")), 2)
    refused = example.run(None)
    equal((refused.status, refused.error["code"]), (1, "bad_input"))


def check_rust(example, arguments):
    example.command[0] = arguments.rust_agent or build_rust(example)
    done = example.run("count these four words")
    equal((done.result, done.events("progress")), ({"words": 4}, [{"counted": 4}]))
    refused = example.run({"no": "text"})
    equal((refused.status, refused.error["code"]), (1, "bad_input"))


def build_rust(example):
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", "target"]
    subprocess.run(build, cwd=example.folder, check=True)
    return example.command[0]


# The contract, as much of it as the checks need


class Example:
    """One folder, and the only fleet in its longshore.toml."""

    def __init__(self, name):
        self.folder = HERE / name
        fleets = tomllib.loads((self.folder / "longshore.toml").read_text())["fleet"]
        equal(list(fleets), [name])
        equal(len((self.folder / "README.md").read_text().splitlines()), 3)
        self.command = list(fleets[name]["command"])
        self.env = fleets[name].get("env", {})

    def run(self, input, env={}):
        """Runs the agent for one task, as exec does."""
        agent = self._spawn({"LONGSHORE_TASK_ID": "t-1", "LONGSHORE_ATTEMPT": "1", **env})
        try:
            return Finished(*agent.communicate(document(input), DEADLINE_S), agent.returncode)
        finally:
            agent.kill()
            agent.wait()

    @contextlib.contextmanager
    def started(self, env={}):
        """A running agent, killed at the end."""
        agent = self._spawn(env)
        try:
            yield agent
        finally:
            agent.kill()
            agent.wait()
            for pipe in (agent.stdin, agent.stdout, agent.stderr):
                pipe.close()

    @contextlib.contextmanager
    def served(self):
        """A running http agent and its port."""
        port = free_port()
        with self.started({"PORT": str(port)}) as agent:
            until(lambda: agent.poll() is not None or healthy(port), "the agent answers /healthz")
            holds(agent.poll() is None, "the agent goes on running")
            yield agent, port

    def _spawn(self, env):
        pipe = subprocess.PIPE
        everything = {**os.environ, **self.env, **env}
        return subprocess.Popen(self.command, cwd=self.folder, env=everything, stdin=pipe, stdout=pipe, stderr=pipe)


class Finished:
    """What longshore would make of an ended exec agent."""

    def __init__(self, stdout, stderr, status):
        self.status = status
        self.reason = stderr.decode().strip()
        self._events, self.logs, rest = [], [], []
        for line in stdout.decode().splitlines():
            parsed = parse(line)
            if isinstance(parsed, dict):
                (self._events if "longshore" in parsed else self.logs).append(parsed)
            rest += [line] if not (isinstance(parsed, dict) and "longshore" in parsed) else []
        self._text = "\n".join(rest)

    @property
    def result(self):
        equal((self.status, self.reason), (0, ""))
        given = self.events("result")
        return given[-1] if given else self._text

    @property
    def error(self):
        return next(event for event in self._events if event["longshore"] == "error")

    def events(self, kind):
        return [event["data"] for event in self._events if event["longshore"] == kind]


def document(input, id="t-1", conversation=None):
    task = {"id": id, "fleet": "check", "attempt": 1, "input": input, "labels": {}, "conversation": conversation}
    # One line without spaces, as longshore writes it.
    return json.dumps({"longshore": 1, "task": task}, ensure_ascii=False, separators=(",", ":")).encode()


def run_http(port, body):
    """Posts a task; returns its events."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("POST", "/run", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        equal((answer.status, answer.headers["Content-Type"]), (200, "text/event-stream"))
        lines = answer.read().decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def healthy(port):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
    except ConnectionError:
        return False


@contextlib.contextmanager
def fake_llm(text):
    """A chat completions API that always says `text`; yields its base URL and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            answer = json.dumps(completion(text)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", asked
        finally:
            server.shutdown()


@contextlib.contextmanager
def simulated_llm():
    """`longshore llm-sim`; yields its base URL for OpenAI's SDKs."""
    command = [LONGSHORE, "llm-sim", "--json"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as simulator:
        try:
            yield json.loads(simulator.stdout.readline())["openai"]
        finally:
            simulator.kill()


@contextlib.contextmanager
def fake_steps():
    """A relay that knows steps and nothing else; yields its URL, and the results by name."""
    results = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.answer({"state": "run", "begun": 1})

        def do_PUT(self):
            results[self.name()] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["result"]
            self.answer(None)

        def name(self):
            equal(self.headers["Authorization"], "Bearer task-token")
            return urllib.parse.unquote(self.path.removeprefix("/agent/v1/steps/"))

        def answer(self, otherwise):
            done = {"state": "done", "result": results.get(self.name())}
            text = json.dumps(done if self.name() in results else otherwise).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", results
        finally:
            server.shutdown()


def completion(text):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return {"id": "c-1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


# Small helpers


def parse(line):
    try:
        return json.loads(line)
    except ValueError:
        return None


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        holds(time.monotonic() < deadline, what)
        time.sleep(0.02)


def equal(found, wanted):
    holds(found == wanted, f"{found!r} is {wanted!r}")


def holds(condition, what):
    # Not `assert`: `python -O` leaves those out.
    if not condition:
        raise AssertionError(f"expected that {what}")


main()
