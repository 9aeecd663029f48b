"""Runs one task's handler and hands on what it says. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import inspect
import threading
import traceback
from contextvars import copy_context
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, Optional, Union

from . import context
from .document import Task
from .events import log
from .failure import Failed
from .stdio import encode
from .waits import Waits

Handler = Union[Callable[[Task], Awaitable[Any]], Callable[[Task], Any]]
Event = Dict[str, Any]


class Run:
    """One task in the hands of the handler. Make it inside the event loop."""

    def __init__(self, handler: Handler, task: Task, gate: Optional[asyncio.Semaphore]) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: "asyncio.Queue[Optional[Event]]" = asyncio.Queue()
        self._scope = context.Scope(task, self._emit)
        self._result: Optional[Event] = None
        self._work = asyncio.ensure_future(self._guarded(handler, gate))
        self._work.add_done_callback(lambda _: self._events.put_nowait(None))

    def cancel(self) -> None:
        """Cancels the handler: a coroutine at its next await; a thread is only told, by `longshore.cancelled()`."""
        self._scope.cancelled.set()
        self._work.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """Yields progress and messages as they come, until the handler has ended."""
        while True:
            event = await self._events.get()
            if event is None:
                return
            yield event

    def outcome(self) -> Event:
        """Returns the `result`, `error` or `wait` event. Only after `events` has ended."""
        if self._work.cancelled():
            return Failed("the agent gave the task up", "cancelled").event()
        cause = self._work.exception()
        if isinstance(cause, Failed):
            return cause.event()
        if isinstance(cause, Waits):
            return cause.event
        if cause is not None:
            return Failed(f"{type(cause).__name__}: {cause}").event()
        return self._checked(self._work.result())

    def _checked(self, returned: Any) -> Event:
        event = self._result if returned is None and self._result is not None else _result(returned)
        try:
            encode(event)
        except (TypeError, ValueError) as cause:
            return Failed(f"the handler's result is not JSON: {cause}", "bad_result").event()
        return event

    async def _guarded(self, handler: Handler, gate: Optional[asyncio.Semaphore]) -> Any:
        # This coroutine has a context of its own, so what is set here is seen by this task's code alone.
        context.enter(self._scope)
        if gate is None:
            return await self._call(handler)
        async with gate:
            return await self._call(handler)

    async def _call(self, handler: Handler) -> Any:
        try:
            if _is_async(handler):
                return await handler(self._scope.task)
            return await self._in_thread(handler)
        except (SystemExit, KeyboardInterrupt) as cause:
            # One task must not end the process that the others live in.
            raise Failed(f"the handler ended with {type(cause).__name__}: {cause}") from cause
        except Failed:
            raise
        except Exception as cause:
            trace = "".join(traceback.format_exception(type(cause), cause, cause.__traceback__))
            log("handler failed", level="error", error=str(cause), traceback=trace)
            raise

    async def _in_thread(self, handler: Handler) -> Any:
        done: "asyncio.Future[Any]" = self._loop.create_future()
        run = copy_context().run
        threading.Thread(target=_thread, args=(run, handler, self._scope.task, self._loop, done), daemon=True).start()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            # The thread still works, so its slot stays taken; a second cancel gives it up.
            await asyncio.wait([done])
            raise

    def _emit(self, event: Event) -> None:
        encode(event)  # an error here is the caller's, with the line that said it
        try:
            self._loop.call_soon_threadsafe(self._accept, event)
        except RuntimeError:
            pass  # the loop is gone, and with it whoever listened

    def _accept(self, event: Event) -> None:
        if event["longshore"] == "result":
            self._result = event
        else:
            self._events.put_nowait(event)


def _thread(
    run: Any, handler: Handler, task: Task, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[Any]"
) -> None:
    try:
        value, cause = run(handler, task), None
    except BaseException as caught:  # noqa: B902 - it is raised again where the task is awaited
        value, cause = None, caught
    try:
        loop.call_soon_threadsafe(_settle, done, value, cause)
    except RuntimeError:
        pass  # the loop is gone: the process ends


def _settle(done: "asyncio.Future[Any]", value: Any, cause: Optional[BaseException]) -> None:
    if done.done():
        return
    if cause is None:
        done.set_result(value)
    elif isinstance(cause, (StopIteration, SystemExit, KeyboardInterrupt)):
        # A future cannot carry these.
        done.set_exception(Failed(f"the handler ended with {type(cause).__name__}: {cause}"))
    else:
        done.set_exception(cause)


def _result(data: Any) -> Event:
    return {"longshore": "result", "data": data}


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))
