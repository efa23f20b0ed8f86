"""An agent process for chaos runs: each task adds one to its account, in the transaction that makes it done."""

import asyncio
import json
import sys
from dataclasses import dataclass
from typing import Any

from flotilla.agent import Agent, TaskContext
from flotilla.postgres import Connection, open_pool
from tests.support.killable import work


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
    async with open_pool(what["dsn"], application="payer", max_size=8) as pool:
        await work(agent, None, pool, what)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
