"""The http protocol: `GET /healthz`, `POST /run`. Many tasks in one process, none of which sees another's token."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import Optional, Set

from . import context
from .document import Task, parse
from .failure import BadDocument
from .handler import Event, Handler, Run
from .stdio import encode
from .wire import MAX_BODY, BadRequest, Connection, Request

# Who talks to an agent is the worker beside it, never another machine.
LOOPBACK = "127.0.0.1"


def serve(
    handler: Handler,
    *,
    concurrency: Optional[int] = None,
    host: str = LOOPBACK,
    port: Optional[int] = None,
    max_body: int = MAX_BODY,
) -> None:
    """Serves tasks to `handler` until SIGTERM; then finishes those in flight and returns. A second signal cancels them.

    Shape: `async def handler(task) -> result`, or a plain function, which runs in a thread. What it returns is the
    result, any JSON; an exception is the reason of the failure. `concurrency` is a limit of this process's own: more
    tasks than that wait. Without it longshore's limit for the fleet is the only one. `port`: `$PORT`.
    Errors: `OSError` when the port is in use; `SystemExit` when there is no port.
    """
    asyncio.run(_serve(Server(handler, concurrency=concurrency, max_body=max_body), host, _port(port)))


class Server:
    """The same for those who bring an event loop of their own."""

    def __init__(self, handler: Handler, *, concurrency: Optional[int] = None, max_body: int = MAX_BODY) -> None:
        self._handler = handler
        self._concurrency = concurrency
        self._max_body = max_body
        self._gate: Optional[asyncio.Semaphore] = None
        self._listener: Optional[asyncio.AbstractServer] = None
        self._connections: Set["asyncio.Task[None]"] = set()
        self._idle: Set["asyncio.Task[None]"] = set()
        self._runs: Set[Run] = set()
        self._draining = False

    async def start(self, host: str = LOOPBACK, port: int = 0) -> int:
        """Listens; returns the port. Errors: `OSError` when the port is in use."""
        context.set_serving()
        if self._concurrency is not None:
            self._gate = asyncio.Semaphore(self._concurrency)
        self._listener = await asyncio.start_server(self._connected, host, port, backlog=1024)
        return int(self._listener.sockets[0].getsockname()[1])

    async def drain(self) -> None:
        """Takes nothing more; returns once every task in flight has been answered."""
        self._draining = True
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._idle):
            connection.cancel()
        while self._connections:
            await asyncio.wait(self._connections)

    def cancel(self) -> None:
        """Cancels every task in flight."""
        for run in list(self._runs):
            run.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None, "a connection is served by a task"
        connection = Connection(reader, writer, self._max_body)
        self._connections.add(me)
        try:
            await self._converse(me, connection)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the other side is gone, or an idle connection is closed by the drain
        finally:
            self._connections.discard(me)
            connection.close()

    async def _converse(self, me: "asyncio.Task[None]", connection: Connection) -> None:
        while not self._draining:
            self._idle.add(me)
            try:
                request = await connection.request()
            except BadRequest as cause:
                await connection.answer(cause.status, _message(cause.message), keep_alive=False)
                return
            finally:
                self._idle.discard(me)
            if request is None or not await self._answer(connection, request):
                return

    async def _answer(self, connection: Connection, request: Request) -> bool:
        """Answers one request; returns whether the connection may carry another."""
        if request.path == "/run" and request.method == "POST" and not _from_a_web_page(request):
            return await self._run(connection, request)
        status, text = _plain_answer(request)
        await connection.answer(status, _message(text), request.keep_alive, head_only=request.method == "HEAD")
        return request.keep_alive

    async def _run(self, connection: Connection, request: Request) -> bool:
        try:
            task = _task(request.body)
        except BadDocument as cause:
            await connection.answer(400, _message(str(cause)), request.keep_alive)
            return request.keep_alive
        run = Run(self._handler, task, self._gate)
        self._runs.add(run)
        # A closed connection is how longshore says that the task is cancelled.
        gone = asyncio.ensure_future(connection.gone())
        gone.add_done_callback(lambda done: None if done.cancelled() else run.cancel())
        try:
            return await self._relay(connection, request, run)
        except ConnectionError:
            run.cancel()
            raise
        finally:
            self._runs.discard(run)
            await _stop(gone)

    async def _relay(self, connection: Connection, request: Request, run: Run) -> bool:
        streaming = False
        async for event in run.events():
            if not streaming:
                await connection.begin_stream(request)
                streaming = True
            await connection.stream(request, encode(event))
        last = run.outcome()
        if not streaming and last["longshore"] == "wait":
            await connection.answer(202, encode(last).encode("utf-8", "replace"), request.keep_alive)
            return request.keep_alive
        if not streaming and set(last) <= {"longshore", "data"}:
            await connection.answer(200, encode(last["data"]).encode("utf-8", "replace"), request.keep_alive)
            return request.keep_alive
        if not streaming and set(last) == {"longshore", "message"}:
            await connection.answer(500, _message(last["message"]), request.keep_alive)
            return request.keep_alive
        # Only an event can carry `code` and `retry`.
        if not streaming:
            await connection.begin_stream(request)
        await self._finish(connection, request, last)
        return request.keep_alive and request.chunked_answers

    async def _finish(self, connection: Connection, request: Request, last: Event) -> None:
        await connection.stream(request, encode(last))
        await connection.end_stream(request)


async def _serve(server: Server, host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            server.cancel()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    await server.start(host, port)
    await stopping.wait()
    await server.drain()


async def _stop(watch: "asyncio.Future[None]") -> None:
    # Waited for, because the next request is read from the same stream.
    watch.cancel()
    await asyncio.wait([watch])


def _task(body: bytes) -> Task:
    try:
        document = json.loads(body)
    except ValueError as cause:
        raise BadDocument(f"the body is not JSON: {cause}") from cause
    except RecursionError as cause:
        raise BadDocument("the body is nested too deeply") from cause
    return parse(document)


def _plain_answer(request: Request) -> "tuple[int, str]":
    if request.path == "/healthz":
        return (200, "ok") if request.method in ("GET", "HEAD") else (405, "use GET")
    if request.path == "/run":
        return (403, "not for web pages") if request.method == "POST" else (405, "use POST")
    return 404, "there is /healthz and /run"


def _from_a_web_page(request: Request) -> bool:
    # Browsers let any page post to a loopback port; they say so, and a worker never does.
    return "origin" in request.headers


def _message(text: str) -> bytes:
    return encode({"message": text}).encode("utf-8", "replace")


def _port(port: Optional[int]) -> int:
    if port is not None:
        return port
    text = os.environ.get("PORT", "")
    if not text.isdigit():
        sys.exit("PORT is not set: longshore sets it; by hand, run with PORT=8080")
    return int(text)
