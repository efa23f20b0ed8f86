"""Answers stored before use, on a real PostgreSQL and a real endpoint that counts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from flotilla.config import LlmSettings
from flotilla.llm import ChatMessage, CompletionRequest, ModelRefused, ModelTimedOut, StoredCallKey, StoredModelCalls
from flotilla.llm.openai_model import OpenAiModel
from flotilla.postgres import Pool, tenant_transaction
from tests.support.stub_llm import StubLlm, running_stub
from tests.support.waiting import eventually

REQUEST = CompletionRequest(messages=(ChatMessage(role="user", content="Question: why?"),))
CLAIMS = "SELECT count(*) FROM flotilla.llm_claims"
# A claim whose holder died without letting go.
LAPSED = "UPDATE flotilla.llm_claims SET expires_at = clock_timestamp() - interval '1 second'"


@pytest.fixture
async def stub() -> AsyncIterator[StubLlm]:
    async with running_stub("ok", delay_s=0.05) as running:
        yield running


@pytest.fixture
async def model(stub: StubLlm) -> AsyncIterator[OpenAiModel]:
    settings = LlmSettings.model_validate({"OPENAI_BASE_URL": stub.url, "OPENAI_API_KEY": "k", "llm_timeout_s": 3})
    opened = OpenAiModel(settings, "stub-model")
    yield opened
    await opened.close()


@pytest.fixture
def calls(pool: Pool, model: OpenAiModel) -> StoredModelCalls:
    return StoredModelCalls(pool, model)


@pytest.fixture
def key(unique: Callable[[str], str]) -> StoredCallKey:
    return StoredCallKey(
        tenant_id="acme", task_id=unique("task"), call_index=0, session_id="s", agent="write", run_id="r"
    )


async def count(pool: Pool, statement: str) -> int:
    async with tenant_transaction(pool, "acme") as connection:
        return int(await connection.fetchval(statement) or 0)


async def test_the_second_request_for_an_answer_never_goes_out(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey
) -> None:
    first = await calls.complete(key, REQUEST)
    assert await calls.complete(key, REQUEST) == first
    assert stub.total == 1


async def test_a_stored_answer_is_shown_in_one_piece(calls: StoredModelCalls, key: StoredCallKey) -> None:
    pieces: list[str] = []

    async def on_token(piece: str) -> None:
        pieces.append(piece)

    first = await calls.complete(key, REQUEST, on_token)
    assert len(pieces) > 1
    pieces.clear()
    await calls.complete(key, REQUEST, on_token)
    assert pieces == [first.text]


async def test_an_answer_is_stored_before_it_is_used(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey, pool: Pool
) -> None:
    completion = await calls.complete(key, REQUEST)
    async with tenant_transaction(pool, "acme") as connection:
        row = await connection.fetchrow("SELECT * FROM flotilla.llm_calls")
        assert row is not None
    assert (row["model"], row["run_id"], row["agent"]) == ("stub-model", "r", "write")
    assert (row["input_tokens"], row["output_tokens"]) == (
        completion.usage.input_tokens,
        completion.usage.output_tokens,
    )
    assert await count(pool, CLAIMS) == 0


@pytest.mark.parametrize(
    "other", [{"call_index": 1}, {"task_id": "another"}, {"tenant_id": "globex"}], ids=["call", "task", "tenant"]
)
async def test_another_call_is_made_again(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey, other: dict[str, object]
) -> None:
    await calls.complete(key, REQUEST)
    await calls.complete(replace(key, **other), REQUEST)  # type: ignore[arg-type]
    assert stub.total == 2


async def test_another_request_is_made_again(calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey) -> None:
    await calls.complete(key, REQUEST)
    await calls.complete(key, replace(REQUEST, temperature=0.5))
    assert stub.total == 2


async def test_a_caller_that_asks_while_the_call_is_on_its_way_waits_for_it(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey
) -> None:
    stub.modes = ["slow"]
    answers = await asyncio.gather(*(calls.complete(key, REQUEST) for _ in range(5)))
    assert len(set(answers)) == 1
    assert stub.total == 1


async def test_the_call_of_a_holder_that_died_is_made_by_another(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey, pool: Pool
) -> None:
    stub.modes = ["never", "ok"]
    dying = asyncio.create_task(calls.complete(key, REQUEST))
    await eventually(lambda: stub.total == 1)
    waiting = asyncio.create_task(calls.complete(key, REQUEST))
    await count(pool, LAPSED)
    assert (await waiting).text
    assert stub.total == 2
    dying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dying


@pytest.mark.parametrize("mode", ["401", "never"])
async def test_a_failure_is_not_stored_and_holds_nobody_up(
    calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey, pool: Pool, mode: str
) -> None:
    stub.modes = [mode, "ok"]
    with pytest.raises((ModelRefused, ModelTimedOut)):
        await calls.complete(key, REQUEST)
    assert await count(pool, CLAIMS) == 0
    assert (await calls.complete(key, REQUEST)).text


async def test_a_cancelled_call_lets_go(calls: StoredModelCalls, stub: StubLlm, key: StoredCallKey, pool: Pool) -> None:
    stub.modes = ["never"]
    cancelled = asyncio.create_task(calls.complete(key, REQUEST))
    await eventually(lambda: stub.total == 1)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await count(pool, CLAIMS) == 0


async def test_calls_and_hits_are_counted(calls: StoredModelCalls, key: StoredCallKey) -> None:
    def value(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    hits = value("flotilla_llm_cache_hits_total")
    tokens = value("flotilla_llm_tokens_total", model="stub-model", direction="output")
    completion = await calls.complete(key, REQUEST)
    await calls.complete(key, REQUEST)
    assert value("flotilla_llm_cache_hits_total") == hits + 1
    after = value("flotilla_llm_tokens_total", model="stub-model", direction="output")
    assert after == tokens + completion.usage.output_tokens
