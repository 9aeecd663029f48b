"""The end of an attempt whose task waits, and holds no worker meanwhile."""

from __future__ import annotations

import sys
from typing import Any, Dict, NoReturn, Union

from . import context, stdio

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Waits(BaseException):
    """Ends a handler's attempt; not an `Exception`, so that what an agent catches does not catch it."""

    def __init__(self, event: Dict[str, Any]) -> None:
        super().__init__(f"the attempt ends here: its task waits for {event['data']}")
        self.event = event


def end(event: Dict[str, Any]) -> NoReturn:
    """Ends the attempt; never returns. Errors: always `Waits` in a handler, `SystemExit` with exec."""
    if context.serving():
        raise Waits(event)
    stdio.emit(event)
    sys.exit(0)


def seconds(length: Union[str, float]) -> float:
    """Returns how many seconds a length of time holds: a number of them, or a text such as `90s`. Errors: `ValueError`."""
    if not isinstance(length, str):
        return float(length)
    for unit, size in _UNITS.items():
        number = length[: -len(unit)]
        if length.endswith(unit) and number.isascii() and number.isdigit():
            return int(number) * size
    raise ValueError(f"a length of time is a number and ms, s, m, h or d, such as 90s, not {length!r}")
