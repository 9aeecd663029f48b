"""Which task this code works for. One process may run many at once: nothing here is shared between them."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional

from .document import Task
from .failure import NoTask

Emit = Callable[[Dict[str, Any]], None]


@dataclass
class Scope:
    """A task, the place its events go to, and whether it was cancelled."""

    task: Task
    emit: Emit
    cancelled: threading.Event = field(default_factory=threading.Event)
    counts: Dict[str, int] = field(default_factory=dict)


# One per asyncio context, so that tasks side by side never see each other's token.
_scope: ContextVar[Optional[Scope]] = ContextVar("longshore_scope", default=None)
# With exec the process has one task, and threads that it starts work for it too.
_process: Optional[Scope] = None
_serving = False


def current() -> Task:
    """Returns the task that this code works for.

    Errors: `NoTask` outside of one, as in a thread that an http handler started without `contextvars.copy_context`.
    """
    return scope().task


def scope() -> Scope:
    """Returns the scope of this context, else the process's own. Errors: `NoTask`."""
    found = find()
    if found is None:
        raise NoTask("no task runs here: call this in a handler, or `longshore.task()` first")
    return found


def find() -> Optional[Scope]:
    """Returns the scope of this context, else the process's own, else nothing."""
    return _scope.get() or _process


# Of an exec agent that never read its task.
_counts: Dict[str, int] = {}
_counting = threading.Lock()


def number(kind: str) -> int:
    """Returns how many of a kind this attempt has come to, this one included: 1, 2, 3, …"""
    found = find()
    counts = _counts if found is None else found.counts
    with _counting:
        counts[kind] = counts.get(kind, 0) + 1
        return counts[kind]


def enter(scope: Scope) -> None:
    """Makes `scope` that of this context and of those copied from it."""
    _scope.set(scope)


def enter_process(scope: Scope) -> None:
    """Makes `scope` that of the whole process (exec)."""
    global _process
    _process = scope


def serving() -> bool:
    """Whether this process speaks http, so that its standard output is logs and nothing else."""
    return _serving


def set_serving() -> None:
    """Says that this process speaks http."""
    global _serving
    _serving = True
