"""A short seed of the chaos run (`tests/chaos/agent`)."""

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.postgres import Database
from tests.support.purchases import Plan, run, verify


@pytest.mark.timeout(180)
async def test_nothing_is_bought_or_charged_twice_though_the_agent_is_killed(
    redis_url: str, pool: Pool, database: Database
) -> None:
    plan = Plan(rounds=1, kills=1, seed=2)
    async with connect_redis(redis_url) as redis:
        await run(plan, redis=redis, redis_url=redis_url, pool=pool, database=database)
    await verify(plan, pool)
