"""Open WebUI, unchanged, in Chromium: it lists the models, asks, streams, asks again, and its titles make no runs."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from flotilla_devstack.ports import free_port
from tests.browser.chromium import FLAGS, find_chromium
from tests.integration.gateway.conftest import Gate
from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually
from tests.support.worker import RunningWorker

PROGRAM = "OPEN_WEBUI"
"""The environment variable with the program's path."""
START_S = 300
ANSWER = "The harbour master."


@pytest.fixture
async def address(gateway: RunningGateway, worker: RunningWorker, gate: Gate, tmp_path: Path) -> AsyncIterator[str]:
    """Where Open WebUI serves, with the gateway as its only connection."""
    gate.is_open.set()
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DATA_DIR": str(tmp_path / "data"),
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "of this test, longer than thirty-two bytes",
        "OPENAI_API_BASE_URL": f"{gateway.url}/openai/v1",
        "OPENAI_API_KEY": await gateway.key("webui", ["operator"]),
        "ENABLE_OLLAMA_API": "false",
        "DEFAULT_MODELS": "flotilla/rag",
        # Nothing is downloaded.
        "OFFLINE_MODE": "true",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",
    }
    command = [os.environ[PROGRAM], "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=sys.stderr, stderr=sys.stderr)
    try:
        url = f"http://127.0.0.1:{port}"
        await eventually(lambda: _is_healthy(url), timeout_s=START_S)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _is_healthy(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        try:
            return (await client.get(f"{url}/health")).is_success
        except httpx.TransportError:
            return False


@pytest.fixture
async def page(address: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS), timeout=120_000)
        shown = await browser.new_page()
        shown.set_default_timeout(120_000)
        await shown.goto(address)
        yield shown
        await browser.close()


async def fetched(page: Page, path: str) -> Any:
    """What the program's own API says to who is logged in."""
    script = "async (path) => (await fetch(path, {headers: {Authorization: `Bearer ${localStorage.token}`}})).json()"
    return await page.evaluate(script, path)


async def test_a_conversation_in_open_webui_is_a_session_of_two_runs(gateway: RunningGateway, page: Page) -> None:
    await page.get_by_role("button", name="Okay, Let's Go!").click()  # what is new in it
    models = await fetched(page, "/api/models")
    assert "flotilla/rag" in [model["id"] for model in models["data"]]
    for count, question in enumerate(("Who inspects mooring lines?", "And at night?"), start=1):
        await page.locator("#chat-input").click()
        await page.keyboard.type(question)
        await page.keyboard.press("Enter")
        await page.locator(f".chat-assistant >> nth={count - 1}").get_by_text(ANSWER).first.wait_for()

    async def is_titled() -> bool:
        return [chat["title"] for chat in await fetched(page, "/api/v1/chats/?page=1")] == [
            "Who inspects mooring lines?"
        ]

    await eventually(is_titled, timeout_s=60)
    rows = await gateway.rows("SELECT session_id, query FROM flotilla.runs ORDER BY created_at")
    assert [row["query"] for row in rows] == ["Who inspects mooring lines?", "And at night?"]
    assert len({row["session_id"] for row in rows}) == 1
