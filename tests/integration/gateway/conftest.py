"""A gateway of the test's own: its database and Redis too; Temporal and Kafka are shared."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TypeAlias

import httpx
import pytest

from flotilla_devstack import RunningStack
from tests.support.gateway import RunningGateway, make_topics, running_gateway
from tests.support.postgres import Database

Replica: TypeAlias = Callable[..., AbstractAsyncContextManager[RunningGateway]]


@pytest.fixture(scope="session")
def log_topics(stack: RunningStack) -> dict[str, str]:
    """Topics of this test process's own, as settings."""
    return asyncio.run(make_topics(stack.kafka_bootstrap))


@pytest.fixture
def replica(
    *,
    log_topics: dict[str, str],
    database: Database,
    redis_url: str,
    kafka_bootstrap: str,
    temporal_address: str,
    unique: Callable[[str], str],
) -> Replica:
    """Starts replicas over the same stores; keyword arguments are settings."""
    return partial(
        running_gateway,
        database=database,
        redis_url=redis_url,
        kafka_bootstrap=kafka_bootstrap,
        temporal_address=temporal_address,
        task_queue=unique("queue"),
        operator_tenant="acme",
        **log_topics,
    )


@pytest.fixture
async def gateway(replica: Replica) -> AsyncIterator[RunningGateway]:
    # Tests ask with more wrong keys than one address may try in a minute.
    async with replica(failed_logins_per_minute=10_000) as running:
        yield running


@pytest.fixture
async def operator(gateway: RunningGateway) -> httpx.AsyncClient:
    """A person of tenant acme, operator and approver."""
    return await gateway.client_of("olga", "operator", "approver", person=True)
