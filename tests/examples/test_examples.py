"""The examples, each in its own environment: their own tests, and their agent on real servers, killed and gated."""

import subprocess

import pytest

from flotilla.bus import connect_redis
from flotilla.postgres import Pool
from tests.support.agents import open_session, replies
from tests.support.complaints import EXAMPLES, NAMES, TYPESCRIPT, Plan, fleet, python_of, run, verify
from tests.support.postgres import agent_dsn
from tests.support.waiting import eventually

each_example = pytest.mark.parametrize("example", NAMES)


@pytest.mark.parametrize("example", [name for name in NAMES if name != TYPESCRIPT])
def test_its_own_tests_pass(example: str) -> None:
    command = [python_of(example), "-m", "pytest", "-q"]
    ran = subprocess.run(command, cwd=EXAMPLES / example, capture_output=True, text=True, check=False, timeout=200)
    assert ran.returncode == 0, ran.stdout


@each_example
async def test_its_agent_keeps_every_promise_though_it_is_killed(redis_url: str, pool: Pool, example: str) -> None:
    async with connect_redis(redis_url) as redis:
        await run(Plan(example, rounds=4, kills=1, seed=3), redis=redis, redis_url=redis_url, pool=pool)


@each_example
async def test_people_decide_while_no_agent_runs(redis_url: str, pool: Pool, example: str) -> None:
    plan = Plan(example, rounds=4, kills=0, members=1, delay_s=0.0)
    await open_session(pool)
    dsn = await agent_dsn(pool, plan.agent)
    async with connect_redis(redis_url) as redis:
        with fleet(plan, redis=redis, redis_url=redis_url, pool=pool, dsn=dsn) as running:
            await running.add()
            for number in range(plan.rounds):
                await running.make(number)

            async def all_wait() -> bool:
                return len(await replies(redis, "failed", plan.agent)) == plan.rounds

            await eventually(all_wait, timeout_s=60)
            assert [one for one in running.outside.books.asked if one["path"] == "refunds"] == []
            running.kill()
            await running.decide()
            await running.add()
            await eventually(running.all_done, timeout_s=60)
            await verify(running)
