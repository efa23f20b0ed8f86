"""One reader for the live streams of all runs that somebody follows here.

A blocked XREAD for each follower would take a connection each. This one only sees that a stream has news and rings;
followers then read at their own pace, so a slow client fills no buffer.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError

from flotilla.bus import AWAY, Redis
from flotilla.bus.connection import execute_redis_command
from flotilla.runtime.stopping import wait_for_any_event
from gateway.live.wakeup import FollowerWakeup

BLOCK_MS = 50
"""The longest that a new follower's stream is left out of a read that is blocked already."""
PAUSE_S = 0.01
"""Between two reads: entries that come thick and fast are seen together."""
AWAY_PAUSE_S = 0.5
COUNT = 100
BEGINNING = "0-0"
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class LiveEntry:
    """An entry of a run's live stream. `data` is JSON."""

    entry_id: str
    kind: str
    data: bytes


class LiveStreamWatch:
    """Rings the followers of a run when its live stream grows."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._wakeups: defaultdict[str, set[FollowerWakeup]] = defaultdict(set)
        self._positions: dict[str, str] = {}
        self._changed = asyncio.Event()

    @contextmanager
    def notify_of_entries(self, stream: str, wakeup: FollowerWakeup) -> Iterator[None]:
        """Notify `wakeup` of a run's live stream as long as the block runs."""
        self._wakeups[stream].add(wakeup)
        self._positions.setdefault(stream, "$")
        self._changed.set()
        try:
            yield
        finally:
            self._wakeups[stream].discard(wakeup)
            if not self._wakeups[stream]:
                del self._wakeups[stream], self._positions[stream]

    async def read(self, stream: str, after_id: str) -> list[LiveEntry]:
        """Up to 100 entries after `after_id`; none while Redis is unavailable: losing them loses nothing."""
        try:
            raw = await execute_redis_command(self._redis, "XRANGE", stream, f"({after_id}", "+", "COUNT", COUNT)
        except (*AWAY, RedisError) as error:
            log.warning("live_stream_not_read", error=str(error))
            return []
        return [_entry(entry_id, fields) for entry_id, fields in raw]

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop`."""
        while not stop.is_set():
            try:
                await self._read_on(stop)
            except (*AWAY, RedisError) as error:
                log.warning("live_feed_away", error=str(error))
                await asyncio.sleep(AWAY_PAUSE_S)

    async def _read_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not self._positions:
                await self._until_followed(stop)
                continue
            self._changed.clear()
            for stream, entries in await self._next_entries():
                self._ring(stream.decode(), entries)
            await asyncio.sleep(PAUSE_S)

    async def _next_entries(self) -> list[tuple[bytes, list[Any]]]:
        await self._resolve_new()
        positions: dict[Any, Any] = dict(self._positions)
        found: Any = await self._redis.xread(positions, count=COUNT, block=BLOCK_MS)
        return list(found.items() if isinstance(found, dict) else found or [])

    async def _resolve_new(self) -> None:
        """Give each new stream a fixed position, so that nothing between two reads is overlooked; rings once."""
        for stream in [name for name, position in self._positions.items() if position == "$"]:
            newest = await execute_redis_command(self._redis, "XREVRANGE", stream, "+", "-", "COUNT", 1)
            if stream in self._positions:
                self._positions[stream] = newest[0][0].decode() if newest else BEGINNING
                self._ring(stream, newest)

    def _ring(self, stream: str, entries: list[Any]) -> None:
        if not entries or stream not in self._positions:
            return
        self._positions[stream] = entries[-1][0].decode()
        kinds = {fields.get(b"kind") for _, fields in entries}
        for wakeup in self._wakeups[stream]:
            wakeup.notify(live=True, log=bool(kinds - {b"token"}), end=b"done" in kinds)

    async def _until_followed(self, stop: asyncio.Event) -> None:
        self._changed.clear()
        await wait_for_any_event(self._changed, stop)


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> LiveEntry:
    return LiveEntry(entry_id.decode(), fields.get(b"kind", b"").decode(), fields.get(b"data", b"{}"))
