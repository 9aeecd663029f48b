"""An agent written with pydantic-ai, over OpenAI's chat completions or over Anthropic's messages, streamed or not."""

import asyncio

import tools
from pydantic_ai import Agent


async def main():
    given = tools.given()
    agent = Agent(f"{given['api']}:{tools.MODEL}", instructions=tools.INSTRUCTIONS, tools=[tools.look_up, tools.measure])
    if given["stream"]:
        async with agent.run_stream(given["prompt"]) as run:
            tools.tell(await run.get_output())
    else:
        run = await agent.run(given["prompt"])
        tools.tell(run.output)


asyncio.run(main())
