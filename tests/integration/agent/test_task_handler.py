"""What an agent promises: one effect per task, an answer to every try, nothing recorded twice."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.agent.replies import canonical
from flotilla.bus import Redis
from flotilla.contracts.envelope import from_builtins, to_builtins
from flotilla.contracts.names import EVENTS_STREAM, cancelled_key, task_stream
from flotilla.contracts.tasks import AgentTask, Failure, Turn
from flotilla.llm import ChatMessage, CompletionRequest
from flotilla.postgres import Connection, Pool
from flotilla.testing import FakeModel
from tests.support.agents import REPLY_TO, open_session, publish, replies, rows, running, session_events, task
from tests.support.consumers import entries
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A sum."""

    total: int = 0
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Add:
    """What to add."""

    a: int
    b: int = 0
    how: str = "well"


@dataclass
class Adder:
    """An agent that adds, in the way that the task asks for, and counts how often it ran."""

    agent: Agent = field(default_factory=lambda: Agent("adder", timeout_s=5.0))
    runs: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        @self.agent.tool
        async def plus(a: int, b: int) -> int:
            return a + b

        @self.agent.task
        async def add(ctx: TaskContext, given: Add) -> Sum:
            self.runs += 1
            return await getattr(self, given.how)(ctx, given)  # type: ignore[no-any-return]

    async def well(self, ctx: TaskContext, given: Add) -> Sum:
        return Sum(total=await ctx.tool("plus", a=given.a, b=given.b))

    async def refuse(self, ctx: TaskContext, given: Add) -> Sum:
        await ctx.tool("plus", a=given.a, b=given.b)
        raise ValueError("a is odd")

    async def break_down(self, _ctx: TaskContext, _given: Add) -> Sum:
        raise RuntimeError("try again")

    async def fail_at_first(self, ctx: TaskContext, given: Add) -> Sum:
        if ctx.attempt == 1:
            raise RuntimeError("first try")
        return await self.well(ctx, given)

    async def big(self, _ctx: TaskContext, _given: Add) -> Sum:
        return Sum(total=1, text="x" * 20_000)

    async def with_nul(self, ctx: TaskContext, _given: Add) -> Sum:
        ctx.record("state_change", {"change": "seen", "details": {"text": "a\x00b"}})
        return Sum(text="c\x00d")

    async def insert(self, ctx: TaskContext, given: Add) -> Sum:
        async def effect(connection: Connection) -> None:
            await connection.execute(
                "INSERT INTO flotilla.interactions (tenant_id, interaction_id, user_id, session_id, run_id, query, "
                "answer, sources) VALUES ('default', gen_random_uuid()::text, 'u', 's1', 'r', 'q', 'a', '[]')"
            )

        ctx.in_transaction(effect)
        return Sum(total=given.a)

    async def break_the_transaction(self, ctx: TaskContext, _given: Add) -> Sum:
        async def effect(connection: Connection) -> None:
            await connection.execute("SELECT 1 / 0")

        ctx.record("state_change", {"change": "seen"})
        ctx.in_transaction(effect)
        return Sum(total=1)

    async def wait(self, ctx: TaskContext, given: Add) -> Sum:
        await ctx.progress("waiting")
        await self.gate.wait()
        return Sum(total=given.a)

    async def sleep_forever(self, _ctx: TaskContext, _given: Add) -> Sum:
        await asyncio.Event().wait()
        raise AssertionError

    async def talk(self, ctx: TaskContext, _given: Add) -> Sum:
        request = CompletionRequest(messages=(ChatMessage(role="user", content="hello"),))
        answer = await ctx.llm(request, on_token=ctx.emit_token)
        await self.gate.wait()
        return Sum(text=answer.text)

    async def remember(self, ctx: TaskContext, _given: Add) -> Sum:
        self.turns = await ctx.session.turns()
        return Sum()


def asked(how: str = "well", task_id: str = "t1", **fields: Any) -> AgentTask:
    return task(task_id, **{"input": {"a": 1, "b": 2, "how": how}, **fields})


async def test_task_has_one_result_its_actions_its_events_its_reply_and_its_announcement(
    pool: Pool, redis: Redis
) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked())
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"] == {"total": 3, "text": ""}
    assert (reply["persisted"], reply["final"], reply["reply_to"]) == (True, True, to_builtins(REPLY_TO))
    (row,) = await rows(pool, "SELECT * FROM flotilla.agent_tasks")
    assert (row["status"], row["attempt"], json.loads(row["result"])["total"]) == ("done", 1, 3)
    actions = await rows(pool, "SELECT action_type FROM flotilla.agent_actions ORDER BY action_seq")
    assert [action["action_type"] for action in actions] == ["tool_call", "tool_result", "task_done"]
    events = await session_events(pool)
    assert [event["type"].split(".")[2] for event in events] == ["tool_call", "tool_result"]
    assert events[0]["data"]["call_id"] == events[1]["data"]["call_id"]
    assert {event["taskid"] for event in events} == {"t1"}
    (announced,) = await entries(redis, EVENTS_STREAM)
    assert (announced["type"], announced["data"]["task_id"]) == ("flotilla.adder.completed.v1", "t1")


