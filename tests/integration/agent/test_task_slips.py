"""Results that go on to the next agent of a slip, or stay in PostgreSQL because they are large."""

import json

import pytest

from flotilla.bus import Redis
from flotilla.contracts.names import cancelled_key, task_stream
from flotilla.contracts.results import canonical_bytes
from flotilla.postgres import Pool
from tests.support.adder import Adder, asked, two
from tests.support.agents import publish, replies, rows, running
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


async def test_large_result_stays_in_postgres_and_is_replied_by_reference(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("big"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"] is None
    reference = reply["result_ref"]
    (row,) = await rows(pool, "SELECT result FROM flotilla.agent_tasks WHERE task_id = $1", reference["task_id"])
    assert reference["size_bytes"] == len(canonical_bytes(json.loads(row["result"])))
    assert reference["summary"].startswith("xxx")


async def test_the_agent_adds_to_no_task_stream_of_a_slip(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked(slip=["doubler", "printer"], user_id="alice"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert not reply["final"]
    assert await redis.keys("flotilla.tasks.*") == [task_stream("adder").encode()]


async def test_input_is_laid_over_the_result_that_it_refers_to(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked(task_id="below", input={"a": 40, "b": 2}))
        await eventually(lambda: replies(redis, "done"))
        await publish(pool, redis, asked(task_id="above", input={"a": 1}, input_from="below"))
        _, reply = await eventually(lambda: two(replies(redis, "done")))
        await publish(pool, redis, asked(task_id="lost", input={"a": 1}, input_from="nowhere"))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
    assert reply["result"]["total"] == 1
    assert "no stored result of nowhere" in failed["failure"]["message"]


async def test_cancel_of_the_root_task_stops_a_later_hop(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis, heartbeat_s=0.1):
        await redis.set(cancelled_key("t1"), "1")
        await publish(pool, redis, asked("sleep_on", task_id="t1~2"))
        await eventually(lambda: replies(redis, "cancelled"))
