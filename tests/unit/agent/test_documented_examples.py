"""The examples under "One example each" in `docs/agents.md` do what the page says."""

import re
from pathlib import Path
from typing import Any

import pytest

from flotilla.testing import FakeModel, run_task

PAGE = Path(__file__).parents[3] / "docs/agents.md"


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    """What the section's code defines."""
    section = PAGE.read_text().partition("### One example each")[2].partition("\n### ")[0]
    names: dict[str, Any] = {"__name__": "examples"}
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(code, names)  # noqa: S102 - the repository's own page
    return names


async def test_each_kind_of_event_is_recorded_as_it_is_written(examples: dict[str, Any]) -> None:
    run = await run_task(examples["recorder"], {})
    assert run.failure is None
    assert run.kinds == ["message", "state_change", "tool_call", "tool_result", "error"]
    assert run.events[1].data["set"] == {"parcel": "JD014"}
    assert run.events[3].data["result"] == 740


async def test_tool_is_gated_and_the_test_kit_runs_it_without_people(examples: dict[str, Any]) -> None:
    payer = examples["payer"]
    assert payer.gated == {"pay": "medium"}
    run = await run_task(payer, {"iban": "NL00", "cents": 500})
    assert run.result == {"receipt": "paid 500 to NL00"}


async def test_agent_with_a_model_asks_it(examples: dict[str, Any]) -> None:
    model = FakeModel("bonjour")
    run = await run_task(examples["translator"], {"text": "hello"}, model=model)
    assert run.result == {"text": "bonjour"}
