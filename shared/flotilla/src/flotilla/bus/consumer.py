"""The consumer of one stream: reads what is new, takes over what others left, answers each entry once.

Delivery is at least once; the effect must be keyed (agents key it by task id). The decisions, and the trap behind
each, stand in `docs/bus.md`.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeAlias

import structlog
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue
from redis.exceptions import RedisError, ResponseError

from flotilla.bus.backoff import Backoff
from flotilla.bus.batching import CommandBatcher, RedisCommand, SharedCommand
from flotilla.bus.connection import AWAY, MAX_READ_BLOCK_MS, Redis, execute_redis_command
from flotilla.bus.dead_letters import DeadLetterReason, DeadLetters, StreamDeadLetters, UnhandledEntry
from flotilla.bus.entries import Delivery, HandlerResult, StreamEntry, decode_stream_entry, make_xadd_command
from flotilla.bus.groups import ensure_group, is_group_missing_error, retire_idle_consumer
from flotilla.bus.renewal import renew_entries, return_entry_to_pending
from flotilla.bus.takeover import PendingEntriesScan
from flotilla.contracts.errors import DeadLetter, Oversize, RetryLater, Undecodable, UnknownType, Untrusted
from flotilla.runtime.cancellation import cancel_all
from flotilla.telemetry import span
from flotilla.telemetry.metrics import BUS_DELIVERY_DELAY, BUS_ENTRIES, BUS_HANDLER

Handler: TypeAlias = Callable[[Delivery], Awaitable[HandlerResult]]
"""Answers one entry. RetryLater leaves it pending, DeadLetter gives it to the dead letters, anything else is a
failure without an answer: the entry is delivered again, and given up after `max_deliveries`."""

MAX_ERROR_CHARS = 4000
MAX_REMEMBERED_FAILURES = 1000
_FINISH_RETRY_WAITS_S = (0.05, 0.2, 1.0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """How a consumer works. Another consumer has a dead one's entries within min-idle plus 5 s."""

    concurrency: int = 8
    min_idle_ms: int = 15_000
    block_ms: int = 1_000
    grace_s: float = 20.0
    """How long handlers may go on after `stop`; what is left then stays pending."""
    max_deliveries: int = 20
    max_undecodable_deliveries: int = 5
    """Another version of the code may be able to read what this one can't, so it gets a few chances."""

    def __post_init__(self) -> None:
        if not 0 < self.block_ms <= MAX_READ_BLOCK_MS:
            raise ValueError(f"block_ms is {self.block_ms}: 1 to {MAX_READ_BLOCK_MS}, below the socket's timeout")
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}: at least 1")


