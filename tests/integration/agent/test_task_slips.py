"""Results that go on to the next agent of a slip, or stay in PostgreSQL because they are large."""

import json

import pytest

from flotilla.agent.replies import canonical
from flotilla.bus import Redis
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import cancelled_key, task_stream
from flotilla.postgres import Pool
from tests.support.adder import Adder, asked, two
from tests.support.agents import REPLY_TO, publish, replies, rows, running
from tests.support.consumers import entries
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


async def test_large_result_stays_in_postgres_and_is_replied_by_reference(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("big"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"] is None
    reference = reply["result_ref"]
    (row,) = await rows(pool, "SELECT result FROM flotilla.agent_tasks WHERE task_id = $1", reference["task_id"])
    assert reference["size_bytes"] == len(canonical(json.loads(row["result"])))
    assert reference["summary"].startswith("xxx")


async def test_slip_hands_over_to_the_next_agent_with_the_same_reply_address(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked(slip=["doubler", "printer"], user_id="alice"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert not reply["final"]
    (handed,) = await entries(redis, task_stream("doubler"))
    hop = handed["data"]
    assert (hop["task_id"], hop["agent"], hop["slip"]) == ("t1~1", "doubler", ["printer"])
    assert hop["input"] == {"total": 3, "text": "", "a": 1, "b": 2, "how": "well"}
    assert (hop["reply_to"], hop["user_id"], hop["run_id"]) == (to_builtins(REPLY_TO), "alice", "r1")


async def test_large_result_reaches_the_next_agent_by_reference(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("big", slip=["adder"], input={"a": 1, "how": "big"}))
        await eventually(lambda: two(replies(redis, "done")))
        hops = [event["data"] for event in await entries(redis, task_stream("adder"))]
    assert (hops[1]["task_id"], hops[1]["input_from"]) == ("t1~1", "t1")
    assert len(json.dumps(hops[1])) < 2_000


async def test_input_is_laid_over_the_result_that_it_refers_to(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked(task_id="below", input={"a": 40, "b": 2}))
        await eventually(lambda: replies(redis, "done"))
        await publish(redis, asked(task_id="above", input={"a": 1}, input_from="below"))
        _, reply = await eventually(lambda: two(replies(redis, "done")))
        await publish(redis, asked(task_id="lost", input={"a": 1}, input_from="nowhere"))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
    assert reply["result"]["total"] == 1
    assert "no stored result of nowhere" in failed["failure"]["message"]


async def test_cancel_of_the_root_task_stops_a_later_hop(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis, heartbeat_s=0.1):
        await redis.set(cancelled_key("t1"), "1")
        await publish(redis, asked("sleep_forever", task_id="t1~2"))
        await eventually(lambda: replies(redis, "cancelled"))
