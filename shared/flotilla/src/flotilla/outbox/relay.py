"""The relay: committed outbox rows to Kafka, first occurrences in order per session, nothing lost.

What keeps the order, however many relays work a lane at once: whoever publishes a lane reads it from its lowest
undeleted row, has one unacknowledged batch per partition, deletes only what Kafka has acknowledged, and reads again
after any failure. So every batch that ever reaches Kafka begins no later than the first event that Kafka lacks.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import structlog

from flotilla.contracts.errors import RetryLater
from flotilla.outbox.flights import Flight, Flights
from flotilla.outbox.gauges import FleetGauges
from flotilla.outbox.leases import TICK_S, LaneLeases
from flotilla.outbox.low import SafeLow
from flotilla.outbox.parked import park
from flotilla.outbox.publisher import EventRefused, Link, Publisher
from flotilla.outbox.rows import Page, delete_rows, read_page
from flotilla.outbox.watch import HorizonWatch
from flotilla.postgres import Pool
from flotilla.telemetry.metrics import OUTBOX_PUBLISH_DELAY, OUTBOX_PUBLISHED

DATABASE_TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

_PATIENCE_S = 0.25
"""How long a turn waits for slow partitions before the others go on without them."""
_WAITING_S = 2.0
"""Without acknowledgement for so long the relay says that it is not ready."""
_LEAVE_AFTER_S = 10.0
"""Without Kafka for so long the lanes are handed back: another relay may reach it."""
_SUSPICIONS_TO_REFUSE = 5
_RETRY_S = (0.1, 2.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Limits and paces of one relay; its memory is a small multiple of `max_bytes`."""

    max_rows: int = 5000
    max_bytes: int = 8_000_000
    busy_poll_s: float = 0.005
    idle_poll_s: float = 0.05
    send_timeout_s: float = 20.0
    """Without an acknowledgement for so long the producer is closed and built anew."""
    sweep_s: float = 30.0
    """Between reads from the very first row, whatever is known about where they may begin."""


@dataclass(slots=True)
class Caution:
    """A lane in which Kafka refused a batch: smaller ones, until the refused event stands alone."""

    max_batch_rows: int
    suspicions: int = 0


