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
    AcceptedLosses,
    SessionLoss,
    WouldLoseEvents,
    count_lost_events,
    find_differing_sessions,
    find_sessions_with_differing_heads,
    raise_unless_accepted,
    record_losses_for_checkpoint,
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

_KAFKA_POLL_TIMEOUT_MS = 500
_KAFKA_SILENCE_TIMEOUT_S = 30.0
_MAX_EVENTS_LEFT_FOR_SWITCH = 20_000
"""With no more events than this to go, the live projection is stopped for the rest."""
_FETCH_BYTES = 2 * 1024 * 1024
_MAX_SWITCH_ATTEMPTS = 20
_SWITCH_IDLE_TIMEOUT_S = 60
"""The transaction that stops the live consumers is idle while the rest is projected on another connection."""

_TRUNCATE_NEXT_GENERATION = (
    "TRUNCATE session_events, session_heads, snapshots, tool_usage, parked_events, consumer_offsets"
)
_TRUNCATE_KEPT_PROJECTION = """
TRUNCATE audit_next.session_events, audit_next.session_heads, audit_next.snapshots, audit_next.tool_usage,
    audit_next.parked_events, audit_next.consumer_offsets
"""
_INSERT_FIRST_OFFSETS = (
    "INSERT INTO consumer_offsets (kafka_partition, next_offset) SELECT n, 0 FROM generate_series(0, $1) AS n"
)
_PARKED_COLUMNS = "tenant_id, kafka_partition, kafka_offset, session_id, seq, event_id, reason, detail, body, parked_at"
# What people decided about conflicts stays decided.
_COPY_DECIDED_PARKED_EVENTS = f"""
INSERT INTO parked_events ({_PARKED_COLUMNS})
SELECT {_PARKED_COLUMNS} FROM audit.parked_events WHERE reason = 'discarded'
"""  # noqa: S608 - constants
_SELECT_OFFSETS = "SELECT kafka_partition, next_offset FROM {schema}.consumer_offsets"
# Live consumers wait from here on, readers do not.
_LOCK_LIVE_OFFSETS = "LOCK TABLE audit.consumer_offsets IN EXCLUSIVE MODE"
_LOCK_BOTH_PROJECTIONS = """
LOCK TABLE audit.session_events, audit.session_heads, audit.snapshots, audit.tool_usage, audit.parked_events,
    audit.consumer_offsets IN ACCESS EXCLUSIVE MODE
"""
_SET_LOCK_TIMEOUT = "SET LOCAL lock_timeout = '2s'"
_SWITCH_PROJECTION = "SELECT audit.switch_projection()"
_REBUILD_LOCK_KEY = -4055375451688376666  # hashtextextended('flotilla.audit_next', 0)
_SELECT_KEPT_PROJECTION = "SELECT request_id, kept_since, sessions_lost, outcome FROM audit.kept_projection"
_INSERT_KEPT_PROJECTION = (
    "INSERT INTO audit.kept_projection (request_id, sessions_lost, outcome) VALUES ($1, $2, $3::jsonb)"
)
_DELETE_KEPT_PROJECTION = "DELETE FROM audit.kept_projection"
_PROGRESS_REPORT_INTERVAL_S = 1.0

log = structlog.get_logger(__name__)


ReportProgress: TypeAlias = Callable[[JsonObject], Awaitable[None]]
"""Takes how far a rebuild is: `{"phase", "read", "of"}`, records of Kafka."""


async def _log_progress(progress: JsonObject) -> None:
    log.info("rebuild_progress", **progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildTerms:
    """What was asked for."""

    request_id: str | None = None
    """Makes a repeated order a no-op once its exchange is committed."""
    accepted: AcceptedLosses = field(default_factory=dict)
    by: str = "rebuild"
    """Who accepted the losses, and why."""
    reason: str = ""
    report: ReportProgress = _log_progress


_DEFAULT_TERMS = RebuildTerms()


async def rebuild_projection(settings: Settings, order: RebuildTerms = _DEFAULT_TERMS) -> JsonObject:
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
                    idle_in_transaction_s=_SWITCH_IDLE_TIMEOUT_S,
                    ca_file=ca_file,
                )
            )
            if (done := await _outcome_of_finished_order(live, order.request_id)) is not None:
                return done
            holder = await stack.enter_async_context(_hold_rebuild_lock(live))
            kafka = _make_rebuild_consumer(settings)
            stack.push_async_callback(kafka.stop)
            await kafka.start()
            outcome = await _Rebuild(settings, order, following, live, holder=holder, kafka=kafka).rebuild_and_switch()
    except (KafkaError, *AWAY, TimeoutError, asyncpg.LockNotAvailableError) as error:
        raise RetryLater(f"the rebuild stopped: {str(error) or type(error).__name__}") from error
    log.info("projection_rebuilt", **outcome)
    return outcome


