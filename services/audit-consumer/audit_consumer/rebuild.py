"""Builds the whole projection again from Kafka, beside the live one, and exchanges the two in one transaction.

Where the live one holds what Kafka lost it stays, unless each loss was accepted by name. What was replaced is kept in
`audit_next` until somebody drops it, or until the next rebuild where nothing was lost: the disk holds both until then.

`python -m audit_consumer.rebuild` does it from a shell; a request of kind `rebuild` makes a running consumer do it.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from audit_consumer.connections import LIVE, NEXT, open_projection_pool
from audit_consumer.losses import (
    Accepted,
    Loss,
    WouldLoseEvents,
    count_losses,
    find_suspects,
    find_suspects_by_heads,
    note_losses,
    refuse_losses,
)
from audit_consumer.projection import Projection
from audit_consumer.projection_rows import RecordBatch
from audit_consumer.settings import Settings
from audit_consumer.snapshotting import write_due_snapshots
from flotilla.config import load_settings
from flotilla.contracts.errors import ConfigurationError, Conflict, FlotillaError, RetryLater
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.names import SESSION_EVENTS_PARTITIONS
from flotilla.kafka.client import kafka_client_arguments
from flotilla.postgres import AWAY, Connection, Pool
from flotilla.postgres.locks import try_advisory_lock
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
_EMPTY_KEPT = """
TRUNCATE audit_next.session_events, audit_next.session_heads, audit_next.snapshots, audit_next.tool_usage,
    audit_next.parked_events, audit_next.consumer_offsets
"""
_START = "INSERT INTO consumer_offsets (kafka_partition, next_offset) SELECT n, 0 FROM generate_series(0, $1) AS n"
_PARKED_COLUMNS = "tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail, body, parked_at"
# What people decided about conflicts stays decided.
_KEEP_DECISIONS = f"""
INSERT INTO parked_events ({_PARKED_COLUMNS})
SELECT {_PARKED_COLUMNS} FROM audit.parked_events WHERE reason = 'discarded'
"""  # noqa: S608 - constants
_OFFSETS = "SELECT kafka_partition, next_offset FROM {schema}.consumer_offsets"
# Live consumers wait from here on, readers do not.
_STOP_LIVE = "LOCK TABLE audit.consumer_offsets IN EXCLUSIVE MODE"
_LOCK_ALL = """
LOCK TABLE audit.session_events, audit.session_heads, audit.snapshots, audit.tool_usage, audit.parked_events,
    audit.consumer_offsets IN ACCESS EXCLUSIVE MODE
"""
_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"
_SWITCH = "SELECT audit.switch_projection()"
_ONLY_ONE = -4055375451688376666  # hashtextextended('flotilla.audit_next', 0)
_KEPT = "SELECT request_id, kept_since, sessions_lost, outcome FROM audit.kept_projection"
_KEEP = "INSERT INTO audit.kept_projection (request_id, sessions_lost, outcome) VALUES ($1, $2, $3::jsonb)"
_FORGET_KEPT = "DELETE FROM audit.kept_projection"
_REPORT_EVERY_S = 1.0

log = structlog.get_logger(__name__)


Report: TypeAlias = Callable[[JsonObject], Awaitable[None]]
"""Takes how far a rebuild is: `{"phase", "read", "of"}`, records of Kafka."""


async def _log_progress(progress: JsonObject) -> None:
    log.info("rebuild_progress", **progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildTerms:
    """What was asked for."""

    request_id: str | None = None
    """Makes a repeated order a no-op once its exchange is committed."""
    accepted: Accepted = field(default_factory=dict)
    by: str = "rebuild"
    """Who accepted the losses, and why."""
    reason: str = ""
    report: Report = _log_progress


_PLAIN = RebuildTerms()


async def rebuild(settings: Settings, order: RebuildTerms = _PLAIN) -> JsonObject:
    """Rebuild and switch; give the number of events, the seconds it took, and the losses that were accepted.

    May be broken off at any time: until the exchange commits, the live projection is untouched, and the next
    rebuild starts from nothing.

    Raises:
        WouldLoseEvents: the live projection holds events that Kafka no longer has, and not all were accepted.
        Conflict: what an earlier rebuild replaced holds the only copy of some events, and is still kept.
        RetryLater: Kafka or PostgreSQL went away, readers never let go of the tables, or another rebuild is running.
    """
    try:
        async with AsyncExitStack() as stack:
            dsn = settings.postgres_dsn.get_secret_value()
            ca_file = settings.postgres_ca_file
            following = await stack.enter_async_context(
                open_projection_pool(dsn, NEXT, application="audit-rebuild", ca_file=ca_file)
            )
            live = await stack.enter_async_context(
                open_projection_pool(
                    dsn,
                    LIVE,
                    application="audit-rebuild-switch",
                    idle_in_transaction_s=_SWITCH_IDLE_S,
                    ca_file=ca_file,
                )
            )
            if (done := await _done_before(live, order.request_id)) is not None:
                return done
            holder = await stack.enter_async_context(_alone(live))
            kafka = _consumer(settings)
            stack.push_async_callback(kafka.stop)
            await kafka.start()
            outcome = await _Rebuild(settings, order, following, live, holder=holder, kafka=kafka).run()
    except (KafkaError, *AWAY, TimeoutError, asyncpg.LockNotAvailableError) as error:
        raise RetryLater(f"the rebuild stopped: {str(error) or type(error).__name__}") from error
    log.info("projection_rebuilt", **outcome)
    return outcome


@asynccontextmanager
async def _alone(live: Pool) -> AsyncIterator[Connection]:
    """Keep others from rebuilding: two would write into the same tables.

    Raises:
        RetryLater: another rebuild is running.
    """
    async with try_advisory_lock(live, _ONLY_ONE) as holder:
        if holder is None:
            raise RetryLater("another rebuild is running: wait for its end (flotilla audit requests shows it)")
        yield holder


def _is_open(connection: Connection) -> bool:
    """A pool takes a connection back that its server ended, and then refuses to be asked about it."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False


