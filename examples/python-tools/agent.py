"""An agent with two tools, over chat completions: the loop that frameworks have inside, with nothing but Python.

It calls whatever OPENAI_BASE_URL leads to. Killed in the middle, its next attempt is given every answer that was there; the
tools run again, but for the one that must not: booking is a step. Input: a question. Result: the answer, and the bookings.
"""

import json
import os
import urllib.request
import uuid

import longshore

ROUNDS = 10
INSTRUCTIONS = "You plan evenings. Ask for the weather, book a table, then answer in one sentence."


def weather(city):
    # A real tool would ask somebody. One whose answer changes from hour to hour would be a step as well.
    return {"city": city, "sky": ["clear", "cloudy", "rain"][len(city) % 3]}


def book(city, guests):
    receipt = longshore.step(f"book {city} {guests}", lambda: {"city": city, "guests": guests, "receipt": uuid.uuid4().hex})
    longshore.progress({"booked": receipt})
    return receipt


TOOLS = {"weather": (weather, {"city": "string"}), "book": (book, {"city": "string", "guests": "integer"})}


def main():
    task = longshore.task()
    messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": str(task.input)}]
    booked = []
    for _ in range(ROUNDS):
        said = ask(messages)
        messages.append(said)
        if not said.get("tool_calls"):
            return longshore.result({"answer": said["content"], "booked": booked})
        for call in said["tool_calls"]:
            result = run(call["function"])
            booked += [result] if "receipt" in result else []
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": json.dumps(result)})
    longshore.error(f"no answer after {ROUNDS} rounds", code="too_many_rounds")


def run(function):
    """What the tool says; a wrong call is the model's to mend."""
    try:
        tool, _ = TOOLS[function["name"]]
        arguments = json.loads(function["arguments"])
        return tool(**arguments)
    except (KeyError, TypeError, ValueError) as wrong:
        return {"error": f"{type(wrong).__name__}: {wrong}"}


def ask(messages):
    """The model's next message."""
    body = {"model": os.environ.get("MODEL", "gpt-5-mini"), "messages": messages, "tools": [described(name) for name in TOOLS]}
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["message"]


def described(name):
    _, arguments = TOOLS[name]
    properties = {argument: {"type": kind} for argument, kind in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


main()
