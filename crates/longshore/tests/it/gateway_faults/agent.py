"""Makes the calls that its task lists, one after the other, and tells what came back. Standard library only."""
import hashlib
import http.client
import json
import os
import sys
import time
from urllib.parse import urlsplit

KEY = os.environ["LONGSHORE_TASK_TOKEN"]


def base(provider):
    name = provider.upper().replace("-", "_") + "_BASE_URL"
    return os.environ.get(name, f"{os.environ['LONGSHORE_URL']}/llm/{provider}/v1")


def read(response, seen):
    """Keeps what came even if the rest does not."""
    data = b""
    digest = hashlib.sha256()
    try:
        while piece := response.read1(1 << 16):
            seen["size"] += len(piece)
            digest.update(piece)
            data += piece
            # Its beginning and its end.
            data = data if len(data) <= 8000 else data[:4000] + data[-4000:]
        promised = response.headers.get("content-length")
        if promised is not None and seen["size"] < int(promised) and response.status != 304:
            seen["outcome"] = "broken"
    except (OSError, http.client.HTTPException, ValueError) as broken:
        seen["outcome"] = "broken"
        seen["why"] = repr(broken)
    seen["text"] = data.decode("utf-8", "replace")
    seen["digest"] = digest.hexdigest()


def ask(it):
    url = urlsplit(base(it["provider"]))
    body = it["body"].encode() if it.get("body") is not None else None
    if it.get("pad"):
        body = body.replace(b"PAD", b"x" * it["pad"])
    headers = {"content-type": "application/json", "authorization": "Bearer " + KEY, "x-api-key": KEY}
    headers.update({name: value.replace("TOKEN", KEY) for name, value in it["headers"].items()})
    seen = {"status": None, "headers": {}, "text": "", "size": 0, "digest": "", "outcome": "whole", "why": ""}
    began = time.monotonic()
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=120)
    try:
        connection.request(it["method"], url.path + it["path"], body, headers)
        response = connection.getresponse()
        seen["status"] = response.status
        seen["headers"] = {name.lower(): value for name, value in response.getheaders()}
        read(response, seen)
    except (OSError, http.client.HTTPException) as broken:
        seen["outcome"] = "broken"
        seen["why"] = repr(broken)
    connection.close()
    seen["ms"] = int((time.monotonic() - began) * 1000)
    return seen


def tell(kind, data):
    print(json.dumps({"longshore": kind, "data": data}), flush=True)


task = json.load(sys.stdin)["task"]["input"]
first = os.environ["LONGSHORE_ATTEMPT"] == "1"
if task.get("tells"):
    tell("progress", {name: os.environ[name] for name in ("LONGSHORE_TASK_TOKEN", "LONGSHORE_URL", "OPENAI_API_KEY")})
seen = [ask(it) for it in task["asks"]]
if task.get("shuns") and "".join(task["shuns"]) in repr(seen) + repr(os.environ):
    sys.exit("it found what it must not find")
tell("progress", seen)
if first and task.get("first") == "fails":
    sys.exit("the first attempt fails")
while first and task.get("first") == "hangs":
    time.sleep(1)
while task.get("waits") and not os.path.exists(task["waits"]):
    time.sleep(0.02)
tell("result", seen)
