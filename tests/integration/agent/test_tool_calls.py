"""What a tool did is not done again by a later run of the task, and every start of it is in the log."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from flotilla.agent import Agent, IdempotencyKey, TaskContext
from flotilla.bus import Redis
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import agent_group, task_stream
from flotilla.contracts.tools import OnUnknown
from flotilla.llm import ChatMessage, CompletionRequest
from flotilla.postgres import Pool
from flotilla.testing import FakeModel
from tests.support.adder import Add, Sum, asked
from tests.support.agents import publish, replies, rows, running, session_events
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")
Work = Callable[[TaskContext], Awaitable[str]]
Tool = Callable[..., Awaitable[Any]]
NEVER = asyncio.Event
ENDED = "SELECT 1 FROM flotilla.tool_calls WHERE outcome IS NOT NULL"


@dataclass(frozen=True)
class Reading:
    """What a clock says."""

    ticks: int


def agent_with(work: Work, *tools: Tool, **options: Any) -> Agent:
    """An agent that does `work` with `tools`; `options` are those of the tools."""
    made = Agent("adder")
    for tool in tools:
        made.tool(**options)(tool) if options else made.tool(tool)

    @made.task
    async def do(ctx: TaskContext, _given: Add) -> Sum:
        return Sum(text=await work(ctx))

    return made


class Bank:
    """What payments reached the outside, by key."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.paid: list[tuple[int, str]] = []

    async def pay(self, cents: int, key: IdempotencyKey) -> str:
        self.paid.append((cents, key))
        answer = self.answers.pop(0) if self.answers else "paid"
        if isinstance(answer, Exception):
            raise answer
        if answer is NEVER:
            await asyncio.Event().wait()
        return str(answer)

    def tool(self) -> Tool:
        async def pay(cents: int, key: IdempotencyKey) -> str:
            return await self.pay(cents, key)

        return pay


async def hang(_ctx: TaskContext) -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def run_twice(pool: Pool, redis: Redis, first: Agent, second: Agent, until: Any, **options: Any) -> Any:
    """The reply to a task whose first run was cancelled once `until` held."""
    async with running(first, pool, redis, grace_s=0.1, **options):
        await publish(pool, redis, asked())
        await eventually(until)
    async with running(second, pool, redis, **options):
        (reply,) = await eventually(lambda: replies(redis))
    return reply


async def shown(pool: Pool) -> list[tuple[str, object]]:
    """The log's tool calls and their ends."""
    events = await session_events(pool)
    return [(event["type"].split(".")[2], event["data"].get("ok")) for event in events]


async def test_what_a_clock_said_is_what_it_said_and_the_answer_is_bought_once(pool: Pool, redis: Redis) -> None:
    ticks = count()
    model = FakeModel("it is late", "never asked for")

    async def clock() -> Reading:
        return Reading(next(ticks))

    async def work(ctx: TaskContext) -> str:
        now = await ctx.tool("clock")
        assert isinstance(now, Reading)
        return (await ctx.llm(CompletionRequest(messages=(ChatMessage(role="user", content=str(now.ticks)),)))).text

    async def work_and_hang(ctx: TaskContext) -> str:
        await work(ctx)
        return await hang(ctx)

    reply = await run_twice(
        pool,
        redis,
        agent_with(work_and_hang, clock),
        agent_with(work, clock),
        lambda: rows(pool, "SELECT 1 FROM flotilla.llm_calls"),
        model=model,
    )
    assert (reply["result"]["text"], len(model.requests), next(ticks)) == ("it is late", 1, 1)
    assert await shown(pool) == [("tool_call", None), ("tool_result", True)]


async def test_a_repeatable_tool_runs_again(pool: Pool, redis: Redis) -> None:
    reads: list[str] = []

    async def read() -> int:
        reads.append("read")
        return len(reads)

    async def work(ctx: TaskContext) -> str:
        if await ctx.tool("read") == 1:
            await hang(ctx)
        return "again"

    first, second = (agent_with(work, read, repeatable=True) for _ in range(2))
    reply = await run_twice(pool, redis, first, second, lambda: reads)
    assert (reply["result"]["text"], len(reads)) == ("again", 2)
    assert await rows(pool, "SELECT 1 FROM flotilla.tool_calls") == []


