"""The exec protocol, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest
from typing import Any, Dict

import support


class Finished:
    def __init__(self, done: "subprocess.CompletedProcess[bytes]") -> None:
        self.status = done.returncode
        self.lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
        self.stderr = done.stderr.decode()


def run(code: str, stdin: Any, env: Dict[str, str] = {}) -> Finished:
    data = stdin if isinstance(stdin, bytes) else json.dumps(stdin).encode()
    full = {**os.environ, "PYTHONPATH": support.SOURCE, **env}
    command = [sys.executable, "-c", "import longshore\n" + code]
    return Finished(subprocess.run(command, input=data, env=full, capture_output=True, timeout=support.DEADLINE))


class Exec(unittest.TestCase):
    def test_a_task_is_read_and_its_result_written(self) -> None:
        done = run("longshore.result(longshore.task().input['n'] + 1)", support.document({"n": 1}))
        self.assertEqual((done.status, done.lines), (0, [{"longshore": "result", "data": 2}]))

    def test_the_task_can_be_asked_for_twice(self) -> None:
        done = run("longshore.task(); longshore.result(longshore.task().id)", support.document())
        self.assertEqual(done.lines[-1]["data"], "t-1")

    def test_a_conversation_is_parsed(self) -> None:
        body = support.document()
        body["task"]["conversation"] = {"id": "c", "messages": [{"seq": 1, "data": {"hi": 1}}], "truncated": True}
        code = "c = longshore.task().conversation; m = c.messages[0]; longshore.result([c.id, m.seq, m.data, c.truncated])"
        self.assertEqual(run(code, body).lines[-1]["data"], ["c", 1, {"hi": 1}, True])

    def test_progress_and_messages_are_events(self) -> None:
        done = run("longshore.progress({'step': 1}); longshore.message('ö\\n')", support.document())
        self.assertEqual(
            done.lines, [{"longshore": "progress", "data": {"step": 1}}, {"longshore": "message", "data": "ö\n"}]
        )

    def test_an_error_ends_the_process(self) -> None:
        done = run("longshore.error('no such city', 'unknown_city', retry=False); print('never')", support.document())
        event = {"longshore": "error", "message": "no such city", "code": "unknown_city", "retry": False}
        self.assertEqual((done.status, done.lines), (1, [event]))

    def test_an_error_may_ask_for_time(self) -> None:
        done = run("longshore.error('busy', retry_after='30s')", support.document())
        self.assertEqual(done.lines, [{"longshore": "error", "message": "busy", "retry_after": "30s"}])
        self.assertEqual(done.status, 1)

    def test_a_log_line_is_never_an_event(self) -> None:
        done = run("longshore.task(); longshore.log('hi', longshore='result', data={1})", support.document())
        self.assertNotIn("longshore", done.lines[0])
        self.assertEqual((done.lines[0]["task"], done.lines[0]["data"]), ("t-1", "{1}"))

    def test_what_json_cannot_say_is_refused(self) -> None:
        done = run("longshore.result(float('nan'))", support.document())
        self.assertEqual((done.status, done.lines), (1, []))

    def test_half_a_character_is_replaced(self) -> None:
        self.assertEqual(run("longshore.result('a\\ud800')", support.document()).lines[0]["data"], "a?")

    def test_bad_documents_are_named(self) -> None:
        wrong = support.document()
        wrong["task"]["attempt"] = "1"
        cases = {
            b"": "standard input is not JSON",
            b"\xff": "standard input is not JSON",
            b"[]": "the task document should be an object, not list",
            b"{}": "version None",
            b'{"longshore":1}': "`task` should be an object, not NoneType",
            json.dumps(wrong).encode(): "`task.attempt` should be a whole number, not str",
        }
        for given, reason in cases.items():
            with self.subTest(given):
                done = run("longshore.task()", given)
                self.assertEqual(done.status, 1)
                self.assertIn(reason, done.stderr.splitlines()[-1])

    def test_the_token_is_not_printed_with_the_task(self) -> None:
        done = run("longshore.result(repr(longshore.task()))", support.document(), {"LONGSHORE_TASK_TOKEN": "s3cret"})
        self.assertNotIn("s3cret", done.lines[0]["data"])


class Providers(unittest.TestCase):
    ASK = "longshore.task(); longshore.result(longshore.openai_kwargs())"

    def ask(self, **env: str) -> Any:
        clean = {"OPENAI_BASE_URL": "", "OPENAI_API_KEY": "", "LONGSHORE_URL": "", "LONGSHORE_TASK_TOKEN": "token"}
        return run(self.ASK, support.document(), {**clean, **env}).lines[-1]["data"]

    def test_calls_through_longshore_carry_the_token(self) -> None:
        url = "http://127.0.0.1:9/llm/openai/v1"
        given = self.ask(LONGSHORE_URL="http://127.0.0.1:9", OPENAI_BASE_URL=url)
        self.assertEqual(given, {"base_url": url, "api_key": "token"})

    def test_the_token_goes_to_longshore_alone(self) -> None:
        given = self.ask(OPENAI_BASE_URL="https://llm.example/v1", OPENAI_API_KEY="own")
        self.assertEqual(given, {"base_url": "https://llm.example/v1", "api_key": "own"})
        given = self.ask(LONGSHORE_URL="http://127.0.0.1:9", OPENAI_BASE_URL="http://127.0.0.1:99/v1")
        self.assertEqual(given, {"base_url": "http://127.0.0.1:99/v1"})

    def test_nothing_known_is_nothing_given(self) -> None:
        self.assertEqual(self.ask(), {})


if __name__ == "__main__":
    unittest.main()
