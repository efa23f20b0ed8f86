"""An agent that adds, in the way that its task asks for."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from flotilla.agent import Agent, TaskContext
from flotilla.contracts.tasks import AgentTask, Turn
from flotilla.llm import ChatMessage, CompletionRequest
from flotilla.postgres import Connection
from tests.support.agents import task


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
            await connection.execute("INSERT INTO effects (tenant_id, what) VALUES ('default', 'inserted')")

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

    async def sleep_on(self, _ctx: TaskContext, _given: Add) -> Sum:
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
    """A task for it."""
    return task(task_id, **{"input": {"a": 1, "b": 2, "how": how}, **fields})


async def two(found: Any) -> Any:
    """What `found` comes to once there are two of it."""
    values = await found
    return values if len(values) == 2 else None
