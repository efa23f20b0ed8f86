"""What an agent answers when a task can't be done: a failure is an answer, too, and ends its try."""

import asyncio

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis
from flotilla.contracts.envelope import from_builtins
from flotilla.contracts.names import cancelled_key, task_stream
from flotilla.contracts.tasks import Failure
from flotilla.postgres import Pool
from tests.support.adder import Add, Adder, Sum, asked, two
from tests.support.agents import publish, replies, rows, running, sealed_fields, session_events, task
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


async def test_exception_in_a_handler_is_an_answer_and_is_recorded(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("refuse"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
        assert await redis.xpending(task_stream("adder"), "adder-agents")
    assert from_builtins(reply["failure"], Failure) == Failure(type="ValueError", message="a is odd", retryable=False)
    events = await session_events(pool)
    assert [event["type"].split(".")[2] for event in events] == ["tool_call", "tool_result", "error"]
    assert adder.runs == 1


async def test_effect_that_fails_is_an_answer_and_nothing_of_its_transaction_stands(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("break_the_transaction"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert reply["failure"]["type"] == "EffectFailed"
    assert "DivisionByZeroError" in reply["failure"]["message"]
    (row,) = await rows(pool, "SELECT status, result FROM flotilla.agent_tasks")
    assert (row["status"], row["result"]) == ("failed", None)
    assert [event["type"].split(".")[2] for event in await session_events(pool)] == ["state_change", "error"]


async def test_failure_that_may_pass_is_retryable_and_only_success_is_final(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("fail_at_first"))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
        assert failed["failure"]["retryable"]
        await publish(pool, redis, asked("fail_at_first", attempt=2))
        (done,) = await eventually(lambda: replies(redis, "done"))
    assert (done["attempt"], done["result"]["total"]) == (2, 3)
    (row,) = await rows(pool, "SELECT status, attempt FROM flotilla.agent_tasks")
    assert (row["status"], row["attempt"]) == ("done", 2)


async def test_failed_try_delivered_again_gives_the_same_failure_and_does_not_run(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("break_down"))
        await eventually(lambda: replies(redis, "failed"))
        await publish(pool, redis, asked("break_down"))
        first, second = await eventually(lambda: two(replies(redis, "failed")))
    assert first == second
    assert adder.runs == 1


async def test_late_failure_of_an_earlier_try_changes_nothing(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("well", attempt=2))
        await eventually(lambda: replies(redis, "done"))
        await publish(pool, redis, asked("break_down", attempt=1))
        await eventually(lambda: two(replies(redis, "done")))
    assert adder.runs == 1


async def test_input_of_the_wrong_type_fails_at_once_for_good(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked(input={"a": "one"}))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert (reply["failure"]["type"], reply["failure"]["retryable"], adder.runs) == ("ValueError", False, 0)
    assert "input of adder" in reply["failure"]["message"]


async def test_task_over_its_time_is_answered_and_ended(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked("sleep_on", timeout_s=0.2))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    expected = Failure(type="TimeoutError", message="no result within 0.2 s", retryable=True)
    assert from_builtins(reply["failure"], Failure) == expected


async def test_task_of_an_unknown_session_fails_and_reports_it(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(pool, redis, asked(session_id="nowhere"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert "no session nowhere" in reply["failure"]["message"]


async def test_task_of_another_agent_is_a_dead_letter_that_changes_nothing(pool: Pool, redis: Redis) -> None:
    """Its ticket is valid, on another agent's stream: anyone who copied it must not end the task."""
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await redis.xadd(task_stream("adder"), sealed_fields(task("t9", agent="someone-else")))
        (letter,) = await eventually(lambda: rows(pool, "SELECT reason, error FROM flotilla.dead_letters"))
    assert letter["reason"] == "refused"
    assert "is for agent 'someone-else', not 'adder'" in letter["error"]
    assert await replies(redis, "failed") == []
    assert await rows(pool, "SELECT 1 FROM flotilla.agent_tasks") == []


async def test_cancelled_task_stops_even_if_it_never_asks(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis, heartbeat_s=0.1):
        await publish(pool, redis, asked("sleep_on", timeout_s=60))
        await eventually(lambda: replies(redis, "progress"))
        await redis.set(cancelled_key("t1"), "1")
        (reply,) = await eventually(lambda: replies(redis, "cancelled"))
    assert reply["failure"] is None
    (row,) = await rows(pool, "SELECT status FROM flotilla.agent_tasks")
    assert row["status"] == "cancelled"


async def test_a_task_may_ask_for_more_time_than_its_agent_allows_itself(pool: Pool, redis: Redis) -> None:
    agent = Agent("adder", timeout_s=0.2)

    @agent.task
    async def slow(_ctx: TaskContext, given: Add) -> Sum:
        await asyncio.sleep(0.5)
        return Sum(total=given.a)

    async with running(agent, pool, redis):
        await publish(pool, redis, asked())
        await publish(pool, redis, asked(task_id="t2", timeout_s=30))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
        (done,) = await eventually(lambda: replies(redis, "done"))
    assert (failed["task_id"], failed["failure"]["message"]) == ("t1", "no result within 0.2 s")
    assert done["task_id"] == "t2"
