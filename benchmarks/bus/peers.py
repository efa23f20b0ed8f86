"""One consumer in a process of its own: `python -m benchmarks.bus.peers PEER URL STREAM COUNT CONCURRENCY`.

Handles COUNT entries with a handler that does nothing, then prints what it measured as JSON.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flotilla.bus import DONE, Consumer, ConsumerOptions, Delivery, HandlerResult, connect_redis, ensure_group
from flotilla.contracts.envelope import decode_event

GROUP = "bench"


@dataclass
class Meter:
    """Delay from publishing to the handler, and the CPU time between the first and the last entry."""

    count: int
    delays_ms: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    started: float = 0.0
    cpu_started: float = 0.0
    ended: float = 0.0
    cpu_ended: float = 0.0

    def handled(self, written_at_ns: float) -> None:
        """One entry reached its handler."""
        if not self.delays_ms:
            self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.delays_ms.append((time.time_ns() - written_at_ns) / 1e6)
        if len(self.delays_ms) == self.count:
            self.ended, self.cpu_ended = time.perf_counter(), time.process_time()
            self.done.set()

    def report(self) -> dict[str, float]:
        """The figures of this run."""
        ordered = sorted(self.delays_ms)
        return {
            "rate": (self.count - 1) / (self.ended - self.started),
            "cpu_us": (self.cpu_ended - self.cpu_started) * 1e6 / (self.count - 1),
            "p50_ms": ordered[len(ordered) // 2],
            "p99_ms": ordered[int(len(ordered) * 0.99)],
            "memory_mb": _peak_memory_mb(),
        }


def _peak_memory_mb() -> float:
    """Since this program began (proc(5)); getrusage would count what the process that started it had, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _written_at(data: Any) -> float:
    return float(data["at"])


async def bare(url: str, stream: str, meter: Meter, concurrency: int) -> None:
    """What one would write by hand: read, decode, handle, acknowledge each."""
    async with connect_redis(url) as redis:
        await ensure_group(redis, stream, GROUP)
        ready()
        while not meter.done.is_set():
            found: Any = await redis.xreadgroup(GROUP, "bare", {stream: ">"}, count=concurrency, block=500)
            for entry_id, fields in found[0][1] if found else []:
                meter.handled(_written_at(decode_event(fields[b"event"]).data))
                await redis.xack(stream, GROUP, entry_id)


async def flotilla(url: str, stream: str, meter: Meter, concurrency: int) -> None:
    """`flotilla.bus.Consumer`."""

    async def handle(delivery: Delivery) -> HandlerResult:
        meter.handled(_written_at(delivery.event.data))
        return DONE

    async with connect_redis(url) as redis:
        await ensure_group(redis, stream, GROUP)
        ready()
        options = ConsumerOptions(concurrency=concurrency, block_ms=500)
        await Consumer(redis, stream, GROUP, "flotilla", handle, options).run(meter.done)


async def faststream(url: str, stream: str, meter: Meter, concurrency: int) -> None:
    """A plain FastStream subscriber of a group, without its type layer, in its cheapest form."""
    from faststream.redis import RedisBroker, StreamSub

    broker = RedisBroker(url, apply_types=False, logger=None)  # type: ignore[arg-type]
    subscription = StreamSub(stream, group=GROUP, consumer="faststream", polling_interval=500, max_records=concurrency)

    async def decode(message: Any) -> Any:
        return decode_event(message.raw_message["data"][b"event"])

    @broker.subscriber(stream=subscription, decoder=decode)
    async def handle(event: Any) -> None:
        meter.handled(_written_at(event.data))

    async with connect_redis(url) as redis:
        await ensure_group(redis, stream, GROUP)
    await broker.start()
    ready()
    await meter.done.wait()
    await broker.stop()


PEERS = {"bare": bare, "flotilla": flotilla, "faststream": faststream}


def ready() -> None:
    """Tells the parent that entries may come."""
    print("ready", flush=True)


async def main(peer: str, url: str, stream: str, count: int, concurrency: int) -> None:
    meter = Meter(count)
    await PEERS[peer](url, stream, meter, concurrency)
    print(json.dumps(meter.report()), flush=True)


if __name__ == "__main__":
    _, name, address, key, wanted, slots = sys.argv
    asyncio.run(main(name, address, key, int(wanted), int(slots)))