class Relay:
    """Works the lanes that `leases` gives it, until told to stop."""

    def __init__(
        self,
        pool: Pool,
        link: Link,
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
        self._flights = Flights(traces=traces)
        self._gauges = FleetGauges(pool)
        self._watch = HorizonWatch(pool)
        self._low = SafeLow()
        self._caution: dict[int, Caution] = {}
        self._acked: list[int] = []
        self._pause_s = self._options.busy_poll_s
        self._trouble = 0
        self._renewed_at = self._swept_at = float("-inf")
        self._kafka_seen_at = time.monotonic()

    async def run(self, stop: asyncio.Event, drain_s: float) -> None:
        """Relays until `stop` is set, then waits up to `drain_s` for what is under way and hands the lanes back."""
        self._link.restart()
        while not stop.is_set():
            pause_s = await self._guarded_turn()
            self._on_progress()
            await asyncio.sleep(pause_s)
        await self._drain(drain_s)

    async def check(self) -> None:
        """A readiness check: raises RetryLater while Kafka can't be reached or leaves a batch unanswered."""
        if self._link.publisher is None:
            raise RetryLater(self._link.problem or "connecting to Kafka")
        if (waiting_s := self._flights.oldest_s()) > _WAITING_S:
            raise RetryLater(f"Kafka has not acknowledged a batch for {waiting_s:.0f} s")
        await self._link.publisher.check()

    async def _guarded_turn(self) -> float:
        try:
            return await self._turn()
        except DATABASE_TROUBLE as error:
            self._trouble += 1
            log.warning("database_away", error=f"{type(error).__name__}: {error}", attempt=self._trouble)
            return self._retry_s()

    async def _turn(self) -> float:
        """One read of every lane that is free, and what it leads to; gives the pause before the next."""
        await self._housekeeping()
        publisher = self._link.publisher
        if publisher is None:
            return self._options.idle_poll_s
        lanes = sorted(self._leases.owned - self._flights.lanes)
        if not lanes:
            return await self._settle(publisher) or self._options.idle_poll_s
        horizon = await self._watch.next()
        start = self._low.start(lanes)
        page = await read_page(
            self._pool, lanes, start, max_rows=self._options.max_rows, max_bytes=self._options.max_bytes
        )
        for rows in page.lanes:
            caution = self._caution.get(rows.lane)
            self._flights.launch(publisher, rows, caution.max_batch_rows if caution else self._options.max_rows)
        retry_s = await self._settle(publisher)
        if horizon is not None and not retry_s:
            drained = [lane for lane in lanes if lane not in self._flights.lanes]
            self._low.raise_to(drained, horizon, start, page.read_to)
        return retry_s or self._next_pause(page)

    async def _housekeeping(self) -> None:
        await self._delete_acked()
        now = time.monotonic()
        if self._link.publisher is not None:
            self._kafka_seen_at = now
        if now - self._renewed_at >= TICK_S:
            self._renewed_at = now
            await self._renew(now)
            await self._gauges.report(responsible=0 in self._leases.owned or self._link.publisher is None)
        if now - self._swept_at >= self._options.sweep_s:
            self._swept_at = now
            self._low.forget()

    async def _renew(self, now: float) -> None:
        before = self._leases.owned
        if now - self._kafka_seen_at < _LEAVE_AFTER_S:
            await self._leases.renew(busy=self._flights.lanes)
        elif before:
            await self._leases.leave()
        if before != self._leases.owned:
            log.info("lanes", owned=sorted(self._leases.owned))
            self._low.forget(self._leases.owned - before)

    async def _settle(self, publisher: Publisher) -> float:
        """Takes in what has landed; gives how long to wait before a retry, 0 when nothing failed."""
        landed = await self._flights.land(_PATIENCE_S)
        reasons = [reason for flight in landed if (reason := await self._take_in(flight))]
        if self._flights.oldest_s() > self._options.send_timeout_s:
            reasons.append(f"no acknowledgement for {self._options.send_timeout_s:g} s")
        if reasons:
            await self._start_over(publisher, reasons[0])
        await self._delete_acked()
        if reasons:
            return self._retry_s()
        if landed:
            self._trouble = 0
        return 0.0

    async def _take_in(self, flight: Flight) -> str | None:
        """Notes what Kafka acknowledged; gives the reason when the producer must be built anew."""
        if flight.acked:
            self._acked += flight.rows.ids[: flight.acked]
            OUTBOX_PUBLISHED.inc(flight.acked)
            OUTBOX_PUBLISH_DELAY.observe((datetime.now(UTC) - flight.rows.oldest).total_seconds())
        if isinstance(flight.error, EventRefused):
            await self._refused(flight, flight.error)
            return str(flight.error)
        if isinstance(flight.error, RetryLater | asyncio.CancelledError):
            self._trouble += 1
            return str(flight.error) or "abandoned"
        if flight.error is not None:
            raise flight.error
        self._take_heart(flight.lane)
        return None

    def _take_heart(self, lane: int) -> None:
        caution = self._caution.get(lane)
        if caution is None:
            return
        caution.max_batch_rows *= 2
        if caution.max_batch_rows >= self._options.max_rows:
            del self._caution[lane]

    async def _refused(self, flight: Flight, error: EventRefused) -> None:
        """Halves the batch until the refused event stands alone; then parks its session."""
        size = flight.sent - flight.acked
        caution = self._caution.setdefault(flight.lane, Caution(size))
        if not error.certain:
            caution.suspicions += 1
            if caution.suspicions < _SUSPICIONS_TO_REFUSE:
                self._trouble += 1
                return
        caution.suspicions = 0
        caution.max_batch_rows = max(1, size // 2)
        if size == 1:
            parked = await park(self._pool, flight.rows.ids[flight.acked], str(error))
            if parked is not None:
                tenant, session, seq = parked
                log.error("session_parked", tenant=tenant, session=session, seq=seq, lane=flight.lane, error=str(error))

    async def _start_over(self, publisher: Publisher, reason: str) -> None:
        """Closes the producer and forgets what was under way; it is read again once there is a new one."""
        log.warning("producer_restarts", reason=reason)
        for flight in (*await self._flights.land(_PATIENCE_S), *await self._flights.abandon()):
            self._acked += flight.rows.ids[: flight.acked]
            OUTBOX_PUBLISHED.inc(flight.acked)
        if self._link.publisher is publisher:
            self._link.restart(reason)

    async def _delete_acked(self) -> None:
        # Kept until the delete succeeded: rows read again would be published twice.
        if self._acked:
            await delete_rows(self._pool, self._acked)
            self._acked = []

    def _next_pause(self, page: Page) -> float:
        options = self._options
        if page.read_to is not None:
            return 0.0
        self._pause_s = options.busy_poll_s if page.rows else min(self._pause_s * 1.25, options.idle_poll_s)
        return self._pause_s

    def _retry_s(self) -> float:
        first_s, max_s = _RETRY_S
        return min(first_s * 2 ** min(self._trouble, 10), max_s) if self._trouble else 0.001

    async def _drain(self, drain_s: float) -> None:
        landed: Sequence[Flight] = await self._flights.land(drain_s)
        for flight in (*landed, *await self._flights.abandon()):
            self._acked += flight.rows.ids[: flight.acked]
        self._gauges.clear()
        try:
            await self._delete_acked()
            await self._leases.leave()
        except DATABASE_TROUBLE as error:
            log.warning("lanes_left_to_expire", error=f"{type(error).__name__}: {error}")
