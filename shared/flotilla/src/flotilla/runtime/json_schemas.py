"""Checks of JSON against a schema from outside.

A check can take time that is exponential in the depth of schema and data: run it in `flotilla.runtime.confined`. Its
processes import this module and nothing of their service, so that they start in a tenth of a second.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import TypeAlias

from jsonschema_rs import Draft202012Validator, ReferencingError, RegexOptions, ValidationError

from flotilla.contracts.envelope import from_json
from flotilla.contracts.errors import Invalid, Undecodable

_LONGEST_MESSAGE = 300

Misfit: TypeAlias = tuple[Sequence[str | int], str]
"""Where data does not fit, as the steps from its root, and why."""
SCHEMA_CHECKS = __name__
"""The module that processes which check schemas import."""


def check_schemas(schemas: dict[str, str]) -> None:
    """Refuse schemas that can't be used, by their names.

    Raises:
        Invalid: with the name of the first one, and the reason.
    """
    for name, schema in schemas.items():
        try:
            _compile(schema)
        except Invalid as error:
            raise Invalid(f"the schema of {name} is invalid: {error}") from error


def misfits(schema: str, text: str, at_most: int) -> list[Misfit]:
    """Return the first places where JSON text does not fit the schema of a workflow or tool, which stays compiled.

    Raises:
        Invalid: the schema can't be used.
    """
    return _misfits(_kept(schema), text, at_most)


def misfits_of_callers_schema(schema: str, text: str, at_most: int) -> list[Misfit]:
    """Return the same for a schema that a caller sent. Nothing of it is kept: a short pattern takes megabytes once it
    is compiled, and the process works for all callers.

    Raises:
        Invalid: the schema can't be used.
    """
    return _misfits(_compile(schema), text, at_most)


def _misfits(validator: Draft202012Validator, text: str, at_most: int) -> list[Misfit]:
    try:
        data = from_json(text, object)
    except Undecodable:
        return [((), "it is not JSON")]
    found = islice(validator.iter_errors(data), at_most)
    return [(list(error.instance_path), error.message[:_LONGEST_MESSAGE]) for error in found]


def _compile(schema: str) -> Draft202012Validator:
    """Match patterns in linear time, and follow no references to elsewhere."""
    try:
        return Draft202012Validator(schema, pattern_options=RegexOptions(), offline=True)
    except (ValidationError, ReferencingError, ValueError) as error:
        raise Invalid(str(error).partition("\n")[0][:_LONGEST_MESSAGE]) from error


_kept = lru_cache(maxsize=256)(_compile)
