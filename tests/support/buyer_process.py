"""An agent process for chaos runs: four branches at a time, in another order in each process, that ask a clock, ask the
model about what it said, and pay. The outside (model, bank) keeps its own books, which a kill can't take back."""

import asyncio
import json
import random
import signal
import sys
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import flotilla.agent.tool_calls
import flotilla.llm.stored_calls
import flotilla.postgres.claims
from flotilla.agent import Agent, IdempotencyKey, TaskContext
from flotilla.agent.handler import TaskHandler
from flotilla.agent.proofs import VoteRules
from flotilla.agent.tools import ToolBox
from flotilla.approvals.policy import read_policy
from flotilla.bus import Consumer, ConsumerOptions, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetters
from flotilla.config.signing import load_public_keys
from flotilla.llm import ChatMessage, Completion, CompletionRequest, OnToken
from flotilla.postgres import Pool, open_pool

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
    for module in (flotilla.agent.tool_calls, flotilla.llm.stored_calls, flotilla.postgres.claims):
        module.CLAIM_S = what["claim_s"]  # type: ignore[attr-defined]
    stop, chance = asyncio.Event(), random.Random(what["seed"])  # noqa: S311 - the same order each time
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        open_pool(what["dsn"], application="buyer", max_size=8) as pool,
        connect_redis(what["url"]) as redis,
    ):
        outside = Outside(pool, chance)
        agent = buyer(outside, chance)
        keys = load_public_keys(Path(what["keys"]))
        handler = TaskHandler(
            agent,
            pool=pool,
            redis=redis,
            tools=ToolBox(agent.tools),
            model=outside,
            keys=keys,
            vote_rules=VoteRules(read_policy("builtin:local")),
        )
        options = ConsumerOptions(min_idle_ms=what["min_idle_ms"], concurrency=agent.concurrency, block_ms=100)
        letters = PostgresDeadLetters(pool)
        consumer = Consumer(redis, agent.stream, agent.group, what["name"], handler, options, letters)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await consumer.run(stop)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