async def test_task_delivered_again_is_answered_from_the_store_and_has_one_effect(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("insert"))
        await eventually(lambda: replies(redis, "done"))
        await publish(redis, asked("insert"))
        first, second = await eventually(lambda: _two(replies(redis, "done")))
    assert first == second
    assert adder.runs == 1
    assert len(await rows(pool, "SELECT 1 FROM flotilla.interactions")) == 1


async def test_two_consumers_with_the_same_task_have_one_effect_and_one_set_of_events(pool: Pool, redis: Redis) -> None:
    """As after FLUSHALL: the delegation published the task again while the first one is still at work."""
    first, second = Adder(), Adder()
    async with running(first.agent, pool, redis, name="c1", concurrency=1):
        await publish(redis, asked("wait"))
        await eventually(lambda: first.runs)
        await redis.flushall()
        await publish(redis, asked("wait"))
        async with running(second.agent, pool, redis, name="c2", concurrency=1):
            await eventually(lambda: second.runs)
            first.gate.set()
            second.gate.set()
            await eventually(lambda: _two(replies(redis, "done")))
    assert len(await rows(pool, "SELECT 1 FROM flotilla.agent_tasks")) == 1
    actions = await rows(pool, "SELECT 1 FROM flotilla.agent_actions")
    assert len(actions) == 1


async def test_same_task_twice_in_one_consumer_runs_once(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis) as consumer:
        await publish(redis, asked("wait"))
        await publish(redis, asked("wait"))
        await eventually(lambda: consumer.in_flight == 2)
        adder.gate.set()
        await eventually(lambda: _two(replies(redis, "done")))
    assert adder.runs == 1


