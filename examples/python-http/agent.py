"""An agent for the http protocol: one process, many tasks at once, none of which sees another's token.

It calls no LLM: it sleeps where a real agent waits for one. Input: a text to answer, or nothing.
"""

import asyncio

import longshore

STEPS = 3
LLM_CALL_S = 0.2


async def answer(task: longshore.Task) -> dict:
    longshore.log("starts", input=task.input)
    for step in range(1, STEPS + 1):
        await llm_call()
        longshore.progress({"step": step, "of": STEPS})
    text = f"You said: {task.input}"
    if task.conversation is not None:
        longshore.message({"role": "user", "content": task.input})
        longshore.message({"role": "assistant", "content": text})
    return {"task": longshore.current().id, "answer": text, "heard_before": heard(task)}


async def llm_call() -> None:
    # A real agent makes its client here, or in `answer`: openai.AsyncOpenAI(**longshore.openai_kwargs())
    await asyncio.sleep(LLM_CALL_S)


def heard(task: longshore.Task) -> int:
    return 0 if task.conversation is None else len(task.conversation.messages)


if __name__ == "__main__":
    longshore.serve(answer)
