"""`write_agent`: what it writes runs, and what it refuses. `tests/packaging` lints, type-checks and tests it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flotilla.agent.template import write_agent
from flotilla.bus import Redis, connect_redis
from flotilla.contracts.errors import Conflict, Invalid
from flotilla.postgres import Pool
from tests.support.agents import open_session, publish, replies, rows, task
from tests.support.postgres import agent_dsn
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect_redis(redis_url) as client:
        yield client


def test_new_agent_outside_the_repository_has_a_dockerfile_on_a_pinned_base(tmp_path: Path) -> None:
    written = write_agent("word-count", tmp_path / "new", wheels=tmp_path / "wheels")
    assert tmp_path / "new/Dockerfile" in written
    text = (tmp_path / "new/Dockerfile").read_text(encoding="utf-8")
    assert "\nARG BASE_IMAGE\n" in text
    assert "--require-hashes -r requirements.txt" in text
    assert f"--build-context wheels={tmp_path}/wheels" in text


async def test_new_agent_registers_answers_and_stops_in_order(
    tmp_path: Path, pool: Pool, redis: Redis, redis_url: str
) -> None:
    folder = tmp_path / "word-count-agent"
    write_agent("word-count", folder)
    await open_session(pool)
    environment = {
        **os.environ,
        "FLOTILLA_POSTGRES_DSN": await agent_dsn(pool, "word-count"),
        "FLOTILLA_REDIS_URL": redis_url,
        "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(PUBLIC_KEY_FILE),
        "FLOTILLA_METRICS_HOST": "127.0.0.1",
        "FLOTILLA_METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "word_count_agent.main"]
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment)
    async with asyncio.timeout(90):
        try:
            (agent,) = await eventually(lambda: rows(pool, "SELECT * FROM flotilla_ops.agents"), timeout_s=30)
            assert (agent["name"], agent["stream"]) == ("word-count", "flotilla.tasks.word-count")
            assert "text" in json.loads(agent["input_schema"])["properties"]
            await publish(pool, redis, task(agent="word-count", input={"text": "one two three"}))
            (reply,) = await eventually(lambda: replies(redis, "done", "word-count"))
            assert reply["result"] == {"text": "one two three", "words": 3}
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert await redis.xinfo_consumers("flotilla.tasks.word-count", "word-count-agents") == []


@pytest.mark.parametrize("name", ["", "Upper", "two words", "../escape", "-x", "x--y", "x" * 50])
def test_names_that_kubernetes_would_refuse_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Invalid, match="can't name an agent"):
        write_agent(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="is not empty"):
        write_agent("new", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