@asynccontextmanager
async def _hold_rebuild_lock(live: Pool) -> AsyncIterator[Connection]:
    """Keep others from rebuilding: two would write into the same tables.

    Raises:
        RetryLater: another rebuild is running.
    """
    async with try_advisory_lock(live, _REBUILD_LOCK_KEY) as holder:
        if holder is None:
            raise RetryLater("another rebuild is running: wait for its end (flotilla audit requests shows it)")
        yield holder


def _is_connection_open(connection: Connection) -> bool:
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
        kept = await connection.fetchrow(_SELECT_KEPT_PROJECTION)
        if kept is not None and kept["sessions_lost"] and not is_confirmed:
            raise Conflict(
                f"it holds events of {kept['sessions_lost']} sessions that are nowhere else, and no second person "
                "confirmed it: ask for it again"
            )
        if kept is not None:
            await connection.execute(_TRUNCATE_KEPT_PROJECTION)
            await connection.execute(_DELETE_KEPT_PROJECTION)
    return {"dropped": kept is not None, "sessions_lost": kept["sessions_lost"] if kept else 0}


async def _outcome_of_finished_order(live: Pool, request_id: str | None) -> JsonObject | None:
    """The outcome of this very order, where the process ended between the exchange and the answer.

    Raises:
        Conflict: another rebuild's replaced projection is the only copy of something.
    """
    kept = await live.fetchrow(_SELECT_KEPT_PROJECTION)
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