async def test_exception_in_a_handler_is_an_answer_and_is_recorded(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("refuse"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
        assert await redis.xpending(task_stream("adder"), "adder-agents")
    assert from_builtins(reply["failure"], Failure) == Failure(type="ValueError", message="a is odd", retryable=False)
    events = await session_events(pool)
    assert [event["type"].split(".")[2] for event in events] == ["tool_call", "tool_result", "error"]
    assert adder.runs == 1


async def test_effect_that_fails_is_an_answer_and_nothing_of_its_transaction_stands(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("break_the_transaction"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert reply["failure"]["type"] == "EffectFailed"
    assert "DivisionByZeroError" in reply["failure"]["message"]
    (row,) = await rows(pool, "SELECT status, result FROM flotilla.agent_tasks")
    assert (row["status"], row["result"]) == ("failed", None)
    assert [event["type"].split(".")[2] for event in await session_events(pool)] == ["state_change", "error"]


async def test_failure_that_may_pass_is_retryable_and_only_success_is_final(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("fail_at_first"))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
        assert failed["failure"]["retryable"]
        await publish(redis, asked("fail_at_first", attempt=2))
        (done,) = await eventually(lambda: replies(redis, "done"))
    assert (done["attempt"], done["result"]["total"]) == (2, 3)
    (row,) = await rows(pool, "SELECT status, attempt FROM flotilla.agent_tasks")
    assert (row["status"], row["attempt"]) == ("done", 2)


async def test_failed_try_delivered_again_gives_the_same_failure_and_does_not_run(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("break_down"))
        await eventually(lambda: replies(redis, "failed"))
        await publish(redis, asked("break_down"))
        first, second = await eventually(lambda: _two(replies(redis, "failed")))
    assert first == second
    assert adder.runs == 1


async def test_late_failure_of_an_earlier_try_changes_nothing(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("well", attempt=2))
        await eventually(lambda: replies(redis, "done"))
        await publish(redis, asked("break_down", attempt=1))
        await eventually(lambda: _two(replies(redis, "done")))
    assert adder.runs == 1


async def test_input_of_the_wrong_type_fails_at_once_for_good(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked(input={"a": "one"}))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert (reply["failure"]["type"], reply["failure"]["retryable"], adder.runs) == ("ValueError", False, 0)
    assert "input of adder" in reply["failure"]["message"]


async def test_task_over_its_time_is_answered_and_ended(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("sleep_forever", timeout_s=0.2))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    expected = Failure(type="TimeoutError", message="no result within 0.2 s", retryable=True)
    assert from_builtins(reply["failure"], Failure) == expected


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


async def test_text_that_postgres_refuses_does_not_strand_the_task(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked("with_nul"))
        (reply,) = await eventually(lambda: replies(redis, "done"))
    assert reply["result"]["text"] == "c\ufffdd"
    (event,) = await session_events(pool)
    assert event["data"]["details"]["text"] == "a\ufffdb"


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
        await eventually(lambda: _two(replies(redis, "done")))
        hops = [event["data"] for event in await entries(redis, task_stream("adder"))]
    assert (hops[1]["task_id"], hops[1]["input_from"]) == ("t1~1", "t1")
    assert len(json.dumps(hops[1])) < 2_000


async def test_input_is_laid_over_the_result_that_it_refers_to(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked(task_id="below", input={"a": 40, "b": 2}))
        await eventually(lambda: replies(redis, "done"))
        await publish(redis, asked(task_id="above", input={"a": 1}, input_from="below"))
        _, reply = await eventually(lambda: _two(replies(redis, "done")))
        await publish(redis, asked(task_id="lost", input={"a": 1}, input_from="nowhere"))
        (failed,) = await eventually(lambda: replies(redis, "failed"))
    assert reply["result"]["total"] == 1
    assert "no stored result of nowhere" in failed["failure"]["message"]


async def test_cancelled_task_stops_even_if_it_never_asks(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis, heartbeat_s=0.1):
        await publish(redis, asked("sleep_forever", timeout_s=60))
        await eventually(lambda: replies(redis, "progress"))
        await redis.set(cancelled_key("t1"), "1")
        (reply,) = await eventually(lambda: replies(redis, "cancelled"))
    assert reply["failure"] is None
    (row,) = await rows(pool, "SELECT status FROM flotilla.agent_tasks")
    assert row["status"] == "cancelled"


async def test_cancel_of_the_root_task_stops_a_later_hop(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis, heartbeat_s=0.1):
        await redis.set(cancelled_key("t1"), "1")
        await publish(redis, asked("sleep_forever", task_id="t1~2"))
        await eventually(lambda: replies(redis, "cancelled"))


async def test_model_answer_is_bought_once_even_if_the_task_runs_again(pool: Pool, redis: Redis) -> None:
    first, second = Adder(), Adder()
    model = FakeModel("an answer that costs money")
    async with running(first.agent, pool, redis, model=model, grace_s=0.1, concurrency=1):
        await publish(redis, asked("talk"))
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
        await publish(redis, asked("talk"))
        await publish(redis, asked("talk", task_id="t2", attempt=2))
        await eventually(lambda: _two(replies(redis, "done")))
        await eventually(lambda: _kinds_written(redis, 7))
    found: Any = await redis.xrange("flotilla.runs.r1")
    of_second = [
        (fields[b"kind"], json.loads(fields[b"data"])) for _, fields in found if b"there" in fields[b"data"]
        or json.loads(fields[b"data"]).get("task_id") == "t2"
    ]  # fmt: skip
    assert [kind for kind, _ in of_second] == [b"reset", b"token"]
    assert 0 < await redis.ttl("flotilla.runs.r1") <= 3600


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
        await publish(redis, asked("remember"))
        await eventually(lambda: replies(redis, "done"))
    assert adder.turns == [Turn(query=f"q{n}", answer=f"a{n}") for n in (1, 2, 3)]


async def test_task_of_an_unknown_session_fails_and_says_so(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked(session_id="nowhere"))
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert "no session nowhere" in reply["failure"]["message"]


async def test_tenants_do_not_share_task_ids(pool: Pool, redis: Redis) -> None:
    await open_session(pool, tenant_id="acme")
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked())
        await eventually(lambda: replies(redis, "done"))
        await publish(redis, asked(tenant_id="acme", input={"a": 10, "b": 10}))
        _, other = await eventually(lambda: _two(replies(redis, "done")))
    assert other["result"]["total"] == 20


async def test_task_on_the_wrong_stream_is_a_dead_letter_that_fails_its_run(pool: Pool, redis: Redis) -> None:
    adder = Adder()
    async with running(adder.agent, pool, redis):
        await publish(redis, asked())
        await eventually(lambda: replies(redis, "done"))
        (event,) = await entries(redis, task_stream("adder"))
        event["data"] |= {"agent": "someone-else", "task_id": "t9"}
        await redis.xadd(task_stream("adder"), {"event": json.dumps(event)})
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert (reply["task_id"], reply["failure"]["type"]) == ("t9", "DeadLetter")


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
        await Publisher(redis).publish(adder.agent.stream, replace(event, traceparent=parent))
        await eventually(lambda: replies(redis, "done"))
    (reply,) = await entries(redis, "flotilla.replies")
    assert reply["traceparent"].split("-")[1] == parent.split("-")[1]
    assert reply["traceparent"].split("-")[2] != parent.split("-")[2]
    for recorded in await session_events(pool):
        assert recorded["traceparent"].split("-")[1] == parent.split("-")[1]


async def _two(found: Any) -> Any:
    values = await found
    return values if len(values) == 2 else None


async def _kinds_written(redis: Redis, count: int) -> bool:
    return await redis.xlen("flotilla.runs.r1") >= count