async def drop_kept_projection(pool: Pool, *, is_confirmed: bool) -> JsonObject:
    """Empties what the last rebuild replaced; says whether there was any. `pool` is one of the live projection.

    Raises:
        Conflict: it holds events that are nowhere else, and no second person confirmed it.
    """
    async with pool.acquire() as connection, connection.transaction():
        kept = await connection.fetchrow(_KEPT)
        if kept is not None and kept["sessions_lost"] and not is_confirmed:
            raise Conflict(
                f"it holds events of {kept['sessions_lost']} sessions that are nowhere else, and no second person "
                "confirmed it: ask for it again"
            )
        if kept is not None:
            await connection.execute(_EMPTY_KEPT)
            await connection.execute(_FORGET_KEPT)
    return {"dropped": kept is not None, "sessions_lost": kept["sessions_lost"] if kept else 0}


async def _done_before(live: Pool, request_id: str | None) -> JsonObject | None:
    """The outcome of this very order, where the process ended between the exchange and the answer.

    Raises:
        Conflict: another rebuild's replaced projection is the only copy of something.
    """
    kept = await live.fetchrow(_KEPT)
    if kept is not None and request_id is not None and kept["request_id"] == request_id:
        outcome: JsonObject = json.loads(kept["outcome"])
        return outcome
    if kept is not None and kept["sessions_lost"]:
        raise Conflict(
            f"the projection that a rebuild replaced on {kept['kept_since']:%Y-%m-%d %H:%M} UTC is kept, with events "
            f"of {kept['sessions_lost']} sessions that are nowhere else, and a rebuild needs its place: export what "
            "you need of schema audit_next, then flotilla audit drop-kept --reason WHY"
        )
    return None


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **kafka_client_arguments(settings),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=_FETCH_BYTES,
    )


