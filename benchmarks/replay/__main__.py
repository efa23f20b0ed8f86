"""Prints the figures of replay and projection, against the naive scan of the topic.

    python -m benchmarks.replay [--sizes 100000 1000000] [--repeats 200]

The naive scan reads every session to find one. The projection is asked as the gateway asks it; Kafka alone is what
is left when PostgreSQL's projection is lost. At the end, the state at several points of one session of 100,000 events,
as `GET /v1/sessions/{s}/state` answers it. Ratios are steadier than the figures.
"""

import argparse
import asyncio
import gc
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from benchmarks.replay.ground import SESSION_EVENTS, Ground, fill, open_ground, project, session_of
from benchmarks.replay.long_session import EVENTS as LONG_SESSION_EVENTS
from benchmarks.replay.long_session import show_states
from benchmarks.replay.naive import scan_topic
from flotilla.eventstore import AgentEventStore
from flotilla.kafka.session_log import KafkaEventLog, open_kafka_log
from flotilla_devstack import stack_for_tests
from tests.support.audit import Projected

_FIRST_OFFSET = "SELECT first_offset FROM audit.session_heads WHERE session_id = $1"
_KAFKA_REPEATS = 20


def progress(what: str) -> None:
    """Notifies the waiting caller."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


async def measured(action: Callable[[str], Awaitable[int]], sessions: list[str]) -> tuple[float, float]:
    """p50 and p99 in ms over the sessions; each must come back whole."""
    times = []
    for session in sessions:
        began = time.perf_counter()
        events = await action(session)
        times.append((time.perf_counter() - began) * 1000)
        assert events == SESSION_EVENTS, f"{session}: {events} events"
    times.sort()
    return times[len(times) // 2], times[int(len(times) * 0.99)]


async def compare(ground: Ground, log: KafkaEventLog, size: int, repeats: int) -> None:
    """One size: the same sessions by each way."""
    draw = random.Random(size)  # noqa: S311 - repeatable
    sessions = [session_of(draw.randrange(size // SESSION_EVENTS)) for _ in range(repeats)]
    store = AgentEventStore(ground.pool, kafka=log)

    async def by_projection(session: str) -> int:
        return len(await store.replay(session))

    async def by_kafka(session: str) -> int:
        (row,) = await Projected(ground.database).fetch(_FIRST_OFFSET, session)
        offset = row["first_offset"]
        return len(await log.read_session_events("default", session, last_seq=SESSION_EVENTS, from_offset=offset))

    async def by_scan(session: str) -> int:
        return await scan_topic(ground.kafka, session)

    await measured(by_projection, sessions[:20])
    await measured(by_kafka, sessions[:2])
    naive, _ = await measured(by_scan, sessions[:1])
    p50, p99 = await measured(by_projection, sessions)
    kafka_p50, kafka_p99 = await measured(by_kafka, sessions[:_KAFKA_REPEATS])
    print(f"{size:>9,} events  naive scan {naive:9.1f} ms", end="")
    print(f"  projection p50 {p50:6.2f} p99 {p99:6.2f} ms ({naive / p50:,.0f}x)", end="")
    print(f"  Kafka alone p50 {kafka_p50:6.1f} worst {kafka_p99:6.1f} ms ({naive / kafka_p50:,.0f}x)", flush=True)


async def run(arguments: argparse.Namespace) -> None:
    """All sizes, growing, on one topic."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("warning"))
    with tempfile.TemporaryDirectory() as folder, stack_for_tests() as stack:
        async with open_ground(stack, Path(folder), "replay_bench") as ground, open_kafka_log(ground.kafka) as log:
            filled = 0
            for size in sorted(arguments.sizes):
                progress(f"{size:,} events into Kafka")
                await fill(ground, filled // SESSION_EVENTS, size // SESSION_EVENTS)
                progress("projecting them")
                rate, cpu_us = await project(ground, size)
                print(f"{size:>9,} events  projected at {rate:,.0f}/s, {cpu_us:.1f} µs CPU each", flush=True)
                progress("replaying")
                await compare(ground, log, size, arguments.repeats)
                filled = size
            progress(f"one session of {LONG_SESSION_EVENTS:,} events")
            await show_states(ground, filled, arguments.repeats)


def main() -> None:
    """Runs from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    # As a service does at its start.
    gc.collect()
    gc.freeze()
    asyncio.run(run(arguments))


if __name__ == "__main__":
    main()
