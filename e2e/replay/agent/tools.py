"""The two tools that all of the agents have, and what is the same about them. No framework is named here.

Like real ones, a tool takes a while: as long as the file `$TOOL_GATE/N` is there, N being how many tools this process has
called. The driver stops an agent between two answers with it.
"""

import json
import os
import pathlib
import sys
import time

INSTRUCTIONS = "You plan journeys. Use the tools before you answer."
MODEL = os.environ.get("MODEL", "gpt-5-mini")

_called = 0


def given():
    """The task's input."""
    return json.load(sys.stdin)["task"]["input"]


def tell(text):
    """The task's result."""
    print(json.dumps({"longshore": "result", "data": {"answer": text, "tools": _called}}), flush=True)


def heard(answer):
    """Leaves the file `$TOOL_GATE/heard-N`: the answer of that number has begun to come."""
    (pathlib.Path(os.environ["TOOL_GATE"]) / f"heard-{answer}").touch()


def look_up(city: str, topic: str) -> str:
    """Looks up what is known about a topic in a city.

    Args:
        city: The city's name.
        topic: What to look for.
    """
    _work()
    return json.dumps({"city": city, "topic": topic, "found": [len(city), len(topic)]})


def measure(start: str, end: str) -> str:
    """Measures how far it is from one place to another.

    Args:
        start: Where the way begins.
        end: Where it ends.
    """
    _work()
    return f"{len(start) * 17 + len(end) * 5} km"


def _work():
    global _called
    _called += 1
    gate = pathlib.Path(os.environ["TOOL_GATE"]) / str(_called)
    while gate.exists():
        time.sleep(0.02)
