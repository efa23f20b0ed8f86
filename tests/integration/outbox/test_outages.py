"""Kafka or PostgreSQL away: the outbox grows, the relay says why it is not ready, nothing is lost."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from flotilla.config import KafkaSettings
from flotilla.postgres import Pool, open_pool
from flotilla_devstack import RunningStack, ServiceProcess
from flotilla_devstack import http as local_http
from flotilla_devstack.servers.kafka import KafkaServer
from flotilla_devstack.servers.postgres import PostgresServer
from tests.support.postgres import Database
from tests.support.session_events import (
    append_messages,
    first_occurrences,
    in_order,
    key_of,
    read_topic,
)
from tests.support.waiting import eventually


@pytest.fixture
async def harmed_pool(harmed_database: Database) -> AsyncIterator[Pool]:
    async with open_pool(harmed_database.dsn(), application="test") as pool:
        yield pool


@pytest.fixture
async def relay(
    stack: RunningStack, harmed_database: Database, harmed_kafka: KafkaSettings
) -> AsyncIterator[ServiceProcess]:
    """A relay between the two, ready."""
    process = stack.service(
        "outbox-relay",
        env={
            "FLOTILLA_POSTGRES_DSN": harmed_database.dsn("flotilla_relay"),
            "FLOTILLA_KAFKA_BOOTSTRAP_SERVERS": harmed_kafka.kafka_bootstrap_servers,
            "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC": harmed_kafka.kafka_session_events_topic,
            "FLOTILLA_KAFKA_CHECKPOINTS_TOPIC": harmed_kafka.kafka_checkpoints_topic,
            "FLOTILLA_RELAY_SEND_TIMEOUT_S": "3",
        },
    )
    process.start()
    await asyncio.to_thread(process.wait_ready)
    yield process
    process.stop()


async def arrived(kafka: KafkaSettings, session: str, ids: list[str]) -> None:
    async def all_there() -> bool:
        return first_occurrences(await read_topic(kafka)) == {key_of(session): in_order(ids)}

    await eventually(all_there, timeout_s=30, every_s=0.2)


def is_ready(process: ServiceProcess) -> bool:
    return local_http.get(process.ports["metrics"], "/readyz")[0] == 200


async def unready_with(process: ServiceProcess, word: str) -> None:
    await eventually(lambda: word in local_http.get(process.ports["metrics"], "/readyz")[1], timeout_s=20)
    await eventually(lambda: local_http.get(process.ports["metrics"], "/livez")[0] == 200)
    assert process.is_running(), process.log_text()


async def test_kafka_killed_and_restarted_loses_nothing(
    relay: ServiceProcess, own_kafka: KafkaServer, harmed_kafka: KafkaSettings, harmed_pool: Pool
) -> None:
    ids = await append_messages(harmed_pool, "s", ["before"] * 5)
    await asyncio.to_thread(own_kafka.kill)
    ids += await append_messages(harmed_pool, "s", ["while Kafka is unavailable"] * 20)
    await unready_with(relay, "Kafka")
    own_kafka.start()
    await asyncio.to_thread(own_kafka.wait_ready)
    ids += await append_messages(harmed_pool, "s", ["after"] * 5)
    await arrived(harmed_kafka, "s", ids)
    await eventually(lambda: is_ready(relay), timeout_s=20)


async def test_a_kafka_that_is_connected_and_mute_loses_nothing(
    relay: ServiceProcess, own_kafka: KafkaServer, harmed_kafka: KafkaSettings, harmed_pool: Pool
) -> None:
    """Longer than the relay's own patience, so that it builds a new producer meanwhile."""
    ids = await append_messages(harmed_pool, "s", ["before"])
    await arrived(harmed_kafka, "s", ids)
    own_kafka.pause()
    ids += await append_messages(harmed_pool, "s", ["while Kafka is mute"] * 20)
    await unready_with(relay, "Kafka")
    await eventually(lambda: "producer_restarts" in relay.log_text(), timeout_s=20)
    own_kafka.resume()
    await arrived(harmed_kafka, "s", ids)


async def test_postgresql_restarted_loses_nothing(
    relay: ServiceProcess,
    own_postgres: PostgresServer,
    harmed_kafka: KafkaSettings,
    harmed_database: Database,
) -> None:
    async with open_pool(harmed_database.dsn(), application="test") as before:
        ids = await append_messages(before, "s", ["before"] * 5)
        await asyncio.to_thread(own_postgres.kill)
    await unready_with(relay, "PostgreSQL")
    own_postgres.start()
    await asyncio.to_thread(own_postgres.wait_ready)
    async with open_pool(harmed_database.dsn(), application="test") as after:
        ids += await append_messages(after, "s", ["after"] * 5)
    await arrived(harmed_kafka, "s", ids)
    await eventually(lambda: is_ready(relay), timeout_s=20)
    left = await asyncpg.connect(harmed_database.superuser_dsn)
    assert await left.fetchval("SELECT count(*) FROM flotilla.event_outbox") == 0
    await left.close()
