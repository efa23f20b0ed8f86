"""Kafka loses records that were read, and other records get their offsets: nothing is skipped in silence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import TopicPartition

from audit_consumer.checkpoints import make_checkpoint
from audit_consumer.consumer import AuditConsumer
from audit_consumer.kafka_clients import close_kafka_client, make_event_consumer
from audit_consumer.main import run
from audit_consumer.resume_offsets import AvailableOffsets, ResumeOffsetFinder
from audit_consumer.settings import Settings
from flotilla.config import KafkaSettings
from flotilla.config.signing import load_signer
from flotilla.contracts.envelope import AgentEvent
from flotilla.contracts.errors import ConfigurationError
from flotilla.kafka.lanes import lane_of_session
from flotilla.kafka.session_log import open_kafka_log
from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from tests.support.audit import (
    Projected,
    audit_settings,
    event_at,
    events_of,
    publish,
    running_audit,
)
from tests.support.kafka_topics import delete_before, replace_log
from tests.support.postgres import Database

LANE = lane_of_session("default", "s1")
OTHERS = [f"x{n}" for n in range(200) if lane_of_session("default", f"x{n}") == LANE]
S1 = events_of("s1", range(1, 21))
LATER = [event for session in OTHERS[:3] for event in events_of(session, range(1, 11))]
"""Thirty events of other sessions in the partition of s1."""


@pytest.fixture
def settings(database: Database, kafka: KafkaSettings, tmp_path: Path) -> Settings:
    return audit_settings(database, kafka, tmp_path)


async def until_all_of(projected: Projected, *sessions: str) -> None:
    for session in sessions:
        assert await projected.until(session, 10) == list(range(1, 11))


async def project_s1(settings: Settings, kafka: KafkaSettings, projected: Projected) -> None:
    await publish(kafka, S1)
    async with running_audit(settings):
        await projected.until("s1", 20)


async def test_what_took_the_offsets_of_lost_records_is_projected(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    await project_s1(settings, kafka, projected)
    await replace_log(kafka, [*S1[:12], *LATER])  # offset 20, where the projection stands, is in the middle of it
    async with running_audit(settings):
        await until_all_of(projected, *OTHERS[:3])
    assert await projected.seqs("s1") == list(range(1, 21))
    assert await projected.parked("s1") == []


async def test_a_log_that_ends_before_the_projection_goes_on_with_what_comes(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    await project_s1(settings, kafka, projected)
    await replace_log(kafka, S1[:12])
    async with running_audit(settings):
        await publish(kafka, LATER)
        await until_all_of(projected, *OTHERS[:3])
    assert await projected.seqs("s1") == list(range(1, 21))


async def test_another_history_in_place_of_the_lost_one_is_parked(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    await project_s1(settings, kafka, projected)
    await replace_log(kafka, [*S1[:12], event_at("s1", 13, "other"), event_at("s1", 21), *LATER])
    async with running_audit(settings):
        await until_all_of(projected, *OTHERS[:3])
    assert await projected.seqs("s1") == list(range(1, 21))
    assert await projected.parked("s1") == [(13, "conflict"), (21, "waiting")]


async def test_events_that_waited_when_their_records_were_lost_still_wait(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    waits = [event_at("s1", 22), event_at("s1", 23)]
    await publish(kafka, [*S1, *waits])
    async with running_audit(settings):
        await projected.until_offsets(22)
    gone = [event_at(session, 5, "gap") for session in OTHERS[:15]]
    await replace_log(kafka, [*S1[:12], *gone])  # each of these waits, at the offsets of the two
    async with running_audit(settings):
        await projected.until_offsets(27)
        assert await projected.parked("s1") == [(22, "gap"), (23, "gap")]
        assert [await projected.parked(session) for session in OTHERS[:15]] == [[(5, "gap")]] * 15
        await publish(kafka, [event_at("s1", 21)])
        assert await projected.until("s1", 23) == list(range(1, 24))


async def test_reading_again_begins_where_a_signed_checkpoint_agrees(
    settings: Settings, kafka: KafkaSettings, audit_pool: Pool, projected: Projected
) -> None:
    signer = load_signer(settings.audit_signing_key_file)
    async with consuming(settings, audit_pool) as consumer:
        for events in (S1[:5], S1[5:11], S1[11:17], S1[17:]):
            await publish(kafka, events)
            await projected.until("s1", events[-1].sequence or 0)
            assert await make_checkpoint(audit_pool, LANE, consumer.owned_partitions[LANE], signer)
    standing = await standing_of(audit_pool)
    async with open_kafka_log(kafka) as log:
        resume_offsets = ResumeOffsetFinder(RolledBack(audit_pool), log, kafka.kafka_session_events_topic)  # type: ignore[arg-type]
        for kept, agreed in ((20, 20), (18, 17), (11, 11), (4, 0)):
            await replace_log(kafka, [*S1[:kept], *LATER])
            assert await resume_offsets.find_resume_offset(standing, AvailableOffsets(LANE, 0, kept + 30)) == agreed


@pytest.mark.parametrize(
    ("in_kafka", "is_new_connection"),
    [
        pytest.param(S1[:12], False, id="it ends before where the consumer reads"),
        pytest.param([*S1[:12], *LATER], True, id="over a new connection it goes on beyond"),
    ],
)
async def test_a_consumer_at_work_compares_a_log_that_was_replaced(
    settings: Settings,
    kafka: KafkaSettings,
    projected: Projected,
    *,
    audit_pool: Pool,
    in_kafka: list[AgentEvent],
    is_new_connection: bool,
) -> None:
    await publish(kafka, S1)
    place = TopicPartition(kafka.kafka_session_events_topic, LANE)
    async with consuming(settings, audit_pool) as consumer:
        await projected.until("s1", 20)
        network = consumer._kafka  # there is no other way to stop the reads meanwhile
        network.pause(place)
        await replace_log(kafka, in_kafka)
        if is_new_connection:
            for connection in list(vars(network)["_client"]._conns.values()):
                connection.close()
        network.resume(place)
        await publish(kafka, [] if is_new_connection else LATER)
        await until_all_of(projected, *OTHERS[:3])


async def test_a_log_without_a_record_in_common_is_refused_until_it_is_named(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    await project_s1(settings, kafka, projected)
    await replace_log(kafka, LATER)
    with pytest.raises(ConfigurationError, match=r"no record in common.*FLOTILLA_AUDIT_ACCEPT_NEW_LOG=events-"):
        await run(settings, Runtime("audit-consumer"))
    named = settings.model_copy(update={"audit_accept_new_log": kafka.kafka_session_events_topic})
    async with running_audit(named):
        await until_all_of(projected, *OTHERS[:3])


async def test_records_that_were_deleted_before_they_were_read_are_a_clear_error(
    settings: Settings, kafka: KafkaSettings, projected: Projected
) -> None:
    await project_s1(settings, kafka, projected)
    await publish(kafka, LATER)
    await delete_before(kafka, LANE, 30)
    with pytest.raises(ConfigurationError, match="begins at offset 30, but the projection has read only up to 20"):
        await run(settings, Runtime("audit-consumer"))


class RolledBack:
    """A pool whose transactions change nothing, so that the same place can be looked at again."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetchrow(self, query: str, *arguments: object) -> asyncpg.Record | None:
        return await self._pool.fetchrow(query, *arguments)

    async def fetchval(self, query: str, *arguments: object) -> object:
        return await self._pool.fetchval(query, *arguments)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[object]:
        async with self._pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            finally:
                await transaction.rollback()


async def standing_of(pool: Pool) -> asyncpg.Record:
    row = await pool.fetchrow("SELECT * FROM consumer_offsets WHERE kafka_partition = $1", LANE)
    assert row is not None
    return row


@asynccontextmanager
async def consuming(settings: Settings, pool: Pool) -> AsyncIterator[AuditConsumer]:
    """The consuming loop alone."""
    runtime = Runtime("audit-consumer")
    topic = settings.kafka_session_events_topic
    kafka = make_event_consumer(settings)
    await kafka.start()
    async with open_kafka_log(settings) as log:
        consumer = AuditConsumer(kafka, pool, topic, settings.audit_batch_events, ResumeOffsetFinder(pool, log, topic))
        task = asyncio.create_task(consumer.consume_until_stopped(runtime))
        try:
            yield consumer
        finally:
            runtime.request_stop("end of the test")
            await asyncio.wait([task])
            await close_kafka_client(kafka)
        await task
