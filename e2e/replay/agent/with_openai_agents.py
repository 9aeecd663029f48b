"""An agent written with openai-agents, over the Responses API or over chat completions, streamed or not."""

import asyncio

import tools
from agents import Agent, Runner, function_tool, set_default_openai_api


async def main():
    given = tools.given()
    set_default_openai_api(given["api"])
    agent = Agent(
        name="planner",
        instructions=tools.INSTRUCTIONS,
        model=tools.MODEL,
        tools=[function_tool(tools.look_up), function_tool(tools.measure)],
    )
    if given["stream"]:
        run = Runner.run_streamed(agent, given["prompt"])
        begun = 0
        async for event in run.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.created":
                begun += 1
                tools.heard(begun)
    else:
        run = await Runner.run(agent, given["prompt"])
    tools.tell(run.final_output)


asyncio.run(main())
