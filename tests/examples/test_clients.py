"""Unchanged clients in environments of their own, as `examples/clients` has them, against a gateway and a worker."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.conftest import Gate
from tests.integration.gateway.test_workflow_runs import publish
from tests.support.complaints import EXAMPLES, python_of
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

CLIENTS = EXAMPLES / "clients"
ANSWER = "The harbour master. ("


@pytest.fixture
async def key(gateway: RunningGateway, worker: RunningWorker, gate: Gate) -> str:
    """Of a person whose questions are answered."""
    gate.is_open.set()
    return await gateway.key("olga", ["operator"], person=True)


async def ran(gateway: RunningGateway, key: str, *command: str | Path, **variables: str) -> Any:
    """What one of the programs prints."""
    environment = {
        "PATH": os.environ["PATH"],
        "FLOTILLA_URL": gateway.url,
        "FLOTILLA_KEY": key,
        "NO_PROXY": "127.0.0.1",
        **variables,
    }
    process = await asyncio.create_subprocess_exec(
        *command, cwd=CLIENTS, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_openais_client_for_node(gateway: RunningGateway, key: str) -> None:
    got = await ran(gateway, key, "node", "openai.mjs")
    assert "flotilla/rag" in got["models"]
    assert all(got[name].startswith(ANSWER) for name in ("answer", "streamed", "response"))
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
    assert (got["sameSession"], got["resumedIsTheRest"]) == (True, True)
    assert got["background"] == ["completed", "completed"]
    assert (got["refused"]["name"], got["refused"]["status"]) == ("BadRequestError", 400)


async def test_the_vercel_ai_sdk(gateway: RunningGateway, key: str) -> None:
    await publish(gateway)
    running = asyncio.create_task(ran(gateway, key, "node", "ai-sdk.mjs", FLOTILLA_WORKFLOW="flotilla/brief"))

    async def asked() -> bool:
        return running.done() or bool(await gateway.rows("SELECT 1 FROM flotilla.runs WHERE workflow = 'brief'"))

    await eventually(asked, timeout_s=60)
    await gateway.as_superuser(
        "UPDATE flotilla.runs SET status = 'success', finished_at = now(), "
        """output = '{"title": "Harbours", "pages": 3}' WHERE workflow = 'brief'"""
    )
    got = await running
    assert got["answer"].startswith(ANSWER)
    assert got["streamed"].startswith(ANSWER)
    assert (got["finish"], got["brief"]) == ("stop", {"title": "Harbours", "pages": 3})


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_the_a2a_sdk_for_javascript(gateway: RunningGateway, key: str, binding: str) -> None:
    got = await ran(gateway, key, "node", "a2a.mjs", FLOTILLA_BINDING=binding)
    assert got["answer"].startswith(ANSWER)
    assert got["streamed"].startswith(ANSWER)
    assert (got["sameTask"], got["listed"], got["card"]) == (True, 2, "rag")
    assert (got["state"], got["states"][-1]) == (3, 3), "TASK_STATE_COMPLETED"
    assert got["refused"]["name"].endswith("TaskNotFoundError"), "each binding has a class of its own"


async def test_openai_agents_with_a_fleet_as_its_model(gateway: RunningGateway, key: str) -> None:
    got = await ran(gateway, key, python_of("openai-agents"), "openai_agents.py")
    assert got["chat"].startswith(ANSWER)
    assert got["responses"].startswith(ANSWER)
    for name in ("chat_streamed", "responses_streamed"):
        deltas, final = got[name]
        assert deltas == final
        assert final.startswith(ANSWER)
