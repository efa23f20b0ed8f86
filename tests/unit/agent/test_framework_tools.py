"""`ctx.tools_for` and `ctx.openai` without their packages, and what a model is offered and told."""

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from flotilla.agent import Agent, TaskContext, framework_tools
from flotilla.agent.framework_tools import tool_arguments_schema
from flotilla.agent.tools import Tool
from flotilla.contracts.errors import Refused
from flotilla.testing import FakeModel, TaskRun, run_task


@dataclass(frozen=True)
class Line:
    item: str
    cents: int


async def order(lines: list[Line], note: str = "") -> list[Line]:
    """Order it."""
    return lines


async def run(work: Any, **options: Any) -> TaskRun[Any]:
    agent = Agent("clerk")

    @agent.tool
    async def look(what: str) -> dict[str, Any]:
        if what == "nothing":
            raise Refused("there is nothing")
        if what == "lightning":
            raise ConnectionError("struck")
        return {"found": what, "größe": 1.5}

    @agent.task
    async def task(ctx: TaskContext, _given: dict[str, Any]) -> dict[str, Any]:
        return {"said": await work(ctx)}

    return await run_task(agent, {}, **options)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework whose tools are the bare calls."""
    monkeypatch.setitem(framework_tools._TOOL_CONVERTERS, "plain", lambda _tool, call: call)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"what": "it"}, '{"found": "it", "größe": 1.5}'),
        ({"what": "nothing"}, "Error: there is nothing"),
        ({"what": 7}, "Error: tool look: Expected `str`, got `int`"),
        ({"how": "well"}, "Error: tool look: Object"),
    ],
)
async def test_what_a_tool_returns_or_refuses_is_text_for_the_model(arguments: dict[str, Any], text: str) -> None:
    async def work(ctx: TaskContext) -> Any:
        (call,) = ctx.tools_for("plain")  # type: ignore[arg-type]
        return await call(arguments)

    assert (await run(work)).result["said"].startswith(text)


@pytest.mark.usefixtures("plain")
async def test_any_other_error_ends_the_run() -> None:
    async def work(ctx: TaskContext) -> Any:
        (call,) = ctx.tools_for("plain")  # type: ignore[arg-type]
        return await call({"what": "lightning"})

    failure = (await run(work)).failure
    assert failure is not None
    assert (failure.type, failure.retryable) == ("ConnectionError", True)


def test_the_schema_that_a_framework_gets_is_an_object_with_its_definitions_beside_it() -> None:
    schema = tool_arguments_schema(Tool("order", order))
    assert (schema["type"], schema["required"], set(schema["properties"])) == ("object", ["lines"], {"lines", "note"})
    assert schema["properties"]["lines"]["items"] == {"$ref": "#/$defs/Line"}
    assert set(schema["$defs"]) == {"Line"}


@pytest.mark.parametrize("framework", ["openai-agents", "pydantic-ai", "langgraph"])
async def test_a_framework_that_is_not_installed_is_named(framework: Any) -> None:
    async def work(ctx: TaskContext) -> Any:
        return ctx.tools_for(framework)

    failure = (await run(work)).failure
    assert failure is not None
    assert failure.type == "ConfigurationError"
    assert "add it to the agent's requirements" in failure.message


async def test_a_framework_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    async def work(ctx: TaskContext) -> Any:
        return ctx.tools_for("autogen")  # type: ignore[arg-type]

    failure = (await run(work)).failure
    assert failure is not None
    assert "use one of openai-agents, pydantic-ai, langgraph" in failure.message


async def test_openais_package_is_named_with_its_extra_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "flotilla.agent.openai_client", raising=False)

    async def work(ctx: TaskContext) -> Any:
        return ctx.openai()

    failure = (await run(work, model=FakeModel())).failure
    assert failure is not None
    assert "needs the package openai: install flotilla-fleet[llm]" in failure.message
