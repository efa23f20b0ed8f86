"""A recorded run done again by an agent on real servers: tools answer from the recording, and nothing else happens."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.tasks import RecordedCall, Replay, Turn
from flotilla.contracts.tools import ToolOptions, with_tool_options
from flotilla.postgres import Connection, Pool
from flotilla.testing import run_task
from tests.support.agents import open_session, publish, replies, running, session_events, task
from tests.support.waiting import eventually

PAID = RecordedCall(agent="clerk", tool="pay", args={"amount": 5}, result="receipt 1")


@dataclass(frozen=True)
class Order:
    amounts: list[int]
    about: str = ""


@dataclass(frozen=True)
class Receipts:
    receipts: list[str]


@dataclass
class World:
    """What really happened."""

    happened: list[str] = field(default_factory=list)


def clerk(world: World, *, replayable: bool = True) -> Agent:
    agent = Agent("clerk", replayable=replayable)

    async def look_up(about: str) -> str:
        world.happened.append(f"looked up {about}")
        return f"{about} as of today"

    agent.tool(with_tool_options(look_up, ToolOptions(repeatable=True, searches=True)))

    @agent.tool
    async def pay(amount: int) -> str:
        world.happened.append(f"paid {amount}")
        return f"receipt for {amount}"

    @agent.tool(approval="high")
    async def refund(amount: int) -> str:
        world.happened.append(f"refunded {amount}")
        return f"refund of {amount}"

    async def note(connection: Connection) -> None:
        world.happened.append("noted")
        await connection.execute("SELECT 1")

    @agent.task
    async def serve(ctx: TaskContext, order: Order) -> Receipts:
        ctx.in_transaction(note)
        receipts = [turn.query for turn in await ctx.session.turns()]
        if order.about:
            receipts.append(await ctx.tool("look_up", about=order.about))
        paid = [await ctx.tool("pay" if amount > 0 else "refund", amount=amount) for amount in order.amounts]
        return Receipts([*receipts, *paid])

    return agent


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


async def replayed(
    pool: Pool, redis: Redis, agent: Agent, order: dict[str, Any], replay: Replay
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The agent's last word, and the data of the session's events."""
    await open_session(pool)
    async with running(agent, pool, redis):
        await publish(pool, redis, task(agent="clerk", input=order, replay=replay))

        async def ended() -> list[dict[str, Any]]:
            return [one for one in await replies(redis, agent="clerk") if one["status"] != "progress"]

        (reply,) = await eventually(ended)
    return reply, [event["data"] for event in await session_events(pool)]


async def test_nothing_happens_that_the_recording_does_not_answer(pool: Pool, redis: Redis) -> None:
    world = World()
    calls = [PAID, RecordedCall(agent="clerk", tool="pay", args={"amount": 5}, result="receipt 2")]
    replay = Replay(of_run="r0", calls=calls, history=[Turn(query="before", answer="a")])
    reply, events = await replayed(pool, redis, clerk(world), {"amounts": [5, 5]}, replay)
    assert reply["result"] == {"receipts": ["before", "receipt 1", "receipt 2"]}
    assert reply["announces"] is None
    assert world.happened == []
    [end] = [event["details"] for event in events if event.get("change") == "replay_ended"]
    assert end == {
        "recorded_calls": 2,
        "live_searches": 0,
        "changed_searches": [],
        "blocked_calls": [],
        "unused_calls": [],
        "blocked_effects": 1,
    }


@pytest.mark.parametrize("amounts", [[6], [5, 5], [-1]], ids=["other arguments", "once more", "gated"])
async def test_a_call_that_was_not_recorded_is_refused_and_shown(pool: Pool, redis: Redis, amounts: list[int]) -> None:
    world = World()
    reply, events = await replayed(pool, redis, clerk(world), {"amounts": amounts}, Replay(of_run="r0", calls=[PAID]))
    assert (reply["status"], reply["failure"]["type"], reply["failure"]["approvals"]) == ("failed", "NotRecorded", [])
    assert world.happened == []
    [end] = [event["details"] for event in events if event.get("change") == "replay_ended"]
    [blocked] = end["blocked_calls"]
    assert blocked == {"tool": "refund" if amounts == [-1] else "pay", "args": f'{{"amount": {amounts[-1]}}}'}


