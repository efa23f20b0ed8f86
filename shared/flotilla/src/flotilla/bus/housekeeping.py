"""What one leader does for all: groups exist, handled entries go, silent consumers go, gauges are set.

It knows which agents there are from their registrations, so that the group of an agent at 0 replicas is there
again, within seconds, after Redis has lost everything.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError

from flotilla.bus.channels import default_consumer_group
from flotilla.bus.connection import Redis, execute_redis_command
from flotilla.bus.denials import DenialMonitor
from flotilla.bus.functions import COUNT_AFTER_FUNCTION, call_redis_function, load_redis_functions
from flotilla.bus.groups import ensure_group, retire_idle_consumer
from flotilla.contracts.errors import RetryLater
from flotilla.contracts.names import (
    EVENTS_STREAM,
    REDRIVES_STREAM,
    REPLIES_STREAM,
    REPLY_STREAM_PREFIX,
    TASK_STREAM_PREFIX,
    VERSION_MARK,
    reply_stream,
    task_stream,
)
from flotilla.runtime.stopping import sleep_or_stop
from flotilla.telemetry.metrics import DEAD_LETTERS, STREAM_LAG, STREAM_PENDING, STREAMS_RESET

HOUSEKEEPING_INTERVAL_S = 5.0
CONSUMER_STALE_AFTER_MS = 600_000
"""A living consumer reads every second or two."""

MAX_STREAMS = 512
"""Beyond those of registered agents no more streams are tended and reported: their names come from outside."""
MAX_CONSUMERS = 500
"""How many consumers of a group one round looks at: an agent can make as many as it likes."""
MAX_GROUPS = 100
CLOCK_AHEAD_LIMIT_S = 86_400.0
MAX_ENTRY_ID_SEQUENCE = 2**64 - 1

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ConsumerGroupState:
    """One group of one stream, as Redis reports it."""

    stream: str
    group: str
    last_delivered_id: str
    lag: int
    pending: int
    lowest_pending_id: str | None

    @property
    def lowest_needed_id(self) -> str:
        """The lowest id that may still be needed; everything below is handled."""
        if self.lowest_pending_id is not None:
            return self.lowest_pending_id
        milliseconds, _, sequence = self.last_delivered_id.partition("-")
        return (
            f"{milliseconds}-{int(sequence) + 1}"
            if int(sequence) < MAX_ENTRY_ID_SEQUENCE
            else f"{int(milliseconds) + 1}-0"
        )


class BusHousekeeping:
    """Keeps the bus in order. One process of the fleet runs it at a time; a second one does no harm."""

    def __init__(
        self,
        redis: Redis,
        agents: Callable[[], Awaitable[Iterable[str]]],
        dead_letters: Callable[[], Awaitable[dict[str, int]]] | None = None,
        *,
        interval_s: float = HOUSEKEEPING_INTERVAL_S,
        stale_after_ms: int = CONSUMER_STALE_AFTER_MS,
    ) -> None:
        self._redis = redis
        self._agents = agents
        self._dead_letters = dead_letters
        self._interval_s = interval_s
        self._stale_after_ms = stale_after_ms
        self._known: set[str] = set()
        self._reported: set[str] = set()
        self._denials = DenialMonitor(redis)

    async def run(self, stop: asyncio.Event) -> None:
        """Goes round every 5 s until `stop`; its gauges end with it, so that two leaders never both report."""
        try:
            while not stop.is_set():
                await self._run_round_logging_errors()
                await sleep_or_stop(stop, self._interval_s)
        finally:
            for gauge in (STREAM_LAG, STREAM_PENDING, DEAD_LETTERS):
                gauge.clear()

    async def _run_round_logging_errors(self) -> None:
        try:
            await self.run_round()
        except (RedisError, RetryLater, OSError) as error:
            log.warning("housekeeping_postponed", error=str(error) or type(error).__name__)
        except Exception:
            log.exception("housekeeping_failed")

    async def run_round(self) -> None:
        """One round: functions and groups first, then trimming and consumers, then what is reported."""
        await load_redis_functions(self._redis)
        streams = await self._list_streams()
        for stream in streams:
            if (group := default_consumer_group(stream)) and await ensure_group(self._redis, stream, group):
                log.info("bus_group_created", stream=stream, group=group)
        for stream in [*streams, EVENTS_STREAM]:
            await self._maintain_stream_logging_errors(stream)
        await self._report_dead_letters()
        await self._denials.report_new_denials()

    async def _list_streams(self) -> Collection[str]:
        """Task and reply streams of every agent that is registered or was ever seen here; redrives; former replies."""
        for agent in await self._agents():
            self._known.update((task_stream(agent), reply_stream(agent)))
        for prefix in (TASK_STREAM_PREFIX, REPLY_STREAM_PREFIX):
            async for key in self._redis.scan_iter(match=f"{prefix}*", count=1000, _type="STREAM"):
                if len(self._known) < MAX_STREAMS:
                    self._known.add(key.decode())
        return [REPLIES_STREAM, REDRIVES_STREAM, *sorted(self._known)]

    async def _maintain_stream_logging_errors(self, stream: str) -> None:
        """Tends `stream`; what is wrong with one stream stays with it."""
        try:
            await self._maintain_stream(stream)
        except ResponseError:
            log.exception("stream_not_tended", stream=stream)

    async def _maintain_stream(self, stream: str) -> None:
        own = default_consumer_group(stream)
        states = await load_group_states(self._redis, stream, own)
        for state in states:
            STREAM_LAG.labels(stream, state.group).set(state.lag)
            STREAM_PENDING.labels(stream, state.group).set(state.pending)
            await self._retire_stale_consumers(state)
        if own is not None:
            await self._report_unexpected_groups(stream, own)
            for state in states:
                await self._trim_handled_entries(state)
            await self._drop_former_version(stream, states)

    async def _drop_former_version(self, stream: str, states: Sequence[ConsumerGroupState]) -> None:
        """Delete the stream of a version that nobody runs any more, once it is handled: each release leaves one."""
        if VERSION_MARK not in stream or any(state.lag or state.pending for state in states):
            return
        if any([await self._redis.xinfo_consumers(state.stream, state.group) for state in states]):
            return
        await execute_redis_command(self._redis, "DEL", stream)
        self._known.discard(stream)
        log.info("bus_version_stream_deleted", stream=stream)

    async def _report_unexpected_groups(self, stream: str, own: str) -> None:
        """Trimming looks at the contract's group only: one abandoned group would fill Redis."""
        if stream in self._reported:
            return
        rows = await self._redis.xinfo_groups(stream)
        strangers = [
            row["name"].decode(errors="replace") for row in rows if row["name"].decode(errors="replace") != own
        ]
        if strangers:
            self._reported.add(stream)
            log.warning("bus_foreign_group", stream=stream, group=strangers[0][:100], groups=len(strangers))

    async def _trim_handled_entries(self, state: ConsumerGroupState) -> None:
        """Drop what is handled. A stream whose ids have run ahead of the clock takes no `XADD *` any more, and is made
        again once it is handled: only its own writer can have done that."""
        if is_entry_id_ahead_of_clock(state.last_delivered_id):
            if state.lag == 0 and state.pending == 0:
                await execute_redis_command(self._redis, "DEL", state.stream)
                await ensure_group(self._redis, state.stream, state.group)
                STREAMS_RESET.labels(state.stream).inc()
                log.error("bus_stream_reset", stream=state.stream, last_id=state.last_delivered_id)
            return
        await execute_redis_command(self._redis, "XTRIM", state.stream, "MINID", "=", state.lowest_needed_id)

    async def _retire_stale_consumers(self, state: ConsumerGroupState) -> None:
        rows = await self._redis.xinfo_consumers(state.stream, state.group)
        for row in rows[:MAX_CONSUMERS]:
            if row["idle"] >= self._stale_after_ms and row["pending"] == 0:
                name = row["name"].decode()
                if await retire_idle_consumer(
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


def is_entry_id_ahead_of_clock(entry_id: str) -> bool:
    """Whether the id is a day or more ahead of this machine's clock."""
    return int(entry_id.partition("-")[0]) > (time.time() + CLOCK_AHEAD_LIMIT_S) * 1000


async def load_group_states(redis: Redis, stream: str, contract: str | None = None) -> list[ConsumerGroupState]:
    """The groups of `stream`, or only `contract`; none if there is no such stream."""
    try:
        rows = await redis.xinfo_groups(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return []
        raise
    if contract is not None:
        rows = [row for row in rows if row["name"].decode(errors="replace") == contract]
    return [await _load_group_state(redis, stream, row) for row in rows[:MAX_GROUPS]]


async def _load_group_state(redis: Redis, stream: str, row: dict[str, Any]) -> ConsumerGroupState:
    group, last = row["name"].decode(), row["last-delivered-id"].decode()
    lowest = None
    if row["pending"]:
        summary = await redis.xpending(stream, group)
        lowest = summary["min"].decode() if summary["min"] else None
    lag = row.get("lag")
    if lag is None:
        lag = await call_redis_function(redis, COUNT_AFTER_FUNCTION, stream, last)
    return ConsumerGroupState(stream, group, last, int(lag), int(row["pending"]), lowest)
