"""The writer agent as its service runs it, on real PostgreSQL, Redis and an endpoint that counts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from flotilla.bus import Redis, connect_redis
from flotilla.contracts.envelope import from_json, to_builtins
from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import run_stream
from flotilla.contracts.session_events import Source
from flotilla.contracts.tasks import Passage, Replay
from flotilla.knowledge import KnowledgeBase, UploadedDocument
from flotilla.postgres import Pool
from flotilla.runtime import Runtime
from tests.support.agent_service import service_running
from tests.support.agents import TENANT, open_session, publish, replies, rows, session_events, task
from tests.support.postgres import Database
from tests.support.redis_users import url_of
from tests.support.stub_llm import StubLlm, running_stub
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually
from writer_agent.main import run
from writer_agent.settings import Settings

SOURCE = Source(document_id="d1", title="T", uri="cats.md", passage_id="p1", start=0, end=9, score=1.0)
PASSAGE = Passage(text="Cats sleep all day. They eat fish and mice in the evening.", source=SOURCE)
INPUT = {"query": "What do cats eat?", "passages": [to_builtins(PASSAGE)]}


@dataclass
class Writer:
    redis: Redis
    stub: StubLlm
    pool: Pool

    async def live(self) -> list[tuple[str, dict[str, Any]]]:
        """What was shown on the run's live stream: tokens and resets."""
        found: Any = await self.redis.xrange(run_stream("r1", "key"))
        shown = [(fields[b"kind"].decode(), from_json(fields[b"data"], dict[str, Any])) for _, fields in found]
        return [item for item in shown if item[0] in ("token", "reset")]

    async def answered(self, status: str = "done") -> dict[str, Any]:
        found: list[dict[str, Any]] = await eventually(lambda: replies(self.redis, status, "write"), timeout_s=20)
        return found[-1]


@asynccontextmanager
async def writing(database: Database, redis_url: str, pool: Pool, **chosen: Any) -> AsyncIterator[Writer]:
    """A writer agent at work."""
    async with running_stub() as stub, connect_redis(redis_url) as redis:
        given = {"OPENAI_BASE_URL": stub.url, "OPENAI_API_KEY": "k", "llm_model": "stub-model", "llm_timeout_s": 5}
        settings = Settings.model_validate(
            {
                "postgres_dsn": database.dsn("flotilla_agent_write"),
                "redis_url": await url_of(redis_url, "write-agent"),
                "bus_min_idle_ms": 400,
                "ticket_public_key_file": PUBLIC_KEY_FILE,
                **given,
                **chosen,
            }
        )
        async with service_running("writer-agent", run, settings):
            yield Writer(redis, stub, pool)


@pytest.fixture
async def writer(database: Database, redis_url: str, pool: Pool) -> AsyncIterator[Writer]:
    await open_session(pool)
    async with writing(database, redis_url, pool) as running:
        yield running


async def test_the_answer_streams_cites_and_says_how_sure_it_is(writer: Writer) -> None:
    writer.stub.answer = "They eat fish there [1]."
    await publish(writer.pool, writer.redis, task(agent="write", input=INPUT))
    result = (await writer.answered())["result"]
    assert result["answer"] == "They eat fish there [1]."
    assert [one["supported"] for one in result["statements"]] == [True]
    assert [source["document_id"] for source in result["sources"]] == ["d1"]
    assert (result["confidence"], result["confidence_basis"]) == (0.9, "token_logprobs")
    assert (result["model"], result["usage"]["output_tokens"]) == ("stub-model", 5)
    assert "".join(data["text"] for kind, data in await writer.live() if kind == "token").strip() == result["answer"]


async def test_a_new_try_voids_what_was_shown_and_does_not_buy_the_answer_again(writer: Writer) -> None:
    wanted = task(agent="write", input=INPUT)
    await publish(writer.pool, writer.redis, wanted)
    await writer.answered()
    await rows(writer.pool, "UPDATE flotilla.agent_tasks SET status = 'failed' RETURNING task_id")
    await publish(writer.pool, writer.redis, task(agent="write", input=INPUT, attempt=2))
    await eventually(lambda: _count(writer, 2))
    kinds = [(kind, data["attempt"]) for kind, data in await writer.live()]
    assert kinds.index(("reset", 2)) == kinds.index(("token", 2)) - 1
    assert writer.stub.total == 1


