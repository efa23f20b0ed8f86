"""Workflows of installed packages: checked when the worker starts."""

from pathlib import Path
from typing import Any

import pytest

from flotilla.contracts.errors import ConfigurationError
from tests.support.packages import BRIEFINGS, installed, write_package
from workflow_worker.installed_workflows import BUILTIN_WORKFLOWS, load_installed_workflows

HEAD = """
from dataclasses import dataclass
from flotilla.workflows import Run, flotilla_workflow

@dataclass
class Request:
    topic: str
"""
GOOD = (
    HEAD
    + """
@flotilla_workflow(name="{name}", version="{version}")
class Team:
    async def run(self, run: Run, request: Request) -> Request:
        return request
"""
)
UNTYPED = GOOD.replace("request: Request) -> Request", "request)")
TEXT = GOOD.replace("-> Request", "-> str")
NO_RUN = GOOD.replace("async def run(self, run: Run", "async def run(self").replace("name", "name")


def found(folder: Path, source: str, **entries: str) -> list[str]:
    """The names of the workflows that a worker would have with this package."""
    write_package(folder, "team", source, {"flotilla.workflows": entries or {"team": "team:Team"}})
    with installed(folder, "team"):
        return [declared.name for declared in load_installed_workflows() if declared.workflow not in BUILTIN_WORKFLOWS]


def test_an_installed_workflow_is_found(tmp_path: Path) -> None:
    assert found(tmp_path, GOOD.format(name="team", version="1")) == ["team"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (GOOD.format(name="rag", version="1"), "the name rag is taken"),
        (GOOD.format(name="Team Work", version="1"), "lower-case letters"),
        (GOOD.format(name="team", version=" "), "version"),
        (UNTYPED.format(name="team", version="1"), "needs types"),
        (TEXT.format(name="team", version="1"), "needs types"),
        (NO_RUN.format(name="team", version="1"), "async def run"),
        (HEAD + "class Team: ...", "@flotilla_workflow"),
        (HEAD + "raise ValueError('no')", "ValueError: no"),
        ("import nowhere_at_all", "nowhere_at_all"),
    ],
)
def test_one_that_is_not_as_it_has_to_be_stops_the_start_with_the_reason(tmp_path: Path, source: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        found(tmp_path, source)


def test_two_of_one_name_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the name team is taken"):
        found(tmp_path, GOOD.format(name="team", version="1"), one="team:Team", two="team:Team")


def test_what_a_workflow_takes_and_returns_is_published_as_json_schema(tmp_path: Path) -> None:
    write_package(
        tmp_path, "briefings", BRIEFINGS.read_text(), {"flotilla.workflows": {"brief": "briefings:BriefWorkflow"}}
    )
    with installed(tmp_path, "briefings"):
        (*_, declared) = load_installed_workflows()  # after those of the worker itself
        taken, returned = declared.schemas()
    assert taken["required"] == ["topic"]
    assert taken["additionalProperties"] is False
    properties: Any = returned["properties"]
    assert sorted(properties) == ["rounds", "text"]