class _Rebuild:
    """One rebuild. `following` writes the next generation, `live` exchanges it for the live one.

    Both only while `holder` holds the lock.
    """

    def __init__(
        self,
        settings: Settings,
        order: RebuildTerms,
        following: Pool,
        live: Pool,
        *,
        holder: Connection,
        kafka: AIOKafkaConsumer,
    ) -> None:
        self._holder = holder
        self._started = self._reported = time.monotonic()
        self._order = order
        self._batch_events = settings.audit_batch_events
        self._pool = following
        self._live = live
        self._kafka = kafka
        self._projection = Projection(following, settings.operator_tenant)
        topic = settings.kafka_session_events_topic
        self._places = [TopicPartition(topic, number) for number in range(SESSION_EVENTS_PARTITIONS)]
        self._next: dict[int, int] = {}
        self._events = 0

    async def run(self) -> JsonObject:
        """All of it; returns the outcome."""
        await self._begin()
        while self._to_go(ends := await self._ends()) > _CLOSE:
            await self._project_until(ends)
        try:
            await self._project_until(await self._common_ends())
            losses = await self._compare()
            return await self._switch_between_readers(losses)
        except WouldLoseEvents:
            await self._pool.execute(_EMPTY)
            raise

    async def _compare(self) -> list[Loss]:
        """Compare the two projections thoroughly, while the live one goes on.

        Raises:
            WouldLoseEvents: not every loss was accepted.
        """
        await self._order.report({"phase": "comparing", "read": sum(self._next.values())})
        async with self._live.acquire() as connection:
            suspects = await find_suspects(connection)
        await self._project_until(await self._common_ends())
        async with self._live.acquire() as connection, connection.transaction():
            losses = await count_losses(connection, suspects)
        refuse_losses(losses, self._order.accepted)
        return losses

    async def _switch_between_readers(self, losses: list[Loss]) -> JsonObject:
        await self._order.report({"phase": "switching", "read": sum(self._next.values())})
        for attempt in range(1, _SWITCH_TRIES + 1):
            try:
                return await self._switch(losses)
            except asyncpg.LockNotAvailableError:
                log.info("switch_waits_for_readers", attempt=attempt)
                if attempt == _SWITCH_TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _begin(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_FORGET_KEPT)
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

    async def _switch(self, losses: list[Loss]) -> JsonObject:
        """Stop the live consumers, read what they have read, compare the heads again, and exchange the tables.

        Raises:
            WouldLoseEvents: more is lost by now than was accepted.
        """
        async with self._live.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK_TIMEOUT)
            await connection.execute(_STOP_LIVE)
            await self._project_until(await self._common_ends(connection))
            newer = await count_losses(connection, await find_suspects_by_heads(connection))
            refuse_losses(newer, self._order.accepted)
            names = {loss.name for loss in (*losses, *newer)}
            outcome = self._outcome(sorted(names))
            await connection.execute(_LOCK_ALL)
            await note_losses(
                connection,
                [*losses, *newer],
                request_id=self._order.request_id or "rebuild",
                by=self._order.by,
                reason=self._order.reason,
            )
            if not _is_open(self._holder):
                raise RetryLater(
                    "the rebuild stopped: it lost its lock when a connection broke, and another may have begun "
                    "(`flotilla audit requests` shows it)"
                )
            await connection.execute(_SWITCH)
            await connection.execute(_KEEP, self._order.request_id, len(names), json.dumps(outcome))
        return outcome

    def _outcome(self, lost: list[str]) -> JsonObject:
        seconds = round(time.monotonic() - self._started, 1)
        return {"events": self._events, "seconds": seconds, "sessions_lost": lost}

    async def _common_ends(self, connection: "Connection | None" = None) -> dict[int, int]:
        """How far the live projection has read; where Kafka lost a tail, only as far as Kafka goes now."""
        ends = await self._ends()
        if connection is None:
            async with self._live.acquire() as own:
                offsets = await _offsets(own, LIVE)
        else:
            offsets = await _offsets(connection, LIVE)
        return {partition: min(offset, ends.get(partition, 0)) for partition, offset in offsets.items()}

    async def _project_until(self, ends: Mapping[int, int]) -> None:
        """Project until every partition stands at its end, or beyond."""
        heard = time.monotonic()
        while self._to_go(ends):
            places = [place for place in self._places if self._next[place.partition] < ends.get(place.partition, 0)]
            polled = await self._kafka.getmany(*places, timeout_ms=_POLL_MS, max_records=self._batch_events)
            batches = [
                RecordBatch(place.partition, self._next[place.partition], records)
                for place, records in polled.items()
                if records
            ]
            if batches:
                heard = time.monotonic()
                await self._project(batches)
            elif time.monotonic() - heard > _SILENCE_S:
                raise TimeoutError(f"Kafka gave no records for {_SILENCE_S:g} s")

    async def _project(self, batches: list[RecordBatch]) -> None:
        outcome = await self._projection.project_batches(batches)
        await write_due_snapshots(self._pool, outcome.snapshots_due)
        self._events += len(outcome.appended)
        for batch in batches:
            self._next[batch.partition] = batch.upto
        if time.monotonic() - self._reported > _REPORT_EVERY_S:
            self._reported = time.monotonic()
            read = sum(self._next.values())
            await self._order.report({"phase": "reading", "read": read, "of": read + self._to_go(await self._ends())})

    async def _ends(self) -> dict[int, int]:
        ends = await self._kafka.end_offsets(self._places)
        return {place.partition: int(end) for place, end in ends.items()}

    def _to_go(self, ends: Mapping[int, int]) -> int:
        return sum(max(end - self._next[partition], 0) for partition, end in ends.items())


async def _offsets(connection: Connection, schema: str) -> dict[int, int]:
    rows = await connection.fetch(_OFFSETS.format(schema=schema))
    return {row["kafka_partition"]: row["next_offset"] for row in rows}


def main() -> int:
    """Rebuild with the audit consumer's settings and return the exit code."""
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