async def test_an_agent_that_does_not_say_that_it_is_replayable_does_not_begin(pool: Pool, redis: Redis) -> None:
    world = World()
    agent = clerk(world, replayable=False)
    reply, _ = await replayed(pool, redis, agent, {"amounts": [5]}, Replay(of_run="r0", calls=[PAID]))
    assert (reply["status"], reply["failure"]["type"]) == ("failed", "NotReplayable")
    assert world.happened == []


async def test_searches_are_made_again_where_the_index_is_live_and_nothing_else_is() -> None:
    world = World()
    recorded = RecordedCall(agent="clerk", tool="look_up", args={"about": "rates"}, result="rates as of then")
    order = Order([5], about="rates")
    then = await run_task(clerk(world), order, replay=Replay(of_run="r0", calls=[recorded, PAID]))
    assert (then.result.receipts, world.happened) == (["rates as of then", "receipt 1"], [])
    now = await run_task(clerk(world), order, replay=Replay(of_run="r0", calls=[recorded, PAID], index="live"))
    assert (now.result.receipts, world.happened) == (["rates as of today", "receipt 1"], ["looked up rates"])
    failed = await run_task(clerk(world), order, replay=Replay(of_run="r0", index="live"))
    assert failed.failure
    assert failed.failure.type == "NotRecorded"


@pytest.mark.parametrize("about", ["rates", "what rates"], ids=["the same search", "in other words"])
async def test_a_search_that_is_made_again_is_no_call_that_was_left_out(about: str) -> None:
    recorded = [RecordedCall(agent="clerk", tool="look_up", args={"about": text}) for text in ("rates", "berths")]
    run = await run_task(clerk(World()), Order([], about), replay=Replay(of_run="r0", calls=recorded, index="live"))
    [end] = [event.data["details"] for event in run.events if event.data.get("change") == "replay_ended"]
    assert end["live_searches"] == 1  # type: ignore[call-overload, index]
    assert end["unused_calls"] == [{"tool": "look_up", "args": '{"about": "berths"}'}]  # type: ignore[call-overload, index]


async def test_a_search_in_other_words_finds_what_the_recorded_one_found() -> None:
    world = World()
    recorded = RecordedCall(agent="clerk", tool="look_up", args={"about": "rates"}, result="rates as of then")
    run = await run_task(clerk(world), Order([], about="what rates"), replay=Replay(of_run="r0", calls=[recorded]))
    assert (run.result.receipts, world.happened) == (["rates as of then"], [])
    [end] = [event.data["details"] for event in run.events if event.data.get("change") == "replay_ended"]
    words = {"tool": "look_up", "args": '{"about": "what rates"}', "recorded": '{"about": "rates"}'}
    assert (end["changed_searches"], end["unused_calls"]) == ([words], [])  # type: ignore[call-overload, index]


async def test_a_call_that_failed_then_fails_again_and_those_of_other_agents_are_theirs() -> None:
    world = World()
    refused = RecordedCall(agent="clerk", tool="pay", args={"amount": 5}, error="Invalid: no money")
    theirs = RecordedCall(agent="other", tool="pay", args={"amount": 5}, result="theirs")
    run = await run_task(clerk(world), Order([5]), replay=Replay(of_run="r0", calls=[theirs, refused]))
    assert run.failure
    assert (run.failure.type, run.failure.message) == ("FailedThen", "Invalid: no money")
    stands_in = Replay(of_run="r0", calls=[theirs], agents={"other": "clerk"})
    assert (await run_task(clerk(world), Order([5]), replay=stands_in)).result.receipts == ["theirs"]
    assert world.happened == []


async def test_an_agent_takes_the_candidates_prompt_or_fails() -> None:
    agent = Agent("teller", replayable=True)

    @agent.task
    async def tell(ctx: TaskContext, order: Order) -> Receipts:
        return Receipts([ctx.prompt("own")] if order.about else [])

    replay = Replay(of_run="r0", prompts={"teller": "candidate"})
    assert (await run_task(agent, Order([], "x"))).result.receipts == ["own"]
    assert (await run_task(agent, Order([], "x"), replay=replay)).result.receipts == ["candidate"]
    without = await run_task(agent, Order([]), replay=replay)
    assert without.failure
    assert "ctx.prompt" in without.failure.message
