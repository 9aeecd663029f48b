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


class Caller(NamedTuple):
    """Where requests go, and the token that they carry."""

    url: str
    token: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Sends one request and returns the JSON of its answer.

        Waits as long as it takes: the relay rides out a restart of the control plane, and answers once the attempt is over.
        Errors: `Refused`, `Unreachable`; `TypeError` or `ValueError` where `body` is no JSON.
        """
        data = None if body is None else encode(body).encode("utf-8", "replace")
        at = urlsplit(self.url)
        headers = {"Authorization": f"Bearer {self.token}"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        # Not urllib: it would ask the environment for a proxy, and the token is for the relay alone.
        connection = http.client.HTTPConnection(at.hostname or "", at.port)
        try:
            connection.request(method, at.path.rstrip("/") + path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as cause:
            raise Unreachable(f"no answer from the relay at {self.url} ({method} {path}): {cause}") from cause
        finally:
            connection.close()
        return _read(answer.status, text, method, path)


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


def _read(status: int, text: bytes, method: str, path: str) -> Any:
    body = _json(text)
    if not 200 <= status < 300:
        problem = body if isinstance(body, dict) else {}
        detail = problem.get("detail") or f"{method} {path} was answered {status}"
        raise Refused(status, problem.get("code"), detail)
    if body is None:
        raise Unreachable(f"what answers at {method} {path} is not longshore: {text[:80]!r}")
    return body


def _json(text: bytes) -> Optional[Any]:
    try:
        return json.loads(text)
    except ValueError:
        return None
