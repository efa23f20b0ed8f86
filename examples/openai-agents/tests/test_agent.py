"""The agent on the stand-ins for its model and its shop, without any other server."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from refunds_openai_agents.agent import Complaint, agent
from stand_ins import model as model_stand_in
from stand_ins import shop as shop_stand_in
from stand_ins.shop import Shop

from flotilla.config import LlmSettings, load_settings
from flotilla.llm import LanguageModel, create_model
from flotilla.testing import run_task


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    server = shop_stand_in.server(0)
    for _url in _served(server, monkeypatch, "SHOP_URL", ""):
        yield server.RequestHandlerClass.shop


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[LanguageModel]:
    monkeypatch.setenv("FLOTILLA_LLM_MODEL", "clerk-1")
    for _url in _served(model_stand_in.server(0), monkeypatch, "OPENAI_BASE_URL", "/v1"):
        yield create_model(load_settings(LlmSettings))


def _served(server: Any, monkeypatch: pytest.MonkeyPatch, variable: str, path: str) -> Iterator[str]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}{path}"
    monkeypatch.setenv(variable, url)
    yield url
    server.shutdown()
    server.server_close()


async def test_settles_a_complaint_with_each_thing_done_once(model: LanguageModel, shop: Shop) -> None:
    run = await run_task(agent, Complaint(text="My lamp is broken. The order is A17"), model=model)
    assert run.failure is None
    assert run.result.text.startswith("Order A17: refunds-")
    assert sorted(done["path"] for done in shop.done.values()) == ["messages", "refunds", "reservations"]
    assert [event.data["tool"] for event in run.events if event.kind == "tool_call"] == [
        "find_order",
        "reserve",
        "write_to_customer",
        "refund",
    ]


async def test_tells_the_model_why_a_tool_refused(model: LanguageModel, shop: Shop) -> None:
    run = await run_task(agent, Complaint(text="My lamp is broken. The order is Z9"), model=model)
    assert run.result.text == "There is no order Z9."
