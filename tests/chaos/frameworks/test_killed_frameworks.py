"""Each framework's example with 30 complaints, of which some are in hand at each of 20 kills, at random instants."""

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.complaints import NAMES, Plan, run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]


@pytest.mark.parametrize("example", NAMES)
async def test_nothing_is_bought_or_done_twice_though_the_framework_is_killed(
    redis_url: str, pool: Pool, example: str
) -> None:
    plan = Plan(example, rounds=30, kills=20)
    async with connect_redis(redis_url) as redis:
        twice = await run(plan, redis=redis, redis_url=redis_url, pool=pool)
    print(f"{example}, {plan.kills} kills: {dict(twice)}")  # noqa: T201 - what a long run found
