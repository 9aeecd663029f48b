"""An agent written with a framework (pydantic-ai) that knows nothing of longshore but where its question comes from.

The framework reads OPENAI_BASE_URL and OPENAI_API_KEY from the environment, as it does everywhere. Input: a question.
"""

import json
import os
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

question = json.load(sys.stdin)["task"]["input"]
agent = Agent(OpenAIChatModel(os.environ["MODEL"]), instructions="Answer in one sentence.")
print(agent.run_sync(question).output)
