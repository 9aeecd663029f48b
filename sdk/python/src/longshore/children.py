"""Child tasks: submitted once however often the task is begun anew, and waited for without a worker."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Union
from urllib.parse import quote

from . import context
from .relay import Caller, caller
from .steps import step
from .waits import end, seconds


@dataclass(frozen=True)
class Child:
    """A child as it stood when it was asked for. `result` is there once it has ended and was waited for."""

    name: str
    id: str
    fleet: str
    state: str
    ended: bool
    result: Any = None
    failure: Optional[Dict[str, Any]] = None

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return self.state == "succeeded"


Children = Optional[Iterable[Union[Child, str]]]


def submit(input: Any = None, *, name: Optional[str] = None, **options: Any) -> Child:
    """Submits a child task, or finds the one that an earlier attempt submitted under the same name.

    Without a name it is `child-1`, `child-2`, … in the order of the calls: give names where that order may differ from one
    attempt to the next. What was submitted first stays, whatever `input` is now. `options`: `fleet` (else this task's own),
    `conversation`, `priority`, `run_at`, `timeout`, `max_attempts`, `on_interrupt`, `labels`; `detach=True`: it goes on when
    this task is cancelled.
    Errors: `Refused` (codes `children_too_deep`, `too_many_children`, `conversation_of_ancestor`, `unknown_fleet`, …),
    `Unreachable`, `NoTask`.
    """
    asker = caller()
    if name is None:
        name = f"child-{context.number('child')}"
    return _child(asker.ask("PUT", _path(name), {"input": input, **options}))


def wait_all(children: Children = None, timeout: Union[None, str, float] = None) -> List[Child]:
    """Returns the children (all of the task's if none are given) once all have ended.

    If some have not, this attempt ends here, and the task begins anew when they have: LLM answers and steps come back, and
    the very same call returns. `timeout`, seconds or a text such as `10m`, runs from the first time this call is reached in
    any attempt; then the children are returned as they stand.
    Errors: as `submit`; `Refused` with `unknown_child`.
    """
    return _wait("all", children, timeout)


def wait_any(children: Children = None, timeout: Union[None, str, float] = None) -> List[Child]:
    """As `wait_all`, once at least one has ended; returns those that have."""
    return [child for child in _wait("any", children, timeout) if child.ended]


def _wait(which: str, children: Children, timeout: Union[None, str, float]) -> List[Child]:
    asker = caller()
    number = context.number("wait")
    wanted = None if children is None else [child if isinstance(child, str) else child.name for child in children]
    there = {child["name"]: _child(child) for child in asker.ask("GET", "/agent/v1/children")}
    names = list(there) if wanted is None else wanted
    for name in names:
        if name not in there:
            # Refused, unless it was submitted in this very moment.
            there[name] = _child(asker.ask("GET", _path(name)))
    open_ = [name for name in names if not there[name].ended]
    enough = not open_ if which == "all" else not names or len(open_) < len(names)
    if not enough:
        left = _left(number, timeout)
        if left is None or left > 0:
            end(_event(which, None if wanted is None and which == "all" else open_, left))
    return [_whole(asker, name, there) for name in names]


def _left(number: int, timeout: Union[None, str, float]) -> Optional[float]:
    if timeout is None:
        return None
    length = seconds(timeout)
    # A step, so that the time runs from the first attempt that came here.
    until = step(f"longshore wait-{number} until", lambda: time.time() + length)
    return until - time.time()


def _event(which: str, of: Optional[List[str]], left: Optional[float]) -> Dict[str, Any]:
    data: Dict[str, Any] = {"children": which}
    if of is not None:
        data["of"] = of
    if left is not None:
        data["timeout"] = f"{max(1000, round(left * 1000))}ms"
    return {"longshore": "wait", "data": data}


def _whole(asker: Caller, name: str, there: Dict[str, Child]) -> Child:
    # Lists leave results out.
    return _child(asker.ask("GET", _path(name))) if there[name].ended else there[name]


def _child(body: Dict[str, Any]) -> Child:
    return Child(
        name=body["name"],
        id=body["id"],
        fleet=body["fleet"],
        state=body["state"],
        ended=body["ended"],
        result=body.get("result"),
        failure=body.get("failure"),
    )


def _path(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a child's name is a text that is not empty, not {name!r}")
    return f"/agent/v1/children/{quote(name, safe='')}"
