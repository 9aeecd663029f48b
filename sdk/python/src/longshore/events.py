"""What an agent says about its task: progress, messages, its result, an error, and log lines."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import Any, Dict, NoReturn, Optional, Union

from . import context, stdio
from .failure import Failed, NoTask


def progress(data: Any) -> None:
    """Reports progress, any JSON. It shows in the task's events at once."""
    _emit({"longshore": "progress", "data": data})


def message(data: Any) -> None:
    """Appends a message, any JSON, to the task's conversation if the task succeeds."""
    _emit({"longshore": "message", "data": data})


def result(data: Any) -> None:
    """Gives the task's result, any JSON. A handler may return it instead; what is given last counts."""
    _emit({"longshore": "result", "data": data})


def error(
    message: str,
    code: Optional[str] = None,
    retry: Optional[bool] = None,
    retry_after: Union[int, float, str, None] = None,
) -> NoReturn:
    """Ends the attempt as failed; never returns.

    `retry=False`: another attempt would fail as well. `retry_after`: not before then, in seconds or as `"90s"`.
    """
    failure = Failed(message, code, retry, retry_after)
    if context.serving():
        raise failure
    stdio.emit(failure.event())
    sys.exit(1)


def cancelled() -> bool:
    """Whether the task was cancelled. For handlers in threads, which nothing can stop from outside."""
    found = context.find()
    return found is not None and found.cancelled.is_set()


def log(text: str, level: str = "info", **fields: Any) -> None:
    """Writes a log line: JSON on standard output, with the task's id. `fields` that JSON cannot say become text."""
    line: Dict[str, Any] = {"time": _now(), "level": level, "message": text}
    found = context.find()
    if found is not None:
        line.update(task=found.task.id, attempt=found.task.attempt)
    # A key `longshore` would make an event of the line.
    line.update({"longshore_" if key == "longshore" else key: _plain(value) for key, value in fields.items()})
    stdio.emit(line)


def _emit(event: Dict[str, Any]) -> None:
    found = context.find()
    if found is not None:
        found.emit(event)
    elif context.serving():
        raise NoTask("no task runs here, so this event belongs to none: call it in a handler")
    else:
        stdio.emit(event)


def _plain(value: Any) -> Any:
    try:
        stdio.encode(value)
    except (TypeError, ValueError):
        return str(value)
    return value


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
