"""Bodies over all of JSON and Unicode: taken as they are, or refused with the field's name."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from flotilla.contracts.values import why_not_storable
from gateway.schemas.governed import ActionBody
from gateway.schemas.pipelines import TaskBody
from gateway.schemas.sessions import SessionRequest
from tests.support.anything import objects, texts

BODIES = {
    "metadata": lambda value: SessionRequest(metadata=value),
    "input": lambda value: TaskBody(steps=["a"], input=value),
    "args": lambda value: ActionBody(action="echo", description="d", args=value),
}


def taken(make: Callable[[Any], Any], value: Any) -> tuple[Any, list[object]]:
    """The body, or the places of what is wrong with it."""
    try:
        return make(value), []
    except ValidationError as error:
        return None, [found["loc"] for found in error.errors()]


@pytest.mark.parametrize("field", BODIES)
@given(value=objects)
def test_an_object_is_taken_whole_or_refused_by_name(field: str, value: dict[str, Any]) -> None:
    body, wrong = taken(BODIES[field], value)
    assert wrong == ([] if why_not_storable(value) is None else [(field,)])
    assert body is None or getattr(body, field) == value


@given(texts)
def test_a_text_is_taken_whole_or_refused_by_name(text: str) -> None:
    body, wrong = taken(lambda value: ActionBody(action="echo", description=value), text)
    assert wrong == ([] if text.strip() and why_not_storable(text) is None else [("description",)])
    assert body is None or body.description == text
