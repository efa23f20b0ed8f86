"""Streams of OpenAI's client while services of a whole fleet are killed: what was cut off continues on any replica."""

import asyncio
import itertools
import random
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from tests.e2e.fleet import Fleet
from tests.e2e.stub_endpoint import StubEndpoint
from tests.e2e.test_openai_clients import MODEL, connect
from tests.support.catalog import SERVICES

PARTS = 5
KILLS = 50
SEED = 20261130
WORDS = 40
SAID = " ".join(f"word{n}" for n in range(WORDS))
LAST = {"response.completed", "response.failed", "error"}


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
async def test_stream_continues_after_any_service_is_killed_and_its_halves_equal_the_whole(
    llm_fleet: Fleet, stub_llm: StubEndpoint, part: int
) -> None:
    """The parts kill all services in turn, each in the middle of a stream that two replicas serve."""
    choose = random.Random(SEED + part)  # noqa: S311
    first_url = str(llm_fleet.status()["url"])
    with llm_fleet.replica("gateway") as second_url, stub_llm.saying(f"{SAID} [1].", delay_s=0.05):
        async with connect(llm_fleet, first_url) as first, connect(llm_fleet, second_url) as second:
            for number in range(part * KILLS // PARTS, (part + 1) * KILLS // PARTS):
                question = f"What do the documents say about stream {number}?"
                victim = SERVICES[number % len(SERVICES)]
                seen = await _interrupted(llm_fleet, (first, second), question, victim, choose.randint(2, WORDS))
                text = "".join(one["delta"] for one in seen if one["type"] == "response.output_text.delta")
                assert text.startswith(SAID), (number, victim)
                assert text == seen[-1]["response"]["output"][0]["content"][0]["text"], (number, victim)
                for replica in (first, second):
                    whole = await replica.responses.retrieve(seen[0]["response"]["id"], stream=True)
                    assert [event.to_dict() async for event in whole] == seen, (number, victim)
                # What was cut off before it was stored is asked again, and nothing else.
                assert stub_llm.requests()[question] <= 1 + (victim == "writer-agent"), (number, victim)


async def _interrupted(
    fleet: Fleet, replicas: tuple[AsyncOpenAI, AsyncOpenAI], question: str, victim: str, kill_after: int
) -> list[dict[str, Any]]:
    """Return the events of a response during which a service was killed, as a client sees them that continues on the
    other replica before there is a new process."""
    response = await replicas[0].responses.create(model=MODEL, input=question, background=True)
    seen: list[dict[str, Any]] = []
    killing: asyncio.Task[None] | None = None
    for replica in itertools.cycle(replicas):
        after = seen[-1]["sequence_number"] if seen else -1
        try:
            stream = await replica.responses.retrieve(response.id, stream=True, starting_after=after)
            async for event in stream:
                seen.append(event.to_dict())
                if killing is None and len(seen) >= kill_after:
                    killing = asyncio.create_task(fleet.kill(victim))
                    await asyncio.sleep(0)  # it sends the signal
                    if victim != "gateway":
                        await stream.close()
                        break
        except (openai.APIError, httpx2.TransportError):
            assert victim == "gateway"
        if seen[-1]["type"] in LAST:
            break
    assert killing is not None
    await killing
    return seen
