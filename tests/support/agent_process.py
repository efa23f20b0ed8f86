"""An agent process for chaos runs: each task adds one to its account, in the transaction that makes it done."""

import asyncio
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flotilla.agent import Agent, TaskContext
from flotilla.agent.handler import TaskHandler
from flotilla.agent.proofs import VoteCheckRules
from flotilla.agent.tools import AgentToolBox
from flotilla.approvals.policy import read_policy
from flotilla.bus import Consumer, ConsumerOptions, connect_redis
from flotilla.bus.dead_letter_store import PostgresDeadLetters
from flotilla.config.signing import load_public_keys
from flotilla.postgres import Connection, open_pool


@dataclass(frozen=True)
class Payment:
    """What to pay; one that is marked can't be paid."""

    account: str
    poisoned: bool = False


@dataclass(frozen=True)
class Receipt:
    """It was paid."""

    account: str


agent = Agent("payer", concurrency=16)


@agent.task
async def pay(ctx: TaskContext, payment: Payment) -> Receipt:
    """Pays, exactly once."""

    async def effect(connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO payments (account, task_id) VALUES ($1, $2)", payment.account, ctx.task_id
        )

    ctx.in_transaction(effect)
    await asyncio.sleep(0.002)
    return Receipt(payment.account)


async def main(what: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with (
        open_pool(what["dsn"], application="payer", max_size=8) as pool,
        connect_redis(what["url"]) as redis,
    ):
        keys = load_public_keys(Path(what["keys"]))
        handler = TaskHandler(
            agent,
            pool=pool,
            redis=redis,
            tools=AgentToolBox({}),
            keys=keys,
            vote_rules=VoteCheckRules(read_policy("builtin:local")),
        )
        options = ConsumerOptions(min_idle_ms=what["min_idle_ms"], concurrency=agent.concurrency, block_ms=200)
        letters = PostgresDeadLetters(pool)
        consumer = Consumer(redis, agent.stream, agent.group, what["name"], handler, options, letters)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await consumer.run(stop)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
