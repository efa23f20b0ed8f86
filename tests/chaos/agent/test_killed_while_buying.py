"""Tasks with parallel model and tool calls, of which some are in hand at each of 20 kills, at random instants."""

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.postgres import Database
from tests.support.purchases import Plan, run, verify

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_nothing_is_bought_or_charged_twice_though_the_agent_is_killed(
    redis_url: str, pool: Pool, database: Database, seed: int
) -> None:
    plan = Plan(rounds=50, kills=20, seed=seed)
    async with connect_redis(redis_url) as redis:
        await run(plan, redis=redis, redis_url=redis_url, pool=pool, database=database)
    twice = await verify(plan, pool)
    print(f"seed {seed}, {plan.kills} kills: {dict(twice)}")  # noqa: T201 - what a long run found
    assert twice["answers_in_flight"] > 0, "no kill hit a model call"
    assert twice["charges_repeated"] > 0, "no kill hit a tool"
