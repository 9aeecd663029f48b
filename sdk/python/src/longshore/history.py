"""The conversation as it stands now. What the task document carries may be its newest part only."""

from __future__ import annotations

from typing import List

from .document import Message
from .relay import caller

_PAGE = 500


def conversation(after: int = 0) -> List[Message]:
    """Returns the messages of the task's conversation whose `seq` is above `after`, oldest first.

    What this attempt says with `longshore.message` is not among them: it joins when the task succeeds.
    Errors: `Refused` (code `unknown_conversation`) for a task of no conversation; `Unreachable`, `NoTask`.
    """
    asker = caller()
    found: List[Message] = []
    while True:
        page = asker.ask("GET", f"/agent/v1/conversation?after={int(after)}&limit={_PAGE}")
        found += [Message(item["seq"], item.get("data")) for item in page["items"]]
        if page.get("next_after") is None:
            return found
        after = page["next_after"]
