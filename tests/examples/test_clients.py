"""Unchanged clients in environments of their own, as `examples/clients` and pages have them, against a gateway."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.conftest import Gate, Replica, answering
from tests.integration.gateway.test_workflow_runs import publish
from tests.support.complaints import EXAMPLES, python_of
from tests.support.foreign_agent import Task, foreign_agent
from tests.support.gateway import RunningGateway
from tests.support.packages import CHOOSING, CHOOSING_ENTRY_POINTS, installed, write_package
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

CLIENTS = EXAMPLES / "clients"
DOCS = Path(__file__).parents[2] / "docs"
PLACES = ("FLOTILLA_URL", "http://localhost:8080")
"""What the pages call the gateway's address."""
HOOK = "http://127.0.0.1:9"
WARM = "It is 12 degrees."
ANSWER = "The harbour master. ("


@pytest.fixture
async def gateway(replica: Replica) -> AsyncIterator[RunningGateway]:
    async with replica(notify_hosts=(HOOK,)) as running:
        yield running


@pytest.fixture
async def worker(
    gateway: RunningGateway, redis_url: str, temporal_address: str, gate: Gate, tmp_path: Path
) -> AsyncIterator[RunningWorker]:
    write_package(tmp_path, "choosing", CHOOSING.read_text(), CHOOSING_ENTRY_POINTS)
    with installed(tmp_path, "choosing"):
        async with answering(gateway, redis_url, temporal_address, gate) as running:
            yield running


async def chat(task: Task) -> dict[str, Any]:
    """Wants the weather of pier 1 first, as the agent `chat` would; then says what it is."""
    last = task["input"]["messages"][-1]
    calls = [{"call_id": f"call_{task['task_id']}", "name": "weather", "arguments": '{"pier": 1}'}]
    reply = {"text": f"It is {last['content']}."} if last["role"] == "tool" else {"calls": calls}
    return {"status": "done", "result": reply}


@pytest.fixture
async def key(gateway: RunningGateway, worker: RunningWorker, gate: Gate) -> AsyncIterator[str]:
    """Of a person whose questions are answered."""
    gate.is_open.set()
    async with foreign_agent(worker.redis, "chat", chat):
        yield await gateway.key("olga", ["operator"], person=True)


async def ran(gateway: RunningGateway, key: str, *command: str | Path, **variables: str) -> Any:
    """What one of the programs prints, which is JSON."""
    return json.loads(await printed(gateway, key, *command, **variables))


async def printed(gateway: RunningGateway, key: str, *command: str | Path, **variables: str) -> str:
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
    return out.decode()


async def test_openais_client_for_node(gateway: RunningGateway, key: str) -> None:
    got = await ran(gateway, key, "node", "openai.mjs")
    assert "flotilla/rag" in got["models"]
    assert all(got[name].startswith(ANSWER) for name in ("answer", "streamed", "response"))
    assert got["usage"]["total_tokens"] == got["usage"]["prompt_tokens"] + got["usage"]["completion_tokens"]
    assert (got["sameSession"], got["resumedIsTheRest"]) == (True, True)
    assert (got["called"], got["afterCall"]) == (["weather", {"pier": 1}], WARM)
    assert got["file"] == ["# Lines", True]
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
    assert (got["withTools"], got["warm"], got["asked"]) == (WARM, WARM, [1, 1])
    assert (got["finish"], got["brief"]) == ("stop", {"title": "Harbours", "pages": 3})


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_the_a2a_sdk_for_javascript(gateway: RunningGateway, key: str, binding: str) -> None:
    async def is_served() -> bool:
        card = "/a2a/workflows/choose/.well-known/agent-card.json"
        return (await gateway.client(key).get(card)).is_success

    await eventually(is_served, timeout_s=30)
    variables = {"FLOTILLA_BINDING": binding, "FLOTILLA_ASKING": "workflows/choose", "FLOTILLA_HOOK": HOOK}
    got = await ran(gateway, key, "node", "a2a.mjs", **variables)
    assert got["asking"] == {
        "waits": True,
        "question": "Which supplier?",
        "hooks": [True, 1],
        "seen": [6, 3],  # INPUT_REQUIRED, COMPLETED
        "cancelled": 5,  # CANCELED
    }
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
    for name in ("chat", "responses"):
        assert (got[f"{name}_with_tools"], got[f"{name}_with_tools_streamed"]) == (WARM, WARM)
    assert got["asked"] == [1] * 4


async def test_langchains_chat_model(gateway: RunningGateway, key: str) -> None:
    got = await ran(gateway, key, python_of("langgraph"), "langgraph_client.py")
    assert got["answer"].startswith(ANSWER)
    assert got["streamed"].startswith(ANSWER)
    assert got["with_tools"] == WARM


def program(page: str, heading: str, language: str) -> str:
    """The first block below a heading."""
    text = "\n" + (DOCS / page).read_text(encoding="utf-8")
    section = text[text.index(f"\n{heading}\n") :]
    found = re.search(rf"^```{language}\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page} has no program below {heading}"
    return found[1]


@pytest.mark.parametrize(
    ("page", "heading", "language", "environment"),
    [
        ("openai.md", "# OpenAI-compatible API", "python", ""),
        ("a2a.md", "# A2A", "python", ""),
        ("connect.md", "## OpenAI's client for Node", "js", ""),
        ("connect.md", "## Vercel AI SDK", "js", ""),
        ("connect.md", "## A2A SDK for JavaScript", "js", ""),
        ("connect.md", "## openai-agents", "python", "openai-agents"),
        ("connect.md", "## LangGraph and LangChain", "python", "langgraph"),
    ],
)
async def test_program_of_a_page_prints_the_answer(
    gateway: RunningGateway, key: str, *, page: str, heading: str, language: str, environment: str
) -> None:
    code = program(page, heading, language).replace("flo_…", key)
    for place in PLACES:
        code = code.replace(place, gateway.url)
    if language == "js":
        command = ["node", "--input-type=module", "--eval", code]
    else:
        command = [python_of(environment) if environment else sys.executable, "-c", code]
    assert ANSWER in await printed(gateway, key, *command)
