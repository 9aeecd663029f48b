"""The http protocol, over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from typing import Any, List

import support
from support import document, longshore


async def echo(task: Any) -> Any:
    return task.input


class Answers(support.ServerTest):
    async def test_a_return_value_is_the_result(self) -> None:
        await self.serve(echo)
        answer = await self.run_task(document({"a": [1, "ö"]}))
        self.assertEqual((answer.status, answer.json()), (200, {"a": [1, "ö"]}))
        self.assertEqual(answer.headers["content-type"], "application/json")

    async def test_a_plain_function_runs_in_a_thread(self) -> None:
        await self.serve(lambda task: [task.id, threading.current_thread() is not threading.main_thread()])
        self.assertEqual((await self.run_task(document())).json(), ["t-1", True])

    async def test_events_are_streamed_before_the_result(self) -> None:
        go_on = asyncio.Event()

        async def handler(task: Any) -> str:
            longshore.progress({"step": 1})
            await go_on.wait()
            longshore.message({"text": "hi"})
            return "done"

        await self.serve(handler)
        client = await self.connect()
        client.send(support.post("/run", json.dumps(document()).encode()))
        status, headers = await client.head()
        self.assertEqual((status, headers["content-type"]), (200, "text/event-stream"))
        self.assertEqual(await client.chunk(), b'data: {"longshore":"progress","data":{"step":1}}\n\n')
        go_on.set()
        self.assertEqual(await client.chunk(), b'data: {"longshore":"message","data":{"text":"hi"}}\n\n')
        self.assertEqual(await client.chunk(), b'data: {"longshore":"result","data":"done"}\n\n')
        self.assertIsNone(await client.chunk())

    async def test_a_thread_streams_too(self) -> None:
        def handler(task: Any) -> None:
            longshore.progress(1)
            longshore.result("given")

        await self.serve(handler)
        data = [event["data"] for event in (await self.run_task(document())).events()]
        self.assertEqual(data, [1, "given"])

    async def test_an_exception_is_the_reason(self) -> None:
        async def handler(task: Any) -> None:
            raise KeyError("oslo")

        await self.serve(handler)
        answer = await self.run_task(document())
        self.assertEqual((answer.status, answer.json()), (500, {"message": "KeyError: 'oslo'"}))

    async def test_a_failure_keeps_its_code(self) -> None:
        def handler(task: Any) -> None:
            longshore.error("no such city", "unknown_city", retry=False)

        await self.serve(handler)
        event = {"longshore": "error", "message": "no such city", "code": "unknown_city", "retry": False}
        self.assertEqual((await self.run_task(document())).events(), [event])

    async def test_a_failure_may_ask_for_time(self) -> None:
        def handler(task: Any) -> None:
            raise longshore.Failed("busy", retry_after=2.5)

        await self.serve(handler)
        event = {"longshore": "error", "message": "busy", "retry_after": 2.5}
        self.assertEqual((await self.run_task(document())).events(), [event])

    async def test_a_failure_after_progress_ends_the_stream(self) -> None:
        async def handler(task: Any) -> None:
            longshore.progress(1)
            raise ValueError("half way")

        await self.serve(handler)
        events = (await self.run_task(document())).events()
        self.assertEqual(events[-1], {"longshore": "error", "message": "ValueError: half way"})

    async def test_a_result_that_is_not_json_is_a_failure(self) -> None:
        await self.serve(lambda task: {1, 2})
        event = (await self.run_task(document())).events()[-1]
        self.assertEqual((event["longshore"], event["code"]), ("error", "bad_result"))

    async def test_sys_exit_fails_the_task_and_not_the_process(self) -> None:
        async def in_loop(task: Any) -> None:
            sys.exit(3)

        for handler in (in_loop, lambda task: sys.exit(3)):
            await self.serve(handler)
            for _ in range(2):
                answer = await self.run_task(document())
                self.assertEqual(answer.status, 500)
                self.assertEqual(answer.json()["message"], "the handler ended with SystemExit: 3")


class Isolation(support.ServerTest):
    async def check_tokens(self, handler: Any) -> None:
        await self.serve(handler)
        bodies = [
            document(id=f"t-{n}", token=f"token-{n}", env={"OPENAI_BASE_URL": f"http://127.0.0.1:1/{n}/v1"})
            for n in range(8)
        ]
        answers = await asyncio.gather(*(self.run_task(body) for body in bodies))
        for n, answer in enumerate(answers):
            wanted = {"base_url": f"http://127.0.0.1:1/{n}/v1", "api_key": f"token-{n}"}
            self.assertEqual(answer.json(), [f"t-{n}", wanted, wanted])

    async def test_eight_coroutines_keep_their_tokens(self) -> None:
        everyone_is_in = Meeting(8)

        async def handler(task: Any) -> Any:
            before = longshore.openai_kwargs()
            await everyone_is_in.wait()
            after = await asyncio.get_running_loop().create_task(_kwargs())
            return [longshore.current().id, before, after]

        await self.check_tokens(handler)

    async def test_eight_threads_keep_their_tokens(self) -> None:
        barrier = threading.Barrier(8)

        def handler(task: Any) -> Any:
            before = longshore.openai_kwargs()
            barrier.wait(support.DEADLINE)
            return [longshore.task().id, before, longshore.openai_kwargs()]

        await self.check_tokens(handler)

    async def test_outside_of_a_task_there_is_none(self) -> None:
        def handler(task: Any) -> str:
            caught: List[str] = []
            thread = threading.Thread(target=lambda: caught.append(_name_of_error(longshore.openai_kwargs)))
            thread.start()
            thread.join()
            return caught[0]

        await self.serve(handler)
        self.assertEqual((await self.run_task(document(token="t"))).json(), "NoTask")
        self.assertRaises(longshore.NoTask, longshore.progress, 1)


class Limits(support.ServerTest):
    async def test_more_tasks_than_the_limit_wait(self) -> None:
        running, most = 0, 0

        async def handler(task: Any) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.01)
            running -= 1

        await self.serve(handler, concurrency=2)
        answers = await asyncio.gather(*(self.run_task(document()) for _ in range(6)))
        self.assertEqual(([answer.status for answer in answers], most), ([200] * 6, 2))

    async def test_a_body_that_is_too_large_is_refused(self) -> None:
        await self.serve(echo, max_body=100)
        self.assertEqual((await self.run_task(document("x" * 200))).status, 413)


class Cancel(support.ServerTest):
    async def test_a_closed_connection_cancels_the_handler(self) -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def handler(task: Any) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.assertTrue(longshore.cancelled())
                ended.set()

        await self.serve(handler)
        client = await self.connect()
        client.send(support.post("/run", json.dumps(document()).encode()))
        await asyncio.wait_for(started.wait(), support.DEADLINE)
        client.close()
        await asyncio.wait_for(ended.wait(), support.DEADLINE)

    async def test_a_reset_connection_cancels_the_handler_while_it_streams(self) -> None:
        ended = asyncio.Event()

        async def handler(task: Any) -> None:
            try:
                while True:
                    longshore.progress("x" * 1000)
                    await asyncio.sleep(0.001)
            finally:
                ended.set()

        await self.serve(handler)
        client = await self.connect()
        client.send(support.post("/run", json.dumps(document()).encode()))
        await client.head()
        client.writer.transport.abort()
        await asyncio.wait_for(ended.wait(), support.DEADLINE)

    async def test_a_thread_is_told(self) -> None:
        started, ended = threading.Event(), threading.Event()

        def handler(task: Any) -> None:
            started.set()
            deadline = time.monotonic() + support.DEADLINE
            while not longshore.cancelled() and time.monotonic() < deadline:
                time.sleep(0.005)
            if longshore.cancelled():
                ended.set()

        await self.serve(handler)
        client = await self.connect()
        client.send(support.post("/run", json.dumps(document()).encode()))
        self.assertTrue(await asyncio.to_thread(started.wait, support.DEADLINE))
        client.close()
        self.assertTrue(await asyncio.to_thread(ended.wait, support.DEADLINE))

    async def test_the_tasks_beside_it_go_on(self) -> None:
        go_on = asyncio.Event()

        async def handler(task: Any) -> str:
            await go_on.wait()
            return task.id

        await self.serve(handler)
        left, stays = await self.connect(), await self.connect()
        for client in (left, stays):
            client.send(support.post("/run", json.dumps(document()).encode()))
        left.close()
        go_on.set()
        self.assertEqual((await stays.answer()).json(), "t-1")


class Wire(support.ServerTest):
    async def check(self, raw: bytes, status: int, text: str = "", body: bool = True) -> None:
        client = await self.connect()
        client.send(raw)
        answer = await client.answer(body)
        self.assertEqual(answer.status, status, raw[:60])
        self.assertIn(text, answer.body.decode())

    async def test_bad_requests_are_answered(self) -> None:
        await self.serve(echo)
        await self.check(b"hello\r\n\r\n", 400, "not an HTTP request")
        await self.check(b"GET / HTTP/2.0\r\n\r\n", 505)
        await self.check(b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed")
        await self.check(b"POST /run HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "content-length")
        await self.check(b"POST /run HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "two values")
        await self.check(b"POST /run HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411)
        await self.check(b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n", 431)
        await self.check(b"GET / HTTP/1.1\r\n" + b"x" * 40_000, 431)

    async def test_bad_documents_are_answered(self) -> None:
        await self.serve(echo)
        await self.check(support.post("/run", b""), 400, "not JSON")
        await self.check(support.post("/run", b"\xff\xfe"), 400, "not JSON")
        await self.check(support.post("/run", b"[" * 100_000), 400, "too deeply")
        await self.check(support.post("/run", b'{"longshore":2}'), 400, "speaks 1")
        await self.check(support.post("/run", b'{"longshore":1,"task":[]}'), 400, "`task` should be an object")

    async def test_other_paths_and_methods(self) -> None:
        await self.serve(echo)
        await self.check(b"GET /healthz HTTP/1.1\r\n\r\n", 200, "ok")
        await self.check(b"HEAD /healthz?x=1 HTTP/1.1\r\n\r\n", 200, body=False)
        await self.check(b"DELETE /healthz HTTP/1.1\r\n\r\n", 405)
        await self.check(b"GET /run HTTP/1.1\r\n\r\n", 405)
        await self.check(b"GET / HTTP/1.1\r\n\r\n", 404)

    async def test_a_web_page_cannot_run_tasks(self) -> None:
        await self.serve(echo)
        answer = await self.run_task(document(), Origin="http://evil.example")
        self.assertEqual(answer.status, 403)

    async def test_a_connection_carries_many_requests(self) -> None:
        await self.serve(echo)
        client = await self.connect()
        for n in range(5):
            self.assertEqual((await client.post("/run", json.dumps(document(n)).encode())).json(), n)

    async def test_requests_sent_ahead_are_answered_in_order(self) -> None:
        await self.serve(echo)
        client = await self.connect()
        client.send(b"".join(support.post("/run", json.dumps(document(n)).encode()) for n in range(5)))
        self.assertEqual([(await client.answer()).json() for _ in range(5)], [0, 1, 2, 3, 4])

    async def test_a_request_may_come_in_pieces(self) -> None:
        await self.serve(echo)
        client = await self.connect()
        for byte in support.post("/run", json.dumps(document("x")).encode()):
            client.send(bytes([byte]))
            await client.writer.drain()
        self.assertEqual((await client.answer()).json(), "x")

    async def test_an_old_client_gets_its_answer_and_the_close(self) -> None:
        async def handler(task: Any) -> None:
            longshore.progress(1)

        await self.serve(handler)
        client = await self.connect()
        body = json.dumps(document()).encode()
        client.send(b"POST /run HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.assertEqual([event["longshore"] for event in (await client.answer()).events()], ["progress", "result"])

    async def test_a_client_that_asks_first_is_told_to_go_on(self) -> None:
        await self.serve(echo)
        client = await self.connect()
        body = json.dumps(document("big")).encode()
        client.send(b"POST /run HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.assertEqual((await client.head())[0], 100)
        client.send(body)
        self.assertEqual((await client.answer()).json(), "big")


class Process(unittest.TestCase):
    """`serve` in a process of its own."""

    CODE = """
