"""People approve numbers: NaN and infinities never reach them, in whatever type and text they come."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from flotilla.agent.gates import ApprovalPending, GatedToolCalls
from flotilla.agent.recording import TaskEventRecorder
from flotilla.agent.tool_runner import ToolRunner
from flotilla.agent.tools import Tool
from flotilla.contracts.errors import Invalid
from flotilla.contracts.ids import new_id
from flotilla.contracts.tasks import AgentTask

TASK = AgentTask(task_id="t1", agent="payer", tenant_id="default", session_id="s1", input={})


@dataclass(frozen=True)
class Line:
    item: str
    price: Decimal


async def pay(
    *,
    amount: Decimal = Decimal(1),
    rate: float = 1.0,
    loose: float | str = 1.0,
    limits: dict[str, Decimal] | None = None,
    lines: list[Line] | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    raise AssertionError("it was paid")


def runner() -> tuple[ToolRunner, GatedToolCalls]:
    gated = GatedToolCalls("payer", "t1", {"pay": "high"})
    calls: Any = None  # a call that waits for people is not begun
    return ToolRunner(TASK, calls, gated, TaskEventRecorder("payer", TASK), new_id), gated


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"amount": "NaN"}, "amount"),
        ({"amount": "-nan"}, "amount"),
        ({"amount": "sNaN7"}, "amount"),
        ({"amount": "Infinity"}, "amount"),
        ({"amount": "-inf"}, "amount"),
        ({"amount": float("nan")}, "amount"),
        ({"rate": float("inf")}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"loose": float("-inf")}, "loose"),
        ({"limits": {"a": "1", "b": "iNf"}}, "limits/b"),
        ({"lines": [{"item": "x", "price": "1"}, {"item": "y", "price": "NAN"}]}, "lines/1/price"),
        ({"details": {"of": [1, {"them": float("nan")}]}}, "details/of/1/them"),
    ],
    ids=str,
)
async def test_a_number_that_is_not_finite_is_refused_with_its_place(given: dict[str, Any], place: str) -> None:
    tools, gated = runner()
    with pytest.raises(Invalid, match=rf"tool pay: {place} is NaN or an infinity"):
        await tools.run_tool(None, Tool("pay", pay), given)
    assert not gated.needed


@pytest.mark.parametrize("given", [{"amount": "1E+400"}, {"loose": "NaN"}, {"details": {"name": "Infinity"}}], ids=str)
async def test_a_number_of_any_size_and_a_text_are_asked_about(given: dict[str, Any]) -> None:
    tools, gated = runner()
    with pytest.raises(ApprovalPending):
        await tools.run_tool(None, Tool("pay", pay), given)
    assert [{name: needed.args[name] for name in given} for needed in gated.needed] == [given]