async def test_both_starts_of_a_call_are_in_the_log_and_have_one_key(pool: Pool, redis: Redis) -> None:
    bank = Bank(NEVER, "paid")

    async def work(ctx: TaskContext) -> str:
        return str(await ctx.tool("pay", cents=5))

    reply = await run_twice(
        pool, redis, agent_with(work, bank.tool()), agent_with(work, bank.tool()), lambda: bank.paid
    )
    assert reply["result"]["text"] == "paid"
    [(cents, key), again] = bank.paid
    assert (cents, again) == (5, (5, key))
    assert len(key) == 32
    assert await shown(pool) == [
        ("tool_call", None),
        ("tool_result", False),
        ("tool_call", None),
        ("tool_result", True),
    ]


async def test_equal_calls_of_one_task_have_keys_of_their_own(pool: Pool, redis: Redis) -> None:
    bank = Bank()

    async def work(ctx: TaskContext) -> str:
        await asyncio.gather(*(ctx.tool("pay", cents=5) for _ in range(3)))
        return "done"

    async with running(agent_with(work, bank.tool()), pool, redis):
        await publish(pool, redis, asked())
        await publish(pool, redis, asked(task_id="t2"))
        await eventually(lambda: len(bank.paid) == 6)
    assert len({key for _, key in bank.paid}) == 6


async def test_a_call_that_is_repeated_after_an_error_keeps_its_key(pool: Pool, redis: Redis) -> None:
    bank = Bank(ConnectionError("gone"), "paid")

    async def work(ctx: TaskContext) -> str:
        try:
            return str(await ctx.tool("pay", cents=5))
        except ConnectionError:
            return str(await ctx.tool("pay", cents=5))

    async with running(agent_with(work, bank.tool()), pool, redis):
        await publish(pool, redis, asked())
        await eventually(lambda: replies(redis, "done"))
    assert len(bank.paid) == 2
    assert len(set(bank.paid)) == 1


async def test_a_second_try_gets_what_the_first_one_did_and_the_log_shows_it_once(pool: Pool, redis: Redis) -> None:
    bank = Bank()

    async def work(ctx: TaskContext) -> str:
        paid = str(await ctx.tool("pay", cents=5))
        if ctx.attempt == 1:
            raise RuntimeError("try again")
        return paid

    async with running(agent_with(work, bank.tool()), pool, redis):
        await publish(pool, redis, asked())
        await eventually(lambda: replies(redis, "failed"))
        await publish(pool, redis, asked(attempt=2))
        await eventually(lambda: replies(redis, "done"))
    assert len(bank.paid) == 1
    assert await shown(pool) == [("tool_call", None), ("tool_result", True), ("error", None)]


@pytest.mark.parametrize(
    ("answer", "starts"), [(NEVER, 1), (ConnectionError("lost"), 1), (ValueError("no such account"), 2)]
)
async def test_only_a_call_that_may_have_had_its_effect_fails_when_it_may_not_run_again(
    pool: Pool, redis: Redis, answer: Any, starts: int
) -> None:
    bank = Bank(answer, "paid")

    async def work(ctx: TaskContext) -> str:
        try:
            return str(await ctx.tool("pay", cents=5))
        except (ConnectionError, ValueError):
            return await hang(ctx)

    def failing() -> Agent:
        return agent_with(work, bank.tool(), on_unknown="fail")

    async def ended() -> object:
        return bank.paid and (answer is NEVER or await rows(pool, ENDED))

    reply = await run_twice(pool, redis, failing(), failing(), ended)
    assert len(bank.paid) == starts
    if starts == 1:
        assert (reply["failure"]["type"], reply["failure"]["retryable"]) == ("ToolOutcomeUnknown", False)
        assert "may have had its effect" in reply["failure"]["message"]
    else:
        assert reply["status"] == "done"


