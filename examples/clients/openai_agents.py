"""An agent of openai-agents whose model is a fleet: FLOTILLA_URL, FLOTILLA_KEY. Prints what it got as JSON."""

import asyncio
import json
import os

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

QUESTION = "Who inspects mooring lines?"
asked: list[int] = []


@function_tool
def weather(pier: int) -> str:
    """The temperature at a pier."""
    asked.append(pier)
    return "12 degrees"


async def main() -> None:
    """Ask by both of OpenAI's APIs, whole and streamed."""
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=f"{os.environ['FLOTILLA_URL']}/openai/v1", api_key=os.environ["FLOTILLA_KEY"])
    chat = Agent(name="Desk", model=OpenAIChatCompletionsModel("flotilla/rag", client))
    responses = Agent(name="Desk", model=OpenAIResponsesModel("flotilla/rag", client))
    answers: dict[str, object] = {}
    for name, agent in (("chat", chat), ("responses", responses)):
        answers[name] = (await Runner.run(agent, QUESTION)).final_output
        streamed = Runner.run_streamed(agent, QUESTION)
        deltas = [
            event.data.delta
            async for event in streamed.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
        ]
        answers[f"{name}_streamed"] = ["".join(deltas), streamed.final_output]
    for name, model in (
        ("chat", OpenAIChatCompletionsModel("flotilla/chat", client)),
        ("responses", OpenAIResponsesModel("flotilla/chat", client)),
    ):
        forecaster = Agent(name="Forecaster", instructions="Ask for the weather.", tools=[weather], model=model)
        answers[f"{name}_with_tools"] = (await Runner.run(forecaster, "How warm is it?")).final_output
        streamed = Runner.run_streamed(forecaster, "How warm is it?")
        async for _ in streamed.stream_events():
            pass
        answers[f"{name}_with_tools_streamed"] = streamed.final_output
    answers["asked"] = asked
    print(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main())
