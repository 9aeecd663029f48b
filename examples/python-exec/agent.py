"""An agent for the exec protocol, without any package: one process, one task.

It calls no LLM: it sleeps where a real agent waits for one, a few steps long, so that fleets can be tried and measured at
no cost. Input, all of it optional:

    {"work_ms": 1200, "tokens": 300, "fail": false}

`work_ms` is the time to spend waiting, `tokens` sets the number of steps (one per 100), `fail` makes it fail at the end.
SIGTERM ends it at once: Python's default, which suits an agent that has nothing to clean up.
"""

import json
import os
import sys
import time

TOKENS_PER_STEP = 100
MOST_STEPS = 20
MOST_WORK_MS = 3_600_000


def main():
    task = json.load(sys.stdin)["task"]
    work_ms, tokens, fail = read(task["input"])
    steps = min(MOST_STEPS, max(1, tokens // TOKENS_PER_STEP))
    log("starts", task, steps=steps, pid=os.getpid())
    for step in range(1, steps + 1):
        time.sleep(work_ms / steps / 1000)  # stands in for one LLM call
        event("progress", data={"step": step, "of": steps})
    if fail:
        give_up("was asked to fail", "asked_to_fail")
    log("done", task, steps=steps)
    event("result", data={"task": task["id"], "attempt": task["attempt"], "steps": steps, "tokens": tokens})


def read(given):
    given = {} if given is None else given
    if not isinstance(given, dict):
        give_up("the input should be an object such as {\"work_ms\": 1200}", "bad_input", retry=False)
    work_ms = number(given, "work_ms", 1200, MOST_WORK_MS)
    return work_ms, number(given, "tokens", 300, None), given.get("fail") is True


def number(given, name, default, most):
    value = given.get(name, default)
    if type(value) is not int or value < 0 or (most is not None and value > most):
        limit = "" if most is None else f" of at most {most}"
        give_up(f"`{name}` should be a whole number{limit}, 0 or more", "bad_input", retry=False)
    return value


def give_up(message, code, retry=True):
    event("error", message=message, code=code, retry=retry)
    sys.exit(1)


def log(message, task, **fields):
    say({"level": "info", "message": message, "task": task["id"], "attempt": task["attempt"], **fields})


def event(kind, **fields):
    say({"longshore": kind, **fields})


def say(line):
    # Flushed, or progress would arrive with the result.
    print(json.dumps(line), flush=True)


main()
