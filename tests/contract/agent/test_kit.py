"""The test kit runs the same cases as an agent on real servers, and must come to the same end."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.tasks import Turn
from flotilla.llm import ChatMessage, CompletionRequest
from flotilla.postgres import Connection, Pool
from flotilla.testing import FakeModel, run_task
from tests.support.agents import open_session, publish, replies, running, session_events, task
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Given:
    text: str
    how: str = "well"


@dataclass(frozen=True)
class Made:
    text: str


def make_agent() -> Agent:
    agent = Agent("contract", timeout_s=0.5)

    @agent.tool
    async def shout(text: str) -> str:
        return text.upper()

    @agent.tool
    async def explode(text: str) -> str:
        raise RuntimeError(text)

    @agent.task
    async def work(ctx: TaskContext, given: Given) -> Made:
        await ctx.progress("begun")
        ctx.record("state_change", {"change": "begun"})
        if given.how == "forbidden":
            await ctx.tool("erase")
        if given.how == "explode":
            await ctx.tool("explode", text=given.text)
        if given.how == "record":
            ctx.record("message", {"no": "content"})
        if given.how == "slow":
            await _indefinitely()
        if given.how == "model":
            answer = await ctx.llm(CompletionRequest(messages=(ChatMessage(role="user", content=given.text),)))
            return Made(answer.text)
        return Made(await ctx.tool("shout", text=given.text))

    return agent


async def _indefinitely() -> None:
    import asyncio

    await asyncio.Event().wait()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


async def on_servers(pool: Pool, redis: Redis, data: dict[str, Any], model: FakeModel) -> tuple[Any, ...]:
    await open_session(pool)
    async with running(make_agent(), pool, redis, model=model):
        await publish(pool, redis, task(agent="contract", input=data))
        (reply,) = await eventually(lambda: _ended(redis))
    kinds = [event["type"].split(".")[2] for event in await session_events(pool)]
    progress = [reply["progress"] for reply in await replies(redis, "progress", agent="contract")]
    return reply["status"], reply["result"], reply["failure"], kinds, progress


async def in_process(data: dict[str, Any], model: FakeModel) -> tuple[Any, ...]:
    run = await run_task(make_agent(), data, model=model)
    output = None if run.output is None else {"text": run.output.text}
    failure = None if run.failure is None else to_builtins(run.failure)
    return run.status, output, failure, run.kinds, run.progress


async def _ended(redis: Redis) -> list[dict[str, Any]]:
    return [reply for reply in await replies(redis, agent="contract") if reply["status"] != "progress"]


@pytest.mark.parametrize("how", ["well", "forbidden", "explode", "record", "slow", "model", 7])
async def test_kit_comes_to_the_same_end_as_the_servers(pool: Pool, redis: Redis, how: Any) -> None:
    data = {"text": "hello", "how": how}
    real = await on_servers(pool, redis, data, FakeModel("an answer"))
    assert await in_process(data, FakeModel("an answer")) == real


async def test_kit_shows_tokens_and_the_requests_of_the_model() -> None:
    agent = Agent("teller")

    @agent.task
    async def tell(ctx: TaskContext, given: Given) -> Made:
        request = CompletionRequest(messages=(ChatMessage(role="user", content=given.text),))
        return Made((await ctx.llm(request, on_token=ctx.emit_token)).text)

    model = FakeModel("once upon a time", RuntimeError("no more"))
    run = await run_task(agent, Given("tell me"), model=model)
    assert (run.result, run.tokens) == (Made("once upon a time"), "once upon a time")
    assert model.requests[0].messages[0].content == "tell me"
    again = await run_task(agent, Given("tell me"), model=model)
    assert again.failure
    assert again.failure.message == "no more"
    with pytest.raises(AssertionError, match="no more"):
        _ = again.result


async def test_kit_cancels_a_task_that_looks() -> None:
    run = await run_task(make_agent(), Given("x"), cancelled=True)
    assert (run.status, run.output) == ("cancelled", None)


async def test_a_tool_given_to_the_kit_stands_in_for_the_agents_own() -> None:
    async def shout(text: str) -> str:
        return f"{text}, quietly"

    run = await run_task(make_agent(), Given("hello"), tools={"shout": shout})
    assert run.result == Made("hello, quietly")


async def test_kit_gives_the_task_its_latest_turns_and_its_try_and_counts_its_effects() -> None:
    agent = Agent("teller")

    async def effect(_connection: Connection) -> None:
        raise AssertionError("the kit has no database to run it in")

    @agent.task
    async def tell(ctx: TaskContext, given: Given) -> Made:
        ctx.in_transaction(effect)
        ctx.in_transaction(effect)
        return Made(f"{[turn.query for turn in await ctx.session.turns(2)]} {ctx.attempt}")

    turns = [Turn(query=f"q{n}", answer="a") for n in range(3)]
    run = await run_task(agent, Given("tell me"), turns=turns, attempt=2)
    assert run.result == Made("['q1', 'q2'] 2")
    assert run.effects == 2
