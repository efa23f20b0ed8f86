"""10,000 tasks over four consumers, of which one is killed every second and one is paused for three times min-idle."""

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.payments import Plan, run, verify
from tests.support.postgres import Database

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_every_task_has_one_effect_though_consumers_are_killed_and_paused(
    redis_url: str, pool: Pool, database: Database, seed: int
) -> None:
    plan = Plan(tasks=10_000, seed=seed, timeout_s=1_500)
    async with connect_redis(redis_url) as redis:
        ended = await run(plan, redis=redis, redis_url=redis_url, pool=pool, database=database)
        await verify(plan, ended, redis=redis, pool=pool)
    assert ended.kills >= 3
    assert ended.slowest_redelivery_s <= plan.min_idle_ms / 1000 + 5