def _make_rebuild_consumer(settings: Settings) -> AIOKafkaConsumer:
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

    async def rebuild_and_switch(self) -> JsonObject:
        """All of it; returns the outcome."""
        await self._empty_next_generation()
        while self._count_events_left(ends := await self._load_end_offsets()) > _MAX_EVENTS_LEFT_FOR_SWITCH:
            await self._project_until(ends)
        try:
            await self._project_until(await self._live_or_kafka_end_offsets())
            losses = await self._compare_projections()
            return await self._switch_between_readers(losses)
        except WouldLoseEvents:
            await self._pool.execute(_TRUNCATE_NEXT_GENERATION)
            raise

    async def _compare_projections(self) -> list[SessionLoss]:
        """Compare the two projections thoroughly, while the live one goes on.

        Raises:
            WouldLoseEvents: not every loss was accepted.
        """
        await self._order.report({"phase": "comparing", "read": sum(self._next.values())})
        async with self._live.acquire() as connection:
            suspects = await find_differing_sessions(connection)
        await self._project_until(await self._live_or_kafka_end_offsets())
        async with self._live.acquire() as connection, connection.transaction():
            losses = await count_lost_events(connection, suspects)
        raise_unless_accepted(losses, self._order.accepted)
        return losses

    async def _switch_between_readers(self, losses: list[SessionLoss]) -> JsonObject:
        await self._order.report({"phase": "switching", "read": sum(self._next.values())})
        for attempt in range(1, _MAX_SWITCH_ATTEMPTS + 1):
            try:
                return await self._stop_live_and_switch(losses)
            except asyncpg.LockNotAvailableError:
                log.info("switch_waits_for_readers", attempt=attempt)
                if attempt == _MAX_SWITCH_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _empty_next_generation(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(_DELETE_KEPT_PROJECTION)
            await connection.execute(_TRUNCATE_NEXT_GENERATION)
            await connection.execute(_INSERT_FIRST_OFFSETS, SESSION_EVENTS_PARTITIONS - 1)
            await connection.execute(_COPY_DECIDED_PARKED_EVENTS)
        self._kafka.assign(self._places)
        starts = await self._kafka.beginning_offsets(self._places)
        for place in self._places:
            if starts[place] != 0:
                raise ConfigurationError(f"{place.topic} partition {place.partition} no longer has its first events")
            self._kafka.seek(place, 0)
            self._next[place.partition] = 0

    async def _stop_live_and_switch(self, losses: list[SessionLoss]) -> JsonObject:
        """Stop the live consumers, read what they have read, compare the heads again, and exchange the tables.

        Raises:
            WouldLoseEvents: more is lost by now than was accepted.
        """
        async with self._live.acquire() as connection, connection.transaction():
            await connection.execute(_SET_LOCK_TIMEOUT)
            await connection.execute(_LOCK_LIVE_OFFSETS)
            await self._project_until(await self._live_or_kafka_end_offsets(connection))
            newer = await count_lost_events(connection, await find_sessions_with_differing_heads(connection))
            raise_unless_accepted(newer, self._order.accepted)
            names = {loss.name_to_accept for loss in (*losses, *newer)}
            outcome = self._rebuild_outcome(sorted(names))
            await connection.execute(_LOCK_BOTH_PROJECTIONS)
            await record_losses_for_checkpoint(
                connection,
                [*losses, *newer],
                request_id=self._order.request_id or "rebuild",
                by=self._order.by,
                reason=self._order.reason,
            )
            if not _is_connection_open(self._holder):
                raise RetryLater(
                    "the rebuild stopped: it lost its lock when a connection broke, and another may have begun "
                    "(`flotilla audit requests` shows it)"
                )
            await connection.execute(_SWITCH_PROJECTION)
            await connection.execute(_INSERT_KEPT_PROJECTION, self._order.request_id, len(names), json.dumps(outcome))
        return outcome

    def _rebuild_outcome(self, lost: list[str]) -> JsonObject:
        seconds = round(time.monotonic() - self._started, 1)
        return {"events": self._events, "seconds": seconds, "sessions_lost": lost}

    async def _live_or_kafka_end_offsets(self, connection: "Connection | None" = None) -> dict[int, int]:
        """How far the live projection has read; where Kafka lost a tail, only as far as Kafka goes now."""
        ends = await self._load_end_offsets()
        if connection is None:
            async with self._live.acquire() as own:
                offsets = await _load_offsets(own, LIVE)
        else:
            offsets = await _load_offsets(connection, LIVE)
        return {partition: min(offset, ends.get(partition, 0)) for partition, offset in offsets.items()}

    async def _project_until(self, ends: Mapping[int, int]) -> None:
        """Project until every partition stands at its end, or beyond."""
        heard = time.monotonic()
        while self._count_events_left(ends):
            places = [place for place in self._places if self._next[place.partition] < ends.get(place.partition, 0)]
            polled = await self._kafka.getmany(
                *places, timeout_ms=_KAFKA_POLL_TIMEOUT_MS, max_records=self._batch_events
            )
            batches = [
                RecordBatch(place.partition, self._next[place.partition], records)
                for place, records in polled.items()
                if records
            ]
            if batches:
                heard = time.monotonic()
                await self._project_and_snapshot(batches)
            elif time.monotonic() - heard > _KAFKA_SILENCE_TIMEOUT_S:
                raise TimeoutError(f"Kafka gave no records for {_KAFKA_SILENCE_TIMEOUT_S:g} s")

    async def _project_and_snapshot(self, batches: list[RecordBatch]) -> None:
        outcome = await self._projection.project_batches(batches)
        await write_due_snapshots(self._pool, outcome.snapshots_due)
        self._events += len(outcome.appended)
        for batch in batches:
            self._next[batch.partition] = batch.next_offset
        if time.monotonic() - self._reported > _PROGRESS_REPORT_INTERVAL_S:
            self._reported = time.monotonic()
            read = sum(self._next.values())
            await self._order.report(
                {"phase": "reading", "read": read, "of": read + self._count_events_left(await self._load_end_offsets())}
            )

    async def _load_end_offsets(self) -> dict[int, int]:
        ends = await self._kafka.end_offsets(self._places)
        return {place.partition: int(end) for place, end in ends.items()}

    def _count_events_left(self, ends: Mapping[int, int]) -> int:
        return sum(max(end - self._next[partition], 0) for partition, end in ends.items())


async def _load_offsets(connection: Connection, schema: str) -> dict[int, int]:
    rows = await connection.fetch(_SELECT_OFFSETS.format(schema=schema))
    return {row["kafka_partition"]: row["next_offset"] for row in rows}


def main() -> int:
    """Rebuild with the audit consumer's settings and return the exit code."""
    try:
        settings = load_settings(Settings)
        configure_logs("audit-rebuild", settings.log_level, settings.log_format)
        asyncio.run(rebuild_projection(settings))
    except FlotillaError as error:
        sys.stderr.write(f"audit-rebuild: {error}\n")
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
