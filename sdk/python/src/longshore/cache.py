"""The cache that the agents of a fleet share. Anything in it may be gone at any time."""

from __future__ import annotations

import json
from typing import Any, Optional
from urllib.parse import quote

from .failure import Unreachable
from .relay import caller, refusal
from .stdio import encode


def get(key: str, default: Any = None) -> Any:
    """Returns what was put under `key`: bytes as bytes, all else from its JSON; `default` if nothing is kept there.

    Errors: `Refused`, `Unreachable`, `NoTask`.
    """
    path = _path(key)
    answer = caller().send("GET", path)
    if answer.status == 404 and _code(answer.body) == "not_cached":
        return default
    if answer.status != 200:
        raise refusal(answer, "GET", path)
    if not answer.kind.startswith("application/json"):
        return answer.body
    try:
        return json.loads(answer.body)
    except ValueError as cause:
        raise Unreachable(f"what is kept under {key!r} says that it is JSON, and is not: {cause}") from cause


def put(key: str, value: Any, ttl: Optional[str] = None) -> None:
    """Keeps `value`, bytes or any JSON, for `ttl` (such as `15m`; an hour if none is given) or until room is needed.

    Errors: `Refused` (code `value_too_large` above 1 MiB), `Unreachable`, `NoTask`; `TypeError`, `ValueError`.
    """
    plain = isinstance(value, (bytes, bytearray))
    data = bytes(value) if plain else encode(value).encode("utf-8", "replace")
    path = _path(key) + (f"?ttl={quote(ttl, safe='')}" if ttl is not None else "")
    answer = caller().send("PUT", path, data, "application/octet-stream" if plain else "application/json")
    if answer.status != 204:
        raise refusal(answer, "PUT", path)


def delete(key: str) -> bool:
    """Forgets what is kept under `key`; false if nothing was. Errors: `Refused`, `Unreachable`, `NoTask`."""
    path = _path(key)
    answer = caller().send("DELETE", path)
    if answer.status == 404 and _code(answer.body) == "not_cached":
        return False
    if answer.status != 204:
        raise refusal(answer, "DELETE", path)
    return True


def _code(body: bytes) -> Any:
    try:
        problem = json.loads(body)
    except ValueError:
        return None
    return problem.get("code") if isinstance(problem, dict) else None


def _path(key: str) -> str:
    if not isinstance(key, str) or not key:
        raise TypeError(f"a key is a text that is not empty, not {key!r}")
    return f"/agent/v1/cache/{quote(key, safe='')}"