async def _count(writer: Writer, count: int) -> bool:
    return len(await replies(writer.redis, "done", "write")) == count


@pytest.mark.parametrize(
    ("mode", "kind", "retryable"),
    [("401", "ModelRefused", False), ("429", "ModelUnavailable", True), ("500", "ModelUnavailable", True)],
)
async def test_what_the_endpoint_answers_becomes_the_tasks_answer(
    writer: Writer, mode: str, kind: str, retryable: bool
) -> None:
    writer.stub.modes = [mode]
    await publish(writer.pool, writer.redis, task(agent="write", input=INPUT))
    failure = (await writer.answered("failed"))["failure"]
    assert (failure["type"], failure["retryable"]) == (kind, retryable)
    assert mode in failure["message"]
    assert [event["type"] for event in await session_events(writer.pool)] == ["flotilla.session.error.v1"]


async def test_a_tool_call_of_the_model_searches_the_tenants_documents(writer: Writer) -> None:
    await KnowledgeBase(writer.pool).add(TENANT, UploadedDocument(uri="fish.md", content=b"# Fish\n\nCats eat fish."))
    writer.stub.modes = ["tool"]
    await publish(writer.pool, writer.redis, task(agent="write", input=INPUT))
    await writer.answered()
    assert [event["type"].split(".")[2] for event in await session_events(writer.pool)] == ["tool_call", "tool_result"]
    assert "Cats eat fish." in writer.stub.requests[1]["messages"][-1]["content"]
    assert len(await rows(writer.pool, "SELECT call_index FROM flotilla.llm_calls")) == 2


async def test_without_an_endpoint_the_built_in_model_answers(database: Database, redis_url: str, pool: Pool) -> None:
    await open_session(pool)
    nothing = {"OPENAI_BASE_URL": None, "OPENAI_API_KEY": None, "llm_model": None}
    async with writing(database, redis_url, pool, **nothing) as writer:
        await publish(writer.pool, writer.redis, task(agent="write", input=INPUT))
        result = (await writer.answered())["result"]
        assert result["model"] == "flotilla-extractive-1"
        assert result["answer"] == "They eat fish and mice in the evening. [1]"
        assert result["sources"][0]["quote"] == "They eat fish and mice in the evening."
        assert writer.stub.total == 0


async def test_a_tool_that_does_not_exist_can_not_be_allowed(database: Database, redis_url: str) -> None:
    settings = Settings.model_validate(
        {
            "postgres_dsn": database.dsn("flotilla_agent_write"),
            "redis_url": redis_url,
            "ticket_public_key_file": PUBLIC_KEY_FILE,
            "writer_tools": ["rm_rf"],
        }
    )
    with pytest.raises(ConfigurationError, match=r"FLOTILLA_WRITER_TOOLS names \['rm_rf'\]"):
        await run(settings, Runtime("writer-agent"))


async def test_a_replay_asks_the_model_that_it_names_by_its_prompt_and_no_other(
    database: Database, redis_url: str, pool: Pool
) -> None:
    await open_session(pool)
    async with writing(database, redis_url, pool, llm_replay_models=("next-model",)) as writer:
        replay = Replay(of_run="r0", model="next-model", prompts={"write": "Answer in one word."})
        await publish(writer.pool, writer.redis, task(agent="write", input=INPUT, replay=replay))
        await writer.answered()
        [asked] = writer.stub.requests
        assert (asked["model"], asked["messages"][0]["content"]) == ("next-model", "Answer in one word.")
        unknown = Replay(of_run="r0", model="gpt-other")
        await publish(writer.pool, writer.redis, task("t2", agent="write", input=INPUT, replay=unknown))
        failure = (await writer.answered("failed"))["failure"]
        assert (failure["type"], failure["retryable"]) == ("NotReplayable", False)
        assert "next-model" in failure["message"]
        assert len(writer.stub.requests) == 1
