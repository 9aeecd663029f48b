"""An agent written with langgraph, over langchain-openai or langchain-anthropic, streamed or not."""

import tools
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


def main():
    given = tools.given()
    agent = build(given["api"])
    asked = {"messages": [("user", given["prompt"])]}
    if given["stream"]:
        # What a chat window shows as it comes; the last state is the whole conversation.
        for kind, part in agent.stream(asked, stream_mode=["messages", "values"]):
            if kind == "values":
                state = part
    else:
        state = agent.invoke(asked)
    tools.tell(state["messages"][-1].text)


def build(api):
    hands = [tools.look_up, tools.measure]
    mind = model(api).bind_tools(hands)

    def think(state: MessagesState):
        return {"messages": [mind.invoke([("system", tools.INSTRUCTIONS), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode(hands))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile()


def model(api):
    if api == "anthropic":
        from langchain_anthropic import ChatAnthropic

        return ChatAnthropic(model=tools.MODEL, max_tokens=1000)
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model=tools.MODEL)


main()
