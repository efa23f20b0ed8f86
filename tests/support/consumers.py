"""Consumers for tests: in this process, and as processes of their own that can be killed and paused."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO, Any

from flotilla.bus import Consumer, ConsumerOptions, DeadLetters, Handler, Redis
from flotilla.contracts import AgentEvent

MIN_IDLE_MS = 400


def event(subject: str = "s1", **data: Any) -> AgentEvent:
    """Some event."""
    return AgentEvent(type="flotilla.test.happened.v1", source="/tests", subject=subject, data=data)


@asynccontextmanager
async def consuming(
    redis: Redis,
    stream: str,
    handler: Handler,
    *,
    group: str = "g",
    name: str = "c1",
    dead_letters: DeadLetters | None = None,
    **options: Any,
) -> AsyncIterator[Consumer]:
    """A consumer that runs as long as the block, and stops in order."""
    chosen = ConsumerOptions(**{"min_idle_ms": MIN_IDLE_MS, "block_ms": 100, "grace_s": 5.0, **options})
    consumer = Consumer(redis, stream, group, name, handler, chosen, dead_letters)
    stop = asyncio.Event()
    running = asyncio.create_task(consumer.run(stop))
    try:
        yield consumer
    finally:
        stop.set()
        await running


async def pending(redis: Redis, stream: str, group: str = "g") -> int:
    """How many entries are delivered and not acknowledged."""
    summary = await redis.xpending(stream, group)
    return int(summary["pending"])


async def entries(redis: Redis, stream: str) -> list[dict[str, Any]]:
    """The events of `stream`, decoded."""
    found: Any = await redis.xrange(stream)
    return [json.loads(fields[b"event"]) for _, fields in found]


@dataclass(eq=False)
class Process:
    """A process of the tests' own."""

    process: "subprocess.Popen[str]"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: alive, connected, and mute."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def terminate(self, timeout_s: float = 10.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    @property
    def output(self) -> IO[str]:
        """What it prints."""
        assert self.process.stdout is not None
        return self.process.stdout


def start(module: str, *, python: str = sys.executable, **what: Any) -> Process:
    """A process that runs `module` with `what` as its argument; ready when this returns. Its owner ends it."""
    command = [python, "-m", module, json.dumps(what)]
    started = Process(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    line = started.output.readline()
    assert line == "ready\n", line
    return started


@contextmanager
def consumer_process(**what: Any) -> Iterator[Process]:
    """`tests.support.consumer_process` with `what` as its argument; gone afterwards."""
    started = start("tests.support.consumer_process", **what)
    try:
        yield started
    finally:
        started.kill()
        started.output.close()
