"""Each service with the rights that `flotilla.kafka.acl` prints, on a Kafka that allows nothing else."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import FlotillaError
from flotilla.kafka.acl import kafka_permissions
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.granting import grant_kafka_rights
from flotilla.kafka.session_log import open_kafka_log
from flotilla.kafka.topics import check_topics, ensure_topics
from flotilla_devstack import RunningStack
from outbox_relay.publisher import KafkaPublisher
from tests.support.audit import TENANT, Projected, audit_settings, events_of, running_audit
from tests.support.audit import publish as publish_events
from tests.support.audit_fixtures import projected
from tests.support.kafka_users import KafkaWithUsers
from tests.support.postgres import Database
from tests.support.waiting import eventually

__all__ = ["projected"]
EVENTS, CHECKPOINTS, GROUP = "acl-events", "acl-checkpoints", "audit-acl-events"


@pytest.fixture(scope="module")
def server(stack: RunningStack) -> Iterator[KafkaWithUsers]:
    KafkaWithUsers.users = (*kafka_permissions(), "stranger")
    running = stack._start_extra("kafka", KafkaWithUsers.port_names, KafkaWithUsers)
    yield running
    running.stop()


@pytest.fixture
async def login(server: KafkaWithUsers) -> Callable[[str], KafkaSettings]:
    """Settings of a service by its user's name; the topics are there, made by the user `install`."""
    topics = KafkaSettings(
        kafka_bootstrap_servers=server.bootstrap_address,
        kafka_session_events_topic=EVENTS,
        kafka_checkpoints_topic=CHECKPOINTS,
    )
    await grant_kafka_rights(topics, GROUP)
    await ensure_topics(server.settings_of("install", topics))
    return lambda user: server.settings_of(user, topics)


async def publish(settings: KafkaSettings, topic: str) -> None:
    producer = AIOKafkaProducer(**kafka_client_arguments(settings), enable_idempotence=False)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"{}", partition=0)
    finally:
        await producer.stop()


async def read(settings: KafkaSettings, topic: str, group: str | None = None) -> None:
    consumer = AIOKafkaConsumer(topic, **kafka_client_arguments(settings), group_id=group, auto_offset_reset="earliest")
    try:
        await consumer.start()
        await consumer.getmany(timeout_ms=2000)
    finally:
        await consumer.stop()


async def test_events_go_from_the_relay_through_kafka_to_the_projection_and_the_gateway(
    login: Callable[[str], KafkaSettings], database: Database, projected: Projected, tmp_path: Path
) -> None:
    relay = login("outbox-relay")
    await check_topics(relay)
    publisher = await KafkaPublisher.connect_publisher(kafka_client_arguments(relay), EVENTS)
    await publisher.close_without_flush()
    await publish_events(relay, events_of("s1", (1, 2, 3)))
    kafka = login("audit-consumer")
    async with (
        running_audit(audit_settings(database, kafka, tmp_path, **kafka.model_dump())),
        open_kafka_log(login("gateway")) as log,
    ):
        assert await projected.until("s1", 3) == [1, 2, 3]
        assert [event.seq for event in await log.read_session_events(TENANT, "s1")] == [1, 2, 3]
        await eventually(log.read_checkpoints, timeout_s=20)


@pytest.mark.parametrize("user", ["gateway", "install", "backup", "scaler", "stranger"])
@pytest.mark.parametrize("topic", [EVENTS, CHECKPOINTS])
async def test_only_relay_and_audit_consumer_write(
    login: Callable[[str], KafkaSettings], user: str, topic: str
) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await publish(login(user), topic)


async def test_the_relay_writes_no_checkpoints_and_reads_nothing(login: Callable[[str], KafkaSettings]) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await publish(login("outbox-relay"), CHECKPOINTS)
    for topic in (EVENTS, CHECKPOINTS):
        with pytest.raises(TopicAuthorizationFailedError):
            await read(login("outbox-relay"), topic)


@pytest.mark.parametrize("user", ["gateway", "outbox-relay", "backup", "scaler", "stranger"])
async def test_nobody_else_moves_the_audit_consumers_group(login: Callable[[str], KafkaSettings], user: str) -> None:
    with pytest.raises((GroupAuthorizationFailedError, TopicAuthorizationFailedError)):
        await read(login(user), EVENTS, GROUP)


@pytest.mark.parametrize("user", ["gateway", "outbox-relay", "audit-consumer", "backup", "scaler", "stranger"])
async def test_only_the_install_job_makes_topics(login: Callable[[str], KafkaSettings], user: str) -> None:
    wanted = login(user).model_copy(update={"kafka_session_events_topic": f"made-by-{user}"})
    with pytest.raises(FlotillaError):
        await ensure_topics(wanted)
