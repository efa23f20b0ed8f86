"""What one leader does for all: groups exist, handled entries go, silent consumers go, gauges are told.

It knows which agents there are from their registrations, so that the group of an agent at 0 replicas is there
again, within seconds, after Redis has lost everything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from flotilla.bus.channels import contract_group
from flotilla.bus.connection import Redis, ask
from flotilla.bus.groups import ensure_group, retire_consumer
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import EVENTS_STREAM, REPLIES_STREAM, TASK_STREAM_PREFIX, task_stream
from flotilla.telemetry.metrics import DEAD_LETTERS, STREAM_LAG, STREAM_PENDING

INTERVAL_S = 5.0
STALE_AFTER_MS = 600_000
"""A living consumer reads every second or two."""

MAX_STREAMS = 256
"""Beyond those of registered agents no more streams are tended and reported: their names come from outside."""

# Entries after the group's last delivered one, where Redis can't tell its lag any more; capped.
_COUNT_AFTER = "return #redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 10001)"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GroupState:
    """One group of one stream, as Redis reports it."""

    stream: str
    group: str
    last_delivered_id: str
    lag: int
    pending: int
    lowest_pending_id: str | None

    @property
    def floor(self) -> str:
        """The lowest id that may still be needed; everything below is handled."""
        if self.lowest_pending_id is not None:
            return self.lowest_pending_id
        milliseconds, _, sequence = self.last_delivered_id.partition("-")
        return f"{milliseconds}-{int(sequence) + 1}"


class Housekeeping:
    """Keeps the bus in order. One process of the fleet runs it at a time; a second one does no harm."""

    def __init__(
        self,
        redis: Redis,
        agents: Callable[[], Awaitable[Iterable[str]]],
        dead_letters: Callable[[], Awaitable[dict[str, int]]] | None = None,
        *,
        interval_s: float = INTERVAL_S,
        stale_after_ms: int = STALE_AFTER_MS,
    ) -> None:
        self._redis = redis
        self._agents = agents
        self._dead_letters = dead_letters
        self._interval_s = interval_s
        self._stale_after_ms = stale_after_ms
        self._known: set[str] = set()
        self._reported: set[tuple[str, str]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Goes round every 5 s until `stop`; its gauges end with it, so that two leaders never both report."""
        try:
            while not stop.is_set():
                await self._guarded_round()
                await _wait(stop, self._interval_s)
        finally:
            for gauge in (STREAM_LAG, STREAM_PENDING, DEAD_LETTERS):
                gauge.clear()

    async def _guarded_round(self) -> None:
        try:
            await self.go_round()
        except (RedisError, RetryLater, OSError) as error:
            log.warning("housekeeping_postponed", error=str(error) or type(error).__name__)
        except Exception:
            log.exception("housekeeping_failed")

    async def go_round(self) -> None:
        """One round: groups first, then trimming and consumers, then gauges."""
        streams = await self._streams()
        for stream in streams:
            if (group := contract_group(stream)) and await ensure_group(self._redis, stream, group):
                log.info("bus_group_created", stream=stream, group=group)
        for stream in [*streams, EVENTS_STREAM]:
            await self._tend(stream)
        await self._report_dead_letters()

    async def _streams(self) -> Collection[str]:
        """The task stream of every agent that is registered, was ever seen here or has work, and the replies."""
        self._known.update(task_stream(agent) for agent in await self._agents())
        async for key in self._redis.scan_iter(match=f"{TASK_STREAM_PREFIX}*", count=1000, _type="STREAM"):
            if len(self._known) < MAX_STREAMS:
                self._known.add(key.decode())
        return [REPLIES_STREAM, *sorted(self._known)]

    async def _tend(self, stream: str) -> None:
        states = await group_states(self._redis, stream)
        for state in states:
            STREAM_LAG.labels(stream, state.group).set(state.lag)
            STREAM_PENDING.labels(stream, state.group).set(state.pending)
            await self._retire_stale(state)
        own = contract_group(stream)
        if own is None:
            return
        self._report_strangers(stream, {state.group for state in states} - {own})
        for state in states:
            if state.group == own:
                await ask(self._redis, "XTRIM", stream, "MINID", "=", state.floor)

    def _report_strangers(self, stream: str, groups: set[str]) -> None:
        """Trimming looks at the contract's group only: one abandoned group would fill Redis."""
        for group in groups:
            if (stream, group) not in self._reported:
                self._reported.add((stream, group))
                log.warning("bus_foreign_group", stream=stream, group=group, mend="listen on flotilla.events instead")

    async def _retire_stale(self, state: GroupState) -> None:
        for row in await self._redis.xinfo_consumers(state.stream, state.group):
            if row["idle"] >= self._stale_after_ms and row["pending"] == 0:
                name = row["name"].decode()
                if await retire_consumer(
                    self._redis, state.stream, state.group, name, min_idle_ms=self._stale_after_ms
                ):
                    log.info("bus_consumer_retired", stream=state.stream, group=state.group, consumer=name)

    async def _report_dead_letters(self) -> None:
        if self._dead_letters is None:
            return
        counts = await self._dead_letters()
        DEAD_LETTERS.clear()
        for stream, letters in sorted(counts.items())[:MAX_STREAMS]:
            DEAD_LETTERS.labels(stream).set(letters)


async def group_states(redis: Redis, stream: str) -> list[GroupState]:
    """Every group of `stream`; none if there is no such stream."""
    try:
        rows = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return []
        raise
    return [await _state(redis, stream, row) for row in rows]


async def _state(redis: Redis, stream: str, row: dict[str, Any]) -> GroupState:
    group, last = row["name"].decode(), row["last-delivered-id"].decode()
    lowest = None
    if row["pending"]:
        summary = await redis.xpending(stream, group)
        lowest = summary["min"].decode() if summary["min"] else None
    lag = row.get("lag")
    if lag is None:
        lag = await ask(redis, "EVAL", _COUNT_AFTER, 1, stream, last)
    return GroupState(stream, group, last, int(lag), int(row["pending"]), lowest)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
