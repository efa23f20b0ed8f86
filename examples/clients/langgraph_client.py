"""LangChain's chat model, as LangGraph's agents use it, on a fleet: FLOTILLA_URL, FLOTILLA_KEY. Prints what it got."""

import json
import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

ADDRESS = {"base_url": f"{os.environ['FLOTILLA_URL']}/openai/v1", "api_key": os.environ["FLOTILLA_KEY"]}


@tool
def weather(pier: int) -> str:
    """The temperature at a pier."""
    return f"{11 + pier} degrees"


def main() -> None:
    """Ask whole and streamed, then with a tool."""
    rag = ChatOpenAI(model="flotilla/rag", **ADDRESS)
    question = "Who inspects mooring lines?"
    streamed = "".join(str(chunk.content) for chunk in rag.stream(question))
    chat = ChatOpenAI(model="flotilla/chat", **ADDRESS).bind_tools([weather])
    messages = [HumanMessage("How warm is it?")]
    calling = chat.invoke(messages)
    outputs = [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in calling.tool_calls]
    said = chat.invoke([*messages, calling, *outputs])
    print(json.dumps({"answer": rag.invoke(question).content, "streamed": streamed, "with_tools": said.content}))


if __name__ == "__main__":
    main()
