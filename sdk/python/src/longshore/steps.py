"""Steps: pieces of an agent's work that run once, however often the task is begun anew."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Callable, Optional, Tuple, TypeVar
from urllib.parse import quote

from .relay import Caller, caller

Function = TypeVar("Function", bound=Callable[..., Any])


def step(name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Runs `function` once for this task and remembers what it returned, which must be JSON; later it is only told.

    The name alone says which step it is: put into it what tells two calls apart. What is returned is read back from the
    stored JSON, the first time too, so a tuple is a list from the beginning. If `function` raises, nothing is
    remembered; it runs again in the next attempt, and also if the worker is killed before its result is stored.
    Errors: what `function` raises; `TypeError` for what JSON cannot say; `Refused`, `Unreachable`, `NoTask`.
    """
    asker = caller()
    done, result = _begin(asker, name)
    if done:
        return result
    value = function(*args, **kwargs)
    if inspect.isawaitable(value):
        _drop(value)
        raise TypeError(f"step {name!r}: its function is asynchronous; use `await longshore.astep(…)`")
    return _end(asker, name, value)


async def astep(name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """As `step`, in asyncio: `function` may be asynchronous, and other tasks go on while longshore is asked."""
    import asyncio

    asker = caller()
    done, result = await asyncio.to_thread(_begin, asker, name)
    if done:
        return result
    value = function(*args, **kwargs)
    if inspect.isawaitable(value):
        value = await value
    return await asyncio.to_thread(_end, asker, name, value)


def stepped(name: str) -> Callable[[Function], Function]:
    """Makes every call of a function, plain or asynchronous, a step.

    Arguments may stand in the name: calls of a function under `@longshore.stepped("weather in {city}")` are one step for
    each city. Without any, all calls are the same step.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        def named(args: Tuple[Any, ...], kwargs: Any) -> str:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return name.format_map(bound.arguments)

        run: Any
        if inspect.iscoroutinefunction(function):

            async def run(*args: Any, **kwargs: Any) -> Any:
                return await astep(named(args, kwargs), function, *args, **kwargs)

        else:

            def run(*args: Any, **kwargs: Any) -> Any:
                return step(named(args, kwargs), function, *args, **kwargs)

        return functools.wraps(function)(run)  # type: ignore[return-value]

    return decorate


def _begin(asker: Caller, name: str) -> Tuple[bool, Optional[Any]]:
    answer = asker.ask("POST", _path(name))
    return answer["state"] == "done", answer.get("result")


def _end(asker: Caller, name: str, value: Any) -> Any:
    try:
        return asker.ask("PUT", _path(name), {"result": value})["result"]
    except (TypeError, ValueError) as cause:
        raise TypeError(f"step {name!r} returned what JSON cannot say: {cause}") from cause


def _path(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"a step's name is a text that is not empty, not {name!r}")
    return f"/agent/v1/steps/{quote(name, safe='')}"


def _drop(awaitable: Any) -> None:
    # Else Python warns that it was never awaited, beside the error that says so.
    close = getattr(awaitable, "close", None)
    if close is not None:
        close()
