"""What an agent promises: one effect per task, an answer to every try, nothing recorded twice."""

import json
from dataclasses import replace
from typing import Any

import pytest

from flotilla.bus import Redis
from flotilla.bus.tickets import sign_event
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.names import EVENTS_STREAM
from flotilla.contracts.tasks import Turn
from flotilla.postgres import Pool
from flotilla.testing import FakeModel
from tests.support.adder import Adder, asked, two
from tests.support.agents import delegate, open_session, publish, replies, rows, running, session_events
from tests.support.consumers import entries
from tests.support.tickets import SIGNER
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


async def test_task_has_one_result_its_actions_its_events_its_reply_and_its_announcement(
    pool: Pool, redis: Redis
) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked())
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"] == {"total": 3, "text": ""}
    assert (reply["persisted"], reply["final"]) == (True, True)
    (row,) = await rows(pool, "SELECT * FROM flotilla.agent_tasks")
    assert (row["status"], row["attempt"], json.loads(row["result"])["total"]) == ("done", 1, 3)
    actions = await rows(pool, "SELECT action_type FROM flotilla.agent_actions ORDER BY action_seq")
    assert [action["action_type"] for action in actions] == ["tool_call", "tool_result", "task_done"]
    events = await session_events(pool)
    assert [event["type"].split(".")[2] for event in events] == ["tool_call", "tool_result"]
    assert events[0]["data"]["call_id"] == events[1]["data"]["call_id"]
    assert {event["taskid"] for event in events} == {"t1"}
    assert reply["announces"] == "flotilla.adder.completed.v1"
    assert not await redis.exists(EVENTS_STREAM)  # the bridge announces


async def test_task_delivered_again_is_answered_from_the_store_and_has_one_effect(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("insert"))
        await eventually(lambda: replies(redis, "done"))
        await publish(pool, redis, asked("insert"))
        first, second = await eventually(lambda: two(replies(redis, "done")))
    assert first == second
    assert adder.runs == 1
    assert len(await rows(pool, "SELECT 1 FROM effects")) == 1


async def test_two_consumers_with_the_same_task_have_one_effect_and_one_set_of_events(pool: Pool, redis: Redis) -> None:
    """As after FLUSHALL: the delegation published the task again while the first one is still at work."""
    first, second = Adder(), Adder()
    async with running(first.agent, pool, redis, name="c1", concurrency=1):
        await publish(pool, redis, asked("wait"))
        await eventually(lambda: first.runs)
        await redis.flushall()
        await publish(pool, redis, asked("wait"))
        async with running(second.agent, pool, redis, name="c2", concurrency=1):
            await eventually(lambda: second.runs)
            first.gate.set()
            second.gate.set()
            await eventually(lambda: two(replies(redis, "done")))
    assert len(await rows(pool, "SELECT 1 FROM flotilla.agent_tasks")) == 1
    actions = await rows(pool, "SELECT 1 FROM flotilla.agent_actions")
    assert len(actions) == 1


async def test_same_task_twice_in_one_consumer_runs_once(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis) as consumer:
        await publish(pool, redis, asked("wait"))
        await publish(pool, redis, asked("wait"))
        await eventually(lambda: consumer.in_flight_count == 2)
        adder.gate.set()
        await eventually(lambda: two(replies(redis, "done")))
    assert adder.runs == 1


async def test_text_that_postgres_refuses_does_not_strand_the_task(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("with_nul"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"]["text"] == "c\\u0000d"
    (event,) = await session_events(pool)
    assert event["data"]["details"]["text"] == "a\\u0000b"
    assert event["data"]["escaped"] == ["/details/text"]


async def test_model_answer_is_bought_once_even_if_the_task_runs_again(pool: Pool, redis: Redis) -> None:
    first, second = Adder(), Adder()
    model = FakeModel("an answer that costs money")
    async with running(first.agent, pool, redis, model=model, grace_s=0.1, concurrency=1):
        await publish(pool, redis, asked("talk"))
        await eventually(lambda: rows(pool, "SELECT 1 FROM flotilla.llm_calls"))
    second.gate.set()
    async with running(second.agent, pool, redis, model=model):
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"]["text"] == "an answer that costs money"
    assert (first.runs, second.runs, len(model.requests)) == (1, 1, 1)


async def test_tokens_and_steps_reach_the_live_stream_and_a_second_run_voids_the_first(
    pool: Pool, redis: Redis
) -> None:
    adder = Adder()
    adder.gate.set()
    async with running(adder.agent, pool, redis, model=FakeModel("Hello", "there")):
        await publish(pool, redis, asked("talk"))
        await publish(pool, redis, asked("talk", task_id="t2", attempt=2))
        await eventually(lambda: two(replies(redis, "done")))
        await eventually(lambda: _kinds_written(redis, 7))
    found: Any = await redis.xrange("flotilla.runs.r1.key")
    of_second = [
        fields[b"kind"] for _, fields in found if json.loads(fields[b"data"]).get("task_id") == "t2"
    ]  # fmt: skip
    assert of_second == [b"reset", b"token"]
    assert 0 < await redis.ttl("flotilla.runs.r1.key") <= 3600


async def test_session_history_comes_oldest_first(pool: Pool, redis: Redis) -> None:
    await rows(
        pool,
        "INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, answer, "
        "sources, message_seq) SELECT 'default', n::text, 'u', 's1', n::text, 'q' || n, 'a' || n, '[]', n "
        "FROM generate_series(1, 3) AS n",
    )
    await rows(pool, "UPDATE flotilla.sessions SET head_seq = 3")
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("remember"))
        await eventually(lambda: replies(redis, "done"))
    assert adder.turns == [Turn(query=f"q{n}", answer=f"a{n}") for n in (1, 2, 3)]


async def test_tenants_do_not_share_task_ids(pool: Pool, redis: Redis) -> None:
    await open_session(pool, tenant_id="acme")
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked())
        await eventually(lambda: replies(redis, "done"))
        await publish(pool, redis, asked(tenant_id="acme", input={"a": 10, "b": 10}))
        _, other = await eventually(lambda: two(replies(redis, "done")))
    assert other["result"]["total"] == 20


async def test_one_trace_goes_from_the_task_to_its_reply(pool: Pool, redis: Redis) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    adder = Adder()
    async with running(adder.agent, pool, redis):
        from flotilla.bus import Publisher
        from flotilla.contracts import AgentEvent
        from flotilla.contracts.tasks import TASK_REQUESTED

        event = AgentEvent(type=TASK_REQUESTED, source="/t", subject="s1", data=to_builtins(asked()))
        await delegate(pool, asked())
        await Publisher(redis).publish(adder.agent.stream, sign_event(replace(event, traceparent=parent), SIGNER))
        await eventually(lambda: replies(redis, "done"))
    (reply,) = await entries(redis, "flotilla.replies.adder")
    assert reply["traceparent"].split("-")[1] == parent.split("-")[1]
    assert reply["traceparent"].split("-")[2] != parent.split("-")[2]
    for recorded in await session_events(pool):
        assert recorded["traceparent"].split("-")[1] == parent.split("-")[1]


async def _kinds_written(redis: Redis, count: int) -> bool:
    return await redis.xlen("flotilla.runs.r1.key") >= count