@pytest.mark.parametrize("decided", ["approved", "rejected"])
async def test_people_decide_about_a_call_that_may_have_had_its_effect(pool: Pool, redis: Redis, decided: str) -> None:
    bank = Bank(NEVER, "paid")

    async def work(ctx: TaskContext) -> str:
        return str(await ctx.tool("pay", cents=5))

    def asking() -> Agent:
        return agent_with(work, bank.tool(), on_unknown="ask")

    reply = await run_twice(pool, redis, asking(), asking(), lambda: bank.paid)
    [needed] = reply["failure"]["approvals"]
    assert needed["description"] == "tool pay was begun 1 times without an answer. Run it again?"
    assert (needed["action"], needed["args"], len(bank.paid)) == ("adder.pay", {"cents": 5}, 1)
    await _decide(pool, needed["approval_id"], decided)
    async with running(asking(), pool, redis):
        await publish(pool, redis, asked(attempt=2))
        _, reply = await eventually(lambda: _two(redis))
    assert len(bank.paid) == (2 if decided == "approved" else 1)
    assert reply["status"] == "done" if decided == "approved" else reply["failure"]["type"] == "ToolOutcomeUnknown"


async def test_a_redelivered_task_waits_for_a_tool_that_still_runs(pool: Pool, redis: Redis) -> None:
    bank, goes_on = Bank(), asyncio.Event()

    async def slow(cents: int, key: IdempotencyKey) -> str:
        await bank.pay(cents, key)
        await goes_on.wait()
        return "paid"

    async def work(ctx: TaskContext) -> str:
        return str(await ctx.tool("slow", cents=5))

    async with (
        running(agent_with(work, slow), pool, redis, name="c1", concurrency=1),
        running(agent_with(work, slow), pool, redis, name="c2", concurrency=1),
    ):
        await publish(pool, redis, asked())
        await eventually(lambda: bank.paid)
        await publish(pool, redis, asked())
        await eventually(lambda: _both_at_work(redis))
        goes_on.set()
        await eventually(lambda: _two(redis))
    assert len(bank.paid) == 1
    assert await shown(pool) == [("tool_call", None), ("tool_result", True)]


async def test_a_start_that_no_later_run_comes_to_is_in_the_log(pool: Pool, redis: Redis) -> None:
    bank = Bank(NEVER)

    async def work(ctx: TaskContext) -> str:
        return str(await ctx.tool("pay", cents=5))

    async def another_way(_ctx: TaskContext) -> str:
        return "nothing"

    await run_twice(pool, redis, agent_with(work, bank.tool()), agent_with(another_way), lambda: bank.paid)
    assert await shown(pool) == [("tool_call", None), ("tool_result", False)]


async def test_a_result_that_can_not_be_stored_is_an_answer(pool: Pool, redis: Redis) -> None:
    async def odd() -> object:
        return {("a", "b"): object()}

    async def work(ctx: TaskContext) -> str:
        return str(await ctx.tool("odd"))

    async with running(agent_with(work, odd), pool, redis):
        await publish(pool, redis, asked())
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert (reply["failure"]["type"], reply["failure"]["retryable"]) == ("ToolResultNotStored", False)


@pytest.mark.parametrize("options", [{"approval": "high"}, {"on_unknown": "again"}])
def test_a_repeatable_tool_has_no_other_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="simply called again"):
        Agent("a").tool(repeatable=True, **options)


async def _two(redis: Redis) -> Any:
    found = [reply for reply in await replies(redis) if reply["status"] != "progress"]
    return found if len(found) == 2 else None


async def _both_at_work(redis: Redis) -> bool:
    pending: Any = await redis.xpending(task_stream("adder"), agent_group("adder"))
    return bool(len(pending["consumers"]) == 2)


async def _decide(pool: Pool, approval_id: str, status: OnUnknown | str) -> None:
    await rows(
        pool,
        "INSERT INTO flotilla.actions (tenant_id, action_id, session_id, workflow_id, action, description, args, "
        "risk_level, requested_by, approval_status, request, finished_at) "
        "VALUES ('default', $1, 's1', 'w', 'adder.pay', 'd', '{\"cents\": 5}', 'medium', '/agents/adder', $2, "
        '\'{"task_id": "t1"}\', now())',
        approval_id,
        status,
    )
