"""Kafka of a local stack: who has no login is refused, and a service's login writes what its service writes."""

import asyncio
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from pydantic import SecretStr

from flotilla.config import KafkaSettings
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import AUDIT_GROUP, CHECKPOINTS_TOPIC, SESSION_EVENTS_TOPIC
from flotilla.kafka.client import kafka_client_arguments
from flotilla.kafka.granting import grant_kafka_rights
from flotilla.kafka.topics import ensure_topics
from flotilla_devstack import Stack
from flotilla_devstack.kafka_users import BROKER
from flotilla_devstack.ports import LOOPBACK
from flotilla_devstack.services import SERVICES

TOPICS = (SESSION_EVENTS_TOPIC, CHECKPOINTS_TOPIC)
WITHOUT_KAFKA = ("workflow-worker", "research-agent", "writer-agent", "tool-gateway")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka alone, as `flotilla up` starts it and its installer leaves it."""
    with Stack(tmp_path_factory.mktemp("stack"), ("kafka",), kafka_users=True) as stack:
        asyncio.run(install(login(stack)))
        yield stack


async def install(settings: KafkaSettings) -> None:
    """Topics and rights."""
    await ensure_topics(settings)
    await grant_kafka_rights(settings)


def login(stack: Stack, user: str | None = "admin") -> KafkaSettings:
    """The settings of a user of the stack."""
    return KafkaSettings.model_validate(stack.kafka_settings(user))


async def write(settings: KafkaSettings, topic: str) -> None:
    producer = AIOKafkaProducer(**kafka_client_arguments(settings), enable_idempotence=False)
    try:
        await producer.start()
        await producer.send_and_wait(topic, b"{}", partition=0)
    finally:
        await producer.stop()


async def connect(settings: KafkaSettings) -> None:
    consumer = AIOKafkaConsumer(**kafka_client_arguments(settings))
    try:
        await consumer.start()
    finally:
        await consumer.stop()


async def test_clients_without_a_login_are_refused(installed: Stack) -> None:
    with pytest.raises(KafkaError):
        await connect(login(installed, None))


@pytest.mark.parametrize("listener", ["broker", "controller"])
def test_who_has_no_login_is_refused_on_each_listener(installed: Stack, listener: str) -> None:
    address = (LOOPBACK, installed.ports("kafka")[listener])
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(_describe_configs_request())
        assert connection.recv(4) == b"", "it ends the connection in place of an answer"


def _describe_configs_request() -> bytes:
    """DescribeConfigs version 1 of nothing, which brokers and controllers answer (Kafka protocol guide)."""
    body = struct.pack("!hhih", 32, 1, 1, -1) + struct.pack("!ib", 0, 0)
    return struct.pack("!i", len(body)) + body


@pytest.mark.parametrize("user", [BROKER, "admin", "outbox-relay", "nobody", ""])
async def test_who_guesses_a_password_is_refused(installed: Stack, user: str) -> None:
    guessed = {"kafka_username": user, "kafka_password": SecretStr("outbox-relay"), "kafka_password_file": None}
    with pytest.raises(KafkaError):
        await connect(login(installed).model_copy(update=guessed))


@pytest.mark.parametrize("service", WITHOUT_KAFKA)
async def test_services_that_do_not_use_kafka_have_no_login(installed: Stack, service: str) -> None:
    given = installed.environment_of(service, dict.fromkeys(SERVICES[service].port_variables, 1))
    found = {name for name in given if name.startswith("FLOTILLA_KAFKA_")}
    assert found == {"FLOTILLA_KAFKA_BOOTSTRAP_SERVERS"}
    with pytest.raises(KafkaError):
        await write(login(installed, None), SESSION_EVENTS_TOPIC)


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("user", ["gateway", "backup"])
async def test_readers_write_to_no_topic_of_the_log(installed: Stack, user: str, topic: str) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await write(login(installed, user), topic)


async def test_the_relay_writes_events_and_signs_none_of_them(installed: Stack) -> None:
    relay = login(installed, "outbox-relay")
    await write(relay, SESSION_EVENTS_TOPIC)
    with pytest.raises(TopicAuthorizationFailedError):
        await write(relay, CHECKPOINTS_TOPIC)


@pytest.mark.parametrize("user", ["gateway", "outbox-relay", "audit-consumer", "backup"])
async def test_no_service_gives_itself_rights(installed: Stack, user: str) -> None:
    with pytest.raises(ConfigurationError, match="administrator's login"):
        await grant_kafka_rights(login(installed, user), AUDIT_GROUP)


def test_passwords_are_in_files_of_their_owner_and_in_no_argument(installed: Stack) -> None:
    folder = installed.state_dir.kafka_passwords_folder
    properties = installed.state_dir.data("kafka") / "server.properties"
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (*folder.iterdir(), properties)}
    assert (modes, stat.S_IMODE(folder.stat().st_mode)) == ({0o600}, 0o700)
    arguments = Path(f"/proc/{installed.server('kafka').pid}/cmdline").read_text()
    assert not [file.name for file in folder.iterdir() if file.read_text() in arguments]


def test_passwords_differ_from_user_to_user_and_from_stack_to_stack(installed: Stack, tmp_path: Path) -> None:
    folder = installed.state_dir.kafka_passwords_folder
    own = {file.read_text() for file in folder.iterdir()}
    assert len(own) == len(list(folder.iterdir()))
    other = Stack(tmp_path, ("kafka",), kafka_users=True)
    assert not own & set(other._kafka_passwords().values())
