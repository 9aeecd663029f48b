"""The demo's agent: a tool loop, as agents of every framework make one, without any package.

It asks an LLM, runs the tool that the LLM names, tells it the tool's result, and asks again until the answer is text. It
knows nothing of longshore but its protocol: the LLM is wherever OPENAI_BASE_URL says, as for any SDK. RELEASE is what it
was deployed as; its result tells it. Input:

    {"tokens": 180}

`tokens` is how many tokens the LLM should write in all; from it follows the number of calls. Every second answer is streamed.
The result has a digest of all answers: an attempt that was given some of them again must come to the same one.
"""

import hashlib
import http.client
import json
import os
import sys
from urllib.parse import urlsplit

TOKENS_PER_CALL = 50
FEWEST_CALLS = 2  # one for a tool, one for the text
MOST_CALLS = 8
FEWEST_TOKENS = 10

INSTRUCTIONS = "You plan where ships lie in a harbour. Look up tides and berths before you answer."


def tool(name, description, argument, least, most):
    schema = {"type": "integer", "minimum": least, "maximum": most}
    parameters = {"type": "object", "properties": {argument: schema}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool("tide", "The height of the tide in decimetres", "hour", 0, 23),
    tool("berth", "Whether a berth is free", "at", 1, 40),
]


def main():
    task = json.load(sys.stdin)["task"]
    tokens = task["input"]["tokens"]
    if type(tokens) is not int or tokens < FEWEST_TOKENS:
        give_up("`tokens` should be a whole number, %d or more" % FEWEST_TOKENS, "bad_input", retry=False)
    calls = min(MOST_CALLS, max(FEWEST_CALLS, tokens // TOKENS_PER_CALL))
    # `tools=N` is understood by the simulated provider: it calls so many tools before it answers.
    ask = "Where should ship %s lie? tools=%d" % (task["id"], calls - 1)
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": ask}]
    llm, digest, used, step = Llm(), hashlib.sha256(), 0, 0
    while True:
        share = tokens // calls + (step < tokens % calls)
        answer, usage = llm.complete(messages, share, stream=step % 2 == 1)
        step, used = step + 1, used + usage["completion_tokens"]
        digest.update(json.dumps(answer, sort_keys=True).encode())
        event("progress", data={"step": step, "of": calls})
        if not answer.get("tool_calls"):
            break
        messages.append(answer)
        messages.extend(run(call) for call in answer["tool_calls"])
    result = {"task": task["id"], "attempt": task["attempt"], "steps": step, "tokens": used}
    result["release"] = int(os.environ["RELEASE"])
    event("result", data=dict(result, digest=digest.hexdigest()[:16]))


def run(call):
    given = json.loads(call["function"]["arguments"])
    if call["function"]["name"] == "tide":
        content = str(given["hour"] * 7 % 50)
    else:
        content = "taken" if given["at"] % 3 else "free"
    return {"role": "tool", "tool_call_id": call["id"], "content": content}


class Llm:
    """One connection to whatever OPENAI_BASE_URL names."""

    def __init__(self):
        base = urlsplit(os.environ["OPENAI_BASE_URL"])
        self.connection = http.client.HTTPConnection(base.hostname, base.port, timeout=600)
        self.path = base.path.rstrip("/") + "/chat/completions"
        key = os.environ["OPENAI_API_KEY"]
        self.headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}

    def complete(self, messages, tokens, stream):
        """The answer as a message for the history, and its usage."""
        body = {"model": os.environ["MODEL"], "messages": messages, "tools": TOOLS, "max_completion_tokens": tokens}
        if stream:
            body.update(stream=True, stream_options={"include_usage": True})
        self.connection.request("POST", self.path, json.dumps(body).encode(), self.headers)
        response = self.connection.getresponse()
        if response.status != 200:
            give_up("the LLM answered %d: %s" % (response.status, response.read(500)), "llm_refused")
        if stream:
            return streamed(response)
        answer = json.load(response)
        message = answer["choices"][0]["message"]
        return kept(message["content"], message.get("tool_calls")), answer["usage"]


def streamed(response):
    content, calls, usage = "", [], None
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[len(b"data: "):])
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            content += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or []:
                if part["index"] == len(calls):
                    calls.append({"id": part["id"], "type": "function", "function": {"name": "", "arguments": ""}})
                for key, text in part["function"].items():
                    calls[part["index"]]["function"][key] += text
    return kept(content, calls), usage


def kept(content, calls):
    message = {"role": "assistant", "content": content or None}
    return dict(message, tool_calls=calls) if calls else message


def give_up(message, code, retry=True):
    event("error", message=message, code=code, retry=retry)
    sys.exit(1)


def event(kind, **fields):
    # Flushed, or progress would arrive with the result.
    print(json.dumps({"longshore": kind, **fields}), flush=True)


main()
