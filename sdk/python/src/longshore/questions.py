"""Questions to people, whose answers are waited for without a worker."""

from __future__ import annotations

from typing import Any, Dict, Optional
from urllib.parse import quote

from . import context, waits
from .relay import caller


def ask(
    question: Any,
    *,
    name: Optional[str] = None,
    expires_in: Optional[str] = None,
    on_expiry: str = "fail",
    default: Any = None,
    schema: Any = None,
) -> Any:
    """Asks a person and returns the answer, any JSON.

    If there is none yet, this attempt ends here, and the task begins anew when there is: LLM answers and steps come back, and
    the very same call returns. Without a name it is `ask-1`, `ask-2`, … in the order of the calls. `expires_in`, such as
    `24h`, runs from the first time; then the task fails with `input_expired`, or with `on_expiry="resume"` this returns
    `default`. `schema` is shown to whoever answers.
    Errors: `Refused` (codes `too_many_questions`, `invalid_value`), `Unreachable`, `NoTask`.
    """
    asker = caller()
    if name is None:
        name = f"ask-{context.number('ask')}"
    if not isinstance(name, str) or not name:
        raise TypeError(f"a question's name is a text that is not empty, not {name!r}")
    said: Dict[str, Any] = {"question": question, "on_expiry": on_expiry}
    said.update({key: value for key, value in (("expires_in", expires_in), ("schema", schema)) if value is not None})
    asked = asker.ask("POST", f"/agent/v1/questions/{quote(name, safe='')}", said)
    if asked["state"] == "answered":
        return asked.get("answer")
    if asked["state"] == "expired" and asked["on_expiry"] == "resume":
        return default
    # Of one that has expired, longshore says so to whoever looks at the task.
    waits.end({"longshore": "wait", "data": {"question": name}})
