"""Prints what chat completions cost over the native route, and how much later their first token comes.

    python -m benchmarks.clients [--rounds 5] [--runs 10]

A fleet is started with a model that streams a fixed answer. In each round the routes take turns, run by run, so that a
machine that slows down slows all of them. Reach: +5 ms for an answer, +10 ms for a first token.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import httpx

from tests.e2e.fleet import Fleet
from tests.e2e.stub_endpoint import stub_endpoint

QUESTION = "Who inspects the mooring lines?"
PAGE = "# Moorings\n\nEvery mooring line is inspected on the first Monday by the harbour master.\n"
CHAT = "/openai/v1/chat/completions"
Once: TypeAlias = Callable[[httpx.AsyncClient], Awaitable[float]]


async def native_answer(client: httpx.AsyncClient) -> float:
    """Seconds until the native route returns the answer."""
    began = time.perf_counter()
    place = f"/v1/sessions/bench-{secrets.token_hex(6)}/runs"
    (await client.post(place, json={"query": QUESTION, "wait_s": 60})).raise_for_status()
    return time.perf_counter() - began


async def chat_answer(client: httpx.AsyncClient) -> float:
    """Seconds until chat completions return it."""
    began = time.perf_counter()
    (await client.post(CHAT, json=_chat())).raise_for_status()
    return time.perf_counter() - began


async def native_token(client: httpx.AsyncClient) -> float:
    """Seconds until the first token of the native stream."""
    began = time.perf_counter()
    answer = await client.post(f"/v1/sessions/bench-{secrets.token_hex(6)}/runs", json={"query": QUESTION})
    async with client.stream("GET", f"/v1/runs/{answer.raise_for_status().json()['run_id']}/events") as stream:
        return await _first(stream, began, lambda line: line == "event: token")


async def chat_token(client: httpx.AsyncClient) -> float:
    """Seconds until the first chunk of chat completions that has text."""
    began = time.perf_counter()
    async with client.stream("POST", CHAT, json=_chat() | {"stream": True}) as stream:
        return await _first(stream, began, _has_text)


def _chat() -> dict[str, object]:
    return {"model": "flotilla/rag", "messages": [{"role": "user", "content": QUESTION}]}


def _has_text(line: str) -> bool:
    if not line.startswith("data: {"):
        return False
    return any(choice["delta"].get("content") for choice in json.loads(line.removeprefix("data: "))["choices"])


async def _first(stream: httpx.Response, began: float, is_it: Callable[[str], bool]) -> float:
    """When the first such line came; the stream is read to its end, so that runs do not overlap."""
    taken = 0.0
    async for line in stream.aiter_lines():
        if not taken and is_it(line):
            taken = time.perf_counter() - began
    if not taken:
        raise RuntimeError("the stream ended without a token")
    return taken


async def measure(client: httpx.AsyncClient, rounds: int, runs: int) -> None:
    """Print the medians of each pair and of what the second adds to the first."""
    pairs: tuple[tuple[str, Once, Once, int], ...] = (
        ("answer", native_answer, chat_answer, 5),
        ("first token", native_token, chat_token, 10),
    )
    for once in (native_answer, chat_answer, native_token, chat_token):
        await once(client)
    print(f"{'p50 ms':<14}{'native':>9}{'OpenAI':>9}{'added':>9}{'rounds':>18}")
    for name, native, chat, reach in pairs:
        added, medians = [], []
        for _ in range(rounds):
            times = [(await native(client) * 1000, await chat(client) * 1000) for _ in range(runs)]
            medians.append([statistics.median(side) for side in zip(*times, strict=True)])
            added.append(medians[-1][1] - medians[-1][0])
        one, two = (statistics.median(side) for side in zip(*medians, strict=True))
        spread = f"{min(added):+.1f} to {max(added):+.1f}"
        print(f"{name:<14}{one:>9.1f}{two:>9.1f}{statistics.median(added):>+9.1f}{spread:>18}  (reach {reach:+d})")


async def main() -> None:
    """Start a fleet, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, stub_endpoint() as model:
        environment = {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "bench", "FLOTILLA_LLM_MODEL": "stub"}
        fleet = Fleet(Path(home) / "fleet", environment)
        try:
            fleet.up()
            page = Path(home) / "moorings.md"
            page.write_text(PAGE)
            fleet.cli("documents", "add", str(page))
            async with fleet.client() as client:
                await measure(client, given.rounds, given.runs)
        finally:
            fleet.down()


if __name__ == "__main__":
    asyncio.run(main())
