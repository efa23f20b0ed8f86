"""Whatever a task makes ends in an answer at its first delivery, and its log can be read."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis
from flotilla.contracts.envelope import decode_event
from flotilla.contracts.values import why_not_storable
from flotilla.llm import ChatMessage, Completion, CompletionRequest
from flotilla.postgres import Pool
from flotilla.testing import FakeModel
from tests.support.adder import Add
from tests.support.agents import publish, replies, rows, running, task
from tests.support.anything import objects, texts
from tests.support.collected import collected
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")
COUNT = 60


@dataclass(frozen=True)
class Made:
    """Anything."""

    value: dict[str, Any] = field(default_factory=dict)


def echoing(values: list[dict[str, Any]], said: list[str]) -> Agent:
    """Records, passes to a tool, asks a model about and returns the value of its number; fails with odd ones."""
    agent = Agent("adder")

    @agent.tool
    async def echo(value: Any) -> Any:
        return value

    @agent.tool
    async def fail(why: str) -> None:
        raise RuntimeError(why)

    @agent.task
    async def work(ctx: TaskContext, given: Add) -> Made:
        value = values[given.a]
        ctx.record("state_change", {"change": "seen", "details": value})
        await ctx.progress(said[given.a])
        await ctx.tool("echo", value=value)
        await ctx.llm(CompletionRequest(messages=(ChatMessage(role="user", content=said[given.a]),)))
        if given.a % 3 == 0:
            await ctx.tool("fail", why=said[given.a])
        return Made(value)

    return agent


async def test_any_value_ends_in_an_answer_at_the_first_delivery(pool: Pool, redis: Redis) -> None:
    values, said = collected(objects, COUNT), collected(texts, COUNT)
    count = min(len(values), len(said), COUNT)
    model = FakeModel(*(Completion(text=text, model=text) for text in said[:count]))
    async with running(echoing(values, said), pool, redis, model=model, concurrency=4, min_idle_ms=60_000):
        for number in range(count):
            await publish(pool, redis, task(f"t{number}", input={"a": number}))
        await eventually(lambda: _ended(redis, count), timeout_s=60)
    failed = {reply["task_id"]: reply["failure"] for reply in await replies(redis, "failed")}
    assert set(failed) == {f"t{number}" for number in range(count) if number % 3 == 0}
    assert {failure["type"] for failure in failed.values()} == {"RuntimeError"}
    for reply in await replies(redis, "done"):
        value = values[int(reply["task_id"][1:])]
        assert why_not_storable(reply["result"]) is None
        if why_not_storable(value) is None:
            assert reply["result"] == {"value": value}
    for row in await rows(pool, "SELECT body FROM flotilla.event_outbox"):
        event = decode_event(row["body"])
        kept = {name: member for name, member in event.data.items() if name != "escaped"}
        assert why_not_storable(kept) is None
        assert json.loads(row["body"])


async def _ended(redis: Redis, count: int) -> bool:
    ended = {reply["task_id"] for reply in await replies(redis) if reply["status"] != "progress"}
    return len(ended) == count


@pytest.mark.parametrize("made", [float("nan"), "\x00", {"value": 7}, None])
async def test_a_result_of_another_type_is_an_answer(pool: Pool, redis: Redis, made: Any) -> None:
    agent = Agent("adder")

    @agent.task
    async def work(_ctx: TaskContext, _given: Add) -> Made:
        return made  # type: ignore[no-any-return]

    async with running(agent, pool, redis):
        await publish(pool, redis, task("t1", input={"a": 1}))
        await eventually(lambda: _ended(redis, 1))
