"""The agent with a model of `docs/agents.md`, as a process: `serve_agent` opens the model of its settings."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from flotilla.bus import Redis
from flotilla.postgres import Pool
from tests.support.agents import publish, replies, task
from tests.support.postgres import agent_dsn
from tests.support.stub_llm import running_stub
from tests.support.tickets import PUBLIC_KEY_FILE
from tests.support.waiting import eventually

PAGE = (Path(__file__).parents[3] / "docs/agents.md").read_text()


@pytest.mark.usefixtures("session")
async def test_agent_that_serve_agent_runs_asks_the_model_of_its_settings(
    tmp_path: Path, pool: Pool, redis: Redis, redis_url: str
) -> None:
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "LlmSettings" in code]
    program = tmp_path / "translate.py"
    program.write_text(f"{code}\n\nmain()\n")
    async with running_stub() as stub:
        environment = {
            **os.environ,
            "FLOTILLA_POSTGRES_DSN": await agent_dsn(pool, "translate"),
            "FLOTILLA_REDIS_URL": redis_url,
            "FLOTILLA_TICKET_PUBLIC_KEY_FILE": str(PUBLIC_KEY_FILE),
            "FLOTILLA_METRICS_HOST": "127.0.0.1",
            "FLOTILLA_METRICS_PORT": "0",
            "OPENAI_BASE_URL": stub.url,
            "OPENAI_API_KEY": "test",
            "FLOTILLA_LLM_MODEL": "stub",
        }
        await publish(pool, redis, task(agent="translate", input={"text": "hello"}))
        process = await asyncio.create_subprocess_exec(sys.executable, program, env=environment)
        try:
            (reply,) = await eventually(lambda: replies(redis, "done", "translate"), timeout_s=60)
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert reply["result"]["text"]
        assert stub.total == 1
