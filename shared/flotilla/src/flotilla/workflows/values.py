"""The author's data as JSON, and back."""

from collections.abc import Mapping
from typing import TypeVar, cast

from flotilla.contracts.envelope import to_builtins
from flotilla.contracts.json_types import JsonObject
from flotilla.contracts.typed import Codec
from flotilla.workflows.delegation import StepTrouble
from flotilla.workflows.steps import StepFailed

T = TypeVar("T")


def to_json_object(data: object) -> JsonObject:
    """Return the author's data as a JSON object."""
    kind = type(data)
    found: JsonObject = dict(data) if isinstance(data, Mapping) else Codec(kind, f"a {kind.__name__}").encode(data)
    return cast("JsonObject", to_builtins(found))


def decode_step_result(step: str, data: JsonObject, kind: type[T]) -> T:
    """Return what a step got as the author's type.

    Raises:
        StepFailed: it does not fit.
    """
    try:
        return Codec(kind, f"the result of step {step}").decode(data)
    except ValueError as error:
        trouble = StepTrouble("ValueError", str(error), timed_out=False, cancelled=False, retryable=False)
        raise StepFailed(step, trouble) from error
