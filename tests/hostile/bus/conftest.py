"""A hostile agent, with the rights on Redis that `flotilla.bus.acl` prints for it, and a running worker before it."""

from collections.abc import AsyncIterator

import pytest

from flotilla.bus import Redis, connect_redis, ensure_group
from flotilla.bus.functions import load_redis_functions
from flotilla.contracts.ids import new_id
from flotilla.contracts.names import (
    agent_group,
    reply_stream,
    task_stream,
)
from flotilla.postgres import Pool
from tests.hostile.bus.insider import AGENT, VICTIM, Insider, insider
from tests.support.postgres import Database
from tests.support.worker import RunningWorker, running_worker
from workflow_worker.delegates import KnownDelegates


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Redis]:
    """The administrator of a Redis with the streams of both agents."""
    async with connect_redis(redis_url) as redis:
        await load_redis_functions(redis)
        for agent in (AGENT, VICTIM):
            await ensure_group(redis, task_stream(agent), agent_group(agent))
            await ensure_group(redis, reply_stream(agent), "workflow-bridge")
        yield redis


@pytest.fixture
async def mallory(admin: Redis, redis_url: str) -> AsyncIterator[Insider]:
    """The hostile agent."""
    del admin  # which made its user
    async with insider(redis_url) as armed:
        yield armed


@pytest.fixture
async def worker(
    mallory: Insider, database: Database, pool: Pool, redis_url: str, temporal_address: str
) -> AsyncIterator[RunningWorker]:
    """A worker that works with the rights of its own user."""
    del mallory  # before whom it works
    await KnownDelegates(pool).note_delegate(AGENT)
    async with running_worker(
        dsn=database.dsn("flotilla_worker"),
        pool=pool,
        redis_url=redis_url,
        temporal_address=temporal_address,
        task_queue=f"queue-{new_id()}",
    ) as running:
        yield running
