"""Requests to the worker's relay, in the name of this code's task. Knows nothing of what they mean."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any, NamedTuple, Optional
from urllib.parse import urlsplit

from . import context
from .failure import NoTask, Refused, Unreachable
from .stdio import encode


class Answer(NamedTuple):
    """What came back: the status, the content type, the body."""

    status: int
    kind: str
    body: bytes


class Caller(NamedTuple):
    """Where requests go, and the token that they carry."""

    url: str
    token: str

    def send(self, method: str, path: str, data: Optional[bytes] = None, kind: str = "application/json") -> Answer:
        """Sends one request and returns whatever came back.

        Waits as long as it takes: the relay rides out a restart of the control plane, and answers once the attempt is over.
        Errors: `Unreachable`.
        """
        at = urlsplit(self.url)
        headers = {"Authorization": f"Bearer {self.token}"}
        if data is not None:
            headers["Content-Type"] = kind
        # Not urllib: it would ask the environment for a proxy, and the token is for the relay alone.
        connection = http.client.HTTPConnection(at.hostname or "", at.port)
        try:
            connection.request(method, at.path.rstrip("/") + path, data, headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheader("Content-Type") or "", answer.read())
        except (OSError, http.client.HTTPException) as cause:
            raise Unreachable(f"no answer from the relay at {self.url} ({method} {path}): {cause}") from cause
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request, as `send` does, and returns the JSON of its answer.

        Errors: `Refused`, `Unreachable`; `TypeError` or `ValueError` where `body` is no JSON.
        """
        data = None if body is None else encode(body).encode("utf-8", "replace")
        answer = self.send(method, path, data)
        value = _json(answer.body)
        if not 200 <= answer.status < 300:
            raise refusal(answer, method, path)
        if value is None:
            raise Unreachable(f"what answers at {method} {path} is not longshore: {answer.body[:80]!r}")
        return value


def caller() -> Caller:
    """Returns who asks: the task of this context, else the process's. Errors: `NoTask`."""
    found = context.find()
    if found is None and context.serving():
        raise NoTask("no task runs here: call this in a handler")
    given = found.task.env if found is not None else {}
    url = given.get("LONGSHORE_URL") or os.environ.get("LONGSHORE_URL")
    token = (found.task.token if found is not None else None) or os.environ.get("LONGSHORE_TASK_TOKEN")
    missing = "LONGSHORE_URL" if not url else "the task's token" if not token else None
    if not url or not token:
        raise NoTask(f"{missing} is not set: only an agent that longshore started can ask this")
    return Caller(url, token)


def refusal(answer: Answer, method: str, path: str) -> Refused:
    """Returns the error that an answer is which is no success."""
    body = _json(answer.body)
    problem = body if isinstance(body, dict) else {}
    detail = problem.get("detail") or f"{method} {path} was answered {answer.status}"
    return Refused(answer.status, problem.get("code"), detail)


def _json(text: bytes) -> Optional[Any]:
    try:
        return json.loads(text)
    except ValueError:
        return None
