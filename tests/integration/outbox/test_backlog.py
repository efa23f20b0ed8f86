"""With more to do than one read holds, lanes are read in turn while others are under way."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import ClassVar

from aiokafka.producer.message_accumulator import BatchBuilder

from flotilla.config import KafkaSettings
from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox import append
from flotilla.postgres import Pool, tenant_transaction
from outbox_relay.publisher import KafkaPublisher
from outbox_relay.relay import RelayOptions
from tests.integration.outbox.conftest import StartRelay
from tests.support.session_events import (
    TENANT,
    create_session,
    first_occurrences,
    in_order,
    key_of,
    message,
    read_topic,
)
from tests.support.waiting import eventually

Backlog = Callable[[], Awaitable[int]]
LANES = range(12)
SESSIONS = [next(f"s{n}" for n in range(2000) if lane_of_session(TENANT, f"s{n}") == lane) for lane in LANES]
ROUNDS = 20


class InFlight(KafkaPublisher):
    """Counts batches per partition that wait for their acknowledgement."""

    now: ClassVar[Counter[int]] = Counter()
    most: ClassVar[Counter[int]] = Counter()

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        self.now[partition] += 1
        self.most[partition] = max(self.most[partition], self.now[partition])
        await super().send_batch(batch, partition)
        self.now[partition] -= 1


class AnswersAtOnce(KafkaPublisher):
    """A Kafka that is faster than any database."""

    sent: ClassVar[list[int]] = []

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        self.sent.append(partition)


async def one_event_of_each_in_turn(pool: Pool) -> dict[str, list[str]]:
    """A backlog in which every lane has the same share of every stretch; returns each key's event ids in order."""
    written: dict[str, list[str]] = {key_of(session): [] for session in SESSIONS}
    async with tenant_transaction(pool, TENANT) as connection:
        for session in SESSIONS:
            await create_session(connection, session)
        for _ in range(ROUNDS):
            for session in SESSIONS:
                appended = await append(connection, TENANT, session, [message("x")])
                written[key_of(session)] += [event.id for event in appended.events]
    return written


async def drained(backlog: Backlog) -> None:
    async def empty() -> bool:
        return await backlog() == 0

    await eventually(empty, timeout_s=30)


async def test_one_batch_per_partition_is_in_flight(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    written = await one_event_of_each_in_turn(pool)
    async with start_relay(publisher=InFlight, options=RelayOptions(max_rows=8)):
        await drained(backlog)
    assert InFlight.most == dict.fromkeys(LANES, 1)
    assert first_occurrences(await read_topic(kafka)) == {key: in_order(ids) for key, ids in written.items()}


async def test_every_lane_has_its_turn(pool: Pool, start_relay: StartRelay, backlog: Backlog) -> None:
    await one_event_of_each_in_turn(pool)
    async with start_relay(publisher=AnswersAtOnce, options=RelayOptions(max_rows=8)):
        await drained(backlog)
    batches: Counter[int] = Counter()
    for lane in AnswersAtOnce.sent:
        batches[lane] += 1
        assert batches[lane] - min(batches[other] for other in LANES) <= ROUNDS / 4
