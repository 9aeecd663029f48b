"""Children, questions and the cache, against the same small relay."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import unittest
from typing import Any, Callable, Dict, Optional
from unittest import mock

import support
from support import longshore
from test_relay import FakeRelay, RelayTest, serving


class WaitsTest(RelayTest):
    def attempt(self, agent: Callable[[], Any]) -> Any:
        """Runs an attempt of an exec agent; what it waits for, if it does, as `{"waits": …}`."""
        said = io.StringIO()
        with mock.patch("longshore.context._counts", {}), contextlib.redirect_stdout(said):
            try:
                return agent()
            except SystemExit as end:
                self.assertEqual(end.code, 0)
        event = json.loads(said.getvalue())
        self.assertEqual(event["longshore"], "wait")
        return {"waits": event["data"]}


class Children(WaitsTest):
    def test_children_are_submitted_once_and_waited_for(self) -> None:
        def agent() -> Any:
            longshore.submit({"n": 1})
            longshore.submit({"n": 2}, fleet="other", detach=True)
            return [(child.name, child.result, child.succeeded) for child in longshore.wait_all()]

        self.assertEqual(self.attempt(agent), {"waits": {"children": "all"}})
        self.assertEqual(list(self.relay.children), ["child-1", "child-2"])
        self.assertEqual(self.relay.children["child-2"]["fleet"], "other")
        self.assertIs(self.relay.children["child-2"]["detach"], True)
        self.relay.end("child-1", "one")
        self.assertEqual(self.attempt(agent), {"waits": {"children": "all"}})
        self.relay.end("child-2", None, "failed")
        self.assertEqual(self.attempt(agent), [("child-1", "one", True), ("child-2", None, False)])
        self.assertEqual(len(self.relay.children), 2)

    def test_any_means_one_of_those_that_are_left(self) -> None:
        def agent() -> Any:
            left = [longshore.submit(name=name) for name in ("a b", "c", "d")]
            seen = []
            while left:
                done = longshore.wait_any(left)
                seen.append(sorted(child.name for child in done))
                left = [child for child in left if child.name not in seen[-1]]
            return seen

        self.assertEqual(self.attempt(agent), {"waits": {"children": "any", "of": ["a b", "c", "d"]}})
        self.relay.end("c", 1)
        self.assertEqual(self.attempt(agent), {"waits": {"children": "any", "of": ["a b", "d"]}})
        self.relay.end("a b", 1)
        self.relay.end("d", 1)
        self.assertEqual(self.attempt(agent), [["a b", "c", "d"]])

    def test_a_time_out_runs_from_the_first_attempt(self) -> None:
        def agent() -> Any:
            longshore.submit(name="a")
            return [child.ended for child in longshore.wait_all(["a"], timeout="10m")]

        with mock.patch("time.time", return_value=1000.0):
            waits = {"children": "all", "of": ["a"], "timeout": "600000ms"}
            self.assertEqual(self.attempt(agent), {"waits": waits})
        with mock.patch("time.time", return_value=1599.9):
            self.assertEqual(self.attempt(agent)["waits"]["timeout"], "1000ms")
        with mock.patch("time.time", return_value=1600.0):
            self.assertEqual(self.attempt(agent), [False])
        with self.assertRaisesRegex(ValueError, "such as 90s"):
            longshore.wait_all(["a"], timeout="soon")

    def test_nobody_waits_for_what_is_not_there(self) -> None:
        self.assertEqual(self.attempt(longshore.wait_all), [])
        self.assertEqual(self.attempt(longshore.wait_any), [])
        with self.assertRaises(longshore.Refused) as caught:
            longshore.wait_all(["none"])
        self.assertEqual(caught.exception.code, "unknown_child")
        with self.assertRaisesRegex(TypeError, "a child's name is a text"):
            longshore.submit(1, name="")


class Questions(WaitsTest):
    def ask(self, **options: Any) -> Any:
        return self.attempt(lambda: longshore.ask("really?", **options))

    def test_the_answer_comes_back_in_the_next_attempt(self) -> None:
        def agent() -> Any:
            return [longshore.ask("one?"), longshore.ask({"two": 2}, expires_in="24h", schema={"type": "string"})]

        self.assertEqual(self.attempt(agent), {"waits": {"question": "ask-1"}})
        self.relay.questions["ask-1"].update(state="answered", answer=None)
        self.assertEqual(self.attempt(agent), {"waits": {"question": "ask-2"}})
        asked = {"question": {"two": 2}, "expires_in": "24h", "schema": {"type": "string"}, "on_expiry": "fail"}
        self.assertEqual({**self.relay.questions["ask-2"], **asked}, self.relay.questions["ask-2"])
        self.relay.questions["ask-2"].update(state="answered", answer="b")
        self.assertEqual(self.attempt(agent), [None, "b"])

    def test_an_expired_question_fails_or_has_a_default(self) -> None:
        self.ask(name="q", on_expiry="resume")
        self.relay.questions["q"]["state"] = "expired"
        self.assertEqual(self.ask(name="q", on_expiry="resume", default=7), 7)
        self.relay.questions["q"]["on_expiry"] = "fail"
        self.assertEqual(self.ask(name="q"), {"waits": {"question": "q"}}, "longshore fails the task")


class Cache(RelayTest):
    def test_bytes_and_json_come_back_as_what_they_were(self) -> None:
        for value in ({"a": [1, None]}, None, "text", b"\x00\xff"):
            longshore.cache.put("a/b c", value)
            self.assertEqual(longshore.cache.get("a/b c", "default"), value)
        self.assertIs(longshore.cache.delete("a/b c"), True)
        self.assertIs(longshore.cache.delete("a/b c"), False)
        self.assertEqual(longshore.cache.get("a/b c", "default"), "default")

    def test_the_time_to_live_is_told(self) -> None:
        longshore.cache.put("k", 1, ttl="15m")
        self.assertEqual(list(self.relay.cached), ["k for ttl=15m"])

    def test_a_refusal_is_raised(self) -> None:
        self.relay.refusal = 413, b'{"code": "value_too_large", "detail": "no"}'
        for act in (lambda: longshore.cache.put("k", 1), lambda: longshore.cache.get("k"), lambda: longshore.cache.delete("k")):
            with self.assertRaises(longshore.Refused) as caught:
                act()
            self.assertEqual(caught.exception.code, "value_too_large")
        with self.assertRaisesRegex(TypeError, "a key is a text"):
            longshore.cache.get("")


class Served(support.ServerTest):
    async def run_one(self, handler: Any, relay: Optional[FakeRelay] = None) -> support.Answer:
        with serving(relay or FakeRelay()) as url:
            await self.serve(handler)
            env: Dict[str, str] = {"LONGSHORE_URL": url}
            return await self.run_task(support.document(token="token", env=env))

    async def test_a_handler_that_waits_is_answered_with_the_event(self) -> None:
        def handler(task: Any) -> Any:
            try:
                longshore.submit(1)
                longshore.wait_all()
            except Exception as cause:
                return f"caught {cause}"

        answer = await self.run_one(handler)
        self.assertEqual((answer.status, answer.json()), (202, {"longshore": "wait", "data": {"children": "all"}}))

    async def test_so_is_a_coroutine_after_it_said_something(self) -> None:
        async def handler(task: Any) -> Any:
            longshore.progress(1)
            return await asyncio.to_thread(longshore.ask, "really?")

        answer = await self.run_one(handler)
        self.assertEqual(answer.events()[-1], {"longshore": "wait", "data": {"question": "ask-1"}})


if __name__ == "__main__":
    unittest.main()