class Consumer:
    """One member of a consumer group. `name` must be unique among the living members."""

    def __init__(  # noqa: PLR0917 - the first five are in the order of XREADGROUP
        self,
        redis: Redis,
        stream: str,
        group: str,
        name: str,
        handler: Handler,
        options: ConsumerOptions | None = None,
        dead_letters: DeadLetters | None = None,
        *,
        busy_beside: Callable[[], int] = lambda: 0,
    ) -> None:
        """`busy_beside` tells how many of its slots another consumer of the process has taken."""
        self._redis = redis
        self._stream = stream
        self._group = group
        self._name = name
        self._handler = handler
        self._options = options or ConsumerOptions()
        self._busy_beside = busy_beside
        self._dead_letters = dead_letters or StreamDeadLetters()
        self._answers = CommandBatcher(redis, atomic=True)
        self._takeover = PendingEntriesScan(redis, stream, group, name, self._options.min_idle_ms)
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._answered: set[str] = set()
        self._failures: OrderedDict[str, str] = OrderedDict()
        """What handlers raised instead of an answer, for the waiting caller for those entries in the end."""
        self._slot_freed = asyncio.Event()
        self._away = Backoff(base_s=0.1, cap_s=2.0)
        self._retries = Backoff(base_s=1.0, cap_s=self._options.min_idle_ms / 2_000)
        self._log = log.bind(stream=stream, group=group, consumer=name)
        self._counted = cache(partial(BUS_ENTRIES.labels, stream, group))
        self._delivery_delay = BUS_DELIVERY_DELAY.labels(stream, group)
        self._handler_time = BUS_HANDLER.labels(stream, group)
        # Source of the attributes: OpenTelemetry semantic conventions for messaging 1.3x.
        self._attributes: dict[str, AttributeValue] = {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": stream,
            "messaging.consumer.group.name": group,
        }

    @property
    def in_flight_count(self) -> int:
        """How many entries are being handled."""
        return len(self._in_hand)

    async def run(self, stop: asyncio.Event) -> None:
        """Handles entries until `stop` is set; then no reads, the grace time, and what is left stays pending."""
        renewal = asyncio.create_task(self._renew_entries_repeatedly(), name=f"renew {self._stream}")
        try:
            await self._start_entries_until(stop, renewal)
            await self._wait_for_entries_in_hand()
        finally:
            await cancel_all([renewal, *self._in_hand.values()])
        await self._leave_group()

    async def _start_entries_until(self, stop: asyncio.Event, renewal: "asyncio.Task[None]") -> None:
        while not stop.is_set():
            if renewal.done():
                raise RuntimeError(f"the renewal of entries in hand on {self._stream} has ended")
            free = self._options.concurrency - len(self._in_hand) - self._busy_beside()
            if free <= 0:
                await self._wait_for_slot()
                continue
            for entry in await self._take_entries_or_back_off(free, stop):
                self._start_handling(entry)

    async def _wait_for_slot(self) -> None:
        self._slot_freed.clear()
        try:
            async with asyncio.timeout(1.0):
                await self._slot_freed.wait()
        except TimeoutError:
            return  # the caller looks at `stop` and comes back

    async def _take_entries_or_back_off(self, free: int, stop: asyncio.Event) -> list[StreamEntry]:
        """Takes entries; whatever Redis answers instead, the loop goes on, and never spins."""
        try:
            entries = await self._take_orphans_or_new_entries(free)
        except AWAY as error:
            if self._away.has_not_failed:
                self._log.warning("redis_away", error=str(error))
            await self._away.wait_or_stop(stop)
        except ResponseError as error:
            if is_group_missing_error(error):
                await self._recreate_group()
            else:
                self._log.exception("bus_read_refused")
            await self._away.wait_or_stop(stop)
        else:
            self._away.reset()
            return entries
        return []

    async def _recreate_group(self) -> None:
        try:
            await ensure_group(self._redis, self._stream, self._group)
        except RedisError as error:
            self._log.warning("bus_group_not_created", error=str(error))
            return
        self._takeover.restart_scan()
        self._log.warning("bus_group_created", reason="the stream was deleted, or Redis lost its data")

    async def _take_orphans_or_new_entries(self, free: int) -> list[StreamEntry]:
        due_s = self._takeover.next_scan_in_s()
        if due_s > 0:
            return await self._read_new_entries(free, min(self._options.block_ms, max(1, int(due_s * 1000))))
        if orphans := await self._takeover.take_orphaned_entries(free, self._in_hand):
            return orphans
        # In the middle of a long scan new entries get their turn too, without a wait.
        return await self._read_new_entries(free, None) if self._takeover.is_mid_scan else []

    async def _read_new_entries(self, count: int, block_ms: int | None) -> list[StreamEntry]:
        block = () if block_ms is None else ("BLOCK", block_ms)
        answer = await execute_redis_command(
            self._redis,
            "XREADGROUP",
            "GROUP",
            self._group,
            self._name,
            "COUNT",
            count,
            *block,
            "STREAMS",
            self._stream,
            ">",
        )
        if not answer:
            return []
        return [StreamEntry(entry_id.decode(), fields) for entry_id, fields in answer[0][1]]

    def _start_handling(self, entry: StreamEntry) -> None:
        self._in_hand[entry.entry_id] = asyncio.create_task(
            self._handle_and_count(entry), name=f"handle {entry.entry_id}"
        )

    async def _handle_and_count(self, entry: StreamEntry) -> None:
        outcome = "cancelled"
        try:
            outcome = await self._handle_or_dead_letter(entry)
        except RetryLater as error:
            outcome = "retry"
            await self._retry_later(entry, error)
        except AWAY as error:
            outcome = "unacknowledged"
            self._log.warning("redis_away", entry_id=entry.entry_id, error=str(error))
        except Exception as error:  # noqa: BLE001 - the edge of the loop: logged, counted, delivered again
            outcome = "error"
            self._remember_failure(entry, error)
            self._log.exception("bus_handler_failed", entry_id=entry.entry_id, deliveries=entry.deliveries)
        finally:
            del self._in_hand[entry.entry_id]
            self._answered.discard(entry.entry_id)
            self._slot_freed.set()
            self._counted(outcome).inc()

    async def _handle_or_dead_letter(self, entry: StreamEntry) -> str:
        if entry.deliveries > self._options.max_deliveries:
            return await self._dead_letter_entry(entry, "no_answer", self._describe_no_answer(entry))
        try:
            delivery = decode_stream_entry(entry)
            commands = await self._run_handler(delivery)
        except (Undecodable, UnknownType, Oversize) as error:
            if entry.deliveries >= self._options.max_undecodable_deliveries:
                return await self._dead_letter_entry(
                    entry, _dead_letter_reason(error), str(error), trusted=isinstance(error, UnknownType)
                )
            self._log.warning("bus_entry_unreadable", entry_id=entry.entry_id, error=str(error))
            return "undecodable"
        except DeadLetter as error:
            return await self._dead_letter_entry(entry, "refused", str(error), trusted=not isinstance(error, Untrusted))
        await self._publish_and_acknowledge(entry, commands)
        self._failures.pop(entry.entry_id, None)
        self._retries.reset()
        return "done"

    def _remember_failure(self, entry: StreamEntry, error: Exception) -> None:
        self._failures[entry.entry_id] = f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARS]
        if len(self._failures) > MAX_REMEMBERED_FAILURES:
            self._failures.popitem(last=False)

    def _describe_no_answer(self, entry: StreamEntry) -> str:
        last = self._failures.get(entry.entry_id)
        return f"no answer after {entry.deliveries - 1} deliveries{f', the last: {last}' if last else ''}"

    async def _run_handler(self, delivery: Delivery) -> list[RedisCommand]:
        """Runs the handler and returns what it wants published, encoded while its span is the current one.

        Raises:
            DeadLetter: what it wants published is too large for a stream, and would be again.
        """
        started = time.monotonic()
        written_s = int(delivery.entry_id.partition("-")[0]) / 1000
        self._delivery_delay.observe(max(0.0, time.time() - written_s))
        try:
            with span(
                f"process {self._stream}",
                kind=SpanKind.CONSUMER,
                parent=delivery.event.traceparent,
                attributes={**self._attributes, "messaging.message.id": delivery.entry_id},
            ):
                finish = await self._handler(delivery)
                return [make_xadd_command(stream, event) for stream, event in finish.publish]
        except Oversize as error:
            raise DeadLetter(str(error)) from error
        finally:
            self._handler_time.observe(time.monotonic() - started)

    async def _publish_and_acknowledge(self, entry: StreamEntry, publish: list[RedisCommand]) -> None:
        """Publishes and acknowledges in one MULTI. The effect is made, so a lost connection is worth a second try;
        whether the first one came through is unknown, and a reply sent twice does no harm."""
        acknowledgement = SharedCommand(("XACK", self._stream, self._group), (entry.entry_id,))
        self._answered.add(entry.entry_id)
        for wait_s in _FINISH_RETRY_WAITS_S:
            try:
                await self._answers.send_commands(publish, acknowledgement)
            except AWAY as error:
                self._log.warning("redis_away", entry_id=entry.entry_id, error=str(error), again_in_s=wait_s)
                await asyncio.sleep(wait_s)
            else:
                return
        await self._answers.send_commands(publish, acknowledgement)

    async def _dead_letter_entry(
        self, entry: StreamEntry, reason: DeadLetterReason, error: str, *, trusted: bool = True
    ) -> str:
        error = error[:MAX_ERROR_CHARS]
        lost = UnhandledEntry(
            stream=self._stream, group=self._group, entry=entry, reason=reason, error=error, trusted=trusted
        )
        await self._publish_and_acknowledge(
            entry, [make_xadd_command(stream, event) for stream, event in await self._dead_letters.keep(lost)]
        )
        self._failures.pop(entry.entry_id, None)
        self._log.error("bus_dead_letter", entry_id=entry.entry_id, reason=reason, error=error)
        return "dead_lettered"

    async def _retry_later(self, entry: StreamEntry, error: RetryLater) -> None:
        """Leaves the entry for the next scan, soon, and does not count the delivery against it."""
        delay_s = self._retries.next_wait_s()
        self._log.warning("bus_retry_later", entry_id=entry.entry_id, error=str(error), retry_in_s=round(delay_s, 2))
        try:
            await return_entry_to_pending(
                self._redis, self._stream, self._group, self._name, entry.entry_id,
                idle_ms=self._options.min_idle_ms, deliveries=entry.deliveries - 1,
            )  # fmt: skip
        except (RedisError, RetryLater) as problem:
            self._log.warning("bus_give_back_failed", entry_id=entry.entry_id, error=str(problem))
        self._takeover.scan_within(delay_s)

    async def _renew_entries_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(self._options.min_idle_ms / 3_000)
            if self._in_hand:
                await self._renew_entries_in_hand()

    async def _renew_entries_in_hand(self) -> None:
        try:
            lost = await renew_entries(self._redis, self._stream, self._group, self._name, list(self._in_hand))
        except (RedisError, RetryLater) as error:
            self._log.warning("bus_renewal_failed", error=str(error))
            return
        for entry_id in (lost & self._in_hand.keys()) - self._answered:
            self._log.warning("bus_entry_taken_over", entry_id=entry_id)
            self._in_hand[entry_id].cancel()

    async def _wait_for_entries_in_hand(self) -> None:
        if self._in_hand:
            await asyncio.wait(self._in_hand.values(), timeout=self._options.grace_s)

    async def _leave_group(self) -> None:
        """Takes its name off the group if nothing is pending for it, so that names of old pods do not pile up."""
        try:
            await retire_idle_consumer(self._redis, self._stream, self._group, self._name)
        except (RedisError, RetryLater) as error:
            self._log.info("bus_consumer_not_retired", error=str(error))


def _dead_letter_reason(error: DeadLetter) -> DeadLetterReason:
    if isinstance(error, UnknownType):
        return "unknown_type"
    return "oversize" if isinstance(error, Oversize) else "undecodable"
