"""The task as longshore hands it over. Parses once; reads no input and no environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional

from .failure import BadDocument

VERSION = 1


@dataclass(frozen=True)
class Message:
    """One message of a conversation. `seq` starts at 1 and has no gaps."""

    seq: int
    data: Any


@dataclass(frozen=True)
class Conversation:
    """The history that tasks share. `truncated`: older messages were left out."""

    id: str
    messages: List[Message]
    truncated: bool = False


@dataclass(frozen=True)
class Task:
    """One attempt at one unit of work. `input` is any JSON value."""

    id: str
    fleet: str
    attempt: int
    input: Any
    labels: Dict[str, str]
    conversation: Optional[Conversation]
    # By name, how the questions of earlier attempts came out: `{"state": "answered", "answer": …}`.
    questions: Dict[str, Any] = field(default_factory=dict)
    # Not in repr: an agent that logs its task must not log its token.
    token: Optional[str] = field(default=None, repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


def parse(document: Any, token: Optional[str] = None) -> Task:
    """Returns the task of a document; `token` is used where the document carries none.

    Errors: `BadDocument`, which names what is missing or of the wrong type.
    """
    body = _expect(document, dict, "the task document")
    if body.get("longshore") != VERSION:
        raise BadDocument(f"the task document has version {body.get('longshore')!r}; this helper speaks {VERSION}")
    task = _expect(body.get("task"), dict, "`task`")
    return Task(
        id=_expect(task.get("id"), str, "`task.id`"),
        fleet=_expect(task.get("fleet"), str, "`task.fleet`"),
        attempt=_expect(task.get("attempt"), int, "`task.attempt`"),
        input=task.get("input"),
        labels=_expect(task.get("labels") or {}, dict, "`task.labels`"),
        conversation=_conversation(task.get("conversation")),
        questions=_expect(task.get("questions") or {}, dict, "`task.questions`"),
        token=_expect(body.get("token") or token or "", str, "`token`") or None,
        env=_strings(body.get("env") or {}),
    )


def _conversation(value: Any) -> Optional[Conversation]:
    if value is None:
        return None
    value = _expect(value, dict, "`task.conversation`")
    messages = _expect(value.get("messages") or [], list, "`task.conversation.messages`")
    return Conversation(
        id=_expect(value.get("id"), str, "`task.conversation.id`"),
        messages=[_message(item) for item in messages],
        truncated=bool(value.get("truncated", False)),
    )


def _message(value: Any) -> Message:
    value = _expect(value, dict, "a message of `task.conversation`")
    return Message(seq=_expect(value.get("seq"), int, "`seq` of a message"), data=value.get("data"))


def _strings(value: Any) -> Dict[str, str]:
    entries = _expect(value, dict, "`env`")
    return {key: _expect(entry, str, f"`env.{key}`") for key, entry in entries.items()}


def _expect(value: Any, kind: type, what: str) -> Any:
    # bool is an int in Python, but not in JSON.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadDocument(f"{what} should be {_NAMES[kind]}, not {type(value).__name__}")
    return value


_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a whole number"}
