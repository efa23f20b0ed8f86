"""Several consumers share the partitions; one that dies or wakes late does no harm."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from audit_consumer.main import run
from audit_consumer.settings import Settings
from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.runtime import Runtime
from flotilla_devstack import RunningStack, ServiceProcess
from tests.support.audit import Projected, audit_settings, events_of, publish, running_audit
from tests.support.postgres import Database
from tests.support.waiting import eventually

SESSIONS = [f"s{number}" for number in range(24)]


@asynccontextmanager
async def process(stack: RunningStack, settings: Settings) -> AsyncIterator[ServiceProcess]:
    """An audit consumer as a process of its own."""
    started = stack.service(
        "audit-consumer",
        env={
            "FLOTILLA_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
            "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": settings.kafka_session_events_topic,
            "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": settings.kafka_checkpoints_topic,
            "FLOTILLA_AUDIT_GROUP": settings.audit_group,
            "FLOTILLA_AUDIT_SIGNING_KEY_FILE": str(settings.audit_signing_key_file),
            "FLOTILLA_KAFKA_SESSION_TIMEOUT_MS": "6000",
        },
    )
    started.start()
    try:
        await asyncio.to_thread(started.wait_ready, 60)
        yield started
    finally:
        started.resume()
        await asyncio.to_thread(started.stop)


async def whole(projected: Projected, upto: int) -> None:
    """Waits until every session stands at `upto`, each seq once."""
    for session in SESSIONS:
        assert await projected.until(session, upto, timeout_s=60) == list(range(1, upto + 1))


@pytest.mark.parametrize("harm", [ServiceProcess.kill, ServiceProcess.pause])
async def test_the_partitions_of_a_consumer_that_died_or_froze_are_taken_over(
    database: Database,
    kafka: KafkaSettings,
    projected: Projected,
    *,
    stack: RunningStack,
    tmp_path: Path,
    harm: Callable[[ServiceProcess], None],
) -> None:
    settings = audit_settings(database, kafka, tmp_path, kafka_session_timeout_ms=6000)
    async with process(stack, settings) as victim, running_audit(settings):
        await publish(kafka, [event for session in SESSIONS for event in events_of(session, range(1, 51))])
        await projected.until_offsets(300)
        harm(victim)
        await publish(kafka, [event for session in SESSIONS for event in events_of(session, range(51, 101))])
        await whole(projected, 100)
        victim.resume()  # the frozen one wakes as a second owner
        await publish(kafka, [event for session in SESSIONS for event in events_of(session, range(101, 121))])
        await whole(projected, 120)
    assert await projected.fetch("SELECT * FROM audit.parked_events") == []


async def test_the_group_offset_follows_for_those_who_scale_by_it(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    async with running_audit(settings):
        await publish(kafka, [event for session in SESSIONS for event in events_of(session, range(1, 11))])
        await whole(projected, 10)

    async def committed() -> bool:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.kafka_bootstrap_servers)
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(settings.audit_group)
        finally:
            await admin.close()
        return sum(offset.offset for offset in offsets.values()) == 240

    await eventually(committed)


async def test_it_drains_when_asked_to_stop_and_goes_on_where_it_was(
    database: Database, kafka: KafkaSettings, projected: Projected, stack: RunningStack, tmp_path: Path
) -> None:
    settings = audit_settings(database, kafka, tmp_path)
    await publish(kafka, [event for session in SESSIONS for event in events_of(session, range(1, 101))])
    async with process(stack, settings) as first:
        await projected.until_offsets(1)
        await asyncio.to_thread(first.stop)
        assert first.returncode == 0
    async with running_audit(settings):
        await whole(projected, 100)


async def test_a_topic_that_ends_before_the_projection_is_a_clear_error(
    database: Database, kafka: KafkaSettings, projected: Projected, tmp_path: Path
) -> None:
    await projected.execute("INSERT INTO audit.consumer_offsets SELECT n, 1000 FROM generate_series(0, 11) AS n")
    with pytest.raises(ConfigurationError, match="the topic lost events or was recreated"):
        await run(audit_settings(database, kafka, tmp_path), Runtime("audit-consumer"))
