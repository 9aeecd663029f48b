"""HTTP/1.1 on one connection: reads requests, writes answers. Knows nothing of tasks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from http import HTTPStatus
from typing import Dict, List, Optional, Tuple

MAX_HEAD = 32 * 1024
MAX_BODY = 64 * 1024 * 1024
_CHUNK = 64 * 1024


class BadRequest(Exception):
    """A request that gets an answer with this status, after which the connection closes."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Closed(ConnectionError):
    """The other side closed the connection in the middle of a request."""


@dataclass(frozen=True)
class Request:
    """One request. Header names are in lower case; `path` is without its query."""

    method: str
    path: str
    headers: Dict[str, str]
    body: bytes
    keep_alive: bool
    chunked_answers: bool


class Connection:
    """One connection, and what was read from it but not used yet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, max_body: int = MAX_BODY) -> None:
        self._reader = reader
        self._writer = writer
        self._max_body = max_body
        self._buffer = bytearray()

    async def request(self) -> Optional[Request]:
        """Returns the next request, or nothing when the other side is done. Errors: `BadRequest`, `Closed`."""
        head = await self._head()
        if head is None:
            return None
        method, target, version, headers = _parse_head(head)
        body = await self._body(headers)
        return Request(
            method=method,
            path=target.split("?", 1)[0],
            headers=headers,
            body=body,
            keep_alive=_keep_alive(version, headers),
            chunked_answers=version == "HTTP/1.1",
        )

    async def gone(self) -> None:
        """Returns once the other side has closed. What it sends before that is kept for the next request."""
        try:
            while len(self._buffer) <= MAX_HEAD:
                if not await self._fill():
                    return
        except ConnectionError:
            return
        # Somebody who sends that much without waiting for an answer gets no more of our memory.
        await asyncio.Event().wait()

    async def answer(self, status: int, body: bytes, keep_alive: bool, head_only: bool = False) -> None:
        """Writes a whole JSON answer; `head_only` leaves the body out, as HEAD wants it."""
        head = _status_line(status) + "Content-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        self._writer.write(head.encode("ascii") + (b"" if head_only else body))
        await self._writer.drain()

    async def begin_stream(self, request: Request) -> None:
        """Writes the head of an event stream."""
        framing = "Transfer-Encoding: chunked\r\n" if request.chunked_answers else ""
        connection = "keep-alive" if request.keep_alive and request.chunked_answers else "close"
        head = _status_line(200) + "Content-Type: text/event-stream\r\nCache-Control: no-store\r\n"
        self._writer.write(f"{head}{framing}Connection: {connection}\r\n\r\n".encode("ascii"))
        await self._writer.drain()

    async def stream(self, request: Request, data: str) -> None:
        """Writes one event of a stream; `data` is one line."""
        block = f"data: {data}\n\n".encode("utf-8", "replace")
        if request.chunked_answers:
            block = b"%x\r\n%s\r\n" % (len(block), block)
        self._writer.write(block)
        await self._writer.drain()

    async def end_stream(self, request: Request) -> None:
        """Writes the end of a stream. Without chunks the end is the close, which the caller does."""
        if request.chunked_answers:
            self._writer.write(b"0\r\n\r\n")
            await self._writer.drain()

    def close(self) -> None:
        """Closes the connection."""
        self._writer.close()

    async def _head(self) -> Optional[bytes]:
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD):
                raise BadRequest(431, f"the request's head is larger than {MAX_HEAD} bytes")
            if end >= 0:
                head = bytes(self._buffer[:end])
                del self._buffer[: end + 4]
                return head
            if not await self._fill():
                if self._buffer:
                    raise Closed("closed in the middle of a request's head")
                return None

    async def _body(self, headers: Dict[str, str]) -> bytes:
        if "transfer-encoding" in headers:
            raise BadRequest(411, "send the body with a content-length")
        length = _content_length(headers)
        if length > self._max_body:
            raise BadRequest(413, f"the body has {length} bytes; at most {self._max_body} are taken")
        if length and headers.get("expect", "").lower() == "100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._buffer) < length:
            if not await self._fill():
                raise Closed("closed in the middle of a request's body")
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body

    async def _fill(self) -> bool:
        data = await self._reader.read(_CHUNK)
        self._buffer += data
        return bool(data)


def _parse_head(head: bytes) -> Tuple[str, str, str, Dict[str, str]]:
    lines = head.decode("latin-1").lstrip("\r\n").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[0].isalpha() or not parts[1].startswith("/"):
        raise BadRequest(400, "the first line is not an HTTP request")
    if parts[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return parts[0].upper(), parts[1], parts[2], _headers(lines[1:])


def _headers(lines: List[str]) -> Dict[str, str]:
    headers: Dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400, "a header is malformed")
        name, value = name.lower(), value.strip()
        # Two lengths that differ are how requests are smuggled.
        if name == "content-length" and headers.get(name, value) != value:
            raise BadRequest(400, "two values of content-length")
        headers[name] = value
    return headers


def _content_length(headers: Dict[str, str]) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise BadRequest(400, "content-length is not a number")
    return int(text)


def _keep_alive(version: str, headers: Dict[str, str]) -> bool:
    wish = headers.get("connection", "").lower()
    return "close" not in wish if version == "HTTP/1.1" else "keep-alive" in wish


def _status_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
