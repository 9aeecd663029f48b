"""An agent whose requests come out differently each time, in a way that its input names. Standard library only.

"clock": the time and a random number stand in its prompt, and its tool says something else each time. "tool": only the
latter. "steps": all of it, but each is a step. The tool waits as long as the file $TOOL_GATE is there, from its third call on.
"""

import json
import os
import pathlib
import random
import time
import urllib.request

import longshore

TOOL = {"type": "function", "function": {"name": "measure", "parameters": {
    "type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}}}


def main():
    how = longshore.task().input["how"]
    prompt = "You measure things."
    if how != "tool":
        prompt += f" It is {drawn(how, 'the time', clock)}, and your number is {drawn(how, 'a number', random.random)}."
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": f"Measure, by {how}. tools=3"}]
    measured = []
    while True:
        said = ask(messages)
        messages.append(said)
        if not said.get("tool_calls"):
            return longshore.result({"answer": said["content"], "measured": measured})
        for call in said["tool_calls"]:
            measured.append(drawn(how, f"measurement {len(measured) + 1}", random.random))
            if len(measured) >= 3:
                wait()
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": str(measured[-1])})


def drawn(how, name, chance):
    return longshore.step(name, chance) if how == "steps" else chance()


def clock():
    return time.strftime("%H:%M:%S") + f"{time.time() % 1:.6f}"[1:]


def wait():
    gate = pathlib.Path(os.environ["TOOL_GATE"])
    while gate.exists():
        time.sleep(0.02)


def ask(messages):
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "gpt-5-mini", "messages": messages, "tools": [TOOL]}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]


main()
