#!/usr/bin/env python3
"""Stands before a model's server that does not count its requests, and counts them. Standard library only.

    counting_proxy.py http://127.0.0.1:PORT

Prints one line of JSON once it listens: {"base_url": "http://127.0.0.1:N/v1", "count": "http://127.0.0.1:N/count"}.
`GET /count` says {"received": N, "under_way": N}: POSTs that arrived in full, and those of them without an answer yet.
Everything else is passed on and back as it is. Answers are passed on whole, streams too.
"""

import http.client
import http.server
import json
import os
import sys
import threading
import urllib.parse

ORPHAN_CHECK_S = 1.0
# Of the connection, not of the message.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Count:
    def __init__(self):
        self._lock = threading.Lock()
        self._received = self._under_way = 0

    def __enter__(self):
        with self._lock:
            self._received += 1
            self._under_way += 1

    def __exit__(self, *_):
        with self._lock:
            self._under_way -= 1

    def shown(self):
        with self._lock:
            return {"received": self._received, "under_way": self._under_way}


def main():
    to = urllib.parse.urlsplit(sys.argv[1]).netloc
    parent = os.getppid()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(to, Count()))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at = f"http://127.0.0.1:{server.server_port}"
    print(json.dumps({"base_url": f"{at}/v1", "count": f"{at}/count"}), flush=True)
    waiting = threading.Event()
    while not waiting.wait(ORPHAN_CHECK_S) and os.getppid() == parent:
        pass


def handler(to, count):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/count":
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(count.shown()).encode())
            else:
                self.pass_on(None)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with count:
                status, headers, answer = self.asked(body)
            # Counted as answered before the answer is there: whoever has it finds no call under way.
            self.answer(status, headers, answer)

        def pass_on(self, body):
            self.answer(*self.asked(body))

        def asked(self, body):
            connection = http.client.HTTPConnection(to)
            try:
                connection.request(self.command, self.path, body, kept(self.headers))
                answer = connection.getresponse()
                return answer.status, kept(answer.headers), answer.read()
            except OSError as error:
                return 502, {}, str(error).encode()
            finally:
                connection.close()

        def answer(self, status, headers, body):
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                self.close_connection = True  # whoever asked has gone; the request counts all the same

        def log_message(self, *_):
            pass

    return Handler


def kept(headers):
    return {name: value for name, value in headers.items() if name.lower() not in HOP}


main()
