"""An agent process for chaos runs: four branches at a time, in another order in each process, that ask a clock, ask the
model about what it said, and pay. The outside (model, bank) keeps its own books, which a kill can't take back."""

import asyncio
import json
import random
import sys
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from flotilla.agent import Agent, IdempotencyKey, TaskContext
from flotilla.llm import ChatMessage, Completion, CompletionRequest, OnToken
from flotilla.postgres import Pool, open_pool
from tests.support.killable import work

BRANCHES = 4


@dataclass(frozen=True)
class Errand:
    """Nothing to know."""


@dataclass(frozen=True)
class Bought:
    """What the branches came to, in their order."""

    receipts: list[str] = field(default_factory=list)


class Outside:
    """A model and a bank that write down each request before they answer it."""

    name = "outside"
    provider = "tests"

    def __init__(self, pool: Pool, chance: random.Random) -> None:
        self._pool = pool
        self._chance = chance

    async def complete(self, request: CompletionRequest, on_token: OnToken | None = None) -> Completion:
        """Answers after a moment."""
        question = request.messages[0].content
        await self._pool.execute("INSERT INTO asked (question) VALUES ($1)", question)
        await asyncio.sleep(self._chance.uniform(0, 1))
        return Completion(text=f"about {question}", model=self.name)

    async def close(self) -> None:
        """Nothing to release."""

    async def charge(self, task_id: str, branch: int, key: str) -> str:
        """One charge per key, however often it is asked for."""
        await self._pool.execute(
            "INSERT INTO charge_requests (task_id, branch, key) VALUES ($1, $2, $3)", task_id, branch, key
        )
        await asyncio.sleep(self._chance.uniform(0, 1))
        await self._pool.execute("INSERT INTO charges (key) VALUES ($1) ON CONFLICT DO NOTHING", key)
        return f"charged {branch}"


def buyer(outside: Outside, chance: random.Random) -> Agent:
    """The agent, over `outside`."""
    agent = Agent("buyer", concurrency=16)
    ticks = count(chance.randrange(10**9))

    @agent.tool
    async def clock(branch: int) -> int:
        return branch * 10**10 + next(ticks)

    @agent.tool
    async def pay(ctx: TaskContext, branch: int, why: str, key: IdempotencyKey) -> str:
        return await outside.charge(ctx.task_id, branch, key)

    async def branch_of(ctx: TaskContext, branch: int) -> str:
        now = await ctx.tool("clock", branch=branch)
        request = CompletionRequest(messages=(ChatMessage(role="user", content=f"{ctx.task_id} {branch} {now}"),))
        answer = await ctx.llm(request)
        return str(await ctx.tool("pay", branch=branch, why=answer.text))

    @agent.task
    async def buy(ctx: TaskContext, _errand: Errand) -> Bought:
        order = chance.sample(range(BRANCHES), BRANCHES)
        receipts = await asyncio.gather(*(branch_of(ctx, branch) for branch in order))
        return Bought([receipts[order.index(branch)] for branch in range(BRANCHES)])

    return agent


async def main(what: dict[str, Any]) -> None:
    chance = random.Random(what["seed"])  # noqa: S311 - the same order each time
    async with open_pool(what["dsn"], application="buyer", max_size=8) as pool:
        outside = Outside(pool, chance)
        await work(buyer(outside, chance), outside, pool, what)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
