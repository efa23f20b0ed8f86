"""The relay: committed outbox rows to Kafka, first occurrences in order per session, nothing lost.

What keeps the order, however many relays work a lane at once: the relay that publishes a lane reads it from its lowest
undeleted row, has one unacknowledged batch per partition, deletes only what Kafka has acknowledged, and reads again
after any failure. So every batch that ever reaches Kafka begins no later than the first event that Kafka lacks.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from flotilla.contracts.errors import RetryLater
from flotilla.outbox.parked import park_session_of_row
from flotilla.postgres import AWAY, Pool
from flotilla.telemetry.metrics import OUTBOX_PUBLISH_DELAY, OUTBOX_PUBLISHED
from outbox_relay.gauges import OutboxGauges
from outbox_relay.horizon_watch import HorizonTracker
from outbox_relay.in_flight import InFlightBatch, InFlightBatches
from outbox_relay.leases import LEASE_RENEWAL_INTERVAL_S, LaneLeases
from outbox_relay.publisher import EventRefused, KafkaPublisher, PublisherConnection
from outbox_relay.read_starts import LaneReadPositions, OutboxRead, ReadPosition
from outbox_relay.rows import OutboxPage, delete_published_rows, read_outbox_page

DATABASE_ERRORS = (*AWAY, asyncpg.PostgresError)

_SLOW_PARTITION_WAIT_S = 0.25
"""How long a turn waits for slow partitions before the others go on without them."""
_NOT_READY_AFTER_S = 2.0
"""Without acknowledgement for so long the relay says that it is not ready."""
_RELEASE_LANES_WITHOUT_KAFKA_AFTER_S = 10.0
"""Without Kafka for so long the lanes are handed back: another relay may reach it."""
_PAUSE_BETWEEN_LONG_READS_S = 0.001
"""Between reads that take as long as the pace: a few more events for the next batch."""
_POSSIBLE_REFUSALS_TO_PARK = 5
_SWEEP_SHARE = 100
_RELEASE_TIMEOUT_S = 5.0
_RETRY_WAITS_S = (0.1, 2.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Limits and paces of one relay; its memory is a small multiple of `max_bytes`."""

    max_rows: int = 5000
    max_bytes: int = 8_000_000
    busy_poll_s: float = 0.005
    idle_poll_s: float = 0.05
    send_timeout_s: float = 20.0
    """Without an acknowledgement for so long the producer is closed and rebuilt."""
    sweep_s: float = 30.0
    """Between reads from the very first row, whatever is known about where they may begin."""


@dataclass(slots=True)
class ReducedLaneBatchSize:
    """A lane in which Kafka refused a batch: smaller ones, until the refused event stands alone."""

    max_batch_rows: int
    suspicions: int = 0


@dataclass(slots=True)
class ConnectionState:
    """What is known of the database through one connection, and void with it: after a failover row ids may be drawn
    a second time, so nothing is deleted on one connection that was read on another. Between statements the
    connection is outside any transaction, sends included.
    """

    connection: "PoolConnectionProxy[asyncpg.Record]"
    watch: HorizonTracker
    starts: LaneReadPositions = field(default_factory=LaneReadPositions)
    acked: list[int] = field(default_factory=list)
    """Rows that Kafka has, still to be deleted; read again they would be published twice."""


