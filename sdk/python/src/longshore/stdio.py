"""The exec protocol: the task on standard input, events on standard output."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, Dict, Optional

from . import context
from .document import Task, parse
from .failure import BadDocument

_lock = threading.Lock()


def task() -> Task:
    """Returns the task: in a handler its own, else the one on standard input (read once, then remembered).

    Errors: `BadDocument` when standard input is a terminal or holds no task document.
    """
    found = context.find()
    if found is not None:
        return found.task
    read = parse(_read(), token=os.environ.get("LONGSHORE_TASK_TOKEN"))
    context.enter_process(context.Scope(read, emit))
    return read


def emit(event: Dict[str, Any]) -> None:
    """Writes an event as one line, whole: threads may report at the same time."""
    line = encode(event) + "\n"
    with _lock:
        sys.stdout.flush()  # what was printed before comes before
        stream: Optional[Any] = getattr(sys.stdout, "buffer", None)
        if stream is None:
            sys.stdout.write(line)
        else:
            stream.write(line.encode("utf-8", "replace"))
        sys.stdout.flush()


def encode(value: Any) -> str:
    """Returns JSON of one line. Errors: `TypeError` or `ValueError` for what JSON cannot say, NaN among it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _read() -> Any:
    if sys.stdin is None or sys.stdin.isatty():
        raise BadDocument("standard input is no task document: run this with `longshore submit`, or pipe one in")
    stream = getattr(sys.stdin, "buffer", sys.stdin)
    try:
        return json.loads(stream.read())
    except ValueError as cause:
        raise BadDocument(f"standard input is not JSON: {cause}") from cause
