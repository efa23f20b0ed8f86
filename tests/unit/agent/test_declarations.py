"""What an author may write, and what is said to one who writes something else."""

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from flotilla.agent import Agent, TaskContext
from flotilla.agent.tools import AgentToolBox
from flotilla.contracts.errors import ConfigurationError, Forbidden, Invalid


@dataclass(frozen=True)
class Question:
    query: str
    top_k: int = 5


class Struct(msgspec.Struct):
    query: str


class Model(BaseModel):
    query: str


@pytest.mark.parametrize("kind", [Question, Struct, Model])
def test_input_types_have_a_schema_and_make_the_trip(kind: type[Any]) -> None:
    agent = Agent("echo")

    async def echo(ctx: TaskContext, task: Any) -> Any:
        return task

    echo.__annotations__.update(task=kind, **{"return": kind})
    agent.task(echo)
    assert "query" in json.dumps(agent.input.schema())
    value = agent.input.decode({"query": "why?", "unknown": 1})
    assert agent.output.encode(value)["query"] == "why?"
    with pytest.raises(ValueError, match="input of echo does not fit"):
        agent.input.decode({"query": 7})


def test_agent_has_one_task() -> None:
    agent = Agent("echo")

    @agent.task
    async def first(ctx: TaskContext, task: Question) -> Question:
        return task

    with pytest.raises(ConfigurationError, match="has a task already"):
        agent.task(first)


def test_agent_without_a_task_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="decorate a function"):
        _ = Agent("echo").function


def test_task_must_say_what_goes_in_and_out() -> None:
    async def untyped(ctx: TaskContext, task: str) -> str:
        return task

    with pytest.raises(ConfigurationError, match="annotate input and output"):
        Agent("echo").task(untyped)


@pytest.mark.parametrize("name", ["", "two words", "-dash", "x" * 200])
def test_agent_names_are_ids(name: str) -> None:
    with pytest.raises(ConfigurationError, match="agent name"):
        Agent(name)


async def _search(ctx: TaskContext, query: str, top_k: int = 5) -> list[str]:
    """Searches."""
    return [query] * top_k


def test_tool_arguments_are_checked_against_the_function() -> None:
    tool = AgentToolBox({"search": _search})["search"]
    assert tool.validated_arguments({"query": "x"}) == {"query": "x", "top_k": 5}
    for wrong in ({}, {"query": 1}, {"query": "x", "top_k": "5"}, {"query": "x", "tenant": "acme"}):
        with pytest.raises(Invalid, match="tool search"):
            tool.validated_arguments(wrong)


def test_tool_schema_is_what_a_model_needs() -> None:
    tool = AgentToolBox({"search": _search})["search"]
    assert tool.description == "Searches."
    assert "ctx" not in str(tool.schema())


def test_tool_that_is_not_on_the_list_is_refused_with_the_list() -> None:
    with pytest.raises(Forbidden, match="allowed: search"):
        AgentToolBox({"search": _search})["delete_everything"]


def test_tool_without_types_is_refused_at_start() -> None:
    async def untyped(query) -> None:  # type: ignore[no-untyped-def]
        del query

    with pytest.raises(ConfigurationError, match="parameter query needs a type"):
        AgentToolBox({"untyped": untyped})


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), 1e9])
def test_time_limits_are_more_than_nothing_and_at_most_a_week(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout_s"):
        Agent("a", timeout_s=timeout_s)
