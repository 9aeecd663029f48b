"""Answers a question about a text file, with a framework (pydantic-ai) and whatever model OPENAI_BASE_URL leads to.

Input: {"file": "README.md", "question": "..."}; the file lies under $DOCS_ROOT.
Result: {"file": ..., "answer": ..., "tokens": ...}, `tokens` being what the model wrote.
The part of longshore in it is reading standard input and printing JSON; the framework knows nothing of it.
"""

import json
import os
import pathlib
import re
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

MODEL = os.environ.get("MODEL", "smollm2")
# A small model on two cores reads some hundred tokens a second: a passage, not the file.
PASSAGE_CHARACTERS = 800
ANSWER_TOKENS = 48
INSTRUCTIONS = "You answer questions about a text. Answer in one short sentence, in English."


def main():
    given = json.load(sys.stdin)["task"]["input"]
    file, question = given["file"], given["question"]
    passage = choose(read(file), question)
    say(longshore="progress", data={"asking": MODEL, "characters": len(passage)})
    agent = Agent(OpenAIChatModel(MODEL), instructions=INSTRUCTIONS, retries=2)
    settings = {"max_tokens": ANSWER_TOKENS, "temperature": 0.0}
    run = agent.run_sync(f"The text:\n\n{passage}\n\nThe question: {question}", model_settings=settings)
    say(longshore="result", data={"file": file, "answer": run.output.strip(), "tokens": run.usage.output_tokens})


def read(name):
    root = pathlib.Path(os.environ["DOCS_ROOT"]).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        say(longshore="error", message=f"there is no text `{name}`", code="no_such_file", retry=False)
        sys.exit(1)
    return path.read_text(encoding="utf-8", errors="replace")


def choose(text, question):
    """The paragraph that shares most words with the question, and what follows it, as much as fits."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
    wanted = words(question)
    best = max(range(len(paragraphs)), key=lambda n: len(wanted & words(paragraphs[n])), default=0)
    return "\n\n".join(paragraphs[best:])[:PASSAGE_CHARACTERS]


def words(text):
    # Short words are in every paragraph.
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def say(**line):
    print(json.dumps(line), flush=True)


main()