class OutboxRelay:
    """Works the lanes that `leases` gives it, until told to stop."""

    def __init__(
        self,
        pool: Pool,
        link: PublisherConnection,
        leases: LaneLeases,
        *,
        options: RelayOptions | None = None,
        traces: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self._link = link
        self._leases = leases
        self._options = options or RelayOptions()
        self._on_progress = on_progress
        self._in_flight = InFlightBatches(traces=traces)
        self._gauges = OutboxGauges(pool)
        self._limits: dict[int, ReducedLaneBatchSize] = {}
        self._database: ConnectionState | None = None
        self._pause_s = self._options.busy_poll_s
        self._is_full = False
        self._read_at: dict[int, float] = {}
        self._kafka_trouble = self._database_trouble = 0
        self._renewed_at = self._sweep_at = float("-inf")
        self._kafka_seen_at = time.monotonic()

    async def relay_until(self, stop: asyncio.Event, drain_s: float) -> None:
        """Relay until `stop` is set, then wait up to `drain_s` for what is under way and hands the lanes back."""
        self._link.reconnect()
        while not stop.is_set():
            pause_s = await self._run_turn_handling_errors()
            if self._link.is_making_progress:
                self._on_progress()
            await asyncio.sleep(pause_s)
        await self._drain_and_release_lanes(drain_s)

    async def check_kafka_ready(self) -> None:
        """A readiness check: raises RetryLater while Kafka can't be reached or leaves a batch unanswered."""
        if self._link.publisher is None:
            raise RetryLater(self._link.problem or "connecting to Kafka")
        if (waiting_s := self._in_flight.oldest_batch_age_s()) > _NOT_READY_AFTER_S:
            raise RetryLater(f"Kafka has not acknowledged a batch for {waiting_s:.0f} s")
        await self._link.publisher.check_broker_answers()

    async def _run_turn_handling_errors(self) -> float:
        try:
            pause_s = await self._run_turn()
        except DATABASE_ERRORS as error:
            self._database_trouble += 1
            log.warning("database_away", error=f"{type(error).__name__}: {error}", attempt=self._database_trouble)
            await self._disconnect_database()
            return _retry_wait_s(self._database_trouble)
        self._database_trouble = 0
        return pause_s

    async def _connect_database(self) -> ConnectionState:
        if self._database is None:
            connection = await self._pool.acquire()
            self._database = ConnectionState(connection, HorizonTracker(connection))
        return self._database

    async def _disconnect_database(self) -> None:
        """Forget all that was read; what is under way is read again, so at worst it is published twice."""
        await self._in_flight.wait_all(_SLOW_PARTITION_WAIT_S)
        if await self._in_flight.abandon_all():
            self._link.reconnect("the database connection was lost with batches under way")
        if self._database is not None:
            connection = self._database.connection
            self._database = None
            # asyncpg has released it already when the server ended it.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            await self._pool.release(connection)

    async def _run_turn(self) -> float:
        """One read of every lane that is free, and what it leads to; returns the pause before the next."""
        began = time.monotonic()
        view = await self._connect_database()
        await self._do_periodic_work(view)
        publisher = self._link.publisher
        if publisher is None:
            self._link.ensure_connecting()
            return self._options.idle_poll_s
        lanes = self._lanes_to_read()
        if not lanes:
            pause_s = 0.0 if self._in_flight.busy_lanes else self._options.idle_poll_s
            return (
                await self._process_finished_batches(
                    view, publisher, await self._in_flight.wait_any(_SLOW_PARTITION_WAIT_S)
                )
                or pause_s
            )
        horizon = await view.watch.newest_horizon()
        start = view.starts.read_position(lanes)
        page = await self._read_lanes(view, lanes, start)
        self._is_full = page.read_to is not None
        self._read_at |= dict.fromkeys(lanes, began)
        read = OutboxRead(horizon, start, page.read_to)
        for rows in page.lanes:
            limit = self._limits.get(rows.lane)
            self._in_flight.start_sending(
                publisher, rows, read, limit.max_batch_rows if limit else self._options.max_rows
            )
        found = {rows.lane for rows in page.lanes}
        view.starts.advance_after_delete([lane for lane in lanes if lane not in found], read)
        finished = (
            self._in_flight.take_finished() if self._is_full else await self._in_flight.wait_all(_SLOW_PARTITION_WAIT_S)
        )
        return await self._process_finished_batches(view, publisher, finished) or self._pause_before_next_turn_s(
            page, began
        )

    def _lanes_to_read(self) -> list[int]:
        """All that have nothing under way. Where there is much to do a third of all at most, those first that were not
        read for longest, so that PostgreSQL reads and deletes for some while Kafka takes the others'."""
        owned = self._leases.owned
        free = sorted(owned - self._in_flight.busy_lanes, key=lambda lane: self._read_at.get(lane, 0.0))
        return free[: math.ceil(len(owned) / 3)] if self._is_full else free

    async def _read_lanes(self, view: ConnectionState, lanes: Sequence[int], start: ReadPosition) -> OutboxPage:
        began = time.monotonic()
        page = await read_outbox_page(
            view.connection, lanes, start, max_rows=self._options.max_rows, max_bytes=self._options.max_bytes
        )
        # Where sweeps step over very many dead rows they become rarer, so that they take 1% of the time at most.
        if start.low == 0:
            self._sweep_at = max(self._sweep_at, began + _SWEEP_SHARE * (time.monotonic() - began))
        return page

    async def _do_periodic_work(self, view: ConnectionState) -> None:
        now = time.monotonic()
        if self._link.publisher is not None:
            self._kafka_seen_at = now
        if now - self._renewed_at >= LEASE_RENEWAL_INTERVAL_S:
            self._renewed_at = now
            await self._renew_lane_leases(view, now)
            await self._gauges.report_if_responsible(
                responsible=0 in self._leases.owned or self._link.publisher is None
            )
        if now >= self._sweep_at:
            self._sweep_at = now + self._options.sweep_s
            view.starts.reset_to_zero()

    async def _renew_lane_leases(self, view: ConnectionState, now: float) -> None:
        before = self._leases.owned
        if now - self._kafka_seen_at < _RELEASE_LANES_WITHOUT_KAFKA_AFTER_S:
            await self._leases.renew_leases(busy=self._in_flight.busy_lanes)
        elif before:
            await self._leases.release_all_lanes()
        if before != self._leases.owned:
            log.info("lanes_owned", lanes=sorted(self._leases.owned))
            view.starts.reset_to_zero(self._leases.owned - before)

    async def _process_finished_batches(
        self, view: ConnectionState, publisher: KafkaPublisher, finished: Sequence[InFlightBatch]
    ) -> float:
        """Process what has finished; return how long to wait before a retry, 0 when nothing failed."""
        self._note_acknowledged_rows(view, finished)
        reasons = [str(batch.error) for batch in finished if batch.error is not None]
        for batch in finished:
            await self._handle_batch_outcome(batch)
        if self._in_flight.oldest_batch_age_s() > self._options.send_timeout_s:
            reasons.append(f"no acknowledgement for {self._options.send_timeout_s:g} s")
        if reasons:
            await self._reset_publisher_and_batches(view, publisher, reasons[0])
        await self._delete_acknowledged_rows(view)
        for batch in finished:
            if batch.error is None:
                view.starts.advance_after_delete([batch.lane], batch.read)
        if reasons:
            return _retry_wait_s(self._kafka_trouble)
        if finished:
            self._kafka_trouble = 0
        return 0.0

    async def _handle_batch_outcome(self, batch: InFlightBatch) -> None:
        if batch.error is None:
            self._grow_lane_batch_size(batch.lane)
        elif isinstance(batch.error, EventRefused):
            await self._halve_batch_or_park(batch, batch.error)
        elif isinstance(batch.error, RetryLater):
            self._kafka_trouble += 1
        else:
            raise batch.error

    def _note_acknowledged_rows(self, view: ConnectionState, batches: Iterable[InFlightBatch]) -> None:
        for batch in batches:
            if batch.acked:
                view.acked += batch.rows.ids[: batch.acked]
                OUTBOX_PUBLISHED.inc(batch.acked)
                OUTBOX_PUBLISH_DELAY.observe((datetime.now(UTC) - batch.rows.oldest).total_seconds())

    def _grow_lane_batch_size(self, lane: int) -> None:
        limit = self._limits.get(lane)
        if limit is None:
            return
        limit.max_batch_rows *= 2
        if limit.max_batch_rows >= self._options.max_rows:
            del self._limits[lane]

    async def _halve_batch_or_park(self, batch: InFlightBatch, error: EventRefused) -> None:
        """Halve the batch until the refused event stands alone; then parks its session."""
        size = batch.sent - batch.acked
        limit = self._limits.setdefault(batch.lane, ReducedLaneBatchSize(size))
        if not error.certain:
            limit.suspicions += 1
            if limit.suspicions < _POSSIBLE_REFUSALS_TO_PARK:
                self._kafka_trouble += 1
                return
        limit.suspicions = 0
        limit.max_batch_rows = max(1, size // 2)
        if size == 1:
            parked = await park_session_of_row(self._pool, batch.rows.ids[batch.acked], str(error))
            if parked is not None:
                tenant, session, seq = parked
                log.error("session_parked", tenant=tenant, session=session, seq=seq, lane=batch.lane, error=str(error))

    async def _reset_publisher_and_batches(self, view: ConnectionState, publisher: KafkaPublisher, reason: str) -> None:
        """Close the producer and forget what was under way; it is read again once there is a new one."""
        log.warning("producer_restarts", reason=reason)
        self._note_acknowledged_rows(view, await self._in_flight.wait_all(_SLOW_PARTITION_WAIT_S))
        self._note_acknowledged_rows(view, await self._in_flight.abandon_all())
        if self._link.publisher is publisher:
            self._link.reconnect(reason)

    async def _delete_acknowledged_rows(self, view: ConnectionState) -> None:
        if view.acked:
            await delete_published_rows(view.connection, view.acked)
            view.acked = []

    def _pause_before_next_turn_s(self, page: OutboxPage, began: float) -> float:
        options = self._options
        if page.read_to is not None:
            return 0.0
        if page.rows:
            self._pause_s = options.busy_poll_s
            return max(_PAUSE_BETWEEN_LONG_READS_S, began + options.busy_poll_s - time.monotonic())
        self._pause_s = min(self._pause_s * 1.25, options.idle_poll_s)
        return self._pause_s

    async def _drain_and_release_lanes(self, drain_s: float) -> None:
        finished = [*await self._in_flight.wait_all(drain_s), *await self._in_flight.abandon_all()]
        self._gauges.zero_gauges()
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                if self._database is not None:
                    self._note_acknowledged_rows(self._database, finished)
                    await self._delete_acknowledged_rows(self._database)
                await self._leases.release_all_lanes()
        except DATABASE_ERRORS as error:
            log.warning("lanes_left_to_expire", error=f"{type(error).__name__}: {error}")
        await self._disconnect_database()


def _retry_wait_s(failures: int) -> float:
    """Nothing for a first try, then longer with each failure in a row."""
    first_s, max_s = _RETRY_WAITS_S
    return min(first_s * 2.0 ** min(failures - 1, 10), max_s) if failures else 0.001
