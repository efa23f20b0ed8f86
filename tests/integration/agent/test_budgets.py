"""An agent keeps budgets in money as the database role that it has, and enters what it spent."""

from datetime import date
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from flotilla.agent import Agent, TaskContext
from flotilla.bus import Redis
from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import ChatMessage, Completion, CompletionRequest, MoneyBudget, MoneyLimits
from flotilla.llm.prices import PriceTable, TokenPrice
from flotilla.postgres import Pool, open_pool, tenant_transaction
from flotilla.testing import FakeModel
from tests.support.adder import Add, Sum, asked
from tests.support.agents import TENANT, publish, replies, rows, running
from tests.support.postgres import agent_dsn
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("session")
PRICE = TokenPrice(valid_from=date(2020, 1, 1), input=Decimal(10**4), cached_input=Decimal(10**4), output=Decimal(0))
ANSWER = Completion(text="a", model="fake", usage=TokenUsage(input_tokens=100, output_tokens=1))


def asker(questions: int) -> Agent:
    agent = Agent("adder")

    @agent.task
    async def ask(ctx: TaskContext, _given: Add) -> Sum:
        for number in range(questions):
            said = f"{number}".ljust(300, ".")
            await ctx.llm(CompletionRequest(messages=(ChatMessage(role="user", content=said),), max_tokens=1))
        return Sum()

    return agent


@pytest.mark.parametrize("limit", ["per_run", "per_agent_day", "per_tenant_day"])
async def test_an_agent_that_has_spent_its_budget_asks_no_more(pool: Pool, redis: Redis, limit: str) -> None:
    limits: Any = {limit: Decimal(2)}
    money = MoneyBudget(PriceTable("EUR", {"fake": [PRICE]}), MoneyLimits(**limits))
    model = FakeModel(ANSWER, ANSWER, ANSWER)
    async with running(asker(3), pool, redis, model=model, money=money):
        await publish(pool, redis, asked())
        (reply,) = await eventually(lambda: replies(redis, "failed"))
    assert (reply["failure"]["type"], reply["failure"]["retryable"]) == ("MoneyBudgetSpent", False)
    assert "EUR 2 of EUR 2 are spent" in reply["failure"]["message"]
    assert f"FLOTILLA_LLM_BUDGET_{limit.upper()}" in reply["failure"]["message"]
    assert len(model.requests) == 2
    spent = await rows(pool, "SELECT agent, model, run_id, nanos, answered FROM flotilla.llm_spend")
    row = {"agent": "adder", "model": "fake", "run_id": "r1", "nanos": 10**9, "answered": True}
    assert spent == [row, row]


async def test_an_agent_reads_and_changes_nothing_of_what_was_spent(pool: Pool) -> None:
    async with (
        open_pool(await agent_dsn(pool, "adder"), application="adder") as own,
        tenant_transaction(own, TENANT) as connection,
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM flotilla.llm_spend")
