"""Prints the bus figures.

    python -m benchmarks.bus [--rounds 3] [--entries 5000] [--rate 1000]

Each round runs all peers one after the other on one private Redis; each consumer is a process of its own. Ratios are
steadier than the figures.
"""

import argparse
import asyncio
import json
import secrets
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.bus.peers import PEERS
from flotilla.bus import Publisher, Redis, connect_redis
from flotilla.bus.entries import make_xadd_command
from flotilla.bus.functions import load_redis_functions
from flotilla.contracts import AgentEvent
from flotilla_devstack import stack_for_tests

CONCURRENCY = 100
TASKS = 200


def some_event() -> AgentEvent:
    """About 500 bytes as JSON."""
    return AgentEvent(
        type="flotilla.bench.v1",
        source="/benchmarks",
        subject="s1",
        data={"at": time.time_ns(), "text": "x" * 200},
    )


async def consume(
    peer: str, url: str, redis: Redis, entries: int, rate: float | None, *, checkout: Path | None = None
) -> dict[str, float]:
    """One peer's figures: with a rate entries come at that pace, without one they are all there at the start.

    `checkout` is of another version, with its `.venv`.
    """
    stream = f"bench-{secrets.token_hex(4)}"
    if rate is None:
        await publish_all(redis, stream, entries)
    process = await asyncio.create_subprocess_exec(
        str(checkout / ".venv/bin/python") if checkout else sys.executable,
        "-m", "benchmarks.bus.peers", peer, url, stream, str(entries), str(CONCURRENCY),
        stdout=asyncio.subprocess.PIPE, cwd=checkout,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()
    if rate is not None:
        await publish_paced(redis, stream, entries, rate)
    report: dict[str, float] = json.loads(await process.stdout.readline())
    await process.wait()
    await redis.delete(stream)
    return report


async def publish_all(redis: Redis, stream: str, entries: int) -> None:
    """Fills the stream."""
    for start in range(0, entries, 500):
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(min(500, entries - start)):
                pipe.execute_command(*make_xadd_command(stream, some_event()))
            await pipe.execute()


async def publish_paced(redis: Redis, stream: str, entries: int, rate: float) -> None:
    """One entry each 1 / `rate` seconds."""
    started = time.perf_counter()
    for n in range(entries):
        ahead = started + n / rate - time.perf_counter()
        if ahead > 0:
            await asyncio.sleep(ahead)
        await redis.execute_command(*make_xadd_command(stream, some_event()))  # type: ignore[no-untyped-call]


async def publish_one_by_one(redis: Redis, stream: str, entries: int) -> None:
    for _ in range(entries):
        await redis.execute_command(*make_xadd_command(stream, some_event()))  # type: ignore[no-untyped-call]


async def publish_by_hand(redis: Redis, stream: str, entries: int) -> None:
    """A pipeline of as many XADDs as there are tasks."""
    for _ in range(entries // TASKS):
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(TASKS):
                pipe.execute_command(*make_xadd_command(stream, some_event()))
            await pipe.execute()


async def publish_from_tasks(redis: Redis, stream: str, entries: int) -> None:
    """`flotilla.bus.Publisher` used by concurrent tasks."""
    publisher = Publisher(redis)

    async def work() -> None:
        for _ in range(entries // TASKS):
            await publisher.publish(stream, some_event())

    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(work())


PUBLISHERS: dict[str, Callable[[Redis, str, int], Awaitable[None]]] = {
    "XADD one by one": publish_one_by_one,
    "pipeline by hand": publish_by_hand,
    "200 tasks": publish_from_tasks,
}


async def publish_rate(publish: Callable[[Redis, str, int], Awaitable[None]], redis: Redis, entries: int) -> float:
    """Entries per second."""
    stream = f"bench-{secrets.token_hex(4)}"
    started = time.perf_counter()
    await publish(redis, stream, entries)
    taken = time.perf_counter() - started
    await redis.delete(stream)
    return entries / taken


def middle(rounds: list[dict[str, float]], figure: str) -> float:
    return statistics.median(each[figure] for each in rounds)


def show(title: str, taken: dict[str, list[dict[str, float]]], figures: list[str]) -> None:
    """A table with each peer's medians, and its ratio to the bare loop."""
    print(f"\n{title}")
    print(f"{'':12}" + "".join(f"{figure:>12}" for figure in figures))
    for peer, rounds in taken.items():
        print(f"{peer:12}" + "".join(f"{middle(rounds, figure):12.2f}" for figure in figures))
    for peer in ("flotilla", "faststream"):
        ratios = (middle(taken[peer], figure) / middle(taken["bare"], figure) for figure in figures)
        print(f"{peer[:5]} / bare" + "".join(f"{ratio:11.2f}x" for ratio in ratios))


async def run(url: str, rounds: int, entries: int, rate: float) -> None:
    paced: dict[str, list[Any]] = {peer: [] for peer in PEERS}
    drained: dict[str, list[Any]] = {peer: [] for peer in PEERS}
    published: dict[str, list[float]] = {name: [] for name in PUBLISHERS}
    async with connect_redis(url) as redis:
        await load_redis_functions(redis)  # as housekeeping does
        for _ in range(rounds):
            for peer in PEERS:
                paced[peer].append(await consume(peer, url, redis, entries, rate))
                drained[peer].append(await consume(peer, url, redis, entries * 2, None))
            for name, publish in PUBLISHERS.items():
                published[name].append(await publish_rate(publish, redis, entries * 2))
    show(f"at {rate:g}/s, no-op handler", paced, ["p50_ms", "p99_ms", "cpu_us", "memory_mb"])
    show("drain, no-op handler", drained, ["rate", "cpu_us", "memory_mb"])
    print("\npublishing, events/s")
    for name, rates in published.items():
        print(f"{name:18}{statistics.median(rates):10.0f}")
    ratio = statistics.median(published["200 tasks"]) / statistics.median(published["pipeline by hand"])
    print(f"200 tasks / pipeline by hand: {ratio:.2f}")
    goals(paced, drained, ratio)


def goals(paced: dict[str, list[Any]], drained: dict[str, list[Any]], publishing: float) -> None:
    """The figures to reach, and whether this run did."""
    p99 = {peer: middle(rounds, "p99_ms") for peer, rounds in paced.items()}
    rate = {peer: middle(rounds, "rate") for peer, rounds in drained.items()}
    print("\ngoals")
    for goal, reached in (
        ("p99 at most twice the bare loop's", p99["flotilla"] <= 2 * p99["bare"]),
        ("p99 below FastStream's", p99["flotilla"] < p99["faststream"]),
        ("rate at least twice FastStream's", rate["flotilla"] >= 2 * rate["faststream"]),
        ("publishing at least 0.7 of a pipeline by hand", publishing >= 0.7),
    ):
        print(f"  {'reached' if reached else 'MISSED '}  {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--entries", type=int, default=5_000)
    parser.add_argument("--rate", type=float, default=1_000.0)
    chosen = parser.parse_args()
    with stack_for_tests() as stack, stack.extra_redis() as server:
        asyncio.run(run(server.url, chosen.rounds, chosen.entries, chosen.rate))


if __name__ == "__main__":
    main()
