"""Helper for agents that longshore runs. Standard library only.

An agent needs none of this: with the exec protocol a program that reads standard input and prints is enough. This
package saves typing there, and for the http protocol brings a server that keeps each task's token to itself.
"""

from typing import TYPE_CHECKING, Any

from .context import current
from .document import Conversation, Message, Task
from .events import cancelled, error, log, message, progress, result
from .failure import BadDocument, Failed, NoTask, Refused, Unreachable
from .providers import anthropic_kwargs, openai_kwargs
from .stdio import task

if TYPE_CHECKING:
    from . import cache
    from .children import Child, submit, wait_all, wait_any
    from .history import conversation
    from .questions import ask
    from .server import Server, serve
    from .steps import astep, step, stepped

__all__ = [
    "BadDocument",
    "Child",
    "Conversation",
    "Failed",
    "Message",
    "NoTask",
    "Refused",
    "Server",
    "Task",
    "Unreachable",
    "anthropic_kwargs",
    "ask",
    "astep",
    "cache",
    "cancelled",
    "conversation",
    "current",
    "error",
    "log",
    "message",
    "openai_kwargs",
    "progress",
    "result",
    "serve",
    "step",
    "stepped",
    "submit",
    "task",
    "wait_all",
    "wait_any",
]
__version__ = "0.1.0"


# Loaded when they are asked for: asyncio and http.client take longer to load than a small exec agent to run.
_LATER = {
    "Child": "children",
    "Server": "server",
    "ask": "questions",
    "astep": "steps",
    "conversation": "history",
    "serve": "server",
    "step": "steps",
    "stepped": "steps",
    "submit": "children",
    "wait_all": "children",
    "wait_any": "children",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "cache":
        return import_module(".cache", __name__)
    if name in _LATER:
        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
