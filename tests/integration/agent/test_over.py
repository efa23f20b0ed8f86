"""A ticket counts as far as its row does: an agent works on what is open, and waits for a row that is not there yet."""

import pytest

from flotilla.bus import Redis
from flotilla.bus.housekeeping import load_group_states
from flotilla.contracts.names import task_stream
from flotilla.postgres import Pool
from tests.support.adder import Adder, asked
from tests.support.agents import delegate, publish, put, replies, rows, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


async def handled(redis: Redis) -> bool:
    return [(state.lag, state.pending) for state in await load_group_states(redis, task_stream("adder"))] == [(0, 0)]


async def delivered(redis: Redis) -> bool:
    return [state.pending for state in await load_group_states(redis, task_stream("adder"))] == [1]


@pytest.mark.parametrize(
    "change",
    [
        "state = 'superseded'",
        "state = 'cancelled'",
        "state = 'dead_lettered'",
        "secret_hash = sha256('of the ticket that took its place')",
    ],
)
async def test_task_that_is_over_is_neither_run_nor_answered(pool: Pool, redis: Redis, change: str) -> None:
    adder = Adder()
    await publish(pool, redis, asked())
    await rows(pool, f"UPDATE flotilla.delegations SET {change}")
    async with running(adder.agent, pool, redis):
        await eventually(lambda: handled(redis))
    assert adder.runs == 0
    assert await replies(redis) == []


async def test_task_that_ends_while_it_runs_has_no_effect_and_no_answer(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("wait"))
        await eventually(lambda: adder.runs)
        await rows(pool, "UPDATE flotilla.delegations SET state = 'dead_lettered'")
        adder.gate.set()
        await eventually(lambda: handled(redis))
    assert await replies(redis, "done") == []
    assert [row["status"] for row in await rows(pool, "SELECT status FROM flotilla.agent_tasks")] == ["queued"]
    assert await rows(pool, "SELECT 1 FROM flotilla.agent_actions") == []


async def test_task_waits_for_its_row_and_runs_once_it_is_there(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis) as consumer:
        await put(redis, asked())
        await eventually(lambda: consumer.in_flight_count == 0 and delivered(redis))
        assert adder.runs == 0
        await delegate(pool, asked())
        await eventually(lambda: replies(redis, "done"))
    assert adder.runs == 1
