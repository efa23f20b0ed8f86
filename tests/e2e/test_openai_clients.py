"""OpenAI's client against a whole fleet: conversations, citations, functions of the caller."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from tests.e2e.fleet import Fleet, session_events
from tests.e2e.stub_endpoint import StubEndpoint
from tests.support.stub_llm import ANSWER
from tests.support.waiting import eventually

MODEL = "flotilla/rag"
CHAT = "flotilla/chat"
HANDBOOK = "# Sluice\n\nThe sluice keeper opens the eastern sluice at six in the morning.\n"


@asynccontextmanager
async def openai_client(fleet: Fleet) -> AsyncIterator[AsyncOpenAI]:
    async with connect(fleet, str(fleet.status()["url"])) as client:
        yield client


def connect(fleet: Fleet, url: str) -> AsyncOpenAI:
    """A client of the gateway at `url`."""
    return AsyncOpenAI(base_url=f"{url}/openai/v1", api_key=fleet.key(), timeout=120, max_retries=5)


async def test_conversation_through_openais_client_is_one_cited_session(
    fleet: Fleet, unique: Callable[[str], str]
) -> None:
    async with openai_client(fleet) as client, fleet.client() as native:
        files = {"file": (f"{unique('sluice')}.md", HANDBOOK.encode(), "text/markdown")}
        (await native.post("/v1/documents", files=files)).raise_for_status()
        messages: list[Any] = [{"role": "user", "content": "Who opens the eastern sluice?"}]
        first = await client.chat.completions.create(model=MODEL, messages=messages)
        text = first.choices[0].message.content or ""
        assert "sluice keeper" in text
        details: Any = (first.model_extra or {})["flotilla"]
        assert details["sources"]
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "When is the sluice opened?"}]
        stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        chunks = [chunk async for chunk in stream]
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert "six in the morning" in streamed
        events = await session_events(native, details["session_id"])
        said = [event["data"]["content"] for event in events if event["type"].endswith(".message.v1")]
        assert said == [messages[0]["content"], text, messages[2]["content"], streamed]


async def test_streamed_response_is_annotated_and_the_same_when_it_is_read_again(fleet: Fleet) -> None:
    async with openai_client(fleet) as client:
        stream = await client.responses.create(model=MODEL, input="Who opens the eastern sluice?", stream=True)
        live = [event.to_dict() async for event in stream]
        completed: Any = live[-1]["response"]
        again = await client.responses.retrieve(completed["id"], stream=True)
        assert [event.to_dict() async for event in again] == live
        (content,) = completed["output"][0]["content"]
        assert content["annotations"][0]["type"] == "file_citation"
        assert content["text"] == "".join(str(e["delta"]) for e in live if e["type"] == "response.output_text.delta")


async def test_functions_of_the_caller_survive_the_death_of_worker_and_agent(
    llm_fleet: Fleet, stub_llm: StubEndpoint, unique: Callable[[str], str]
) -> None:
    question = f"How warm is it, {unique('pier')}?"
    weather: Any = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    async with openai_client(llm_fleet) as client, llm_fleet.client() as native:
        with stub_llm.acting("tool"):
            first = await client.responses.create(model=CHAT, input=question, tools=[weather], background=True)
            await llm_fleet.kill("workflow-worker")
            first = await _completed(client, first.id)
            (call,) = [item for item in first.output if item.type == "function_call"]
            assert (call.name, question in call.arguments) == ("weather", True)
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
            second = await client.responses.create(
                model=CHAT, input=[output], previous_response_id=first.id, tools=[weather], background=True
            )
            await llm_fleet.kill("chat-agent")
            second = await _completed(client, second.id)
        assert second.output_text == ANSWER
        assert stub_llm.requests()[question] <= 4  # what was asked when it died is asked again, no answer is
        events = await session_events(native, (second.model_extra or {})["flotilla"]["session_id"])
        inputs = [event["data"]["details"]["input"] for event in events if event["data"].get("change") == "run_started"]
        assert [message["role"] for message in inputs[1]["messages"]] == ["user", "assistant", "tool"]
        assert inputs[1]["messages"][-1]["content"] == "12 degrees"


async def _completed(client: AsyncOpenAI, response_id: str) -> Any:
    async def ended() -> Any:
        response = await client.responses.retrieve(response_id)
        return response if response.status not in ("queued", "in_progress") else None

    response = await eventually(ended, timeout_s=120)
    assert response.status == "completed", response.error
    return response
