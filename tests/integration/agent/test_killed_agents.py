"""A short seed of the chaos run (`tests/chaos/bus`)."""

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.payments import Plan, run, verify
from tests.support.postgres import Database


@pytest.mark.timeout(180)
async def test_every_task_has_one_effect_though_agents_are_killed_and_paused(
    redis_url: str, pool: Pool, database: Database
) -> None:
    plan = Plan(tasks=120, consumers=3, kill_every_s=0.5, min_idle_ms=500, poison_share=0.02, timeout_s=150)
    async with connect_redis(redis_url) as redis:
        ended = await run(plan, redis=redis, redis_url=redis_url, pool=pool, database=database)
        await verify(plan, ended, redis=redis, pool=pool)
    assert ended.kills >= 1
