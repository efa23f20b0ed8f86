"""Fixtures over the real servers. Every test gets names, a database or a Redis of its own."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from temporalio.client import Client

from flotilla.postgres import Pool, open_pool
from tests.support.postgres import Database, cloned, drop, make_template
from tests.support.servers import Addresses, PrivateRedis, private_redis, running_stack


@pytest.fixture(scope="session")
def stack() -> Addresses:
    """The addresses of the run's servers."""
    return running_stack()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """Makes names that no other test uses: `unique("orders")` gives `orders-3f9a1c2b`."""
    return lambda prefix: f"{prefix}-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def database_template(stack: Addresses) -> Iterator[str]:
    """A migrated database, made once per test process."""
    name = f"flotilla_template_{os.getpid()}_{secrets.token_hex(3)}"
    asyncio.run(make_template(stack.postgres_dsn, name))
    yield name
    asyncio.run(drop(stack.postgres_dsn, name))


@pytest.fixture
async def database(stack: Addresses, database_template: str) -> AsyncIterator[Database]:
    """A fresh, migrated database."""
    name = f"flotilla_test_{secrets.token_hex(6)}"
    async with cloned(stack.postgres_dsn, database_template, name) as fresh:
        yield fresh


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """A pool on the fresh database, as the application role."""
    async with open_pool(database.dsn(), application="test") as opened:
        yield opened


@pytest.fixture
def redis_server() -> Iterator[PrivateRedis]:
    """A redis-server of this test's own."""
    with private_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """The URL of this test's own Redis."""
    return redis_server.url


@pytest.fixture
def kafka_bootstrap(stack: Addresses) -> str:
    """The shared broker; make topics with unique names."""
    return stack.kafka_bootstrap


@pytest.fixture
def temporal_address(stack: Addresses) -> str:
    """The shared Temporal server; use a unique task queue."""
    return stack.temporal_address


@pytest.fixture
async def temporal_client(temporal_address: str) -> Client:
    """A client of the shared Temporal server."""
    return await Client.connect(temporal_address)
