"""Budgets in money on a real PostgreSQL: spend never above them, and what is left is used."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import REGISTRY

from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import (
    ChatMessage,
    Completion,
    CompletionRequest,
    ModelUnavailable,
    MoneyBudget,
    MoneyBudgetSpent,
    MoneyLimits,
    OnToken,
    StoredCallKey,
    StoredModelCalls,
)
from flotilla.llm.chat_request import parse_chat_request
from flotilla.llm.money import DEFAULT_OUTPUT_TOKENS, PriceUnknown
from flotilla.llm.prices import PriceTable, TokenPrice
from flotilla.postgres import Pool, tenant_transaction
from flotilla.testing import FakeModel

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="x" * 300),), max_tokens=100)
"""May cost 100 + 100 tokens, at one unit each."""
REFUSALS = "flotilla_llm_budget_refusals_total"
PRICE = TokenPrice(valid_from=date(2020, 1, 1), input=Decimal(10**4), cached_input=Decimal(10**3), output=Decimal(0))
"""A unit per 100 input tokens."""


def money(**limits: Any) -> MoneyBudget:
    table = PriceTable("EUR", {"fake": [PRICE], "counted": [PRICE]})
    return MoneyBudget(table, MoneyLimits(**{name: Decimal(limit) for name, limit in limits.items()}))


def answer(tokens: int = 100, cached: int = 0) -> Completion:
    usage = TokenUsage(input_tokens=tokens, output_tokens=50)
    return Completion(text="a", model="fake", usage=usage, cached_input_tokens=cached)


@pytest.fixture
def key(unique: Callable[[str], str]) -> StoredCallKey:
    return StoredCallKey(
        tenant_id=unique("t"), task_id=unique("task"), call_index=0, session_id="s", agent="write", run_id="r"
    )


class Counted:
    """A model that takes a while, and knows how many calls it has answered."""

    name = "counted"
    provider = "tests"

    def __init__(self) -> None:
        self.answered = 0

    async def complete(self, _request: CompletionRequest, _on_token: OnToken | None = None) -> Completion:
        await asyncio.sleep(0.05)
        self.answered += 1
        return answer()

    async def close(self) -> None:
        """Nothing to release."""


async def spent(pool: Pool, tenant: str) -> int:
    """What the ledger says, in units."""
    async with tenant_transaction(pool, tenant) as connection:
        nanos = await connection.fetchval(
            "SELECT coalesce(sum(nanos), 0)::bigint FROM flotilla.llm_spend WHERE tenant_id = $1", tenant
        )
    return int(nanos) // 10**9


async def test_of_fifty_runs_at_once_twenty_are_paid_for_and_the_others_are_refused_with_the_reason(
    pool: Pool, key: StoredCallKey
) -> None:
    model = Counted()
    counted = REGISTRY.get_sample_value(REFUSALS, {"budget": "day"}) or 0
    calls = StoredModelCalls(pool, model, money=money(per_tenant_day=20))
    runs = [replace(key, task_id=f"{key.task_id}-{n}", run_id=f"r{n}") for n in range(50)]
    made = await asyncio.gather(*(calls.complete(run, REQUEST) for run in runs), return_exceptions=True)
    refused = [one for one in made if isinstance(one, MoneyBudgetSpent)]
    assert (model.answered, len(refused), await spent(pool, key.tenant_id)) == (20, 30, 20)
    assert REGISTRY.get_sample_value(REFUSALS, {"budget": "day"}) == counted + 30
    assert all("EUR 20 of EUR 20 are spent" in str(one) for one in refused)
    assert all("(FLOTILLA_LLM_BUDGET_PER_TENANT_DAY)" in str(one) for one in refused)


@pytest.mark.parametrize(
    ("limit", "others"),
    [
        ("per_run", {"run_id": "r2"}),
        ("per_agent_day", {"agent": "research"}),
        ("per_tenant_day", {"tenant_id": "globex"}),
    ],
)
async def test_one_budget_is_not_anothers(pool: Pool, key: StoredCallKey, limit: str, others: dict[str, str]) -> None:
    calls = StoredModelCalls(pool, FakeModel(answer(), answer()), money=money(**{limit: 1}))
    await calls.complete(key, REQUEST)
    with pytest.raises(MoneyBudgetSpent, match=limit.upper()):
        await calls.complete(replace(key, call_index=1), REQUEST)
    if limit == "per_tenant_day":
        others = {"tenant_id": f"{key.tenant_id}-other"}
    await calls.complete(replace(key, call_index=1, **others), REQUEST)


async def test_a_stored_answer_costs_nothing_again(pool: Pool, key: StoredCallKey) -> None:
    calls = StoredModelCalls(pool, FakeModel(answer()), money=money(per_run=1))
    assert await calls.complete(key, REQUEST) == await calls.complete(key, REQUEST)
    assert await spent(pool, key.tenant_id) == 1


async def test_cached_tokens_are_counted_at_their_price(pool: Pool, key: StoredCallKey) -> None:
    calls = StoredModelCalls(pool, FakeModel(answer(1000, cached=1000)), money=money())
    await calls.complete(key, REQUEST)
    assert await spent(pool, key.tenant_id) == 1


async def test_what_a_failed_call_cost_is_spent_and_what_cost_nothing_is_given_back(
    pool: Pool, key: StoredCallKey
) -> None:
    free, paid = ModelUnavailable("500"), ModelUnavailable("broke off")
    paid.usage = TokenUsage(input_tokens=100)
    calls = StoredModelCalls(pool, FakeModel(free, paid, answer()), money=money(per_run=2))
    for error in ("500", "broke off"):
        with pytest.raises(ModelUnavailable, match=error):
            await calls.complete(key, REQUEST)
    await calls.complete(key, REQUEST)
    assert await spent(pool, key.tenant_id) == 2


async def test_an_answer_of_open_length_gets_one_so_that_it_has_a_most_that_it_may_cost(
    pool: Pool, key: StoredCallKey
) -> None:
    said = [{"role": "user", "content": "hello"}]
    model = FakeModel(answer(), answer(), answer())
    limited, unlimited = (
        StoredModelCalls(pool, model, money=money(per_run=9)),
        StoredModelCalls(pool, model, money=money()),
    )
    await limited.complete(key, replace(REQUEST, max_tokens=None))
    await limited.complete(key, parse_chat_request({"messages": said}))
    await unlimited.complete(key, parse_chat_request({"messages": [*said, *said]}))
    first, second, third = model.requests
    assert first.max_tokens == DEFAULT_OUTPUT_TOKENS
    assert second.body is not None
    assert second.body["max_tokens"] == DEFAULT_OUTPUT_TOKENS
    assert third.body is not None
    assert "max_tokens" not in third.body


async def test_a_model_without_a_price_is_not_asked_where_a_budget_is_kept(pool: Pool, key: StoredCallKey) -> None:
    model = FakeModel()
    limits = MoneyLimits(per_run=Decimal(1))
    with pytest.raises(PriceUnknown, match="model fake has no price today"):
        await StoredModelCalls(pool, model, money=MoneyBudget(PriceTable("EUR", {}), limits)).complete(key, REQUEST)
    assert model.requests == []
