"""The streams that agents and the bridge read, as Redis reports their groups."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from flotilla.bus import Redis
from flotilla.bus.channels import default_consumer_group
from flotilla.contracts.names import reply_stream, task_stream


@dataclass(frozen=True, slots=True)
class StreamLoad:
    """What waits on a stream for the group that has to read it."""

    stream: str
    group: str
    lag: int | None
    """Entries that nobody has read; None where Redis can't tell."""
    pending: int
    """Entries that somebody has in hand."""
    oldest_pending_s: float | None
    """Since the oldest of those was published."""


async def load_stream_loads(redis: Redis, agents: Iterable[str]) -> list[StreamLoad]:
    """The tasks and the replies of each agent; a stream without its group is left out."""
    streams = [stream_of(agent) for agent in agents for stream_of in (task_stream, reply_stream)]
    loads = [await _load(redis, stream) for stream in streams]
    return [load for load in loads if load is not None]


async def _load(redis: Redis, stream: str) -> StreamLoad | None:
    try:
        rows = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return None
        raise
    group = default_consumer_group(stream)
    row = next((row for row in rows if row["name"].decode() == group), None)
    return await _described(redis, stream, row) if row is not None else None


async def _described(redis: Redis, stream: str, row: dict[str, Any]) -> StreamLoad:
    group, lag = row["name"].decode(), row.get("lag")
    oldest = None
    if row["pending"]:
        lowest = (await redis.xpending(stream, group))["min"]
        oldest = max(0.0, time.time() - int(lowest.split(b"-")[0]) / 1000) if lowest else None
    return StreamLoad(stream, group, None if lag is None else int(lag), int(row["pending"]), oldest)
