"""docs/openai.md lists the parameters as the code has them."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.exceptions import RequestValidationError
from openai.resources.chat.completions import Completions
from openai.resources.embeddings import Embeddings
from openai.resources.responses import Responses

from gateway.openai.embeddings import EmbeddingsRequest
from gateway.openai.parameters import DEFAULTS, IGNORED, check_parameters
from gateway.openai.requests import ChatRequest, ResponsesRequest

PAGE = (Path(__file__).parents[3] / "docs/openai.md").read_text(encoding="utf-8")


NO_PARAMETERS = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
"""Of the client's own functions."""


def listed(outcome: str) -> set[str]:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"| {outcome}" in line]
    return set(re.findall(r"`(\w+)`", row.split("|")[1]))


def test_page_lists_what_is_ignored_and_what_is_refused() -> None:
    assert listed("ignored: ") == set(IGNORED)
    assert listed("refused (400), unless ") == set(DEFAULTS)


@pytest.mark.parametrize("name", sorted(IGNORED))
def test_what_is_ignored_may_have_any_value(name: str) -> None:
    values: tuple[object, ...] = (None, True, 0, "x", [], {"a": 1})
    for value in values:
        check_parameters({name: value})


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_what_is_refused_may_ask_for_what_happens_anyway_and_for_nothing_else(name: str) -> None:
    for value in (None, *DEFAULTS[name]):
        check_parameters({name: value})
    for value in (True, 2, "x", ["x"], {"a": 1}):
        with pytest.raises(RequestValidationError, match=f"parameter '{name}' is not supported: leave it out"):
            check_parameters({name: value})


def parameters_of(function: Callable[..., object]) -> set[str]:
    """The parameters of the newest API that the installed client knows."""
    return set(inspect.signature(function).parameters) - NO_PARAMETERS


def test_page_lists_every_parameter_that_openais_client_has() -> None:
    known = parameters_of(Completions.create) | parameters_of(Responses.create)
    used = set(ChatRequest.model_fields) | set(ResponsesRequest.model_fields)
    assert (used | set(IGNORED) | set(DEFAULTS)) == known
    on_page = {
        name
        for line in PAGE[PAGE.index("## Parameters") :].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert known - on_page == set()
    assert set(EmbeddingsRequest.model_fields) == parameters_of(Embeddings.create)
