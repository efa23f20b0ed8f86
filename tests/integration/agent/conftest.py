"""A session, and a client on a Redis of the test's own."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.postgres import Pool
from tests.support.agents import open_session
from tests.support.postgres import Database


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client on a Redis of this test's own."""
    async with connect_redis(redis_url) as client:
        yield client


@pytest.fixture
async def session(pool: Pool, database: Database) -> None:
    """The session that tasks record in, and the table that effects write to."""
    await open_session(pool)
    owner = await asyncpg.connect(database.superuser_dsn)
    try:
        await owner.execute(_EFFECTS)
    finally:
        await owner.close()


_EFFECTS = """
CREATE TABLE effects (tenant_id text NOT NULL, what text NOT NULL);
ALTER TABLE effects ENABLE ROW LEVEL SECURITY;
SELECT flotilla_ops.open_to_tasks('effects');
CREATE POLICY looking ON effects FOR SELECT TO flotilla_app USING (true);
GRANT SELECT ON effects TO flotilla_app;
GRANT INSERT ON effects TO flotilla_agent;
"""
