"""Helper for agents that longshore runs. Standard library only.

An agent needs none of this: with the exec protocol a program that reads standard input and prints is enough. This
package saves typing there, and for the http protocol brings a server that keeps each task's token to itself.
"""

from typing import TYPE_CHECKING, Any

from .context import current
from .document import Conversation, Message, Task
from .events import cancelled, error, log, message, progress, result
from .failure import BadDocument, Failed, NoTask
from .providers import anthropic_kwargs, openai_kwargs
from .stdio import task

if TYPE_CHECKING:
    from .server import Server, serve

__all__ = [
    "BadDocument",
    "Conversation",
    "Failed",
    "Message",
    "NoTask",
    "Server",
    "Task",
    "anthropic_kwargs",
    "cancelled",
    "current",
    "error",
    "log",
    "message",
    "openai_kwargs",
    "progress",
    "result",
    "serve",
    "task",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # asyncio takes longer to load than a small exec agent to run: only those who serve pay for it.
    if name in ("Server", "serve"):
        from . import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
