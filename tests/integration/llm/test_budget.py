"""Token budgets on a real PostgreSQL."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from flotilla.contracts.tasks import TokenUsage
from flotilla.llm import (
    ChatMessage,
    Completion,
    CompletionRequest,
    ModelUnavailable,
    StoredCallKey,
    StoredModelCalls,
    TokenBudgetSpent,
    TokenLimits,
)
from flotilla.llm.budget import TokenBudget, estimate_call_tokens
from flotilla.postgres import Pool, tenant_transaction
from flotilla.testing import FakeModel

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="x" * 60),), max_tokens=80)
NEEDED = 100
LAPSED = "UPDATE flotilla.token_reservations SET expires_at = clock_timestamp() - interval '1 second'"


def answer(tokens: int) -> Completion:
    return Completion(text="a", model="fake", usage=TokenUsage(input_tokens=tokens - 1, output_tokens=1))


@pytest.fixture
def key(unique: Callable[[str], str]) -> StoredCallKey:
    return StoredCallKey(
        tenant_id="acme", task_id=unique("task"), call_index=0, session_id="s", agent="write", run_id="r"
    )


def call(key: StoredCallKey, number: int) -> StoredCallKey:
    return replace(key, call_index=number)


async def test_an_estimate_is_of_everything_that_is_sent_and_may_come_back() -> None:
    assert estimate_call_tokens(REQUEST) == NEEDED


@pytest.mark.parametrize(
    ("limits", "who"),
    [
        (TokenLimits(per_run=250), "run r can go no further"),
        (TokenLimits(per_tenant_day=250), "tenant acme can go on after midnight"),
    ],
)
async def test_a_spent_budget_refuses_the_call_before_it_is_made(
    pool: Pool, key: StoredCallKey, limits: TokenLimits, who: str
) -> None:
    model = FakeModel(*[answer(90)] * 3)
    calls = StoredModelCalls(pool, model, limits)
    await calls.complete(call(key, 0), REQUEST)
    await calls.complete(call(key, 1), REQUEST)
    with pytest.raises(TokenBudgetSpent, match=f"180 of 250 tokens are used.*may use 100: {who}"):
        await calls.complete(call(key, 2), REQUEST)
    assert len(model.requests) == 2


async def test_a_stored_answer_costs_nothing_again(pool: Pool, key: StoredCallKey) -> None:
    calls = StoredModelCalls(pool, FakeModel(answer(100)), TokenLimits(per_run=100))
    first = await calls.complete(key, REQUEST)
    assert await calls.complete(key, REQUEST) == first


@pytest.mark.parametrize("other", [{"run_id": "r2"}, {"tenant_id": "globex"}], ids=["run", "tenant"])
async def test_one_runs_budget_is_not_anothers(pool: Pool, key: StoredCallKey, other: dict[str, str]) -> None:
    calls = StoredModelCalls(pool, FakeModel(answer(100), answer(100)), TokenLimits(per_run=100))
    await calls.complete(key, REQUEST)
    await calls.complete(replace(call(key, 1), **other), REQUEST)  # type: ignore[arg-type]


async def test_a_day_has_a_budget_of_its_own(pool: Pool, key: StoredCallKey) -> None:
    for day in (1, 2):
        budget = TokenBudget(TokenLimits(per_tenant_day=NEEDED), partial(datetime, 2030, 1, day, tzinfo=UTC))
        async with tenant_transaction(pool, "acme") as connection:
            await budget.reserve_for_call(connection, call(key, day), REQUEST)
            await budget.settle_call(connection, call(key, day), TokenUsage(input_tokens=NEEDED))


async def test_calls_at_the_same_time_can_not_both_spend_the_rest(pool: Pool, key: StoredCallKey) -> None:
    calls = StoredModelCalls(pool, FakeModel(*[answer(100)] * 8), TokenLimits(per_run=350, per_tenant_day=10_000))
    made = await asyncio.gather(*(calls.complete(call(key, n), REQUEST) for n in range(8)), return_exceptions=True)
    assert sum(isinstance(m, Completion) for m in made) == 3
    assert sum(isinstance(m, TokenBudgetSpent) for m in made) == 5


async def test_a_failed_call_gives_back_what_it_reserved(pool: Pool, key: StoredCallKey) -> None:
    calls = StoredModelCalls(pool, FakeModel(ModelUnavailable("500"), answer(50)), TokenLimits(per_run=NEEDED))
    with pytest.raises(ModelUnavailable):
        await calls.complete(key, REQUEST)
    await calls.complete(key, REQUEST)


async def test_what_a_dead_call_reserved_lapses(pool: Pool, key: StoredCallKey) -> None:
    budget = TokenBudget(TokenLimits(per_run=NEEDED))
    async with tenant_transaction(pool, "acme") as connection:
        await budget.reserve_for_call(connection, call(key, 0), REQUEST)
    async with tenant_transaction(pool, "acme") as connection:
        with pytest.raises(TokenBudgetSpent, match="100 are reserved"):
            await budget.reserve_for_call(connection, call(key, 1), REQUEST)
        await connection.execute(LAPSED)
        await budget.reserve_for_call(connection, call(key, 1), REQUEST)


async def test_a_failed_call_is_charged_what_the_endpoint_counts(pool: Pool, key: StoredCallKey) -> None:
    broken_off = ModelUnavailable("broke off")
    broken_off.usage = TokenUsage(input_tokens=100, output_tokens=60)
    calls = StoredModelCalls(pool, FakeModel(broken_off, answer(1)), TokenLimits(per_tenant_day=250))
    with pytest.raises(ModelUnavailable):
        await calls.complete(call(key, 0), REQUEST)
    with pytest.raises(TokenBudgetSpent, match="160 of 250 tokens are used, 0 are reserved"):
        await calls.complete(call(key, 1), REQUEST)
