"""An agent that does what its input says, one operation after the other; standard library only.

The result is the list of what the operations gave. `wait` and `once` use files, so that a test decides when things happen.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import sys
import time
import urllib.parse

BASE = urllib.parse.urlsplit(os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:1/v1"))
RELAY = urllib.parse.urlsplit(os.environ["LONGSHORE_URL"])
TOKEN = os.environ["LONGSHORE_TASK_TOKEN"]


def main():
    task = json.load(sys.stdin)["task"]
    out = []
    for operation in task["input"]:
        out.append(globals()["do_" + operation["do"]](operation, out))
        say(longshore="progress", data={"done": len(out)})
    say(longshore="result", data=out)


def do_chat(it, out):
    return chat(it["text"], it.get("stream", False), it.get("retry"), it.get("tells", False))


def do_parallel(it, out):
    with concurrent.futures.ThreadPoolExecutor(it["times"]) as pool:
        return [future.result() for future in [pool.submit(chat, it["text"], False, None) for _ in range(it["times"])]]


def do_chain(it, out):
    """Calls whose requests hold all answers so far."""
    messages = [{"role": "user", "content": it["text"]}]
    for n in range(it["times"]):
        answer = ask({"model": "m", "messages": messages})
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"go on {n}"}]
    return len(messages)


def do_abandon(it, out):
    """Asks and goes away before the answer."""
    connection = open_request({"model": "m", "messages": [{"role": "user", "content": it["text"]}]}, None)
    say(longshore="progress", data={"abandons": it["text"]})
    wait_for(it["until"])
    connection.close()
    return "abandoned"


def do_wait(it, out):
    say(longshore="progress", data={"waits": it["until"]})
    wait_for(it["until"])
    return "waited"


def do_fail_once(it, out):
    mark = pathlib.Path(it["mark"])
    if mark.exists():
        return "went on"
    mark.write_text("failed once")
    sys.exit("was asked to fail once")


def do_clock(it, out):
    return chat(f"it is {time.time_ns()}: {it['text']}", False, None)


def do_step(it, out):
    path = "/agent/v1/steps/" + urllib.parse.quote(it["name"], safe="")
    begun = api("POST", path, None)
    if begun["state"] == "done":
        return begun["result"]
    with open(it["log"], "a") as log:
        log.write(f"{it['name']} ran, begun {begun['begun']}\n")
    if "until" in it:
        say(longshore="progress", data={"in_step": it["name"]})
        wait_for(it["until"])
    return api("PUT", path, {"result": {"by": os.environ["LONGSHORE_ATTEMPT"]}})["result"]


def do_person(it, out):
    asked = api("POST", "/agent/v1/questions/" + it["name"], {"question": it["name"]})
    if asked["state"] == "answered":
        return asked["answer"]
    say(longshore="wait", data={"question": it["name"]})
    sys.exit()


def do_conversation(it, out):
    return [message["data"] for message in api("GET", "/agent/v1/conversation", None)["items"]]


def chat(text, stream, retry, tells=False):
    return ask({"model": "m", "messages": [{"role": "user", "content": text}], **({"stream": True} if stream else {})}, retry, tells)


def ask(body, retry=None, tells=False):
    connection = open_request(body, retry)
    answer = connection.getresponse()
    begun = answer.readline() if tells else b""
    if tells:
        say(longshore="progress", data={"reads": len(begun)})
    text = (begun + answer.read()).decode()
    if answer.status != 200:
        sys.exit(f"status {answer.status}: {text[:300]}")
    if not body.get("stream"):
        return json.loads(text)["choices"][0]["message"]["content"]
    parts = []
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                parts.append(choice["delta"].get("content") or "")
    return "".join(parts)


def open_request(body, retry):
    connection = http.client.HTTPConnection(BASE.hostname, BASE.port, timeout=120)
    headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
    if retry:
        headers["x-stainless-retry-count"] = str(retry)
    connection.request("POST", BASE.path + "/chat/completions", json.dumps(body), headers)
    return connection


def api(method, path, body):
    connection = http.client.HTTPConnection(RELAY.hostname, RELAY.port, timeout=120)
    headers = {"authorization": "Bearer " + TOKEN, "content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        sys.exit(f"{method} {path}: status {answer.status}: {text[:300]}")
    return json.loads(text)


def wait_for(file):
    while not os.path.exists(file):
        time.sleep(0.01)


def say(**line):
    print(json.dumps(line), flush=True)


main()
