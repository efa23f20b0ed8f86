"""Makes the whole projection anew from Kafka, beside the live one, and exchanges the two in one transaction.

`python -m audit_consumer.rebuild` does it from a shell; a request of kind `rebuild` makes a running consumer do it.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from audit_consumer.connections import LIVE, NEXT, open_projection
from audit_consumer.projection import Batch, Projection
from audit_consumer.settings import Settings
from audit_consumer.snapshotting import write_snapshots
from flotilla.config import load_settings
from flotilla.contracts.errors import ConfigurationError, FlotillaError, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.outbox.kafka_client import client_arguments
from flotilla.postgres import AWAY, Connection, Pool
from flotilla.telemetry import configure_logs

_POLL_MS = 500
_SILENCE_S = 30.0
_CLOSE = 20_000
"""With no more events than this to go, the live projection is stopped for the rest."""
_FETCH_BYTES = 2 * 1024 * 1024
_SWITCH_TRIES = 20
_SWITCH_IDLE_S = 60
"""The transaction that stops the live consumers is idle while the rest is projected on another connection."""

_EMPTY = "TRUNCATE session_events, session_heads, snapshots, tool_usage, parked_events, consumer_offsets"
_START = "INSERT INTO consumer_offsets (kafka_partition, next_offset) SELECT n, 0 FROM generate_series(0, $1) AS n"
# What people decided about conflicts stays decided.
_KEEP_DECISIONS = "INSERT INTO parked_events SELECT * FROM audit.parked_events WHERE reason = 'discarded'"
_OFFSETS = "SELECT kafka_partition, next_offset FROM {schema}.consumer_offsets"
# Live consumers wait from here on, readers do not.
_STOP_LIVE = "LOCK TABLE audit.consumer_offsets IN EXCLUSIVE MODE"
_LOCK_ALL = """
LOCK TABLE audit.session_events, audit.session_heads, audit.snapshots, audit.tool_usage, audit.parked_events,
    audit.consumer_offsets IN ACCESS EXCLUSIVE MODE
"""
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"
_SWITCH = "SELECT audit.switch_projection()"

log = structlog.get_logger(__name__)


async def rebuild(settings: Settings) -> JsonObject:
    """Rebuilds and switches; gives the number of events and the seconds it took.

    May be broken off at any time: until the exchange commits, the live projection is untouched, and the next
    rebuild starts from nothing.

    Raises:
        RetryLater: Kafka or PostgreSQL went away, or readers never let go of the tables.
    """
    started = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            dsn = settings.postgres_dsn.get_secret_value()
            following = await stack.enter_async_context(open_projection(dsn, NEXT, application="audit-rebuild"))
            live = await stack.enter_async_context(
                open_projection(dsn, LIVE, application="audit-rebuild-switch", idle_in_transaction_s=_SWITCH_IDLE_S)
            )
            kafka = _consumer(settings)
            stack.push_async_callback(kafka.stop)
            await kafka.start()
            events = await _Rebuild(settings, following, live, kafka).run()
    except (KafkaError, *AWAY, TimeoutError, asyncpg.LockNotAvailableError) as error:
        raise RetryLater(f"the rebuild stopped: {str(error) or type(error).__name__}") from error
    seconds = round(time.monotonic() - started, 1)
    log.info("projection_rebuilt", events=events, seconds=seconds)
    return {"events": events, "seconds": seconds}


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client_arguments(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )


class _Rebuild:
    """One rebuild. `following` writes the next generation, `live` exchanges it for the live one."""

    def __init__(self, settings: Settings, following: Pool, live: Pool, kafka: AIOKafkaConsumer) -> None:
        self._batch_events = settings.audit_batch_events
        self._pool = following
        self._live = live
        self._kafka = kafka
        self._projection = Projection(following)
        topic = settings.kafka_session_events_topic
        self._places = [TopicPartition(topic, number) for number in range(SESSION_EVENTS_PARTITIONS)]
        self._next: dict[int, int] = {}
        self._events = 0

    async def run(self) -> int:
        """All of it; gives the number of events projected."""
        await self._begin()
        while self._to_go(ends := await self._ends()) > _CLOSE:
            await self._project_until(ends)
        for attempt in range(1, _SWITCH_TRIES + 1):
            try:
                await self._switch()
                break
            except asyncpg.LockNotAvailableError:
                log.info("switch_waits_for_readers", attempt=attempt)
                if attempt == _SWITCH_TRIES:
                    raise
        await self._pool.execute(_EMPTY)
        return self._events

    async def _begin(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_EMPTY)
            await connection.execute(_START, SESSION_EVENTS_PARTITIONS - 1)
            await connection.execute(_KEEP_DECISIONS)
        self._kafka.assign(self._places)
        starts = await self._kafka.beginning_offsets(self._places)
        for place in self._places:
            if starts[place] != 0:
                raise ConfigurationError(f"{place.topic} partition {place.partition} no longer has its first events")
            self._kafka.seek(place, 0)
            self._next[place.partition] = 0

    async def _switch(self) -> None:
        """Stops the live consumers, reads what they have read, and exchanges the tables."""
        async with self._live.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(_STOP_LIVE)
            await self._project_until(await _offsets(connection, LIVE))
            await connection.execute(_LOCK_ALL)
            await connection.execute(_SWITCH)

    async def _project_until(self, ends: Mapping[int, int]) -> None:
        """Projects until every partition stands at its end, or beyond."""
        heard = time.monotonic()
        while self._to_go(ends):
            places = [place for place in self._places if self._next[place.partition] < ends.get(place.partition, 0)]
            polled = await self._kafka.getmany(*places, timeout_ms=_POLL_MS, max_records=self._batch_events)
            batches = [
                Batch(place.partition, self._next[place.partition], records)
                for place, records in polled.items()
                if records
            ]
            if batches:
                heard = time.monotonic()
                await self._project(batches)
            elif time.monotonic() - heard > _SILENCE_S:
                raise TimeoutError(f"Kafka gave no records for {_SILENCE_S:g} s")

    async def _project(self, batches: list[Batch]) -> None:
        outcome = await self._projection.project(batches)
        await write_snapshots(self._pool, outcome.snapshots_due)
        self._events += len(outcome.appended)
        for batch in batches:
            self._next[batch.partition] = batch.upto

    async def _ends(self) -> dict[int, int]:
        ends = await self._kafka.end_offsets(self._places)
        return {place.partition: int(end) for place, end in ends.items()}

    def _to_go(self, ends: Mapping[int, int]) -> int:
        return sum(max(end - self._next[partition], 0) for partition, end in ends.items())


async def _offsets(connection: Connection, schema: str) -> dict[int, int]:
    rows = await connection.fetch(_OFFSETS.format(schema=schema))
    return {row["kafka_partition"]: row["next_offset"] for row in rows}


def main() -> int:
    """Rebuilds with the audit consumer's settings; gives the exit code."""
    try:
        settings = load_settings(Settings)
        configure_logs("audit-rebuild", settings.log_level, settings.log_format)
        asyncio.run(rebuild(settings))
    except FlotillaError as error:
        sys.stderr.write(f"audit-rebuild: {error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
