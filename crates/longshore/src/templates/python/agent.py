"""An agent: one process per task. The task comes as one JSON document on standard input.

A line that is a JSON object with the key `longshore` is an event; every other line is a log line.
"""

import json
import sys


def main():
    task = json.load(sys.stdin)["task"]
    event("progress", data={"step": "thinking", "attempt": task["attempt"]})
    event("result", data=answer(task["input"]))


def answer(question):
    # Call your LLM here.
    name = question if isinstance(question, str) else json.dumps(question)
    return f"Hello, {name}!"


def event(kind, **fields):
    print(json.dumps({"longshore": kind, **fields}), flush=True)


main()
