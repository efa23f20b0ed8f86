"""A topic of each test's own, the outbox as the relay sees it, and relays in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Protocol

import asyncpg
import pytest

from flotilla.config import KafkaSettings
from flotilla.kafka.client import kafka_client_arguments
from flotilla.postgres import Connection, Pool
from outbox_relay.leases import LaneLeases
from outbox_relay.publisher import KafkaPublisher, PublisherConnection
from outbox_relay.relay import OutboxRelay, RelayOptions
from outbox_relay.rows import open_relay_pool
from tests.support.postgres import Database
from tests.support.session_events import topics_named


@pytest.fixture
async def kafka(kafka_bootstrap: str, unique: Callable[[str], str]) -> KafkaSettings:
    """Settings with topics of this test's own."""
    return await topics_named(kafka_bootstrap, unique("session-events"))


@pytest.fixture
async def relay_pool(database: Database) -> AsyncIterator[Pool]:
    """The outbox as the relay sees it."""
    async with open_relay_pool(database.dsn("flotilla_relay")) as pool:
        yield pool


@pytest.fixture
async def superuser(database: Database) -> AsyncIterator[Connection]:
    """A connection that sees everything."""
    connection = await asyncpg.connect(database.superuser_dsn)
    yield connection
    await connection.close()


class StartRelay(Protocol):
    """Runs a relay in this process while the block lasts."""

    def __call__(
        self,
        instance: str = ...,
        *,
        options: RelayOptions | None = ...,
        traces: bool = ...,
        publisher: type[KafkaPublisher] = ...,
        leases: type[LaneLeases] = ...,
    ) -> AbstractAsyncContextManager[OutboxRelay]: ...


@pytest.fixture
def start_relay(relay_pool: Pool, kafka: KafkaSettings) -> StartRelay:
    """Starts relays on this test's database and topic."""

    @asynccontextmanager
    async def started(
        instance: str = "relay",
        *,
        options: RelayOptions | None = None,
        traces: bool = False,
        publisher: type[KafkaPublisher] = KafkaPublisher,
        leases: type[LaneLeases] = LaneLeases,
    ) -> AsyncIterator[OutboxRelay]:
        link = PublisherConnection(
            partial(publisher.connect_publisher, kafka_client_arguments(kafka), kafka.kafka_session_events_topic)
        )
        relay = OutboxRelay(relay_pool, link, leases(relay_pool, instance), options=options, traces=traces)
        stop = asyncio.Event()
        running = asyncio.create_task(relay.relay_until(stop, 5.0), name=instance)
        try:
            yield relay
            assert not running.done(), running
        finally:
            stop.set()
            await running
            await link.close()

    return started


@pytest.fixture
def backlog(superuser: Connection) -> Callable[[], Awaitable[int]]:
    """Counts the rows that are in the outbox, parked ones included."""

    async def count() -> int:
        return int(await superuser.fetchval("SELECT count(*) FROM flotilla.event_outbox"))

    return count
