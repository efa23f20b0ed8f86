"""A session, and a client on a Redis of the test's own."""

from collections.abc import AsyncIterator

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.postgres import Pool
from tests.support.agents import open_session


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a Redis of this test's own."""
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
async def session(pool: Pool) -> None:
    """The session that tasks record in."""
    await open_session(pool)
