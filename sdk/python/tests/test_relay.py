"""Steps and the conversation, against a small relay that remembers as longshore does."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import threading
import unittest
from typing import Any, Dict, Iterator, List, Optional, Tuple
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit

import support
from support import longshore

STEPS = "/agent/v1/steps/"
CHILDREN = "/agent/v1/children"
QUESTIONS = "/agent/v1/questions/"
CACHE = "/agent/v1/cache/"


class FakeRelay:
    """Remembers steps by name, and pages a conversation of two messages a page."""

    def __init__(self) -> None:
        self.done: Dict[str, Any] = {}
        self.begun: Dict[str, int] = {}
        self.asked: List[Tuple[str, str, Optional[str]]] = []
        self.messages: List[Any] = []
        self.refusal: Optional[Tuple[int, bytes]] = None
        self.children: Dict[str, Dict[str, Any]] = {}
        self.questions: Dict[str, Dict[str, Any]] = {}
        self.cached: Dict[str, Tuple[str, bytes]] = {}
        self.kind = "application/json"

    def answer(self, method: str, target: str, token: Optional[str], body: bytes) -> Tuple[int, bytes]:
        self.asked.append((method, target, token))
        if self.refusal is not None:
            return self.refusal
        path, _, query = target.partition("?")
        if path.startswith(CHILDREN):
            return self.child(method, unquote(path[len(CHILDREN) + 1 :]), body)
        if path.startswith(QUESTIONS):
            name = unquote(path[len(QUESTIONS) :])
            asked = {"name": name, "state": "open", **json.loads(body)}
            return 200, json.dumps(self.questions.setdefault(name, asked)).encode()
        if path.startswith(CACHE):
            return self.cache(method, unquote(path[len(CACHE) :]) + (f" for {query}" if query else ""), body)
        if target.startswith(STEPS):
            return 200, json.dumps(self.step(method, unquote(target[len(STEPS) :]), body)).encode()
        return 200, json.dumps(self.page(target)).encode()

    def child(self, method: str, name: str, body: bytes) -> Tuple[int, bytes]:
        if not name:
            return 200, json.dumps([{**child, "result": None} for child in self.children.values()]).encode()
        if method == "GET" and name not in self.children:
            return 404, b'{"code": "unknown_child", "detail": "this task has no such child"}'
        if method == "PUT" and name not in self.children:
            given = json.loads(body)
            new = {"name": name, "id": f"id of {name}", "state": "queued", "ended": False, **given}
            self.children[name] = {"fleet": "tests", **new}
        return 200, json.dumps(self.children[name]).encode()

    def end(self, name: str, result: Any, state: str = "succeeded") -> None:
        self.children[name].update(state=state, ended=True, result=result)

    def cache(self, method: str, key: str, body: bytes) -> Tuple[int, bytes]:
        if method == "PUT":
            self.cached[key] = (self.kind, body)
            return 204, b""
        if key not in self.cached:
            return 404, b'{"code": "not_cached", "detail": "nothing is kept"}'
        if method == "DELETE":
            del self.cached[key]
            return 204, b""
        self.kind, value = self.cached[key]
        return 200, value

    def step(self, method: str, name: str, body: bytes) -> Any:
        if method == "PUT":
            self.done[name] = json.loads(body)["result"]
        if name in self.done:
            return {"state": "done", "result": self.done[name]}
        self.begun[name] = self.begun.get(name, 0) + 1
        return {"state": "run", "begun": self.begun[name]}

    def page(self, target: str) -> Any:
        after = int(parse_qs(urlsplit(target).query)["after"][0])
        items = [{"seq": seq, "data": data} for seq, data in enumerate(self.messages, 1) if seq > after]
        return {"items": items[:2], **({"next_after": items[1]["seq"]} if len(items) > 2 else {})}


@contextlib.contextmanager
def serving(relay: FakeRelay) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            relay.kind = self.headers["Content-Type"] or relay.kind
            status, answer = relay.answer(self.command, self.path, self.headers["Authorization"], body)
            self.send_response(status)
            self.send_header("Content-Type", relay.kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class RelayTest(unittest.TestCase):
    def setUp(self) -> None:
        self.relay = FakeRelay()
        self.ran: List[Any] = []
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        url = stack.enter_context(serving(self.relay))
        # A proxy must not hear of it: the request carries the task's token.
        wrong = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
        env = {"LONGSHORE_URL": url, "LONGSHORE_TASK_TOKEN": "token-1", **wrong}
        stack.enter_context(mock.patch.dict(os.environ, env))
        # As in an exec agent, though other tests served in this very process.
        stack.enter_context(mock.patch("longshore.context._serving", False))

    def work(self, value: Any) -> Any:
        self.ran.append(value)
        return value

    async def awork(self, value: Any) -> Any:
        await asyncio.sleep(0)
        return self.work(value)


class Steps(RelayTest):
    def test_a_step_runs_once(self) -> None:
        for _ in range(3):
            self.assertEqual(longshore.step("fetch", self.work, {"n": 1}), {"n": 1})
        self.assertEqual(self.ran, [{"n": 1}])
        self.assertEqual({token for _, _, token in self.relay.asked}, {"Bearer token-1"})

    def test_the_first_run_sees_what_a_replay_sees(self) -> None:
        first = longshore.step("pair", self.work, (1, {2: None}))
        self.assertEqual((first, longshore.step("pair", self.work, 0)), ([1, {"2": None}], [1, {"2": None}]))

    def test_nothing_is_a_result_too(self) -> None:
        self.assertIsNone(longshore.step("none", self.work, None))
        self.assertIsNone(longshore.step("none", self.work, None))
        self.assertEqual(self.ran, [None])

    def test_any_name_arrives_as_it_is(self) -> None:
        for name in ("a b", "a/b?c#d", "wetter in Tromsø", "100%", "{x}"):
            longshore.step(name, self.work, name)
        self.assertEqual(self.relay.done, {name: name for name in self.ran})
        self.assertEqual(len(self.ran), 5)

    def test_arguments_go_to_the_function_whatever_their_names(self) -> None:
        found = longshore.step("all", lambda *args, **kwargs: [args, kwargs], 1, name="n", function="f")
        self.assertEqual(found, [[1], {"name": "n", "function": "f"}])

    def test_an_error_is_not_remembered(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            longshore.step("divide", lambda: 1 // 0)
        self.assertEqual(longshore.step("divide", lambda: 1 // 1), 1)
        self.assertEqual(self.relay.begun, {"divide": 2})

    def test_what_json_cannot_say_is_named_and_not_remembered(self) -> None:
        for value in ({1, 2}, float("nan")):
            with self.assertRaisesRegex(TypeError, "step 'odd' returned what JSON cannot say"):
                longshore.step("odd", lambda: value)
        self.assertEqual(self.relay.done, {})

    def test_a_name_is_a_text(self) -> None:
        for name in ("", None, 3):
            with self.assertRaisesRegex(TypeError, "a step's name is a text"):
                longshore.step(name, self.work, 1)

    def test_an_asynchronous_function_wants_astep(self) -> None:
        with self.assertRaisesRegex(TypeError, "longshore.astep"):
            longshore.step("async", self.awork, 1)
        self.assertEqual(self.relay.done, {})

    def test_asynchronous_steps_run_once_whatever_the_function_is(self) -> None:
        async def main() -> List[Any]:
            both = [longshore.astep("a", self.awork, 1), longshore.astep("b", self.work, 2)]
            return [*await asyncio.gather(*both), await longshore.astep("a", self.awork, 3)]

        self.assertEqual(asyncio.run(main()), [1, 2, 1])
        self.assertEqual(sorted(self.ran), [1, 2])

    def test_a_decorated_function_is_one_step_for_each_name(self) -> None:
        @longshore.stepped("weather in {city}, {unit}")
        def weather(city: str, unit: str = "C") -> str:
            """Says."""
            return str(self.work(f"{city} {unit}"))

        @longshore.stepped("later")
        async def later() -> Any:
            return await self.awork(7)

        self.assertEqual([weather("Oslo"), weather(city="Oslo"), weather("Bergen", "F")], ["Oslo C"] * 2 + ["Bergen F"])
        self.assertEqual((asyncio.run(later()), asyncio.run(later())), (7, 7))
        self.assertEqual(list(self.relay.done), ["weather in Oslo, C", "weather in Bergen, F", "later"])
        self.assertEqual((weather.__name__, weather.__doc__), ("weather", "Says."))


class Refusals(RelayTest):
    def test_a_problem_is_raised_with_its_code(self) -> None:
        detail = "this attempt has ended: its token is not good any more"
        self.relay.refusal = 401, json.dumps({"code": "task_token_revoked", "detail": detail}).encode()
        with self.assertRaisesRegex(longshore.Refused, "this attempt has ended.*task_token_revoked") as caught:
            longshore.step("late", self.work, 1)
        self.assertEqual((caught.exception.status, caught.exception.code), (401, "task_token_revoked"))
        self.assertEqual(self.ran, [])

    def test_an_answer_that_is_no_problem_is_named_by_its_status(self) -> None:
        self.relay.refusal = 502, b"<html>"
        with self.assertRaisesRegex(longshore.Refused, "was answered 502") as caught:
            longshore.conversation()
        self.assertIsNone(caught.exception.code)

    def test_whoever_answers_without_json_is_not_longshore(self) -> None:
        self.relay.refusal = 200, b"hello"
        with self.assertRaisesRegex(longshore.Unreachable, "is not longshore"):
            longshore.step("x", self.work, 1)

    def test_no_relay_is_named_with_its_address(self) -> None:
        with mock.patch.dict(os.environ, {"LONGSHORE_URL": "http://127.0.0.1:1"}):
            with self.assertRaisesRegex(longshore.Unreachable, "no answer from the relay at http://127.0.0.1:1"):
                longshore.step("x", self.work, 1)

    def test_without_longshore_nothing_runs(self) -> None:
        for name, said in (("LONGSHORE_URL", "LONGSHORE_URL is not set"), ("LONGSHORE_TASK_TOKEN", "the task's token")):
            with mock.patch.dict(os.environ):
                del os.environ[name]
                with self.assertRaisesRegex(longshore.NoTask, said):
                    longshore.step("x", self.work, 1)
        self.assertEqual((self.ran, self.relay.asked), ([], []))


class History(RelayTest):
    def test_all_pages_are_read(self) -> None:
        self.relay.messages = ["a", {"b": 1}, None, "d", "e"]
        found = longshore.conversation()
        self.assertEqual([(message.seq, message.data) for message in found], list(enumerate(self.relay.messages, 1)))
        self.assertEqual(len(self.relay.asked), 3)

    def test_reading_begins_after_what_is_known(self) -> None:
        self.relay.messages = ["a", "b", "c"]
        self.assertEqual([message.data for message in longshore.conversation(after=2)], ["c"])
        self.assertEqual(longshore.conversation(after=3), [])


class Served(support.ServerTest):
    async def test_a_handlers_steps_carry_its_own_tasks_token(self) -> None:
        relay = FakeRelay()

        def handler(task: Any) -> Any:
            return longshore.step(f"of {task.id}", lambda: task.id)

        with serving(relay) as url:
            await self.serve(handler)
            bodies = [
                support.document(id=f"t-{n}", token=f"token-{n}", env={"LONGSHORE_URL": url}) for n in range(3)
            ]
            answers = await asyncio.gather(*(self.run_task(body) for body in bodies))
        self.assertEqual([answer.json() for answer in answers], ["t-0", "t-1", "t-2"])
        tokens = {(unquote(target).rsplit(" ", 1)[1], token) for _, target, token in relay.asked}
        self.assertEqual(tokens, {(f"t-{n}", f"Bearer token-{n}") for n in range(3)})


if __name__ == "__main__":
    unittest.main()
