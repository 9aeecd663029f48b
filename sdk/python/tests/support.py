"""What the tests share: documents, a client, and a server on a free port."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import unittest
from typing import Any, Dict, List, Optional, Tuple

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "src")
sys.path.insert(0, SOURCE)

import longshore  # noqa: E402

DEADLINE = 60.0


def document(input: Any = None, id: str = "t-1", **extra: Any) -> Dict[str, Any]:
    task = {"id": id, "fleet": "tests", "attempt": 1, "input": input, "labels": {}, "conversation": None}
    return {"longshore": 1, "task": task, **extra}


class ServerTest(unittest.IsolatedAsyncioTestCase):
    """Starts servers and ends them again."""

    async def serve(self, handler: Any, **options: Any) -> int:
        server = longshore.Server(handler, **options)
        self.addAsyncCleanup(_end, server)
        self.port = await server.start()
        return self.port

    async def connect(self) -> "Client":
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        client = Client(reader, writer)
        self.addCleanup(client.close)
        return client

    async def run_task(self, body: Any, **headers: str) -> "Answer":
        client = await self.connect()
        return await client.post("/run", json.dumps(body).encode(), **headers)


async def _end(server: longshore.Server) -> None:
    server.cancel()
    await asyncio.wait_for(server.drain(), DEADLINE)


class Answer:
    def __init__(self, status: int, headers: Dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> List[Any]:
        lines = self.body.decode().split("\n")
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def close(self) -> None:
        self.writer.close()

    async def post(self, path: str, body: bytes, **headers: str) -> Answer:
        self.send(post(path, body, **headers))
        return await self.answer()

    def send(self, raw: bytes) -> None:
        self.writer.write(raw)

    async def answer(self, body: bool = True) -> Answer:
        return await asyncio.wait_for(self._answer(body), DEADLINE)

    async def _answer(self, body: bool) -> Answer:
        status, headers = await self.head()
        if not body:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await self._chunks())
        if "content-length" in headers:
            return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
        return Answer(status, headers, await self.reader.read())

    async def head(self) -> Tuple[int, Dict[str, str]]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), DEADLINE)
        lines = head.decode().strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def _chunks(self) -> bytes:
        parts: List[bytes] = []
        while True:
            part = await self.chunk()
            if part is None:
                return b"".join(parts)
            parts.append(part)

    async def chunk(self) -> Optional[bytes]:
        size = int((await asyncio.wait_for(self.reader.readuntil(b"\r\n"), DEADLINE)).strip(), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2] if size else None


def post(path: str, body: bytes, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: agent", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
