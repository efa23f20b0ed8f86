"""A gateway of the test's own: its database and Redis too; Temporal and Kafka are shared."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import httpx
import pytest

from flotilla.bus import Redis
from flotilla.contracts.names import cancelled_key
from flotilla.postgres import Pool
from flotilla_devstack import RunningStack
from tests.integration.workflow_worker import agents
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.gateway import RunningGateway, make_topics, running_gateway
from tests.support.postgres import Database
from tests.support.worker import RunningWorker, running_worker

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


class Gate:
    """Holds the research agent, so that a run stays active."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()

    async def research(self, redis: Redis, task: Task) -> dict[str, Any]:
        """Answers once the gate is open, or when the task is cancelled meanwhile, as an agent at work does."""
        while not self.is_open.is_set():
            if await redis.exists(cancelled_key(task["task_id"])):
                return {"status": "cancelled"}
            with suppress(TimeoutError):
                await asyncio.wait_for(self.is_open.wait(), 0.05)
        return await agents.research(task)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@asynccontextmanager
async def answering(
    gateway: RunningGateway,
    redis_url: str,
    temporal_address: str,
    gate: Gate,
    *,
    pool: "Pool | None" = None,
    **options: Any,
) -> AsyncIterator[RunningWorker]:
    """A worker (`options` are its settings) with the agents that answer questions, over the gateway's stores; `pool`
    where that of the gateway is closed."""
    async with (
        running_worker(
            dsn=gateway.database.dsn("flotilla_worker"),
            pool=pool or gateway.pool,
            redis_url=redis_url,
            temporal_address=temporal_address,
            task_queue=gateway.settings.task_queue,
            **options,
        ) as running,
        foreign_agent(running.redis, "research", partial(gate.research, running.redis)),
        foreign_agent(running.redis, "write", agents.write),
    ):
        yield running


@pytest.fixture
async def worker(
    gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate
) -> AsyncIterator[RunningWorker]:
    async with answering(gateway, redis_url, temporal_address, gate) as running:
        yield running
