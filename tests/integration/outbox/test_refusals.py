"""Batches that fail, events that Kafka refuses, sessions that are parked, and how they go on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.producer.message_accumulator import BatchBuilder

from flotilla.config import KafkaSettings
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.errors import NotFound, RetryLater
from flotilla.kafka.lanes import lane_of_session
from flotilla.outbox.parked import OutboxStatus, load_outbox_status, park_session_of_row, redrive_parked_session
from flotilla.postgres import Connection, Pool, tenant_transaction
from flotilla.telemetry.metrics import OUTBOX_PARKED
from outbox_relay.publisher import EventRefused, KafkaPublisher
from outbox_relay.relay import OutboxRelay, RelayOptions
from tests.integration.outbox.conftest import StartRelay
from tests.support.session_events import (
    TENANT,
    append_messages,
    first_occurrences,
    in_order,
    key_of,
    read_topic,
)
from tests.support.waiting import eventually

Backlog = Callable[[], Awaitable[int]]
SLOW_LANE = 3
SMALL_BYTES, LARGE = 20_000, "x" * 30_000


def neighbours(count: int) -> list[str]:
    """Sessions of SLOW_LANE."""
    return [f"s{n}" for n in range(2000) if lane_of_session(TENANT, f"s{n}") == SLOW_LANE][:count]


async def drained(backlog: Backlog, rows: int = 0) -> None:
    async def so_many() -> bool:
        return await backlog() == rows

    await eventually(so_many, timeout_s=20)


async def set_max_message_bytes(kafka: KafkaSettings, size_bytes: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers)
    await admin.start()
    wanted = {"max.message.bytes": str(size_bytes), "retention.ms": "-1", "retention.bytes": "-1"}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, kafka.kafka_session_events_topic, wanted)])
    await admin.close()


async def status_of(pool: Pool, tenant: str = TENANT) -> OutboxStatus:
    async with tenant_transaction(pool, tenant) as connection:
        return await load_outbox_status(connection)


@asynccontextmanager
async def relay_that_met_a_poison_event(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> AsyncIterator[tuple[dict[str, list[str]], OutboxRelay]]:
    """Kafka takes small messages only; the third event of the first of three neighbours is large."""
    poisoned, *others = neighbours(3)
    await set_max_message_bytes(kafka, SMALL_BYTES)
    written = {
        poisoned: await append_messages(pool, poisoned, ["one", "two", LARGE, "four"]),
        **{name: await append_messages(pool, name, ["a", "b", "c"]) for name in others},
    }
    async with start_relay() as relay:
        await drained(backlog, rows=2)
        yield written, relay


class FailsOnce(KafkaPublisher):
    """Loses the second batch of each relay's life without a trace; everything else goes to Kafka.

    It fails late: a batch that is sent meanwhile gets there first.
    """

    batches = 0
    overtaken: asyncio.Event

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        FailsOnce.batches += 1
        number = FailsOnce.batches
        if number == 2:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await FailsOnce.overtaken.wait()
            raise RetryLater("lost on the way")
        await super().send_batch(batch, partition)
        if number > 2:
            FailsOnce.overtaken.set()


async def test_a_failed_batch_is_not_overtaken_by_the_next_one(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    """Red with two batches of a partition in flight, and when a lane goes on after a failure without reading again."""
    FailsOnce.batches, FailsOnce.overtaken = 0, asyncio.Event()
    ids = await append_messages(pool, "s", ["x" * 400_000] * 8)
    async with start_relay(publisher=FailsOnce):
        await drained(backlog)
    assert FailsOnce.batches > 4, "several batches were needed"
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(ids)}


class InFlight(KafkaPublisher):
    """Counts batches per partition that wait for their acknowledgement."""

    now: ClassVar[Counter[int]] = Counter()
    most = 0

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        self.now[partition] += 1
        InFlight.most = max(InFlight.most, self.now[partition])
        await super().send_batch(batch, partition)
        self.now[partition] -= 1


async def test_one_batch_per_partition_is_in_flight(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    await append_messages(pool, "s", ["x" * 400_000] * 8)
    async with start_relay(publisher=InFlight):
        await drained(backlog)
    assert InFlight.most == 1


class HoldsTheFirst(InFlight):
    """Kafka takes its time for the first batch; other partitions are served meanwhile."""

    let_go: asyncio.Event

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        self.now[partition] += 1
        InFlight.most = max(InFlight.most, self.now[partition])
        if partition == SLOW_LANE:
            await HoldsTheFirst.let_go.wait()
        await KafkaPublisher.send_batch(self, batch, partition)
        self.now[partition] -= 1


async def test_a_lane_with_a_batch_under_way_is_not_read_again_while_others_go_on(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    InFlight.now.clear()
    InFlight.most, HoldsTheFirst.let_go = 0, asyncio.Event()
    (slow,) = neighbours(1)
    quick = next(f"s{n}" for n in range(2000) if lane_of_session(TENANT, f"s{n}") != SLOW_LANE)
    slow_ids = await append_messages(pool, slow, ["one", "two"])
    async with start_relay(publisher=HoldsTheFirst):
        quick_ids: list[str] = []
        for _ in range(5):
            quick_ids += await append_messages(pool, quick, ["x"])
            await drained(backlog, rows=2)
        HoldsTheFirst.let_go.set()
        await drained(backlog)
    assert InFlight.most == 1
    log = first_occurrences(await read_topic(kafka))
    assert log == {key_of(slow): in_order(slow_ids), key_of(quick): in_order(quick_ids)}


class LosesItsPlace(KafkaPublisher):
    """Its second batch carries a sequence number that the broker does not expect."""

    batches = 0

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        LosesItsPlace.batches += 1
        if LosesItsPlace.batches == 2:
            for known in list(self._producer._txn_manager._sequence_numbers):
                self._producer._txn_manager.increment_sequence_number(known, 1000)
        await super().send_batch(batch, partition)


async def test_the_producer_is_rebuilt_after_an_error_that_kills_it(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    LosesItsPlace.batches = 0
    async with start_relay(publisher=LosesItsPlace):
        ids = await append_messages(pool, "s", ["one"])
        await drained(backlog)
        ids += await append_messages(pool, "s", ["two", "three"])
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(ids)}


async def test_the_producer_waits_for_all_replicas_and_is_idempotent(start_relay: StartRelay) -> None:
    async with start_relay() as relay:
        publisher = await eventually(lambda: relay._link.publisher)
        assert publisher._producer._sender._acks == -1
        assert publisher._producer._txn_manager is not None
        assert publisher._producer._txn_manager.transactional_id is None


class HoldsLaneThree(KafkaPublisher):
    """Partition 3 has no leader, so to say, until `release` is set."""

    release = asyncio.Event()

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        if partition == 3:
            await HoldsLaneThree.release.wait()
        await super().send_batch(batch, partition)


async def test_a_partition_that_does_not_answer_holds_up_its_own_sessions_only(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    HoldsLaneThree.release = asyncio.Event()
    held = neighbours(1)[0]
    free = next(f"s{n}" for n in range(1000) if lane_of_session(TENANT, f"s{n}") == 4)
    async with start_relay(publisher=HoldsLaneThree) as relay:
        ids = await append_messages(pool, held, ["waits"])
        for _ in range(10):
            await append_messages(pool, free, ["passes"])
            await drained(backlog, rows=1)

        async def reason() -> str | None:
            try:
                await relay.check_kafka_ready()
            except RetryLater as why:
                return str(why)
            return None

        assert "not acknowledged a batch" in await eventually(reason)
        HoldsLaneThree.release.set()
        await drained(backlog)
    log = first_occurrences(await read_topic(kafka))
    assert log[key_of(held)] == in_order(ids)
    assert len(log[key_of(free)]) == 10


async def test_no_transaction_is_open_while_a_batch_waits(
    pool: Pool, start_relay: StartRelay, backlog: Backlog, superuser: Connection
) -> None:
    HoldsLaneThree.release = asyncio.Event()
    async with start_relay(publisher=HoldsLaneThree) as relay:
        await append_messages(pool, neighbours(1)[0], ["waits"])
        await eventually(lambda: 3 in relay._in_flight.busy_lanes)
        states = await superuser.fetch(
            "SELECT DISTINCT state FROM pg_stat_activity "
            "WHERE application_name = 'outbox-relay' AND datname = current_database() AND state <> 'active'"
        )
        assert [row["state"] for row in states] == ["idle"]
        HoldsLaneThree.release.set()
        await drained(backlog)


async def test_a_batch_without_an_answer_is_sent_again_by_a_new_producer(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    HoldsLaneThree.release = asyncio.Event()
    held = neighbours(1)[0]
    async with start_relay(publisher=HoldsLaneThree, options=RelayOptions(send_timeout_s=0.5)) as relay:
        await eventually(lambda: relay._link.publisher)
        first = relay._link.publisher
        ids = await append_messages(pool, held, ["waits"])
        await eventually(lambda: relay._link.publisher not in (None, first))
        HoldsLaneThree.release.set()
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of(held): in_order(ids)}


async def test_an_event_that_kafka_refuses_parks_its_session_only(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with relay_that_met_a_poison_event(pool, kafka, start_relay, backlog) as (written, relay):
        poisoned, *others = written
        log = first_occurrences(await read_topic(kafka))
        assert log[key_of(poisoned)] == in_order(written[poisoned][:2])
        assert {name: log[key_of(name)] for name in others} == {name: in_order(written[name]) for name in others}
        (parked,) = (await status_of(pool)).parked
        assert (parked.session_id, parked.seq, parked.waiting) == (poisoned, 3, 2)
        assert parked.event_id == written[poisoned][2]
        assert "MessageSizeTooLarge" in parked.error
        relay._gauges._reported_at = float("-inf")
        await eventually(lambda: OUTBOX_PARKED._value.get() == 1)


async def test_sessions_parked_by_one_tenant_are_not_shown_to_another(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with relay_that_met_a_poison_event(pool, kafka, start_relay, backlog) as (written, _):
        assert (await status_of(pool, "other")).parked == []
        with pytest.raises(NotFound):
            async with tenant_transaction(pool, "other") as connection:
                await redrive_parked_session(connection, next(iter(written)))


async def test_a_parked_session_goes_on_in_order_once_the_cause_is_fixed(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with relay_that_met_a_poison_event(pool, kafka, start_relay, backlog) as (written, _):
        poisoned = next(iter(written))
        ids = written[poisoned] + await append_messages(pool, poisoned, ["appended while parked"])
        await set_max_message_bytes(kafka, 1_048_588)
        async with tenant_transaction(pool, TENANT) as connection:
            assert await redrive_parked_session(connection, poisoned) == 3
        await drained(backlog)
        assert first_occurrences(await read_topic(kafka))[key_of(poisoned)] == in_order(ids)
        assert (await status_of(pool)).parked == []


async def test_a_session_redriven_with_the_cause_unmended_is_parked_again(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    async with relay_that_met_a_poison_event(pool, kafka, start_relay, backlog) as (written, _):
        poisoned = next(iter(written))
        before = (await status_of(pool)).parked[0].parked_at
        async with tenant_transaction(pool, TENANT) as connection:
            await redrive_parked_session(connection, poisoned)

        async def parked_again() -> bool:
            parked = (await status_of(pool)).parked
            return bool(parked) and parked[0].parked_at > before

        await eventually(parked_again)


async def test_a_tombstone_takes_the_place_of_the_refused_event(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog, superuser: Connection
) -> None:
    async with relay_that_met_a_poison_event(pool, kafka, start_relay, backlog) as (written, _):
        poisoned = next(iter(written))
        original = await superuser.fetchval("SELECT body FROM flotilla.event_outbox ORDER BY id LIMIT 1")
        async with tenant_transaction(pool, TENANT) as connection:
            await redrive_parked_session(connection, poisoned, tombstone=True)
        await drained(backlog)
        log = [logged for logged in await read_topic(kafka) if logged.session == poisoned]
    assert first_occurrences(log) == {key_of(poisoned): in_order(written[poisoned])}
    tombstone = decode_event(log[2].body)
    assert tombstone.type == "flotilla.session.error.v1"
    assert tombstone.time == decode_event(original).time
    assert "SHA-256" in str(tombstone.data["message"])
    assert await superuser.fetchval("SELECT body FROM flotilla.outbox_replaced") == original


async def test_redriving_a_session_that_is_not_parked_is_not_found(pool: Pool) -> None:
    await append_messages(pool, "s", ["fine"])
    async with tenant_transaction(pool, TENANT) as connection:
        with pytest.raises(NotFound, match="session s is not parked"):
            await redrive_parked_session(connection, "s")


async def test_a_late_refusal_does_not_park_a_session_that_was_redriven(
    pool: Pool, relay_pool: Pool, superuser: Connection
) -> None:
    await append_messages(pool, "s", ["refused"])
    row_id = await superuser.fetchval("SELECT id FROM flotilla.event_outbox")
    assert await park_session_of_row(relay_pool, row_id, "refused") == (TENANT, "s", 1)
    async with tenant_transaction(pool, TENANT) as connection:
        await redrive_parked_session(connection, "s")
    assert await park_session_of_row(relay_pool, row_id, "refused again, by a relay that was paused") is None


class Suspicious(KafkaPublisher):
    """The broker answers with an error of its own `times` times, without saying what is wrong."""

    times = 0

    async def send_batch(self, batch: BatchBuilder, partition: int) -> None:
        if Suspicious.times > 0:
            Suspicious.times -= 1
            raise EventRefused("UnknownError", certain=False)
        await super().send_batch(batch, partition)


async def test_trouble_of_the_brokers_own_parks_nobody(
    pool: Pool, kafka: KafkaSettings, start_relay: StartRelay, backlog: Backlog
) -> None:
    Suspicious.times = 3
    ids = await append_messages(pool, "s", ["one", "two"])
    async with start_relay(publisher=Suspicious):
        await drained(backlog)
    assert first_occurrences(await read_topic(kafka)) == {key_of("s"): in_order(ids)}
    assert (await status_of(pool)).parked == []


async def test_an_error_that_never_ends_parks_the_session(
    pool: Pool, start_relay: StartRelay, kafka: KafkaSettings
) -> None:
    Suspicious.times = 10**9
    await append_messages(pool, "s", ["one"])
    async with start_relay(publisher=Suspicious):

        async def parked() -> list[str]:
            return [session.session_id for session in (await status_of(pool)).parked]

        assert await eventually(parked, timeout_s=30) == ["s"]