import asyncio, longshore
async def handler(task):
    longshore.progress("in")
    await asyncio.sleep(task.input)
    return "out"
server = longshore.Server(handler)
start = longshore.Server.start
async def say(self, *where):
    port = await start(self, *where)
    print(port, flush=True)
    return port
longshore.Server.start = say
longshore.serve(handler, port=0)
"""

    def start(self) -> "tuple[subprocess.Popen[bytes], int]":
        env = {**os.environ, "PYTHONPATH": support.SOURCE}
        agent = subprocess.Popen([sys.executable, "-c", self.CODE], stdout=subprocess.PIPE, env=env)
        self.addCleanup(agent.stdout.close)
        self.addCleanup(agent.wait, support.DEADLINE)
        self.addCleanup(agent.kill)
        return agent, int(agent.stdout.readline())

    def begin(self, port: int, seconds: float) -> Any:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=support.DEADLINE)
        self.addCleanup(connection.close)
        connection.request("POST", "/run", json.dumps(document(seconds)))
        answer = connection.getresponse()
        answer.readline()  # the first event: the task is in the handler's hands
        return answer

    def test_sigterm_finishes_what_is_in_flight(self) -> None:
        agent, port = self.start()
        answer = self.begin(port, 0.3)
        agent.send_signal(signal.SIGTERM)
        self.assertIn(b'"result","data":"out"', answer.read())
        self.assertEqual(agent.wait(support.DEADLINE), 0)

    def test_a_second_signal_cancels_it(self) -> None:
        agent, port = self.start()
        answer = self.begin(port, 3600)
        agent.send_signal(signal.SIGTERM)
        wait_until_closed(port)
        agent.send_signal(signal.SIGTERM)
        self.assertIn(b'"code":"cancelled"', answer.read())
        self.assertEqual(agent.wait(support.DEADLINE), 0)

    def test_an_idle_connection_does_not_hold_it_up(self) -> None:
        import socket

        agent, port = self.start()
        with socket.create_connection(("127.0.0.1", port)):
            agent.send_signal(signal.SIGTERM)
            self.assertEqual(agent.wait(support.DEADLINE), 0)

    def test_without_a_port_it_says_so(self) -> None:
        env = {**os.environ, "PYTHONPATH": support.SOURCE, "PORT": ""}
        code = "import longshore; longshore.serve(print)"
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=support.DEADLINE)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"PORT is not set", done.stderr)


class Meeting:
    """Lets nobody through until everybody has come."""

    def __init__(self, parties: int) -> None:
        self.missing = parties
        self.all_in = asyncio.Event()

    async def wait(self) -> None:
        self.missing -= 1
        if self.missing == 0:
            self.all_in.set()
        await asyncio.wait_for(self.all_in.wait(), support.DEADLINE)


async def _kwargs() -> Any:
    return longshore.openai_kwargs()


def _name_of_error(call: Any) -> str:
    try:
        call()
    except Exception as caught:
        return type(caught).__name__
    return "no error"


def wait_until_closed(port: int) -> None:
    import socket

    deadline = time.monotonic() + support.DEADLINE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.01)
    raise AssertionError("the agent still listens")


if __name__ == "__main__":
    unittest.main()
